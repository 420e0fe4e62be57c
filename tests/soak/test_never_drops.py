"""Releases and restarts in the middle of the day, over and over: no request is lost or mislabelled."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from functools import partial
from pathlib import Path

from tests.support.pages import read_counter
from tests.support.questions import Judge, Question, cycle_questions, end_with
from tests.support.raw_clients import Answer, Clients, run_clients
from tests.support.service import RunningService, running_service
from tests.support.soak import SIZES, Summary
from tests.support.swapping import publish_versions
from tests.support.tiny_model import point_alias
from timberline.registry.store import Store, open_store

CONNECTIONS = 16
# Beside them, clients that connect anew for every request.
VISITORS = 2
WORKERS = 2
FLAGS = ("--workers", str(WORKERS), "--watch-s", "0.02")


class Day:
    """What is done to a service while clients are at work, and what they are told."""

    def __init__(self, service: RunningService, store: Store) -> None:
        self.rows: Counter[int] = Counter()  # by the version that answered
        self.version = 1  # behind production
        self.moves = self.restarts = 0
        self._service = service
        self._store = store
        self._judge = Judge()
        self._latest = [0] * (CONNECTIONS + VISITORS)  # version that each client was answered by last
        questions = [cycle_questions(number) for number in range(CONNECTIONS)]
        questions += [map(end_with, cycle_questions(number)) for number in range(VISITORS)]
        self.clients = Clients(service, questions, self._take)
        self._wait_for = self.clients.wait_for

    def _has_answered(self, count: int) -> bool:
        return self.clients.answered >= count

    async def live(self) -> None:
        """Move and restart after every so many answers, and end with a move that nothing else disturbs."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.clients.run())
            while self.moves < SIZES.moves:
                due = SIZES.requests * self.moves // SIZES.moves
                await self._wait_for(partial(self._has_answered, due))
                if self.moves == SIZES.moves - 1:
                    await self._move_alone()
                else:
                    await self._move_and_restart()
                await self._wait_for(lambda: set(self._latest) == {self.version})
            await self._wait_for(partial(self._has_answered, SIZES.requests))
            self.clients.is_over = True

    async def _move_and_restart(self) -> None:
        """Either first: new workers start while old ones swap, or half of the workers are new already."""
        if self.restarts == SIZES.restarts - 1:  # one is left for the end
            await self._move()
        elif self.moves % 2:
            await self._move()
            await self._wait_for_restart(self._begin_restart())
        else:
            ended = self._count_events("worker ended")
            begun = self._begin_restart()
            await self._wait_for(lambda: self._count_events("worker ended") > ended)
            await self._move()
            await self._wait_for_restart(begun)

    async def _move_alone(self) -> None:
        """Each worker must swap by itself, so that none is left behind for good."""
        await self._wait_for_restart(self._begin_restart())
        before = self._count_events("swap")
        await self._move()
        await self._wait_for(lambda: self._count_events("swap") >= before + WORKERS)

    def _begin_restart(self) -> int:
        self._service.process.send_signal(signal.SIGHUP)
        self.restarts += 1
        return self.restarts

    async def _wait_for_restart(self, number: int) -> None:
        await self._wait_for(lambda: self._count_events("rolling restart done") == number)

    async def _move(self) -> None:
        self.moves += 1
        self.version = 3 - self.version
        await asyncio.to_thread(point_alias, self._store, "tiny", "production", self.version)

    def _count_events(self, event: str) -> int:
        return sum(json.loads(line)["event"] == event for line in self._service.log.splitlines())

    def _take(self, number: int, question: Question, answer: Answer) -> None:
        version = self._judge.judge(question, answer)
        self._latest[number] = version
        self.rows[version] += question.rows


def test_no_request_is_lost_over_moves_and_restarts(tmp_path: Path) -> None:
    """What users are promised: a release or a restart of the service is nothing that a client can see."""
    publish_versions(tmp_path)
    summary = Summary("never drops a request")
    with running_service(tmp_path, "tiny", *FLAGS) as service:
        day = Day(service, open_store(tmp_path))
        clients = day.clients
        try:
            run_clients(day.live)
        finally:
            summary.show(
                requests=clients.sent,
                moves=day.moves,
                restarts=day.restarts,
                reconnected=clients.reconnected,
                lost=len(clients.lost),
                wrong=len(clients.wrong),
            )
        assert clients.lost == clients.wrong == [], clients.describe()
        assert clients.sent == clients.answered >= SIZES.requests
        assert (day.moves, day.restarts) == (SIZES.moves, SIZES.restarts)
        page = service.request("GET", "/metrics")[2].decode()
        assert read_counter(page, "http_requests_total", method="POST", status="200") == clients.sent
        assert read_counter(page, "http_requests_total", method="POST") == clients.sent
        for version, rows in day.rows.items():
            assert read_counter(page, "predictions_total", version=str(version)) == rows
        assert read_counter(page, "model_swaps_total", outcome="refused") == 0
        status, answer = service.predict({"instances": [[1.0, 40, False, None]]})
        assert (status, answer["version"]) == (200, day.version)
