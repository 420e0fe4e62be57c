"""Months of a service in minutes: what a request, a swap and a rude client took is given back."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from tests.support.questions import QUESTIONS, Judge, Question, cycle_questions
from tests.support.raw_clients import Answer, Clients, run_clients
from tests.support.service import DEADLINE_S, RunningService, running_service
from tests.support.soak import MOST_GROWTH_BYTES, SIZES, Footprint, Summary, measure_footprint, show_bytes
from tests.support.swapping import publish_versions
from tests.support.tiny_model import point_alias
from timberline.registry.store import Store, open_store

CONNECTIONS = 16
# Clients at each swap that hang up in the middle of a request.
RUDE = 8
# One thread for large requests: with more, the second begins whenever two happen to meet.
FLAGS = ("--watch-s", "0.02", "--threads", "1")


class Life:
    """A service with clients, swaps, scrapes and clients that hang up, for as long as it is told to live."""

    def __init__(self, service: RunningService, store: Store) -> None:
        self.answered = 0
        self.swaps = 0
        self._service = service
        self._store = store
        self._judge = Judge()

    def live(self, requests: int, swaps: int) -> None:
        """Answer this many requests over this many swaps; afterwards every connection is closed."""
        questions = [cycle_questions(number) for number in range(CONNECTIONS)]
        clients = Clients(self._service, questions, self._take)

        async def run() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(clients.run())
                for number in range(1, swaps + 1):
                    await self._swap(clients)
                    due = requests * number // swaps
                    await clients.wait_for(lambda: clients.answered >= due)  # noqa: B023  waited for here
                clients.is_over = True

        run_clients(run)
        assert clients.lost == clients.wrong == [], clients.describe()
        self.answered += clients.answered

    async def _swap(self, clients: Clients[Question]) -> None:
        self.swaps += 1
        await asyncio.to_thread(point_alias, self._store, "tiny", "production", 1 + self.swaps % 2)
        request = QUESTIONS["large"].request
        lines = [await clients.connect() for _ in range(RUDE)]
        await asyncio.gather(*[line.pour(request[: len(request) // 2]) for line in lines])
        await asyncio.to_thread(self._service.request, "GET", "/metrics")
        await clients.wait_for(lambda: self.count_retired() == self.swaps)

    def count_retired(self) -> int:
        """Versions whose memory was freed after their last request."""
        return sum(json.loads(line)["event"] == "retired" for line in self._service.log.splitlines())

    def _take(self, number: int, question: Question, answer: Answer) -> None:
        self._judge.judge(question, answer)


def measure_when_quiet(service: RunningService, files: int) -> Footprint:
    """The service's footprint once it has no more than this many files open, or will not get there."""
    deadline = time.monotonic() + DEADLINE_S
    while (found := measure_footprint(service.process.pid)).file_descriptors > files:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)  # asking without a break would keep it from getting there
    return found


def test_requests_and_swaps_leave_nothing_behind(tmp_path: Path) -> None:
    """A service that grows by a megabyte a release, or by a file descriptor a lost client, ends one night."""
    publish_versions(tmp_path)
    summary = Summary("leaves nothing behind")
    with running_service(tmp_path, "tiny", *FLAGS) as service:
        # The event loop opens /dev/null with its first connection, to have one left when there are no others.
        files = measure_footprint(service.process.pid).file_descriptors + 1
        life = Life(service, open_store(tmp_path))
        life.live(SIZES.living_requests // 2, SIZES.living_swaps // 2)
        warm = measure_when_quiet(service, files)
        life.live(SIZES.living_requests, SIZES.living_swaps)
        end = measure_when_quiet(service, files)
        summary.show(
            requests=life.answered,
            swaps=life.swaps,
            resident=f"{show_bytes(warm.resident_bytes)} → {show_bytes(end.resident_bytes)}",
            files=f"{files} → {warm.file_descriptors} → {end.file_descriptors}",
            threads=f"{warm.threads} → {end.threads}",
        )
        assert end.resident_bytes - warm.resident_bytes < MOST_GROWTH_BYTES
        assert end.file_descriptors == warm.file_descriptors == files
        assert end.threads == warm.threads
