"""The edge of a command: errors become one line on stderr and an exit code, results JSON on stdout.

Exit codes: 0 done; 1 the answer is no; 2 wrong use or configuration; 3 the environment failed;
130 ended by SIGINT; 143 ended by SIGTERM.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence

import msgspec

from timberline.registry.errors import AfterChangeError, LifecycleError
from timberline.registry.runtime.logs import encode_shown
from timberline.registry.runtime.permissions import explain_refusal
from timberline.registry.runtime.signals import EndOnSignals

# What a command that was ended says: every stage is made so that it does.
GO_ON = "run the same command again to go on"


def read_options(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line (the process's own when None), once standard output and error take any text.

    What their encoding lacks (an ASCII locale, Latin-1) is written as JSON escapes it, ``\\u00e9``, so
    that results and logs stay JSON; Python itself would end a result with a traceback.
    """
    codecs.register_error("timberline-escape", _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not what a test or a service put in its place
            stream.reconfigure(errors="timberline-escape")
    return parser.parse_args(arguments)


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    # Two escapes beyond U+FFFF, as in JSON; one for a lone surrogate, which stands for a byte of a path.
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = zip(units[::2], units[1::2], strict=True)
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in pairs), error.end


def print_json(value: object) -> None:
    """Write a command's result to stdout as indented JSON.

    Raises:
        AfterChangeError: it cannot be written (a full disk, a reader that has gone); the command is done.
    """
    text = msgspec.json.format(encode_shown(value), indent=2).decode() + "\n"
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


def run_command(
    part: str, command: Callable[[], int], *, ends_on_signals: bool = True, hint: str = GO_ON
) -> int:
    """Run ``command`` and return the exit code of the process.

    A `LifecycleError` is told in one line and ends with its own exit code; an `OSError` (disk
    full, no permission) ends with 3; anything else is our bug and ends with 3 and its traceback.

    Args:
        ends_on_signals: SIGTERM and SIGINT end the process within two seconds (`EndOnSignals`). Not for
            a service, which has an end of its own, nor outside of the main thread.
        hint: what whoever ended the command is told to do next.
    """
    logger = logging.getLogger(part)
    if not ends_on_signals or threading.current_thread() is not threading.main_thread():
        try:
            return command()
        except BaseException as error:
            return _tell_error(logger, error, hint)
    signals = EndOnSignals(logger, hint)
    try:
        with signals:
            return command()
    except BaseException as error:
        signals.end_if_asked()
        return _tell_error(logger, error, hint)


def _tell_error(logger: logging.Logger, error: BaseException, hint: str) -> int:
    """Log what ended a command; the exit code. Whatever came of a refused file says what refuses it."""
    text, reason = str(error), explain_refusal(error)
    if reason:
        text = f"{text.rstrip('.')}. {reason}"
    match error:
        case LifecycleError():
            logger.error("%s", text, extra={"fields": {"code": error.code}})
            return error.exit_code
        case KeyboardInterrupt():
            logger.error("interrupted; %s", hint)
            return 130
        case ModuleNotFoundError():  # such as `etl` where only the role `tools` is installed
            told = f"no package {error.name} in this environment; install the role of this command"
            logger.error("%s", told, exc_info=error if logger.isEnabledFor(logging.DEBUG) else None)
        case Exception() if _is_path_beyond_locale(error):
            told = f"a path is not {sys.getfilesystemencoding()}; set PYTHONUTF8=1, or a locale of UTF-8"
            logger.error("%s", told, exc_info=error if logger.isEnabledFor(logging.DEBUG) else None)
        case OSError():
            logger.error("%s", text, exc_info=error if logger.isEnabledFor(logging.DEBUG) else None)
        case Exception():
            logger.error("unexpected failure", exc_info=error)
        case _:
            raise error
    return 3


def _is_path_beyond_locale(error: Exception) -> bool:
    """Whether the locale cannot name a path, which libraries that want UTF-8 tell in as many ways."""
    if sys.getfilesystemencoding() == "utf-8" or isinstance(error, OSError):
        return False
    return isinstance(error, UnicodeEncodeError) or not all(word.isascii() for word in sys.argv)
