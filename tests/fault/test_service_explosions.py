"""Small bodies that stand for very much: refused for what they are, within ten times a body's allowed bytes.

Each was seen to make gigabytes of objects of a few kilobytes, or to hold everybody else up for
seconds. What is asserted are statuses and bytes; `make bench-attacks` shows the waits.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.service import DEADLINE_S, RunningService, running_service
from tests.support.tiny_model import publish_wide
from timberline.registry.store import open_store

MAX_BYTES = 2 << 20
MOST_ROWS = 2000
JSON = "application/json"
CSV = "text/csv"
LINES = "application/jsonlines"
PREDICT = "/predict"
INFER = "/v2/models/wide/infer"
TENSOR = b'{"name":"c0","datatype":"FP64","shape":[1],"data":[1]}'


def fill(head: bytes, unit: bytes, tail: bytes = b"") -> bytes:
    """As many units as fit into the longest body."""
    return head + unit * ((MAX_BYTES - len(head) - len(tail)) // len(unit)) + tail


def names(count: int) -> bytes:
    """Members of an object, each of another name."""
    return b",".join(b'"k%d":1' % index for index in range(count))


# Path, content type, body and the status of the answer.
BODIES: dict[str, tuple[str, str, bytes, int]] = {
    "empty rows": (PREDICT, JSON, fill(b'{"instances":[{}', b",{}", b"]}"), 413),
    "empty arrays": (PREDICT, JSON, fill(b'{"instances":[[]', b",[]", b"]}"), 413),
    "rows of one column": (PREDICT, JSON, fill(b'{"instances":[{"c0":1}', b',{"c0":1}', b"]}"), 413),
    "numbers for rows": (PREDICT, JSON, fill(b'{"instances":[1', b",1", b"]}"), 413),
    "as many empty rows as may be": (
        PREDICT,
        JSON,
        b'{"instances":[' + b",".join([b"{}"] * MOST_ROWS) + b"]}",
        400,
    ),
    "one row of a million": (PREDICT, JSON, fill(b'{"instances":[[1', b",1", b"]]}"), 400),
    "nested without end": (PREDICT, JSON, fill(b'{"instances":[[', b"["), 400),
    "nested unknown names": (PREDICT, JSON, fill(b'{"c0":', b'{"a":'), 400),
    "space": (PREDICT, JSON, b" " * MAX_BYTES, 400),
    "many names": (PREDICT, JSON, b"{" + names(150_000) + b"}", 400),
    "one name many times": (PREDICT, JSON, fill(b'{"c0":1', b',"c0":1', b"}"), 400),
    "a string of escapes": (PREDICT, JSON, fill(b'{"instances":[{"c0":"', b"\\n", b'"}]}'), 400),
    "a string of quotes": (PREDICT, JSON, fill(b'{"c0":"', b'\\"', b'"}'), 400),
    "a million digits": (PREDICT, JSON, fill(b'{"instances":[{"c0":', b"1", b"}]}"), 400),
    "parameters": (PREDICT, JSON, b'{"instances":[{"c0":1}],"parameters":{' + names(150_000) + b"}}", 400),
    "lines of empty rows": (PREDICT, LINES, fill(b"", b"{}\n"), 413),
    "lines of empty arrays": (PREDICT, LINES, fill(b"", b"[]\n"), 413),
    "lines of one column": (PREDICT, LINES, fill(b"", b'{"c0":1}\n'), 413),
    "lines of half a row": (PREDICT, LINES, fill(b"", b"[1,\n"), 413),
    "as many empty lines as may be": (PREDICT, LINES, b"{}\n" * MOST_ROWS, 400),
    "blank lines": (PREDICT, LINES, fill(b"", b"\n"), 400),
    "a blank line": (PREDICT, LINES, b" " * MAX_BYTES, 400),
    "a line of a million": (PREDICT, LINES, fill(b"[1", b",1", b"]"), 400),
    "a line without end": (PREDICT, LINES, fill(b"", b"["), 400),
    "lines that are nested": (PREDICT, LINES, (b"[" * 100_000 + b"\n") * 20, 400),
    "csv of short lines": (PREDICT, CSV, fill(b"", b"1\n"), 400),
    "csv of blank lines": (PREDICT, CSV, fill(b"", b"\n"), 400),
    "csv of one line": (PREDICT, CSV, fill(b"", b","), 400),
    "csv of one line of numbers": (PREDICT, CSV, fill(b"1", b",10"), 400),
    "csv that stays in quotes": (PREDICT, CSV, fill(b'"', b"1,1\n"), 400),
    "csv with quotes inside of fields": (PREDICT, CSV, fill(b"", b'1"1,'), 400),
    "csv of too many rows": (PREDICT, CSV, b"c0\n" + b"10\n" * (MOST_ROWS + 1), 413),
    "float32": (PREDICT, "application/octet-stream", b"\0" * (54 * 4 * (MOST_ROWS + 1)), 413),
    "an id of colons": (INFER, JSON, fill(b'{"id":"', b":", b'","inputs":[' + TENSOR + b"]}"), 400),
    "nested data": (INFER, JSON, fill(TENSOR.join([b'{"inputs":[', b""])[:-3] + b"[]", b",[]", b"]}]}"), 400),
    "long data": (INFER, JSON, fill(TENSOR.join([b'{"inputs":[', b""])[:-2], b",1", b"]}]}"), 400),
    "deep data": (INFER, JSON, fill(TENSOR.join([b'{"inputs":[', b""])[:-3], b"["), 400),
    "many inputs": (INFER, JSON, fill(b'{"inputs":[' + TENSOR, b"," + TENSOR, b"]}"), 400),
    "many outputs": (
        INFER,
        JSON,
        fill(b'{"inputs":[' + TENSOR + b'],"outputs":[{"name":"label"}', b',{"name":"label"}', b"]}"),
        400,
    ),
    "a long shape": (
        INFER,
        JSON,
        fill(b'{"inputs":[{"name":"c0","datatype":"FP64","shape":[1', b",1", b'],"data":[1]}]}'),
        400,
    ),
    "a parameter of names": (
        INFER,
        JSON,
        b'{"parameters":{"x":{' + names(150_000) + b'}},"inputs":[' + TENSOR + b"]}",
        400,
    ),
    "a nested parameter": (INFER, JSON, fill(b'{"parameters":{"x":', b"[", b"}}"), 400),
    "many parameters": (
        INFER,
        JSON,
        b'{"parameters":{' + names(150_000) + b'},"inputs":[' + TENSOR + b"]}",
        400,
    ),
}
SHORT = (
    "empty rows",
    "empty arrays",
    "rows of one column",
    "csv of short lines",
    "lines of empty rows",
    "lines of one column",
    "nested data",
    "an id of colons",
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A model of 54 columns, with limits that are soon reached; what it needs once it has."""
    registry: Path = tmp_path_factory.mktemp("registry")
    publish_wide(open_store(registry))
    flags = ("--max-body-bytes", str(MAX_BYTES), "--max-rows", str(MOST_ROWS), "--threads", "2")
    with running_service(registry, "wide", *flags) as running:
        assert running.predict({"instances": [{"c0": 1}] * MOST_ROWS})[0] == 200
        yield running


def read_memory(service: RunningService, name: str) -> int:
    """Bytes of the service's process, by a line of its status."""
    lines = Path(f"/proc/{service.process.pid}/status").read_text("ascii").splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


@contextlib.contextmanager
def bounded(service: RunningService, most_bytes: int) -> Iterator[None]:
    """Asserts that the service grows by no more than this meanwhile, and gives it back."""
    before = read_memory(service, "VmRSS")
    Path(f"/proc/{service.process.pid}/clear_refs").write_text("5", "ascii")  # the peak is counted anew
    yield
    assert read_memory(service, "VmHWM") - before <= most_bytes
    service.wait_for(lambda: read_memory(service, "VmRSS") - before <= 3 * MAX_BYTES)


def check_answer(
    service: RunningService, path: str, kind: str, body: bytes, expected: int, coding: str = ""
) -> None:
    """Ask, and assert the status, the error's form and that others are still answered."""
    headers = {"Content-Type": kind, **({"Content-Encoding": coding} if coding else {})}
    status, _, answer = service.request("POST", path, body, headers)
    assert status == expected, answer[:300]
    assert len(json.loads(answer)["error"]) < 400
    assert service.predict({"c0": 1})[0] == 200


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_explodes_is_refused_within_bounds(service: RunningService, name: str) -> None:
    """What is decoded is counted while it is, so that nothing is made of what is refused."""
    path, kind, body, expected = BODIES[name]
    with bounded(service, 10 * MAX_BYTES):
        check_answer(service, path, kind, body, expected)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("name", SHORT)
def test_a_compressed_body_that_explodes_is_refused_within_bounds(
    service: RunningService, name: str, coding: str
) -> None:
    """Sixteen kilobytes were five gigabytes: a body is short on the wire and long in every other sense."""
    path, kind, body, expected = BODIES[name]
    compress: Callable[[bytes], bytes] = gzip.compress if coding == "gzip" else zlib.compress
    with bounded(service, 10 * MAX_BYTES):
        check_answer(service, path, kind, compress(body), expected, coding)


def test_bombs_and_many_members_are_refused_within_bounds(service: RunningService) -> None:
    """What a body inflates to is a body as well."""
    bomb = gzip.compress(b"0" * (50 * MAX_BYTES))
    members = gzip.compress(b"1") * 1000 + gzip.compress(b" " * MAX_BYTES)
    with bounded(service, 10 * MAX_BYTES):
        check_answer(service, PREDICT, JSON, bomb, 413, "gzip")
        check_answer(service, PREDICT, JSON, zlib.compress(b"0" * (50 * MAX_BYTES)), 413, "deflate")
        check_answer(service, PREDICT, JSON, members, 413, "gzip")


def test_many_such_bodies_at_once_are_refused_within_bounds(service: RunningService) -> None:
    """The threads bound what is decoded at a time; what waits for them is held, and nothing else."""
    statuses: list[int] = []
    _, _, body, _ = BODIES["empty rows"]
    sent = gzip.compress(body)

    def ask() -> None:
        headers = {"Content-Type": JSON, "Content-Encoding": "gzip"}
        statuses.append(service.request("POST", PREDICT, sent, headers)[0])

    def ask_at_once() -> None:
        clients = [threading.Thread(target=ask) for _ in range(12)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(DEADLINE_S)

    ask_at_once()  # what a service makes once, for so many connections, is not what a body leaves behind
    with bounded(service, (12 + 10) * MAX_BYTES):
        ask_at_once()
    assert statuses == [413] * 24


@pytest.mark.parametrize("kind", [JSON, LINES])
@pytest.mark.parametrize("accept", [JSON, LINES, CSV])
def test_large_answers_are_given_within_bounds(service: RunningService, kind: str, accept: str) -> None:
    """A good request of as many rows as may be holds little more than its body and its answer."""
    row = json.dumps({f"c{index}": 1 for index in range(54)}).encode()
    body = b"\n".join([row] * MOST_ROWS)
    if kind == JSON:
        body = b'{"instances":[%b]}' % body.replace(b"\n", b",")
    assert len(body) < MAX_BYTES
    with bounded(service, 10 * MAX_BYTES):
        status, _, answer = service.request("POST", PREDICT, body, {"Content-Type": kind, "Accept": accept})
        assert status == 200
    count = len(json.loads(answer)["predictions"]) if accept == JSON else answer.count(b"\n")
    assert count == MOST_ROWS


def test_an_answer_that_would_be_huge_is_refused(tmp_path: Path) -> None:
    """A model of many classes answers a few kilobytes with some hundred megabytes."""
    publish_wide(open_store(tmp_path), width=2, class_count=1000)
    body = b'{"instances":[' + b",".join([b'{"c0":1}'] * 10_000) + b"]}"
    with running_service(tmp_path, "wide") as service:
        before = read_memory(service, "VmRSS")
        for accept in (JSON, LINES, CSV):
            headers = {"Content-Type": JSON, "Accept": accept}
            status, _, answer = service.request("POST", PREDICT, body, headers)
            assert status == 413
            assert "the answer may have" in json.loads(answer)["error"]
        assert read_memory(service, "VmHWM") - before < 160 << 20
        short = service.request("POST", f"{PREDICT}?probabilities=false", body, {"Content-Type": JSON})
        assert short[0] == 200
