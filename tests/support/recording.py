"""The very bytes of foreign clients' requests: recorded from the real ones, replayed without them.

``make test-clients`` holds the recording to what the clients send; with ``TIMBERLINE_RECORD=1`` it
writes it anew. ``make test`` replays it, and needs none of the clients.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.raw_clients import Answer, split_answer
from tests.support.service import DEADLINE_S

RECORDED = Path(__file__).parents[1] / "contract" / "golden" / "clients.json"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
# What differs from run to run is recorded as something of the same length, as lengths stand elsewhere.
_UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NO_UUID = b"00000000-0000-4000-8000-000000000000"
_HOST = re.compile(rb"(?<=127\.0\.0\.1:)\d+(?=\r\n)")
_PYTHON = re.compile(rb"(?<=Python/3\.)\d+")
_GZIP_TIME = re.compile(rb"(?<=\x1f\x8b\x08\x00)....", re.DOTALL)


class Recorded(NamedTuple):
    """One request of a client, and the status that it was answered with."""

    client: str
    status: int
    request: bytes


@contextlib.contextmanager
def recording_proxy(port: int) -> Iterator[tuple[int, list[bytes]]]:
    """A port in front of the service's, and every request that came through it whole, in order."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_accept, args=(listener, port, seen), daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1], seen
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(DEADLINE_S)


def normalise(request: bytes) -> bytes:
    """``request`` without what is another thing in every run."""
    text = _GZIP_TIME.sub(b"\0\0\0\0", _UUID.sub(_NO_UUID, request))
    return _PYTHON.sub(b"11", _HOST.sub(b"8000", text, count=1))


def inflate(request: bytes) -> bytes:
    """``request`` with its body inflated if it is compressed: another zlib makes other bytes of the same."""
    head, _, body = request.partition(b"\r\n\r\n")
    if b"\r\nContent-Encoding: " not in head:
        return request
    return _LENGTH.sub(b"", head) + b"\r\n\r\n" + zlib.decompress(body, 47)  # gzip's wrapper or zlib's own


def split_requests(data: bytes) -> Iterator[bytes]:
    """The whole requests in what one connection has sent."""
    while data:
        end = data.index(b"\r\n\r\n") + 4
        length = _LENGTH.search(data[:end])
        end += int(length[1]) if length else 0
        yield data[:end]
        data = data[end:]


def send_raw(port: int, request: bytes) -> Answer:
    """The answer to a request of these bytes, on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as line:
        line.sendall(request)
        received = b""
        while (found := split_answer(received)) is None:
            part = line.recv(65536)
            assert part, f"closed after {received!r}"
            received += part
        return found[0]


def read_recorded() -> list[Recorded]:
    """The recording."""
    rows = json.loads(RECORDED.read_text("ascii"))
    return [Recorded(row["client"], row["status"], base64.b64decode(row["request"])) for row in rows]


def write_recorded(rows: list[Recorded]) -> None:
    """Replace the recording, a line a request."""
    lines = [json.dumps({**row._asdict(), "request": base64.b64encode(row.request).decode()}) for row in rows]
    RECORDED.write_text("[\n" + ",\n".join(lines) + "\n]\n", "ascii")


def _accept(listener: socket.socket, port: int, seen: list[bytes]) -> None:
    threads = []
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            break  # shut down: the client has ended
        threads.append(threading.Thread(target=_forward, args=(client, port, seen), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join(DEADLINE_S)


def _forward(client: socket.socket, port: int, seen: list[bytes]) -> None:
    sent = bytearray()
    with client, socket.create_connection(("127.0.0.1", port)) as service:
        back = threading.Thread(target=_copy, args=(service, client), daemon=True)
        back.start()
        with contextlib.suppress(ConnectionResetError):  # it left an answer unread
            while part := client.recv(65536):
                sent += part
                service.sendall(part)
        service.shutdown(socket.SHUT_WR)
        back.join(DEADLINE_S)
    seen.extend(split_requests(bytes(sent)))


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the client may hang up before the last answer
        while part := source.recv(65536):
            target.sendall(part)
