"""An endpoint by itself: what it counts while it answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from timberline.inference.app import Endpoint
from timberline.inference.formats.request import Answer, Request, answer_json
from timberline.inference.metrics.counters import ServiceMetrics
from timberline.inference.models.runner import WorkLimit

NO_BODIES: Any = None  # the short way gets its body whole


@pytest.mark.parametrize("fails", [False, True])
def test_a_request_of_the_short_way_is_in_flight_while_it_is_answered(fails: bool) -> None:
    """Another worker may be scraped at that moment, and sees this one's number in shared memory."""
    metrics = ServiceMetrics()
    seen: list[float] = []

    def answer(request: Request) -> Answer:
        seen.append(metrics.in_flight[0])
        if fails:
            raise ValueError("ours")
        return answer_json({})

    async def ask() -> object:
        endpoint = Endpoint("/predict", {"POST": answer}, metrics, WorkLimit(1, 60), NO_BODIES, None)
        return endpoint.answer_post(Request("POST", "/predict", b"", [], b"{}"))

    answered = asyncio.run(ask())
    assert isinstance(answered, Answer)
    assert answered.status == (500 if fails else 200)
    assert seen == [1]
    assert metrics.in_flight[0] == 0
