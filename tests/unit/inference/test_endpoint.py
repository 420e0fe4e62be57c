"""What an endpoint holds of a request until it is answered."""

from __future__ import annotations

import asyncio

from timberline.inference.app import Endpoint
from timberline.inference.formats.body import BodyReader, ReceiveBudget
from timberline.inference.formats.request import Answer, Request, answer_json
from timberline.inference.metrics.counters import ServiceMetrics
from timberline.inference.models.runner import WorkLimit


def test_a_body_that_waits_for_a_thread_is_held_until_its_answer() -> None:
    """A queue of two hundred bodies of a megabyte is as much memory as they were on their way."""
    budget = ReceiveBudget(1000)

    async def ask() -> None:
        """Two requests that wait, of which there is only room for one; and a third after them."""
        may_answer = asyncio.Event()

        async def answer_later() -> Answer:
            """An answer from a thread."""
            await may_answer.wait()
            return answer_json("done")

        bodies = BodyReader(1000, 60, budget)
        work = WorkLimit(max_requests=9, deadline_s=60)
        endpoint = Endpoint(
            "/", {"POST": lambda request: answer_later()}, ServiceMetrics(), work, bodies, None
        )

        async def post(size: int) -> Answer:
            """The endpoint's answer to a body of this size."""
            answer = endpoint.answer_post(Request("POST", "/", b"", [], b"x" * size))
            return answer if isinstance(answer, Answer) else await answer

        first = asyncio.create_task(post(600))
        await asyncio.sleep(0)
        assert budget.held == 600
        refused = await post(401)
        assert refused.status == 503
        assert (b"connection", b"close") in refused.headers
        assert budget.held == 600
        may_answer.set()
        assert (await first).status == 200
        assert budget.held == 0
        assert (await post(401)).status == 200

    asyncio.run(ask())
