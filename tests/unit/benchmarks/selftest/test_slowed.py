"""The injected regression is as large as it is said to be."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from timberline.benchmarks.selftest.slowed import Delay, burn, put_off, slow_down


def make_delay(**changes: Any) -> Delay:
    """A delay that does nothing but for ``changes``."""
    given: dict[str, Any] = {
        "cpu_us": 0.0,
        "work_us": 0.0,
        "tail_share": 0.0,
        "tail_ms": 0.0,
        "is_asleep": False,
        "seed": "0",
    } | changes
    return Delay(**given)


class Session:
    """Stands for the library's class: it tells what was asked of it."""

    def run(self, names: list[str], feed: dict[str, float]) -> tuple[list[str], dict[str, float]]:
        """As the library's, by position."""
        return names, feed

    def run_with_iobinding(self, binding: str, options: None) -> str:
        """As the library's, by position."""
        return f"{binding}-{options}"


def test_a_run_takes_the_processor_time_that_was_asked_for() -> None:
    """A clock that counted waiting would inject less on a busy machine, and the gate would be blamed."""
    began = time.thread_time_ns()
    burn(3_000_000)
    assert time.thread_time_ns() - began >= 3_000_000


def test_both_ways_to_run_a_graph_are_slower_and_answer_as_before() -> None:
    """A way left out would serve the old speed, and an answer changed would block for another reason."""

    class Slowed(Session):
        pass

    calls: list[str] = []
    slow_down(Slowed, lambda: calls.append("delayed"))
    session = Slowed()
    assert session.run(["p"], {"x": 1.0}) == (["p"], {"x": 1.0})
    assert session.run_with_iobinding("bound", None) == "bound-None"
    assert calls == ["delayed", "delayed"]


@pytest.mark.parametrize("has_loop", [True, False])
def test_work_comes_after_the_answer_that_a_loop_is_about_to_send(has_loop: bool) -> None:
    """Within the request it would be found by the latencies, and prove nothing of processor time."""
    order: list[str] = []

    def answer() -> None:
        put_off(lambda: order.append("work"))
        order.append("answer")

    async def serve() -> None:
        answer()
        await asyncio.sleep(0)  # a turn of the loop

    if has_loop:
        asyncio.run(serve())
    else:
        answer()
    assert order == (["answer", "work"] if has_loop else ["work", "answer"])


def test_the_work_after_a_run_takes_the_processor_time_that_was_asked_for() -> None:
    """A regression that is smaller than it is said to be makes the gate look blind."""
    delay = make_delay(work_us=20_000.0)
    began = time.thread_time_ns()
    delay()  # no loop runs here: at once
    assert time.thread_time_ns() - began >= 0.99 * 20_000_000


@pytest.mark.parametrize("is_asleep", [False, True])
def test_the_tail_has_its_share_and_is_the_same_for_a_seed(is_asleep: bool) -> None:
    """One request in a hundred is where p99 lies: half the share would be no tail at all."""
    slow = {"cpu_us": 40.0, "tail_share": 0.01, "tail_ms": 5.0, "is_asleep": is_asleep}
    delays = [make_delay(**slow, seed=seed) for seed in ("a", "a", "b")]
    first, again, other = ([delay.draw() for _ in range(20_000)] for delay in delays)
    assert first == again != other
    tail = (40_000, 0.005) if is_asleep else (5_040_000, 0.0)
    assert set(first) == {(40_000, 0.0), tail}
    # 20,000 draws of 1 %: 200, and four standard deviations of 14 to either side.
    assert 144 <= first.count(tail) <= 256
