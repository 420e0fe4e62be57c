"""The edge of a command: errors become one line on stderr and an exit code, results JSON on stdout.

Exit codes: 0 done; 1 the answer is no; 2 wrong use or configuration; 3 the environment failed;
130 interrupted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable

import msgspec

from registry.errors import AfterChangeError, LifecycleError


def print_json(value: object) -> None:
    """Write a command's result to stdout as indented JSON.

    Raises:
        AfterChangeError: it cannot be written (a full disk, a reader that has gone); the command is done.
    """
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        _forget_output()
        raise AfterChangeError(
            f"done, but the result could not be written: {error}", where="standard output"
        ) from error


def _forget_output() -> None:
    """Let the interpreter not try again as it ends, which would change the exit code to 120."""
    with contextlib.suppress(OSError, ValueError):  # no descriptor behind it: nothing is tried
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def print_result(value: object) -> None:
    """`print_json`, unless a person is looking: on a terminal the log has just told the same."""
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        print_json(value)


def run_command(part: str, command: Callable[[], int]) -> int:
    """Run ``command`` and return the exit code of the process.

    A `LifecycleError` is told in one line and ends with its own exit code; an `OSError` (disk
    full, no permission) ends with 3; anything else is our bug and ends with 3 and its traceback.
    """
    logger = logging.getLogger(part)
    try:
        return command()
    except LifecycleError as error:
        logger.error("%s", error, extra={"fields": {"code": error.code}})
        return error.exit_code
    except KeyboardInterrupt:
        logger.error("interrupted; run the same command again to go on")
        return 130
    except OSError as error:
        logger.error("%s", error, exc_info=logger.isEnabledFor(logging.DEBUG))
        return 3
    except Exception:
        logger.exception("unexpected failure")
        return 3
