"""What holds in every test: a log line that cannot be written is an error, and no usage is reported."""

from __future__ import annotations

import logging
import os

from registry.ground.quiet import NO_TELEMETRY


def _raise(_handler: logging.Handler, _record: logging.LogRecord) -> None:
    """Called by a handler while it handles the exception that kept the line from being written."""
    raise  # noqa: PLE0704


os.environ.update(NO_TELEMETRY)

# logging prints "--- Logging error ---" to stderr and goes on, where nobody sees it but a user.
logging.Handler.handleError = _raise  # type: ignore[method-assign]
