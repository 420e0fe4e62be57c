"""Users are run to their end, with nothing of our own in between; Locust's runner is played here."""

from __future__ import annotations

import gc
import time

import pytest

from timberline.benchmarks.measure.services import run_users


class Runner:
    """What `run_users` uses of Locust's local runner; says in which order, and whether gc was on."""

    def __init__(self, busy_s: float = 0.0) -> None:
        self.said: list[tuple[object, ...]] = []
        self.spawning_greenlet = self.user_greenlets = self
        self._busy_s = busy_s

    def start(self, users: int, spawn_rate: int) -> None:
        """Begin with so many users, so many a second."""
        self.said.append(("start", users, spawn_rate, gc.isenabled()))

    def join(self) -> None:
        """Wait until they are there, then until they are gone; it computes meanwhile."""
        end = time.process_time() + self._busy_s / 2
        while time.process_time() < end:
            pass
        self.said.append(("join", gc.isenabled()))

    def quit(self) -> None:
        """End."""
        self.said.append(("quit",))


@pytest.mark.parametrize(("users", "rate"), [(1, 1), (7, 7), (0, 1)])
def test_nothing_is_collected_while_users_run(users: int, rate: int) -> None:
    """A collection would hit one request or the other; all users start at once, and are waited for."""
    runner = Runner()
    run_users(runner, users, lambda: runner.said.append(("begin", gc.isenabled())))
    assert runner.said == [
        ("begin", False),
        ("start", users, rate, False),
        ("join", False),
        ("join", False),
        ("quit",),
    ]
    assert gc.isenabled()


def test_the_processor_time_is_a_share_of_the_time_that_passed() -> None:
    """A generator that used all of its core has measured itself."""
    jump, share = run_users(Runner(busy_s=0.2), 1)
    assert 0 < share <= 1.1
    assert jump < 60
    idle = run_users(Runner(), 1)[1]
    assert idle >= 0
