"""An S3 server in this process that says what a test wants: what Amazon says, or what a broken server does.

    with answering() as server:
        server.next_answers.append(Said(503, "SlowDown"))    # the answer to the next request
        ...
        assert [asked.method for asked in server.asked] == ["PUT", "PUT"]

What nobody tells it to say is answered as by a server that keeps conditions, from memory; signatures are not
looked at. For whether a client's requests are right there are the real ones of `tests.support.s3_server`.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote


class Said(NamedTuple):
    """An answer; ``is_done`` says that the request is carried out, ``is_late`` that nobody hears of it.

    ``is_cut``: it is but half of what it says it is.
    """

    status: int
    code: str = ""
    message: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    is_done: bool = False
    is_late: bool = False
    is_cut: bool = False

    @property
    def body(self) -> bytes:
        """As Amazon writes an error."""
        text = f"<Error><Code>{self.code}</Code><Message>{self.message}</Message></Error>"
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode() if self.code else b""


class Asked(NamedTuple):
    """A request, with the conditions it had."""

    method: str
    path: str
    if_match: str
    if_none_match: str


class AnsweringServer:
    """``next_answers`` are used up one by one, each by the next request that ``is_meant`` accepts."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.asked: list[Asked] = []
        self.next_answers: list[Said] = []
        self.is_meant: Callable[[Asked], bool] = lambda _: True
        self.is_over = threading.Event()
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._make_handler())
        self._http.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """In which the bucket is asked."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "NO_PROXY": "127.0.0.1",
        }

    def close(self) -> None:
        """Late answers are given now."""
        self.is_over.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def answer(self, asked: Asked, body: bytes) -> Said:
        """What to say; what was asked for is done if it is to be."""
        with self._lock:
            self.asked.append(asked)
            said = self.next_answers.pop(0) if self.next_answers and self.is_meant(asked) else None
            if said is None:
                return self._do(asked, body)
            if said.is_done:
                self._do(asked, body)
            return said

    def _do(self, asked: Asked, body: bytes) -> Said:
        here = self.objects.get(asked.path)
        tag = tag_of(here) if here is not None else ""
        if asked.method == "DELETE":
            self.objects.pop(asked.path, None)
            return Said(204)
        if asked.method == "PUT":
            if (asked.if_none_match and here is not None) or (asked.if_match and asked.if_match != tag):
                missing = Said(404, "NoSuchKey") if here is None else None
                return missing or Said(412, "PreconditionFailed")
            self.objects[asked.path] = body
            return Said(200, headers=(("ETag", tag_of(body)),))
        if here is None:
            return Said(404, "NoSuchKey")
        if asked.if_none_match == tag:
            return Said(304)
        return Said(200, headers=(("ETag", tag), ("Last-Modified", "Fri, 27 Nov 2026 09:00:00 GMT")))

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                path = unquote(self.path.partition("?")[0].lstrip("/"))
                conditions = (self.headers.get(name, "") for name in ("if-match", "if-none-match"))
                asked = Asked(self.command, path, *conditions)
                said = server.answer(asked, body)
                if said.is_late:
                    server.is_over.wait()
                sent = said.body
                if said.status == 200 and self.command in ("GET", "HEAD"):
                    sent = server.objects.get(path, b"")
                with contextlib.suppress(OSError):  # the client may have gone
                    self.send_response(said.status)
                    for name, value in said.headers:
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(sent) * (2 if said.is_cut else 1)))
                    self.end_headers()
                    if self.command != "HEAD" and said.status not in (204, 304):
                        self.wfile.write(sent)
                    self.close_connection = said.is_cut

            do_GET = do_HEAD = do_PUT = do_DELETE = _handle  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@contextlib.contextmanager
def answering() -> Iterator[AnsweringServer]:
    """A server for as long as the block runs."""
    server = AnsweringServer()
    try:
        yield server
    finally:
        server.close()


def tag_of(data: bytes) -> str:
    """An ETag as Amazon makes it: it comes back with the bytes."""
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
