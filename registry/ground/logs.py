"""Logs on stderr: one readable line an event on a terminal, one JSON object otherwise."""

from __future__ import annotations

import datetime
import logging
import sys
from typing import Any, Literal

import msgspec

LogFormat = Literal["auto", "human", "json"]

_LONGEST_BESIDE = 60

_encode = msgspec.json.Encoder(enc_hook=str).encode


def log_event(logger: logging.Logger, event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log one event with named fields: ``log_event(log, "etl finished", rows=581012)``."""
    logger.log(level, event, extra={"fields": fields})


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(),
            "level": record.levelname.lower(),
            "part": record.name,
            "event": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _encode(line).decode()


class _HumanFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        fields = getattr(record, "fields", {})
        tail = "".join(_show(name, _short(value)) for name, value in fields.items())
        line = f"{clock} {record.name.partition('.')[0]:<10} {level}{record.getMessage()}{tail}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _StderrHandler(logging.Handler):
    """Writes to whatever ``sys.stderr`` is at that moment.

    ``StreamHandler`` keeps the stream of its beginning, and writes into a closed file once somebody has
    put another in its place: a caller that captures output, a test.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, in one call; errors go to `handleError`, as in every handler."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def _show(name: str, text: str) -> str:
    """Beside the event, or on a line of its own if it is long: a command to copy, a path."""
    return f"  {name}={text}" if len(text) <= _LONGEST_BESIDE else f"\n    {name}: {text}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def configure_logging(level: str = "info", format: LogFormat = "auto") -> None:
    """Send every logger of the process to stderr in one format; called once, at the process edge.

    ``auto`` is ``human`` when stderr is a terminal and ``json`` when it is not.
    """
    human = sys.stderr.isatty() if format == "auto" else format == "human"
    handler = _StderrHandler()
    handler.setFormatter(_HumanFormatter() if human else _JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
