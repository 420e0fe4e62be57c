"""JSON and TOML as documents hold them: read with one error for all that is wrong, written one way.

The parsers raise a `UnicodeDecodeError` for a byte that is not UTF-8 and a `RecursionError` for ten
thousand brackets, which no caller thinks of. Here both are `msgspec.DecodeError`, as every other fault
is. A byte order mark, which several editors write in front, is passed over. What a request brings is
decoded in `inference.formats`, with errors of its own.
"""

from __future__ import annotations

import codecs
import datetime
import tomllib
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from timberline.registry.errors import LifecycleError

T = TypeVar("T")
# The codec for text that people write: with a byte order mark or without.
UTF_8 = "utf-8-sig"


def decode_json(data: bytes, kind: type[T]) -> T:
    """The JSON in ``data`` as a ``kind``.

    Raises:
        msgspec.DecodeError: it is not JSON, not UTF-8, nested too deeply, or no ``kind``.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        data.decode()  # the parser does not look at the text of what ``kind`` has no field for
        return msgspec.json.decode(data, type=kind)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(_describe(error)) from error
    except RecursionError as error:
        raise msgspec.DecodeError("nested too deeply") from error


class Versioned(Protocol):
    """A document that says how it is to be read."""

    @property
    def schema_version(self) -> int:
        """Counts up with every change that older programs cannot read."""


V = TypeVar("V", bound=Versioned)


def decode_document(
    data: bytes, kind: type[V], known: int, error: type[LifecycleError], *, what: str, where: str, hint: str
) -> V:
    """The JSON document in ``data``, of the one ``schema_version`` that is ``known``.

    Args:
        what: it should be, as in "a run record".
        where: it lies.
        hint: what to do about a wrong one.

    Raises:
        LifecycleError: it is none, or of another ``schema_version``; of the kind ``error``.
    """
    try:
        document = decode_json(data, kind)
    except msgspec.DecodeError as fault:
        raise error(f"not {what}: {fault}", where=where, hint=hint) from fault
    if document.schema_version != known:
        found = f"schema_version is {document.schema_version}, this program reads {known}"
        raise error(found, where=where, hint=hint)
    return document


def decode_toml(data: bytes | str) -> dict[str, Any]:
    """The TOML in ``data``.

    Raises:
        msgspec.DecodeError: it is not TOML, not UTF-8, or nested too deeply.
    """
    try:
        return tomllib.loads(data if isinstance(data, str) else data.decode(UTF_8))
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(_describe(error)) from error
    except RecursionError as error:
        raise msgspec.DecodeError("nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError, or an integer of more digits than Python reads
        raise msgspec.DecodeError(str(error)) from error


def encode_canonical(value: object) -> bytes:
    """The one compact JSON of a value, its keys sorted: what digests are taken of."""
    return msgspec.json.encode(value, order="sorted")


def encode_document(value: object) -> bytes:
    """The same for people: indented by two, a new line at the end."""
    return msgspec.json.format(encode_canonical(value), indent=2) + b"\n"


def utc_now(precision: Literal["seconds", "milliseconds", "microseconds"] = "seconds") -> str:
    """The time as documents carry it: ISO 8601 in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec=precision)


def _describe(error: UnicodeDecodeError) -> str:
    return f"not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"
