"""``POST /predict`` and its other names: raw rows in, classes and probabilities out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from urllib.parse import parse_qsl

from inference.config import ServiceConfig
from inference.errors import RequestError
from inference.live.run import Runner
from inference.live.state import ServiceState
from inference.live.versions import LiveVersion
from inference.session import Feed, Outputs, Row
from inference.wire.answers import Answer, Header, answer_bytes
from inference.wire.exact import RowBatch, quote
from inference.wire.media import JSON_MEDIA, LINES_MEDIA, Media, find_media, find_wanted, wants_lines
from inference.wire.request import Request

_SWITCH = {"true": True, "false": False}
_FLOATS: Header = (b"content-type", b"application/octet-stream")
_LINES: Header = (b"content-type", b"application/jsonlines")
_CSV: Header = (b"content-type", b"text/csv; charset=utf-8")
_CSV_HEADED: Header = (b"content-type", b"text/csv; charset=utf-8; header=present")


class Predict:
    """Handler of ``POST /predict``, of the same for one model, and of the platforms' routes.

    Rows come as JSON, JSON lines, CSV or float32, by the content type. Answers are JSON: one object for
    one object, else a list in the order of the rows. ``?probabilities=false`` asks for short ones, and
    ``Accept`` for lines of CSV or JSON, or (``application/octet-stream``) for the bare probabilities of a
    list: float32, little-endian.
    """

    def __init__(self, state: ServiceState, config: ServiceConfig, runner: Runner) -> None:
        self._state = state
        self._runner = runner
        self._inline_max_body_bytes = config.inline_max_body_bytes

    def __call__(self, request: Request) -> Answer | Awaitable[Answer]:
        """The answer, or the wait for it."""
        media = find_media(request)
        is_short = bool(request.query) and not _read_query(request.query)
        live = self._state.choose(request)
        body = request.body
        decode = live.decoder.decode
        if media is LINES_MEDIA:
            decode = live.decoder.decode_lines
        elif media is not JSON_MEDIA:
            return self._answer_table(live, request, media, is_short)
        if len(body) > self._inline_max_body_bytes:
            return self._answer_large(live, request, decode, is_short)
        batch = decode(body)
        if not batch.is_single or wants_lines(request):
            return self._answer_batch(live, request, batch, is_short)
        label, probabilities = self._runner.run_row(live, batch.rows[0])
        if is_short:
            return answer_bytes(live.encoder.encode_label(label), live.headers)
        return answer_bytes(live.encoder.encode_row(label, probabilities), live.headers)

    async def _answer_large(
        self, live: LiveVersion, request: Request, decode: Callable[[bytes], RowBatch], is_short: bool
    ) -> Answer:
        batch: RowBatch = await self._runner.in_pool(decode, request.body)
        if batch.is_single and not wants_lines(request):
            label, probabilities = self._runner.run_row(live, batch.rows[0])
            short, full = live.encoder.encode_label, live.encoder.encode_row
            return answer_bytes(short(label) if is_short else full(label, probabilities), live.headers)
        answer = self._answer_batch(live, request, batch, is_short)
        return answer if isinstance(answer, Answer) else await answer

    def _answer_batch(
        self, live: LiveVersion, request: Request, batch: RowBatch, is_short: bool
    ) -> Answer | Awaitable[Answer]:
        encode, headers = _choose_encoding(live, request, is_short or batch.is_short)
        if len(batch.rows) > self._runner.inline_max_rows:
            return self._answer_rows(live, batch.rows, encode, headers)
        outputs = self._runner.run(live, live.session.feed_rows(batch.rows))
        return answer_bytes(encode(outputs), headers)

    def _answer_table(
        self, live: LiveVersion, request: Request, media: Media, is_short: bool
    ) -> Answer | Awaitable[Answer]:
        """The answer to rows that come as columns, not one by one."""
        encode, headers = _choose_encoding(live, request, is_short)
        if media.format == "csv":
            if len(request.body) > self._inline_max_body_bytes:
                return self._answer_csv(live, request.body, media.has_header, encode, headers)
            feed = live.decoder.tables.read_csv(request.body, media.has_header)
        else:  # 10,000 rows take 1 ms, so that no thread is asked
            feed = live.decoder.tables.read_floats(request.body)
        if feed.row_count > self._runner.inline_max_rows:
            return self._answer_feed(live, feed, encode, headers)
        return answer_bytes(encode(self._runner.run(live, feed)), headers)

    async def _answer_csv(
        self, live: LiveVersion, body: bytes, has_header: bool | None, encode: Encode, headers: Headers
    ) -> Answer:
        feed = await self._runner.in_pool(live.decoder.tables.read_csv, body, has_header)
        return await self._answer_feed(live, feed, encode, headers)

    async def _answer_rows(
        self, live: LiveVersion, rows: Sequence[Row], encode: Encode, headers: Headers
    ) -> Answer:
        feed = await self._runner.in_pool(live.session.feed_rows, rows)
        return await self._answer_feed(live, feed, encode, headers)

    async def _answer_feed(self, live: LiveVersion, feed: Feed, encode: Encode, headers: Headers) -> Answer:
        outputs = await self._runner.run_large(live, feed)
        return answer_bytes(await self._runner.in_pool(encode, outputs), headers)


Encode = Callable[[Outputs], bytes]
Headers = tuple[Header, ...]


def _choose_encoding(live: LiveVersion, request: Request, is_short: bool) -> tuple[Encode, Headers]:
    """How a list of answers is written."""
    encoder, wanted = live.encoder, find_wanted(request)
    if wanted.format == "json":
        return encoder.encode_labels if is_short else encoder.encode_rows, live.headers
    more = live.headers[1:]
    if wanted.format == "jsonlines":
        return partial(encoder.encode_lines, is_short=is_short), (_LINES, *more)
    if wanted.format == "csv":
        has_header = bool(wanted.has_header)
        encode = partial(encoder.encode_csv, is_short=is_short, has_header=has_header)
        return encode, (_CSV_HEADED if has_header else _CSV, *more)
    if is_short:
        raise RequestError(
            "float32 answers are probabilities, and they were asked to be left out",
            where="probabilities=false",
            hint="Ask for application/json.",
        )
    return encoder.encode_floats, (_FLOATS, *more)


def _read_query(query: bytes) -> bool:
    """Whether probabilities are asked for.

    Raises:
        RequestError: an unknown parameter, one given twice, or neither true nor false.
    """
    is_full = True
    seen = False
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name != "probabilities":
            raise RequestError(
                f"unknown parameter {quote(name)}", where="query", hint="There is: probabilities."
            )
        if seen or value not in _SWITCH:
            found = "a second value" if seen else quote(value)
            raise RequestError(f"expected true or false, found {found}", where='query, "probabilities"')
        is_full, seen = _SWITCH[value], True
    return is_full
