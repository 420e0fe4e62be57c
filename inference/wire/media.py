"""What a body is declared to be, and what is asked for as the answer."""

from __future__ import annotations

from typing import Literal, NamedTuple

from inference.errors import UnsupportedMediaError
from inference.wire.request import Request


class Media(NamedTuple):
    """The format of a body; ``has_header`` is what a CSV body says of its first line, None if nothing."""

    format: Literal["json", "csv", "floats"]
    has_header: bool | None = None


JSON_MEDIA = Media("json")
_FORMATS = {
    "application/json": JSON_MEDIA,
    "text/csv": Media("csv"),
    "application/octet-stream": Media("floats"),
}
# What nearly all clients send; a body without a declaration is taken to be JSON.
_COMMON: dict[bytes | None, Media] = {
    None: JSON_MEDIA,
    b"application/json; charset=utf-8": JSON_MEDIA,
    b"application/json;charset=utf-8": JSON_MEDIA,
    **{name.encode(): media for name, media in _FORMATS.items()},
}
_HEADER = {"": None, "present": True, "absent": False}  # RFC 4180, section 3
_UTF_8 = frozenset({"", "utf-8", "utf8", "us-ascii"})
_ANY_HINT = f"Send {', '.join(list(_FORMATS)[:-1])} or {list(_FORMATS)[-1]}."
_JSON_HINT = "Send application/json."


def find_media(request: Request) -> Media:
    """What the body is by its declaration; `JSON_MEDIA` itself if it is JSON.

    Raises:
        UnsupportedMediaError: it is declared to be something else, or text that is not UTF-8.
    """
    declared = request.find_header(b"content-type")
    return _COMMON.get(declared) or _parse(declared or b"", _ANY_HINT)


def check_json(request: Request) -> None:
    """Nothing if the body is JSON by its declaration; one without a declaration is taken to be JSON.

    Raises:
        UnsupportedMediaError: it is declared to be something else.
    """
    declared = request.find_header(b"content-type")
    media = _COMMON.get(declared) or _parse(declared or b"", _JSON_HINT)
    if media is not JSON_MEDIA:
        raise _refuse(declared or b"", _JSON_HINT)


def wants_floats(request: Request) -> bool:
    """Whether the answer shall be the bare probabilities."""
    return request.find_header(b"accept") == b"application/octet-stream"


def _parse(value: bytes, hint: str) -> Media:
    name, *rest = value.decode("latin-1").lower().split(";")
    media = _FORMATS.get(name.strip())
    if media is None:
        raise _refuse(value, hint)
    parameters = {key.strip(): text.strip(' "') for key, _, text in (part.partition("=") for part in rest)}
    if parameters.get("charset", "") not in _UTF_8:
        raise _refuse(value, "Text is UTF-8 here.")
    if media.format != "csv":
        return media
    if parameters.get("header", "") not in _HEADER:
        raise _refuse(value, "The parameter header is present or absent.")
    return media._replace(has_header=_HEADER[parameters.get("header", "")])


def _refuse(value: bytes, hint: str) -> UnsupportedMediaError:
    shown = repr(value.decode("latin-1"))[:80]
    return UnsupportedMediaError(f"content type {shown} is not read here", hint=hint)
