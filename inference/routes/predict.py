"""``POST /predict`` and its other names: raw rows in, classes and probabilities out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple
from urllib.parse import parse_qsl

from timberline.inference.config import ServiceConfig
from timberline.inference.errors import RequestError
from timberline.inference.formats.request import (
    JSON_MEDIA,
    Answer,
    Header,
    Media,
    Request,
    answer_bytes,
    check_length,
    find_media,
    find_wanted,
    wants_lines,
)
from timberline.inference.formats.strict_json import RowBatch
from timberline.inference.formats.validate import quote
from timberline.inference.models.routing import ServiceState
from timberline.inference.models.runner import Runner
from timberline.inference.models.versions import LiveVersion
from timberline.inference.session import Feed, Outputs

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
        self._max_answer_bytes = config.max_answer_bytes

    def __call__(self, request: Request) -> Answer | Awaitable[Answer]:
        """The answer, or the wait for it."""
        media = find_media(request)
        is_short = bool(request.query) and not _read_query(request.query)
        live = self._state.choose(request)
        body = request.body
        if media is not JSON_MEDIA:
            return self._answer_table(live, request, media, is_short)
        batch = None
        if len(body) <= self._inline_max_body_bytes:
            batch = live.decoder.decode_short(body)
        if batch is None:
            return self._answer_large(live, request, is_short, partial(_read_rows, live, body))
        if not batch.is_single or wants_lines(request):
            return self._answer_batch(live, request, batch, is_short)
        label, probabilities, codes = self._runner.run_row(live, batch.rows[0])
        encoder = live.encoder
        answer = encoder.encode_label(label) if is_short else encoder.encode_row(label, probabilities)
        return answer_bytes(answer if codes is None else encoder.warn(answer, codes), live.headers)

    def _is_long(self, most_rows: int) -> bool:
        return most_rows > self._runner.inline_max_rows

    def _answer_batch(
        self, live: LiveVersion, request: Request, batch: RowBatch, is_short: bool
    ) -> Answer | Awaitable[Answer]:
        if len(batch.rows) > self._runner.inline_max_rows:
            return self._answer_large(live, request, is_short, partial(_feed_rows, live, batch))
        encode, headers = _choose_encoding(live, request, is_short or batch.is_short)
        outputs = self._runner.run(live, live.session.feed_rows(batch.rows))
        return answer_bytes(encode(outputs), headers)

    def _answer_table(
        self, live: LiveVersion, request: Request, media: Media, is_short: bool
    ) -> Answer | Awaitable[Answer]:
        """The answer to rows that are all that their body holds."""
        encode, headers = _choose_encoding(live, request, is_short)
        body, tables = request.body, live.decoder.tables
        read: Callable[[], Feed]
        if media.format == "floats":
            is_large = self._is_long(tables.count_floats(body))
            read = partial(tables.read_floats, body)
        else:
            is_large = len(body) > self._inline_max_body_bytes or self._is_long(
                max(body.count(b"\n"), body.count(b"\r"))
            )
            read = partial(_read_lines, live, body)
            if media.format == "csv":
                read = partial(tables.read_csv, body, media.has_header)
        if is_large:
            return self._answer_large(live, request, is_short, lambda: _Rows(live, read()))
        return answer_bytes(encode(self._runner.run(live, read())), headers)

    async def _answer_large(
        self, live: LiveVersion, request: Request, is_short: bool, read: Callable[[], _Rows]
    ) -> Answer:
        """The answer to what is read, run and written in a thread."""

        def write(rows: _Rows, outputs: Outputs) -> Answer:
            if rows.is_single and not wants_lines(request):
                return answer_bytes(_encode_single(live, outputs, is_short), live.headers)
            is_bare = is_short or rows.is_short
            encode, headers = _choose_encoding(live, request, is_bare)
            if not is_bare and encode is not live.encoder.encode_floats:
                check_length(live.encoder.count_bytes(rows.feed.row_count), self._max_answer_bytes)
            return answer_bytes(encode(outputs), headers)

        return await self._runner.run_large(read, write)


class _Rows(NamedTuple):
    """The rows of one request, and how they are to be answered."""

    live: LiveVersion
    feed: Feed
    is_single: bool = False
    is_short: bool = False


def _read_rows(live: LiveVersion, body: bytes) -> _Rows:
    batch = live.decoder.decode_large(body)
    feeds = [live.session.feed_rows(rows) for rows in batch.slices]
    return _Rows(live, Feed.join(feeds), batch.is_single, batch.is_short)


def _read_lines(live: LiveVersion, body: bytes) -> Feed:
    return Feed.join([live.session.feed_rows(rows) for rows in live.decoder.decode_lines(body)])


def _feed_rows(live: LiveVersion, batch: RowBatch) -> _Rows:
    return _Rows(live, live.session.feed_rows(batch.rows), batch.is_single, batch.is_short)


def _encode_single(live: LiveVersion, outputs: Outputs, is_short: bool) -> bytes:
    encoder, label = live.encoder, int(outputs.labels[0])
    codes = None if outputs.categories is None else outputs.categories[0].tolist()
    if is_short:
        return encoder.warn(encoder.encode_label(label), codes)
    return encoder.warn(encoder.encode_row(label, tuple(outputs.probabilities[0].tolist())), codes)


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
