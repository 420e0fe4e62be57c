"""The bound on requests in work."""

from __future__ import annotations

import asyncio

import pytest

from timberline.inference.errors import DeadlineError, OverloadedError
from timberline.inference.models.runner import WorkLimit


def test_requests_of_one_turn_count_together_and_not_with_the_next() -> None:
    """A request answered within a turn has no end to count; the turn's end is theirs."""

    async def ask() -> None:
        work = WorkLimit(max_requests=2, deadline_s=60)
        for _ in range(3):
            work.begin()
            work.begin()
            with pytest.raises(OverloadedError, match="2 requests are in work"):
                work.begin()
            await asyncio.sleep(0)

    asyncio.run(ask())


def test_a_request_in_a_thread_counts_until_it_is_released() -> None:
    """Turns pass while it works."""

    async def ask() -> None:
        work = WorkLimit(max_requests=2, deadline_s=60)
        work.held += 1
        await asyncio.sleep(0)
        work.begin()
        with pytest.raises(OverloadedError):
            work.begin()
        work.held -= 1
        await asyncio.sleep(0)
        work.begin()
        work.begin()

    asyncio.run(ask())


def test_a_request_that_waited_for_too_long_is_given_up() -> None:
    """Its client has stopped waiting; working on it would keep the next one waiting, too."""

    async def ask() -> None:
        work = WorkLimit(max_requests=100, deadline_s=0)
        assert work.begin() == 0
        with pytest.raises(DeadlineError):
            work.begin()

    asyncio.run(ask())
