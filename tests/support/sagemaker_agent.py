"""What SageMaker does around a container: waits for it, asks it, and cuts the files of a batch transform.

    act(pid, Ask("GET", "/ping"), Transform(lines, "text/csv", "text/csv", "MultiRecord", 6))

It is run in the network of a container that has none but its own loopback, as with SageMaker's network
isolation. Sources: "Use Your Own Inference Code" with hosting services and with batch transform, and
`CreateTransformJob` (BatchStrategy, MaxPayloadInMB, SplitType, AssembleWith) of Amazon's documentation.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

PORT = 8080
MB = 1024 * 1024
_DEADLINE_S = 60.0


class Ask(NamedTuple):
    """A request, and what is wanted of its answer."""

    method: str
    path: str
    body: str = ""
    content_type: str = ""
    accept: str = ""


class Transform(NamedTuple):
    """A job of SplitType Line over one file."""

    lines: list[str]
    content_type: str
    accept: str
    strategy: str
    max_payload_mb: int
    assemble_with: str = "None"


def act(pid: int, *orders: Ask | Transform) -> list[Any]:
    """What came of the orders in the network of the process ``pid``: [status, text] of each request; of a
    transform that, or the file that it leaves."""
    program = ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, str(Path(__file__))]
    words = json.dumps([[type(order).__name__, order._asdict()] for order in orders])
    done = subprocess.run(
        program, input=words, capture_output=True, text=True, timeout=5 * _DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert isinstance(answers, list)
    return answers


def main() -> None:
    """See the module."""
    orders = json.loads(sys.stdin.read())
    wait_until_ready()
    kinds = {"Ask": lambda given: ask(Ask(**given)), "Transform": lambda given: transform(Transform(**given))}
    print(json.dumps([kinds[kind](given) for kind, given in orders]))


def wait_until_ready() -> None:
    """Ask for ``/ping`` until it says 200; each time it has two seconds."""
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if ask(Ask("GET", "/ping"), timeout_s=2)[0] == http.HTTPStatus.OK:
                return
    raise TimeoutError("the container is not healthy")


def ask(order: Ask, timeout_s: float = _DEADLINE_S) -> tuple[int, str]:
    """Status and text of one request; SageMaker gives it 60 seconds."""
    headers = {"Content-Type": order.content_type, "Accept": order.accept}
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=timeout_s)
    with contextlib.closing(connection):
        body = order.body.encode() or None
        connection.request(
            order.method, order.path, body, {key: text for key, text in headers.items() if text}
        )
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def transform(job: Transform) -> tuple[int, str]:
    """200 and the file that a job leaves, or the first answer that ends it."""
    parts = []
    for batch in cut(job):
        status, text = ask(Ask("POST", "/invocations", batch, job.content_type, job.accept))
        if status != http.HTTPStatus.OK:
            return status, text
        parts.append(text + ("\n" if job.assemble_with == "Line" else ""))
    return 200, "".join(parts)


def cut(job: Transform) -> Iterator[str]:
    """The bodies of the requests: a line each, or as many as fit into the payload."""
    if job.strategy == "SingleRecord":
        yield from job.lines
        return
    batch: list[str] = []
    size = 0
    for line in job.lines:
        length = len(line.encode()) + 1
        if batch and size + length > job.max_payload_mb * MB:
            yield "\n".join(batch)
            batch, size = [], 0
        batch.append(line)
        size += length
    yield "\n".join(batch)


if __name__ == "__main__":
    main()
