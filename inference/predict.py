"""``POST /predict``: raw rows in, classes and probabilities out."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from inference.answers import Answer, answer_bytes
from inference.codec import RowBatch
from inference.config import ServiceConfig
from inference.media import check_json
from inference.request import Request
from inference.run import Runner
from inference.session import Row
from inference.state import ServiceState
from inference.versions import LiveVersion


class Predict:
    """Handler of ``POST /predict``."""

    def __init__(self, state: ServiceState, config: ServiceConfig, runner: Runner) -> None:
        self._state = state
        self._runner = runner
        self._inline_max_body_bytes = config.inline_max_body_bytes

    def __call__(self, request: Request) -> Answer | Awaitable[Answer]:
        """The answer, or the wait for it."""
        check_json(request)
        live = self._state.choose(request)
        if len(request.body) > self._inline_max_body_bytes:
            return self._answer_large(live, request.body)
        batch = live.decoder.decode(request.body)
        if batch.is_single:
            label, probabilities = self._runner.run_row(live, batch.rows[0])
            return answer_bytes(live.encoder.encode_row(label, probabilities), live.headers)
        if len(batch.rows) > self._runner.inline_max_rows:
            return self._answer_rows(live, batch.rows)
        outputs = self._runner.run(live, live.session.feed_rows(batch.rows))
        return answer_bytes(live.encoder.encode_rows(outputs), live.headers)

    async def _answer_large(self, live: LiveVersion, body: bytes) -> Answer:
        batch: RowBatch = await self._runner.in_pool(live.decoder.decode, body)
        if batch.is_single:
            label, probabilities = self._runner.run_row(live, batch.rows[0])
            return answer_bytes(live.encoder.encode_row(label, probabilities), live.headers)
        return await self._answer_rows(live, batch.rows)

    async def _answer_rows(self, live: LiveVersion, rows: Sequence[Row]) -> Answer:
        feed = await self._runner.in_pool(live.session.feed_rows, rows)
        outputs = await self._runner.run_large(live, feed)
        body = await self._runner.in_pool(live.encoder.encode_rows, outputs)
        return answer_bytes(body, live.headers)
