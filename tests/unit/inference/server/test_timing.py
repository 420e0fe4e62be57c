"""A request's stopwatch: which threads it charges, and what it says where the kernel is silent."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from time import thread_time_ns
from typing import Any

from timberline.inference.formats.request import JSON
from timberline.inference.server.incoming import AnswerHeadCache
from timberline.inference.server.timing import (
    NAME,
    ReportedRunQueue,
    Stopwatch,
    TimedApp,
    TimedHeads,
    TimedPool,
)

WORK_NS = 20_000_000  # far more than what a thread uses to take work and give it back


def read_times(header: bytes) -> dict[str, float]:
    """Milliseconds by name; fails if the header is written otherwise than agreed."""
    number = rb"dur=\d+\.\d{6}"
    told = rb"handler;N, cpu;N(, wait;N, wake;N)?".replace(b"N", number)
    assert re.fullmatch(told, header), header
    entries = (entry.split(";dur=") for entry in header.decode().split(", "))
    return {name: float(milliseconds) for name, milliseconds in entries}


def use_processor() -> None:
    """Work until this thread has used `WORK_NS` of processor time."""
    began = thread_time_ns()
    while thread_time_ns() - began < WORK_NS:
        pass


async def answer_after(pool: TimedPool, work: Any, method: str = "POST") -> dict[str, float] | None:
    """The times that an application tells which hands ``work`` to ``pool``; None if it tells none."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with contextlib.suppress(RuntimeError):
            await asyncio.wrap_future(pool.submit(work))
        await send({"type": "http.response.start", "status": 200, "headers": [JSON]})

    async def unread() -> Any:
        raise AssertionError("there is no body to read")

    async def send(message: Any) -> None:
        sent.append(message)

    await TimedApp(app)({"method": method}, unread, send)
    headers = dict(sent[0]["headers"])
    return read_times(headers[NAME]) if NAME in headers else None


def test_processor_time_and_wait_are_parts_of_the_whole() -> None:
    """What is left after the wait is judged; a negative rest would make a version faster than light."""
    stopwatch = Stopwatch()
    use_processor()
    times = read_times(stopwatch.write())
    assert WORK_NS / 1e6 <= times["cpu"] <= times["handler"]
    assert 0 <= times.get("wait", 0) <= times["handler"]


def test_a_kernel_that_does_not_tell_leaves_the_wait_out(tmp_path: Path) -> None:
    """A zero would claim that nothing was waited for."""
    assert read_times(Stopwatch(ReportedRunQueue(str(tmp_path / "none"))).write()).keys() == {
        "handler",
        "cpu",
    }


def test_the_wait_is_the_kernels_second_number(tmp_path: Path) -> None:
    """The first is time on a processor, the third a count."""
    schedstat = tmp_path / "schedstat"
    schedstat.write_text("5000 1000 3\n", "ascii")
    queue = ReportedRunQueue(str(schedstat))
    stopwatch = Stopwatch(queue)
    schedstat.write_text("9000 1001 7\n", "ascii")
    assert queue.read_ns() == 1001
    assert read_times(stopwatch.write())["wait"] == 1e-6


def test_what_the_thread_waited_since_its_answer_before_is_told_apart(tmp_path: Path) -> None:
    """It waits most for being woken, which is before the request's first line is run."""
    schedstat = tmp_path / "schedstat"
    schedstat.write_text("5000 1000 3\n", "ascii")
    queue = ReportedRunQueue(str(schedstat))
    Stopwatch(queue).write()
    schedstat.write_text("9000 3000 4\n", "ascii")
    stopwatch = Stopwatch(queue)
    schedstat.write_text("9500 3001 5\n", "ascii")
    times = read_times(stopwatch.write())
    assert (times["wake"], times["wait"]) == (0.002, 1e-6)


def test_a_wait_of_several_threads_is_never_more_than_the_whole() -> None:
    """Both threads of a request may wait at the same time, and it lost that time once."""
    stopwatch = Stopwatch()
    stopwatch.add(0, 10**12)
    times = read_times(stopwatch.write())
    if "wait" in times:
        assert times["wait"] == times["handler"]


def test_a_request_is_charged_with_its_work_in_the_pool() -> None:
    """A large request's work is done there, and the event loop's thread sleeps meanwhile."""
    with TimedPool(1) as pool:
        times = asyncio.run(answer_after(pool, use_processor))
    assert times is not None
    assert times["handler"] >= times["cpu"] >= WORK_NS / 1e6


def test_a_request_is_charged_with_work_that_failed() -> None:
    """An error's answer says what it cost as well."""

    def fail() -> None:
        use_processor()
        raise RuntimeError("not this time")

    with TimedPool(1) as pool:
        times = asyncio.run(answer_after(pool, fail))
    assert times is not None
    assert times["cpu"] >= WORK_NS / 1e6


def test_other_methods_are_not_timed() -> None:
    """A scrape or a probe is not what is measured."""
    with TimedPool(1) as pool:
        assert asyncio.run(answer_after(pool, use_processor, "GET")) is None


def test_a_timed_head_leaves_the_known_ones_alone() -> None:
    """They are kept for all connections; with a time in them there would be one for each request."""
    known = AnswerHeadCache()
    defaults = [(b"date", b"today")]
    timed = TimedHeads(known).find(200, (JSON,), defaults)
    plain = known.find(200, (JSON,), defaults)
    assert timed.startswith(plain)
    name, _, value = timed[len(plain) :].removesuffix(b"\r\n").partition(b": ")
    assert name == NAME
    assert read_times(value)
