"""``POST /predict``: raw rows in, classes and probabilities out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from math import isfinite
from time import perf_counter
from typing import Any

import numpy as np
from starlette.types import Receive, Scope

from inference.answers import Answer, answer_bytes
from inference.body import read_json_body
from inference.codec import RowBatch
from inference.config import ServiceConfig
from inference.errors import RowError
from inference.session import Outputs, Row
from inference.state import ServiceState
from inference.versions import LiveVersion


class Predict:
    """Handler of ``POST /predict``.

    Small requests are worked on right on the event loop, as handing them to a thread costs more
    than answering them; large ones go to ``pool`` so that small ones need not wait behind them.
    """

    def __init__(self, state: ServiceState, config: ServiceConfig, pool: Executor) -> None:
        self._state = state
        self._pool = pool
        self._max_body_bytes = config.max_body_bytes
        self._inline_max_body_bytes = config.inline_max_body_bytes
        self._inline_max_rows = config.inline_max_rows

    async def __call__(self, scope: Scope, receive: Receive) -> Answer:
        body = await read_json_body(scope, receive, self._max_body_bytes)
        live = self._state.live
        if len(body) > self._inline_max_body_bytes:
            batch = await self._in_pool(live.decoder.decode, body)
        else:
            batch = live.decoder.decode(body)
        if batch.is_single:
            return answer_bytes(_answer_row(live, batch.rows[0]))
        return answer_bytes(await self._answer_rows(live, batch))

    async def _answer_rows(self, live: LiveVersion, batch: RowBatch) -> bytes:
        body: bytes
        if len(batch.rows) > self._inline_max_rows:
            outputs, body, seconds = await self._in_pool(_work_rows, live, batch.rows)
        else:
            outputs, body, seconds = _work_rows(live, batch.rows)
        live.metrics.observe_rows(outputs, seconds)
        return body

    async def _in_pool(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)


def _answer_row(live: LiveVersion, row: Row) -> bytes:
    started = perf_counter()
    label, probabilities = live.session.run_row(row)
    seconds = perf_counter() - started
    if not isfinite(sum(probabilities)):
        raise _refuse_values("")
    live.metrics.observe_row(label, seconds)
    return live.encoder.encode_row(label, probabilities)


def _work_rows(live: LiveVersion, rows: Sequence[Row]) -> tuple[Outputs, bytes, float]:
    """Outputs, answer and seconds of the graph's run; touches nothing that another thread may."""
    started = perf_counter()
    outputs = live.session.run_rows(rows)
    seconds = perf_counter() - started
    finite = np.isfinite(outputs.probabilities).all(axis=1)  # (rows, classes) → (rows,)
    if not finite.all():
        raise _refuse_values(f"row {int(np.argmin(finite))}")
    return outputs, live.encoder.encode_rows(outputs), seconds


def _refuse_values(where: str) -> RowError:
    return RowError(
        "the model has no finite answer for these values",
        where=where,
        hint="One of them is far outside of everything that can be computed with.",
    )
