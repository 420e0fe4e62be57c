"""Clients in a closed loop while an alias moves: nobody loses a request or is told of another version.

tally = swap_under_load(registry, requests=2000, moves=6)

Each client keeps one connection, sends its next request as soon as it has its answer, and compares
the answer with what the version that it names would have said.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.service import DEADLINE_S, RunningService, running_service
from tests.support.tiny_model import (
    CLASSES,
    NUMERIC_COLUMNS,
    NUMERIC_ROWS,
    expect_probabilities,
    point_alias,
    publish_numeric,
)
from timberline.registry.store import open_store

# By version: the second one's answers are the first one's turned around.
SCALES = {1: 1.0, 2: -1.0}
EXPECTED = {
    version: expect_probabilities(NUMERIC_COLUMNS, NUMERIC_ROWS, scale) for version, scale in SCALES.items()
}
# float32 in the graph against float64 here.
_ATOL = 1e-6
# One row is answered by the short way, three by the general one, 300 in a thread.
_REPEATS = (0, 1, 100)


class Tally:
    """What the clients have seen so far."""

    def __init__(self, connections: int) -> None:
        self.answers: list[Counter[int]] = [Counter() for _ in range(connections)]  # by named version
        self.rows: list[Counter[int]] = [Counter() for _ in range(connections)]
        self.latest = [0] * connections  # version that each client was answered by last
        self.wrong: list[str] = []  # each answer that was not right

    @property
    def total(self) -> int:
        """Right answers."""
        return sum(answers.total() for answers in self.answers)

    @property
    def rows_by_version(self) -> dict[int, int]:
        """Rows answered by each version, by the clients' count."""
        return dict(sum(self.rows, Counter()))


def publish_versions(registry: Path | str) -> None:
    """tiny@1, which production points at, and tiny@2."""
    store = open_store(registry)
    publish_numeric(store, scale=SCALES[1])
    publish_numeric(store, scale=SCALES[2], alias=None)


def swap_under_load(
    registry: Path | str,
    *,
    requests: int,
    moves: int,
    connections: int = 16,
    flags: tuple[str, ...] = (),
    is_published: bool = False,
) -> tuple[Tally, str]:
    """Move production ``moves`` times, to and fro, while at least ``requests`` requests are answered.

    ``is_published`` says that the versions of `publish_versions` are there already.

    Returns:
        What the clients saw, and the page of `/metrics` afterwards.
    """
    if not is_published:
        publish_versions(registry)
    with running_service(registry, "tiny", "--watch-s", "0.02", *flags) as service:
        with working_clients(service, connections) as tally:
            for move in range(moves):
                _wait_for(_has_answered(tally, requests * move // moves), service, tally)
                version = 2 - move % 2
                point_alias(open_store(registry), "tiny", "production", version)
                _wait_for(_is_everywhere(tally, version), service, tally)
            _wait_for(_has_answered(tally, requests), service, tally)
        return tally, service.request("GET", "/metrics")[2].decode()


@contextlib.contextmanager
def working_clients(service: RunningService, connections: int) -> Iterator[Tally]:
    """Clients at work as long as the block lasts; afterwards every request begun has its answer."""
    tally = Tally(connections)
    is_over = threading.Event()
    threads = [
        threading.Thread(target=_work, args=(service, tally, number, is_over), name=f"client {number}")
        for number in range(connections)
    ]
    for thread in threads:
        thread.start()
    try:
        yield tally
    finally:
        is_over.set()
        for thread in threads:
            thread.join(DEADLINE_S)


def _work(service: RunningService, tally: Tally, number: int, is_over: threading.Event) -> None:
    sent = 0
    try:
        with contextlib.closing(service.connect()) as connection:
            while not is_over.is_set():
                # One in a hundred is large, as it costs a hundred times as much.
                repeat = _REPEATS[2] if sent % 100 == 99 else _REPEATS[sent % 2]
                connection.request("POST", "/predict", _BODIES[repeat], _JSON)
                response = connection.getresponse()
                version = _check(
                    response.status, response.headers["x-model-version"], response.read(), repeat
                )
                tally.answers[number][version] += 1
                tally.rows[number][version] += _count_rows(repeat)
                tally.latest[number] = version
                sent += 1
    except Exception as error:  # whatever it was, it is the finding; the test's thread reports it
        tally.wrong.append(f"client {number}, request {sent}: {error!r}"[:500])


def _check(status: int, header: str, body: bytes, repeat: int) -> int:
    """The version that answered; an AssertionError if anything in the answer is another one's."""
    answer = json.loads(body)
    assert status == HTTPStatus.OK, (status, answer)
    version: int = answer["version"]
    assert header == f"tiny@{version}", (header, version)
    found = [answer] if not repeat else answer["predictions"]
    expected = EXPECTED[version][:1] if not repeat else np.tile(EXPECTED[version], (repeat, 1))
    probabilities = [[row["probabilities"][label.value] for label in CLASSES] for row in found]
    np.testing.assert_allclose(probabilities, expected, atol=_ATOL)
    assert [row["prediction"] for row in found] == [CLASSES[best].value for best in expected.argmax(axis=1)]
    return version


def _build_body(repeat: int) -> bytes:
    if not repeat:
        columns = [column.name for column in NUMERIC_COLUMNS]
        return json.dumps(dict(zip(columns, NUMERIC_ROWS[0], strict=True))).encode()
    return json.dumps({"instances": [list(row) for row in NUMERIC_ROWS] * repeat}).encode()


def _count_rows(repeat: int) -> int:
    return len(NUMERIC_ROWS) * repeat or 1


_BODIES: dict[int, bytes] = {repeat: _build_body(repeat) for repeat in _REPEATS}
_JSON: dict[str, Any] = {"Content-Type": "application/json"}


def _has_answered(tally: Tally, requests: int) -> Callable[[], bool]:
    return lambda: tally.total >= requests


def _is_everywhere(tally: Tally, version: int) -> Callable[[], bool]:
    return lambda: all(latest == version for latest in tally.latest)


def _wait_for(fact: Callable[[], bool], service: RunningService, tally: Tally) -> None:
    """Return when ``fact`` holds; fail when a client found something wrong or nothing goes on."""
    before, deadline = -1, 0.0
    while not fact():
        assert not tally.wrong, f"{tally.wrong}\n{service.log}"
        if tally.total != before:  # it goes on
            before, deadline = tally.total, time.monotonic() + DEADLINE_S
        assert time.monotonic() < deadline, service.log
        time.sleep(0.01)  # the clients share this process; asking without a break would starve them
