"""One exact page for four workers, whichever of them answers, and whoever is killed meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.service import DEADLINE_S, RunningService, running_service

WORKERS = 4
CONNECTIONS = 16
REQUESTS = 10_000  # these are multiples of the connections
REQUESTS_WITH_KILLS = 4_800
SCRAPES = 50
BODY = b'{"rings": 40}'
REQUEST = (
    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    % (len(BODY), BODY)
)
PREDICTED = (
    "http_requests_total",
    frozenset({"route": "/predict", "method": "POST", "status": "200"}.items()),
)

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def service(registry: Path) -> Iterator[RunningService]:
    """Four fresh workers."""
    with running_service(registry, "tiny", "--workers", str(WORKERS)) as running:
        yield running


class Load:
    """Clients in a closed loop, one request at a time on each of 16 connections.

    ``sent`` and ``received`` may be read at any time: a request is counted as sent before it is, an
    answer as received after it was.
    """

    def __init__(self, service: RunningService, requests: int) -> None:
        self._address = (service.host, service.port)
        self._each = requests // CONNECTIONS
        self._sent = [0] * CONNECTIONS
        self._received = [0] * CONNECTIONS

    @property
    def sent(self) -> int:
        """Requests begun to be sent."""
        return sum(self._sent)

    @property
    def received(self) -> int:
        """Whole answers."""
        return sum(self._received)

    def has_received(self, answers: int) -> bool:
        """Whether there were so many answers."""
        return self.received >= answers

    def run(self, number: int) -> None:
        """One client: send until it has its share of answers; what a killed worker drops is asked again."""
        deadline = time.monotonic() + DEADLINE_S
        while self._received[number] < self._each and time.monotonic() < deadline:
            with contextlib.suppress(ConnectionError), socket.create_connection(self._address) as connection:
                connection.settimeout(DEADLINE_S)
                with connection.makefile("rb") as answers:
                    while self._received[number] < self._each:
                        self._sent[number] += 1
                        connection.sendall(REQUEST)
                        read_answer(answers)
                        self._received[number] += 1


def read_answer(answers: BinaryIO) -> None:
    """Read one answer, which must be a prediction; raises `ConnectionError` if it does not come."""
    status = answers.readline()
    if not status:
        raise ConnectionResetError
    assert status == b"HTTP/1.1 200 OK\r\n", status
    length = 0
    while (line := answers.readline()) != b"\r\n":
        if not line:
            raise ConnectionResetError
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    if len(answers.read(length)) < length:
        raise ConnectionResetError


def scrape(service: RunningService) -> Samples:
    """Every sample that only ever counts up, over a connection of its own and so from any worker."""
    status, _, page = service.request("GET", "/metrics")
    assert status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
        if family.type in {"counter", "histogram"} and not family.name.startswith("process_")
    }


def check_scrapes(service: RunningService, load: Load, until: threading.Event, kills: int = 0) -> int:
    """Scrape until told to end and at least 50 times: never less than before, nor than was answered."""
    before: Samples = {}
    done = lost = 0
    while done < SCRAPES or not until.is_set():
        received = load.received
        try:
            page = scrape(service)
        except ConnectionError:  # a killed worker had taken the connection
            lost += 1
            assert lost <= kills
            continue
        assert {
            key: (count, page.get(key)) for key, count in before.items() if page.get(key, -1) < count
        } == {}
        assert received <= page.get(PREDICTED, 0.0) <= load.sent
        before = page
        done += 1
    return done


def read_workers(service: RunningService, event: str = "worker started") -> list[int]:
    """Process numbers of the workers that the supervisor has logged this of, in its order."""
    events = [json.loads(line) for line in service.log.splitlines()]
    return [line["pid"] for line in events if line["event"] == event]


def test_ten_thousand_requests_are_ten_thousand_in_every_scrape(service: RunningService) -> None:
    """A count lost or falling makes every rate and every alert wrong, and nobody sees why."""
    load, over = Load(service, REQUESTS), threading.Event()
    with ThreadPoolExecutor(CONNECTIONS + 1) as pool:
        scraping = pool.submit(check_scrapes, service, load, over)
        clients = [pool.submit(load.run, number) for number in range(CONNECTIONS)]
        try:
            for client in clients:
                client.result()
        finally:
            over.set()
        assert scraping.result() >= SCRAPES
    assert load.received == load.sent == REQUESTS
    page = scrape(service)
    version = {"model": "tiny", "version": "1"}
    assert page[PREDICTED] == REQUESTS
    assert page["http_request_duration_seconds_count", frozenset({"route": "/predict"}.items())] == REQUESTS
    assert page["inference_duration_seconds_count", frozenset(version.items())] == REQUESTS
    assert page["inference_queue_seconds_count", frozenset(version.items())] == REQUESTS
    assert page["inference_rows_sum", frozenset(version.items())] == REQUESTS
    assert sum(count for (name, _), count in page.items() if name == "predictions_total") == REQUESTS


def test_a_killed_worker_takes_no_count_with_it(service: RunningService) -> None:
    """What it answered was answered; its heir goes on where it was stopped."""
    load, over = Load(service, REQUESTS_WITH_KILLS), threading.Event()
    with ThreadPoolExecutor(CONNECTIONS + 1) as pool:
        scraping = pool.submit(check_scrapes, service, load, over, 2)
        clients = [pool.submit(load.run, number) for number in range(CONNECTIONS)]
        try:
            for answers, victim in zip((1000, 2500), read_workers(service)[:2], strict=True):
                wait_until(partial(load.has_received, answers))
                os.kill(victim, signal.SIGKILL)
            for client in clients:
                client.result()
        finally:
            over.set()
        assert scraping.result() >= SCRAPES
    assert load.received == REQUESTS_WITH_KILLS
    assert load.received <= scrape(service)[PREDICTED] <= load.sent
    wait_until(lambda: len(read_workers(service, "worker restarted")) == 2)
    assert len(read_process_labels(service)) == WORKERS


def test_every_worker_has_its_process_metrics(service: RunningService) -> None:
    """Memory that grows does so in one process; its sum would hide which."""
    status, _, page = service.request("GET", "/metrics")
    assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(page.decode())}
    for name in (
        "process_cpu_seconds",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
    ):
        found = [sample for sample in families[name].samples if not sample.name.endswith("_created")]
        assert len({sample.labels["worker"] for sample in found}) == WORKERS
        assert all(sample.value > 0 for sample in found)


def read_process_labels(service: RunningService) -> set[str]:
    """Workers that the page has process metrics of."""
    _, _, page = service.request("GET", "/metrics")
    families = text_string_to_metric_families(page.decode())
    return {
        sample.labels["worker"]
        for family in families
        if family.name == "process_start_time_seconds"
        for sample in family.samples
    }


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for a fact."""
    pause, deadline = threading.Event(), time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        pause.wait(0.01)
