"""What a handler gets and gives back: one whole request, and one whole answer.

Also the media types of both: what a body is declared to be, and what is asked for as the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from timberline.inference.errors import BatchTooLargeError, UnsupportedMediaError

Header = tuple[bytes, bytes]

JSON: Header = (b"content-type", b"application/json")
# Headers of every answer in JSON that names no version.
JSON_HEADERS: tuple[Header, ...] = (JSON,)


class Answer(NamedTuple):
    """Status, headers (names in lower case; the length is added when it is sent) and body."""

    status: int
    headers: tuple[Header, ...]
    body: bytes


def answer_bytes(body: bytes, headers: tuple[Header, ...] = JSON_HEADERS) -> Answer:
    """A 200 answer with this body."""
    return Answer(200, headers, body)


def answer_json(value: Any, status: int = 200, *more: Header) -> Answer:
    """An answer with ``value`` as JSON and ``more`` headers."""
    return Answer(status, (JSON, *more), msgspec.json.encode(value))


def check_length(most_bytes: int, allowed: int) -> None:
    """Raise `BatchTooLargeError` if an answer may have more bytes than allowed."""
    if most_bytes > allowed:
        raise BatchTooLargeError(
            f"the answer may have {most_bytes:,} bytes, more than {allowed:,}",
            hint="Send the rows in parts, or ask for less.",
        )


NOTHING_NAMED: Mapping[str, str] = {}


class Request:
    """One request; made once, read only.

    Args:
        method: in capitals.
        path: decoded, without the query.
        query: the raw query string.
        headers: names in lower case, in the order sent.
        body: all of it, inflated if it came compressed.
        named: the values of the route's parameters.
        first: the first header of each name, for heads that are read again and again.
    """

    __slots__ = ("body", "first", "headers", "method", "named", "path", "query")

    def __init__(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: Sequence[Header],
        body: bytes,
        named: Mapping[str, str] = NOTHING_NAMED,
        first: Mapping[bytes, bytes] | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.named = named
        self.first = first

    def find_header(self, name: bytes) -> bytes | None:
        """The first header called ``name`` (lower case), or None."""
        if self.first is not None:
            return self.first.get(name)
        for key, value in self.headers:  # a generator takes twice as long
            if key == name:
                return value
        return None


# Called on the event loop's thread. What is quick is answered at once; what is not is given back as
# something to wait for, which works in a thread.
Handler = Callable[[Request], Answer | Awaitable[Answer]]


class Media(NamedTuple):
    """The format of a body; ``has_header`` is what a CSV body declares of its first line, None if nothing."""

    format: Literal["json", "jsonlines", "csv", "floats"]
    has_header: bool | None = None


JSON_MEDIA = Media("json")
LINES_MEDIA = Media("jsonlines")
_FORMATS = {
    "application/json": JSON_MEDIA,
    "application/jsonlines": LINES_MEDIA,
    "text/csv": Media("csv"),
    "application/octet-stream": Media("floats"),
}
# The same lines by other names; none of them is registered.
_LINES = ("application/jsonl", "application/x-jsonlines", "application/x-ndjson")
# What nearly all clients send; a body without a declaration is taken to be JSON.
_COMMON: dict[bytes | None, Media] = {
    None: JSON_MEDIA,
    b"application/json; charset=utf-8": JSON_MEDIA,
    b"application/json;charset=utf-8": JSON_MEDIA,
    **{name.encode(): media for name, media in _FORMATS.items()},
}
# What nearly all clients ask for: nothing, or JSON in the words of curl, browsers' fetch, axios and httpie.
_COMMONLY_ASKED: dict[bytes | None, Media] = {
    None: JSON_MEDIA,
    b"*/*": JSON_MEDIA,
    b"application/json, text/plain, */*": JSON_MEDIA,
    b"application/json, */*;q=0.5": JSON_MEDIA,
    **{name.encode(): media for name, media in _FORMATS.items()},
}
_HEADER = {"": None, "present": True, "absent": False}  # RFC 4180, section 3
_UTF_8 = frozenset({"", "utf-8", "utf8", "us-ascii"})
_ANY_HINT = f"Send {', '.join(list(_FORMATS)[:-1])} or {list(_FORMATS)[-1]}."
_JSON_HINT = "Send application/json."


def find_media(request: Request) -> Media:
    """The declared format of the body; `JSON_MEDIA` itself if it is JSON.

    Raises:
        UnsupportedMediaError: it is declared to be something else, or text that is not UTF-8.
    """
    declared = request.find_header(b"content-type")
    return _COMMON.get(declared) or _parse(declared or b"", _ANY_HINT)


def check_json(request: Request) -> None:
    """Return if the body is declared as JSON, or not declared at all.

    Raises:
        UnsupportedMediaError: it is declared to be something else.
    """
    declared = request.find_header(b"content-type")
    media = _COMMON.get(declared) or _parse(declared or b"", _JSON_HINT)
    if media is not JSON_MEDIA:
        raise _refuse(declared or b"", _JSON_HINT)


def find_wanted(request: Request) -> Media:
    """The format that the Accept header asks for; `JSON_MEDIA` itself if it is JSON.

    JSON is answered to who asks for nothing that is written here: an answer in another format is more
    use than none (RFC 9110, 12.4.1).
    """
    accept = request.find_header(b"accept")
    wanted = _COMMONLY_ASKED.get(accept)
    return _negotiate(accept or b"") if wanted is None else wanted


def wants_lines(request: Request) -> bool:
    """Whether the answer is lines of CSV or JSON, which have the same form for one row and for many."""
    wanted = find_wanted(request)
    return wanted is not JSON_MEDIA and wanted.format in {"csv", "jsonlines"}


def read_accept(accept: bytes) -> dict[str, tuple[float, dict[str, str]]]:
    """The media ranges of an Accept header, each with its weight and parameters.

    A weight that is no number is 0.

    Source: RFC 9110, sections 12.4.2 and 12.5.1.
    """
    ranges: dict[str, tuple[float, dict[str, str]]] = {}
    for entry in accept.decode("latin-1").lower().split(","):
        name, *rest = entry.split(";")
        parameters = _read_parameters(rest)
        try:
            weight = float(parameters.pop("q", "1"))
        except ValueError:
            weight = 0.0
        ranges[name.strip()] = weight, parameters
    return ranges


def _negotiate(accept: bytes) -> Media:
    """The format of the greatest weight; a wildcard means JSON, and comes after a name of equal weight."""
    ranges = read_accept(accept)
    wildcards = [ranges[name][0] for name in ("application/*", "*/*") if name in ranges]
    best, most = JSON_MEDIA, ranges.get("application/json", (0.0,))[0]
    is_named = most > 0
    if not is_named and "application/json" not in ranges and wildcards:
        most = wildcards[0]
    for name in (*_LINES, *_FORMATS):
        weight, parameters = ranges.get(name, (0.0, {}))
        if weight > most or (weight == most > 0 and not is_named):
            best = _FORMATS.get(name, LINES_MEDIA)
            if best.format == "csv":
                best = best._replace(has_header=parameters.get("header") == "present")
            most, is_named = weight, True
    return best


def _read_parameters(parts: Sequence[str]) -> dict[str, str]:
    pairs = (part.partition("=") for part in parts)
    return {key.strip(): text.strip(' "') for key, _, text in pairs}


def _parse(value: bytes, hint: str) -> Media:
    name, *rest = value.decode("latin-1").lower().split(";")
    media = LINES_MEDIA if name.strip() in _LINES else _FORMATS.get(name.strip())
    if media is None:
        raise _refuse(value, hint)
    parameters = _read_parameters(rest)
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
