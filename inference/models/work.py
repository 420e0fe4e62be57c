"""How much the service takes on at a time: a bound on requests in work, and a deadline for each.

The bound is on requests, not on connections: a thousand idle connections cost nothing, a thousand
requests at once cost everybody their latency. What is beyond it is turned away at once, while there
is still time for the client to ask another service.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

from timberline.inference.errors import DeadlineError, OverloadedError


class WorkLimit:
    """Counts the requests in work; belongs to the event loop's thread.

    A request answered within one turn of the loop is in work from the turn's beginning: it waited
    for those of the same turn that came before it. So ``begin`` counts the requests of the turn,
    and whoever hands work to a thread counts it in ``held`` for as long as it lasts.

    Args:
        max_requests: more than this at a time are refused.
        deadline_s: seconds after which a request that is not answered is given up.
    """

    def __init__(self, max_requests: int, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self.held = 0
        self.waited = 0.0  # seconds, of the request taken on last
        self._max_requests = max_requests
        self._in_turn = 0
        self._turn_began = 0.0

    def begin(self) -> float:
        """Take on one request; the seconds that it waited for others of its turn.

        Raises:
            OverloadedError: there are as many in work as there may be.
            DeadlineError: it waited for longer than it may take in all.
        """
        now = perf_counter()
        if self._in_turn == 0:
            self._turn_began = now
            asyncio.get_running_loop().call_soon(self._end_turn)
        self._in_turn += 1
        if self.held + self._in_turn > self._max_requests:
            raise OverloadedError(
                f"{self._max_requests:,} requests are in work, the most there may be",
                hint="Ask again in a second.",
            )
        self.waited = waited = now - self._turn_began
        if waited > self.deadline_s:
            raise DeadlineError.after(self.deadline_s)
        return waited

    def _end_turn(self) -> None:
        self._in_turn = 0
