"""Downloads: resumed where the server can prove that the file is still the same, else restarted.

The bytes lie beside ``target`` under a temporary name, with a marker that says which version of
the remote file they belong to. A killed run leaves both; the next one goes on from there.

An `Opener` asks for the bytes. `open_url` is the one for http(s), through the standard library, so
that the machine's proxies and certificates hold; its HTTP fields (RFC 9110, sections 13 and 14) serve
other clients too. `scrub` keeps credentials out of messages.
"""

from __future__ import annotations

import abc
import base64
import contextlib
import http.client
import logging
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from timberline.registry.runtime.documents import decode_json
from timberline.registry.runtime.files import PARTIAL_PREFIX, sync_folder, write_atomically
from timberline.registry.runtime.logs import log_event
from timberline.registry.runtime.progress import Progress
from timberline.training.errors import SourceError

CHUNK_BYTES = 1 << 20
# In a row and without one new byte; a connection that drops but gets further is asked again.
_ATTEMPTS = 4
_FIRST_PAUSE_S = 0.5

_logger = logging.getLogger("training.data.fetch")
# Seconds to wait before asking again; a parameter everywhere, so that tests need not wait.
Pause = Callable[[float], None]
_HIDDEN = "***"
_LIMIT = 300
_USERINFO = re.compile(r"(?<=://)[^/\s@]+@")
# Presigned URLs carry their signature in the query.
_QUERY = re.compile(r"(?<=[\w/.\-%])\?[^\s'\"<>)]+")
_AUTHORIZATION = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=\-]{6,}")
# Too many requests, and failures of a server or gateway that pass: worth asking again.
BUSY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})

_PARTIAL_CONTENT = 206
RANGE_NOT_SATISFIABLE = 416
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_TIMEOUT_S = 60.0

_HINTS = {
    401: "It asks to sign in; use a presigned URL, or download the file yourself and give its path.",
    403: "Access is refused; a presigned URL may have run out.",
    404: "Check source.path in model.toml.",
    410: "The file is gone for good.",
}


class Fetcher(abc.ABC):
    """Fetch one configured source, whole and verified, or raise a `SourceError`."""

    # The source in a few words, for logs and errors, without credentials.
    label: str

    def inputs(self) -> dict[str, str]:
        """Digests, by name, of what the result depends on besides the configuration; here none."""
        return {}

    @abc.abstractmethod
    def fetch(self, folder: Path, scratch: Path) -> None:
        """Fill the empty ``folder`` with the source's files.

        ``scratch`` outlives a killed run: a download that was cut goes on from what is in it.
        """


@dataclass(frozen=True)
class Reply:
    """A server's answer: bytes of the file from ``start`` on.

    ``total`` is the size of the whole file, None when the server does not name it. ``validator`` (an
    ETag or a date) identifies this version of the file; without one nothing can be resumed.
    """

    start: int
    total: int | None
    validator: str | None
    chunks: Iterator[bytes]


# Called with the offset to go on from and the validator of the bytes so far; (0, None) at first.
Opener = Callable[[int, str | None], AbstractContextManager[Reply]]


class LostConnectionError(Exception):
    """Raised by an opener: the connection broke or the server is busy. `download` asks again."""


class FileChangedError(LostConnectionError):
    """Raised by an opener: the bytes so far are of another version of the file. `download` starts again."""


class InterruptedDownloadError(SourceError):
    """The connection broke too often; what was fetched is kept, so that a re-run goes on from there."""

    code = "source_interrupted"


class _Marker(msgspec.Struct, frozen=True):
    validator: str | None
    total: int | None


def download(open_at: Opener, target: Path, *, label: str, pause: Pause) -> None:
    """Fetch one file to ``target``; nothing is asked when it is there already.

    Raises:
        InterruptedDownloadError: no new byte in four attempts in a row.
        SourceError: whatever the opener refuses for good, or more bytes than were announced.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _Partial(target, label)
    failures, furthest = 0, partial.offset
    while not partial.is_whole:
        try:
            with open_at(partial.offset, partial.validator) as reply:
                partial.append(reply)
        except LostConnectionError as error:
            if isinstance(error, FileChangedError):
                partial.discard()
            failures = 1 if partial.size > furthest else failures + 1
            furthest = max(furthest, partial.size)
            if failures >= _ATTEMPTS:
                raise _interrupted(partial, label, error) from None
            log_event(_logger, "connection lost, trying again", source=label, reason=str(error))
            pause(_FIRST_PAUSE_S * 2 ** (failures - 1))
    partial.publish()


def _interrupted(partial: _Partial, label: str, error: LostConnectionError) -> InterruptedDownloadError:
    kept = f"; {partial.offset:,} bytes are kept" if partial.offset else ""
    return InterruptedDownloadError(
        f"gave up after {_ATTEMPTS} attempts: {error}{kept}",
        where=label,
        hint="Check the connection and run the same command again; it goes on from where it stopped.",
    )


class _Partial:
    """The bytes so far, and which version of the remote file they belong to."""

    def __init__(self, target: Path, label: str) -> None:
        self._target = target
        self._label = label
        self._path = target.with_name(f"{PARTIAL_PREFIX}{target.name}")
        self._marker_path = target.with_name(f"{PARTIAL_PREFIX}{target.name}.json")
        self._marker = self._read_marker()
        self._ended = False

    def _read_marker(self) -> _Marker | None:
        try:
            return decode_json(self._marker_path.read_bytes(), _Marker)
        except (OSError, msgspec.DecodeError):
            return None

    @property
    def size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    @property
    def validator(self) -> str | None:
        return self._marker.validator if self._marker else None

    @property
    def offset(self) -> int:
        """Where to go on; 0 when nothing proves which version the bytes so far belong to."""
        return self.size if self.validator else 0

    @property
    def is_whole(self) -> bool:
        if self._marker is None or self._marker.total is None:
            return self._ended
        return self.size == self._marker.total

    def append(self, reply: Reply) -> None:
        """Write a reply's bytes behind those so far, or from the start if it begins there."""
        if reply.start == 0:
            self.discard()
            self._marker = _Marker(reply.validator, reply.total)
            write_atomically(self._marker_path, msgspec.json.encode(self._marker))
        elif reply.start != self.offset or self._marker is None or reply.total != self._marker.total:
            raise FileChangedError("the server sent another part of the file than was asked for")
        with (
            self._path.open("ab") as file,
            Progress(f"fetch {self._label}", reply.total, "bytes", logger=_logger) as progress,
        ):
            progress.advance(reply.start)
            for chunk in reply.chunks:
                file.write(chunk)
                progress.advance(len(chunk))
        self._check_size(reply.total)
        self._ended = True

    def _check_size(self, total: int | None) -> None:
        if total is None or self.size == total:
            return
        if self.size < total:
            raise LostConnectionError(f"the body ended after {self.size:,} of {total:,} bytes")
        size = self.size
        self.discard()
        raise SourceError(f"sent {size:,} bytes, had announced {total:,}", where=self._label)

    def discard(self) -> None:
        self._path.unlink(missing_ok=True)
        self._marker_path.unlink(missing_ok=True)
        self._marker = None

    def publish(self) -> None:
        self._path.touch()  # an empty remote file has sent no chunk
        self._path.replace(self._target)
        self._marker_path.unlink(missing_ok=True)
        sync_folder(self._target.parent)


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` on one line of at most 300 characters, without ``secrets`` (plain, quoted or in base64),
    userinfo and queries of URLs, and authorization headers.
    """
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        for form in (secret, urllib.parse.quote(secret, safe=""), base64.b64encode(secret.encode()).decode()):
            text = text.replace(form, _HIDDEN)
    text = _AUTHORIZATION.sub(rf"\1 {_HIDDEN}", text)
    text = _QUERY.sub(f"?{_HIDDEN}", _USERINFO.sub(f"{_HIDDEN}@", text))
    text = " ".join(text.split())
    return text if len(text) <= _LIMIT else text[: _LIMIT - 1] + "…"


def show_url(url: str) -> str:
    """A URL as it may be shown: scheme, host, port and path; no userinfo, query or fragment."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


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
        FileChangedError: a part was sent without its position.
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


def check_url(url: str) -> None:
    """Refuse a URL with a password in it: model.toml is no place for one.

    Raises:
        SourceError: it has one, or names no host.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.username or parts.password:
        raise SourceError(
            "the URL carries credentials",
            where=show_url(url),
            hint="model.toml is committed and copied; use a presigned URL, by --set source.path=…, instead.",
        )
    if not parts.hostname:
        raise SourceError("the URL names no host", where=show_url(url))


def require_digest(found: str, pinned: str | None, *, where: str, hint: str) -> None:
    """Refuse bytes that are not those that model.toml pins, if it pins any.

    Raises:
        SourceError: the digests differ.
    """
    if pinned and found != pinned:
        raise SourceError(f"has SHA-256 {found}, model.toml says {pinned}", where=where, hint=hint)


@contextlib.contextmanager
def open_url(url: str, offset: int, validator: str | None) -> Iterator[Reply]:
    """Ask for the file at ``url`` from ``offset`` on; an `Opener` once ``url`` is bound."""
    headers = {"User-Agent": "timberline", **resume_headers(offset, validator)}
    request = urllib.request.Request(url, headers=headers)
    where = show_url(url)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refusal(error, where) from None
    except (OSError, http.client.HTTPException) as error:
        raise LostConnectionError(_reason(error)) from None
    with response:
        yield read_reply(response.status, response.headers, offset, _chunks(response), where)


def _chunks(response: Any) -> Iterator[bytes]:
    try:
        while chunk := response.read1(CHUNK_BYTES):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise LostConnectionError(f"the body broke off ({_reason(error)})") from None


def _refusal(error: urllib.error.HTTPError, where: str) -> Exception:
    if error.code == RANGE_NOT_SATISFIABLE:
        return FileChangedError("the file is shorter now")
    if error.code in BUSY_STATUSES:
        return LostConnectionError(f"the server is busy ({error.code})")
    return SourceError(f"the server answered {error.code}", where=where, hint=_HINTS.get(error.code, ""))


def _reason(error: Exception) -> str:
    """The cause without the URL, whose query may be a signature."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return text or type(cause).__name__
