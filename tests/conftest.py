"""What holds in every test: a log line that cannot be written is an error, as a warning is."""

from __future__ import annotations

import logging


def _raise(_handler: logging.Handler, _record: logging.LogRecord) -> None:
    """Called by a handler while it handles the exception that kept the line from being written."""
    raise  # noqa: PLE0704


# logging prints "--- Logging error ---" to stderr and goes on, where nobody sees it but a user.
logging.Handler.handleError = _raise  # type: ignore[method-assign]
