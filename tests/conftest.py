"""What holds in every test: a lost log line is an error, no usage is reported, and SIGINT ends a process."""

from __future__ import annotations

import logging
import os
import signal
import sys

from timberline.registry.runtime.logs import NO_TELEMETRY


def _raise(_handler: logging.Handler, _record: logging.LogRecord) -> None:
    """Called by a handler while it handles the exception that kept the line from being written."""
    raise  # noqa: PLE0704


os.environ.update(NO_TELEMETRY)

# A shell has what it starts in the background ignore SIGINT; so would every process that a test ends by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# logging prints "--- Logging error ---" to stderr and goes on, where nobody sees it but a user.
logging.Handler.handleError = _raise  # type: ignore[method-assign]


def pytest_sessionfinish() -> None:
    """`make coverage`: keep the counts now; a process of xdist has ten seconds to end and is killed then."""
    coverage = sys.modules.get("coverage")
    measured = coverage.Coverage.current() if coverage else None
    if measured is not None:
        measured.save()
