"""The edge of a command: errors become one line on stderr and an exit code, results JSON on stdout.

Exit codes: 0 done; 1 the answer is no; 2 wrong use or configuration; 3 the environment failed;
130 interrupted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import msgspec

from registry.errors import LifecycleError


def print_json(value: object) -> None:
    """Write a command's result to stdout as indented JSON."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
    sys.stdout.flush()


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
