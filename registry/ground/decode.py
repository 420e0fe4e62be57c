"""JSON and TOML that come from a disk, another process or the network: one error for all that is wrong.

The parsers raise a `UnicodeDecodeError` for a byte that is not UTF-8 and a `RecursionError` for ten
thousand brackets, which no caller thinks of. Here both are `msgspec.DecodeError`, as every other fault
is. What a request brings is decoded in `inference.wire`, with errors of its own.
"""

from __future__ import annotations

import tomllib
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def decode_json(data: bytes, kind: type[T]) -> T:
    """The JSON in ``data`` as a ``kind``.

    Raises:
        msgspec.DecodeError: it is not JSON, not UTF-8, nested too deeply, or no ``kind``.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(_describe_text(data)) from error
    except RecursionError as error:
        raise msgspec.DecodeError("nested too deeply") from error


def decode_toml(data: bytes | str) -> dict[str, Any]:
    """The TOML in ``data``.

    Raises:
        msgspec.DecodeError: it is not TOML, not UTF-8, or nested too deeply.
    """
    try:
        return tomllib.loads(data if isinstance(data, str) else data.decode())
    except UnicodeDecodeError as error:
        assert isinstance(data, bytes)
        raise msgspec.DecodeError(_describe_text(data)) from error
    except RecursionError as error:
        raise msgspec.DecodeError("nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError, or an integer of more digits than Python reads
        raise msgspec.DecodeError(str(error)) from error


def _describe_text(data: bytes) -> str:
    """Which byte is not UTF-8; the parser counts from the start of a string in the text."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte {error.start} is 0x{data[error.start]:02x}"
    return "not UTF-8"
