"""The few HTTP fields of a resumable download (RFC 9110, sections 13 and 14), for every HTTP client."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from timberline.training.errors import SourceError
from timberline.training.sources.download import FileChangedError, Reply

# Too many requests, and failures of a server or gateway that pass: worth asking again.
BUSY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})

_PARTIAL_CONTENT = 206
RANGE_NOT_SATISFIABLE = 416
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def resume_headers(offset: int, validator: str | None) -> dict[str, str]:
    """What to send to get the file's bytes from ``offset`` on, or the whole file if it has changed."""
    # identity: an offset into a compressed body is not an offset into the file.
    headers = {"Accept-Encoding": "identity"}
    if offset and validator:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    return headers


def read_reply(
    status: int, headers: Mapping[str, str], offset: int, chunks: Iterator[bytes], where: str
) -> Reply:
    """The answer to `resume_headers` as a `Reply`; ``headers`` must not care about letter case.

    Raises:
        SourceError: the answer is a web page and not a file (a sign-in, most often).
        FileChangedError: a part was sent that does not say which one it is.
    """
    if headers.get("Content-Type", "").lower().startswith("text/html"):
        raise SourceError(
            "answered with a web page, not with a file",
            where=where,
            hint="Open the address in a browser: it may ask to sign in.",
        )
    start, total = 0, headers.get("Content-Length")
    if status == _PARTIAL_CONTENT:
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if not match or int(match[1]) != offset:
            raise FileChangedError("the server sent another part of the file than was asked for")
        start, total = offset, match[2]
    return Reply(
        start=start,
        total=int(total) if total and total.isdecimal() else None,
        validator=_validator(headers),
        chunks=chunks,
    )


def _validator(headers: Mapping[str, str]) -> str | None:
    """A strong ETag, else the date; RFC 9110 13.1.5 allows no weak ETag in If-Range."""
    etag = headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return etag
    return headers.get("Last-Modified")
