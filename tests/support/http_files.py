"""A file server on loopback that does what real ones do, and on request what broken ones do.

It also answers as a forward proxy (a request line with a whole URL), so that a client with a
fixed host and port can be pointed at it by the usual proxy variables.
"""

from __future__ import annotations

import contextlib
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Resource:
    """What stands under one path, and how it is served.

    ``cuts`` are numbers of body bytes after which the connection is closed, one a request, until
    they are used up; ``hold`` is called once, after the first cut's bytes, instead of closing.
    """

    body: bytes = b""
    status: int = 200
    content_type: str = "text/csv"
    etag: str | None = '"v1"'
    ranges: bool = True
    length: bool = True
    location: str | None = None
    cuts: list[int] = field(default_factory=list)
    hold: Callable[[], object] | None = None


@dataclass(frozen=True)
class Seen:
    """One request as it arrived; header names in lower case."""

    method: str
    host: str
    path: str
    headers: dict[str, str]
    body: bytes


class FileServer:
    """``resources`` by path; ``seen`` are the requests so far."""

    def __init__(self, port: int) -> None:
        self.resources: dict[str, Resource] = {}
        self.seen: list[Seen] = []
        self.url = f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def serve_files() -> Iterator[FileServer]:
    """Serve on a free port of loopback until the block ends."""

    class Handler(_Handler):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Handler.files = files = FileServer(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield files
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    files: FileServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        address = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        host = address.netloc or headers.get("host", "")
        self.files.seen.append(Seen(self.command, host, address.path, headers, body))
        self._answer(self.files.resources.get(address.path, Resource(status=404)))

    do_POST = do_GET  # noqa: N815 - the name that http.server looks for

    def _answer(self, resource: Resource) -> None:
        body, start = resource.body, self._asked_offset(resource)
        if start and start >= len(body):
            return self._send(resource, b"", 416, {})
        if start:
            fields = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            return self._send(resource, body[start:], 206, fields)
        return self._send(resource, body, resource.status, {})

    def _asked_offset(self, resource: Resource) -> int:
        asked = self.headers.get("Range", "")
        if not resource.ranges or not asked or self.headers.get("If-Range", resource.etag) != resource.etag:
            return 0
        return int(asked.removeprefix("bytes=").rstrip("-"))

    def _send(self, resource: Resource, body: bytes, status: int, fields: dict[str, str]) -> None:
        self.send_response(status)
        fields |= {"Content-Type": resource.content_type, "Connection": "close"}
        if resource.length:
            fields["Content-Length"] = str(len(body))
        if resource.etag:
            fields["ETag"] = resource.etag
        if resource.location:
            fields["Location"] = resource.location
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        if resource.cuts:
            self.wfile.write(body[: resource.cuts.pop(0)])
            self.wfile.flush()
            hold, resource.hold = resource.hold, None
            if hold:
                hold()
            return
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the tests look at ``seen``."""
