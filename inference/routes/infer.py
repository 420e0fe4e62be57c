"""``POST /v2/models/{model}[/versions/{version}]/infer``: tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import NamedTuple

from timberline.inference.config import ServiceConfig
from timberline.inference.errors import MalformedBodyError
from timberline.inference.formats.infer_request import InferRequest, read_header_length, read_request
from timberline.inference.formats.request import (
    Answer,
    Header,
    Request,
    answer_bytes,
    check_json,
    check_length,
)
from timberline.inference.models.routing import RoutingTable, ServiceState
from timberline.inference.models.runner import Runner
from timberline.inference.models.versions import LiveVersion
from timberline.inference.session import Feed, Outputs

_JSON_LENGTH = b"inference-header-content-length"
_BLOBS: Header = (b"content-type", b"application/octet-stream")
# Reading a blob of this size takes 0.5 ms at most, as long as the rows that are run on the event loop.
_INLINE_BLOB_BYTES = 1 << 20


class _Question(NamedTuple):
    """What a request asks for, in the model's terms."""

    live: LiveVersion  # that answers
    feed: Feed
    outputs: Mapping[str, bool]  # name → whether as a blob, in order
    id: str | None


class Infer:
    """Handler of the Open Inference Protocol's ``infer``, with the binary tensor extension."""

    def __init__(self, state: ServiceState, config: ServiceConfig, runner: Runner) -> None:
        self._state = state
        self._runner = runner
        self._max_answer_bytes = config.max_answer_bytes
        self._inline_max_json_bytes = config.inline_max_body_bytes

    def __call__(self, request: Request) -> Answer | Awaitable[Answer]:
        """The answer, or the wait for it."""
        _check_media(request)
        live = self._state.choose(request)
        body = request.body
        json_length = read_header_length(request.find_header(_JSON_LENGTH), len(body))
        # Whose versions the body may name instead; taken here, as a thread must not look at the state.
        others = None if "version" in request.named else self._state.table
        # Without JSON nothing says how many strings a blob holds; they are counted one by one.
        most_bytes = _INLINE_BLOB_BYTES if json_length else self._inline_max_json_bytes
        if json_length > self._inline_max_json_bytes or len(body) - json_length > most_bytes:
            return self._answer_large(partial(_read, live, others, body, json_length))
        live, asked = _take_apart(live, others, body, json_length)
        shape = asked.inputs[0].shape  # those of the others must be of as many rows
        if shape and shape[0] > self._runner.inline_max_rows:
            return self._answer_large(partial(_ask, live, asked))
        question = _ask(live, asked)
        return _answer(question, self._runner.run(live, question.feed))

    async def _answer_large(self, read: Callable[[], _Question]) -> Answer:
        def write(question: _Question, outputs: Outputs) -> Answer:
            most_bytes = question.live.writer.count_bytes(len(outputs.labels), question.outputs)
            check_length(most_bytes, self._max_answer_bytes)
            return _answer(question, outputs)

        return await self._runner.run_large(read, write)


def _check_media(request: Request) -> None:
    """As `check_json`; bytes are taken as well, with or without a tensor behind the JSON.

    aiohttp declares every body of bytes to be octets, also one that is JSON alone.
    """
    if request.find_header(b"content-type") != _BLOBS[1]:
        check_json(request)


def _take_apart(
    live: LiveVersion, others: RoutingTable | None, body: bytes, json_length: int
) -> tuple[LiveVersion, InferRequest]:
    """The request, and the version that answers it."""
    asked = read_request(body, json_length) if json_length or not body else live.reader.describe_raw(body)
    if asked.model_name or asked.model_version:
        live = _find_named(asked, live, others)
    return live, asked


def _read(live: LiveVersion, others: RoutingTable | None, body: bytes, json_length: int) -> _Question:
    return _ask(*_take_apart(live, others, body, json_length))


def _ask(live: LiveVersion, asked: InferRequest) -> _Question:
    return _Question(live, live.reader.read(asked), live.writer.choose(asked), asked.id)


def _find_named(asked: InferRequest, live: LiveVersion, others: RoutingTable | None) -> LiveVersion:
    """The version that the body names beside the path; one of ``others`` if the path has no number.

    Raises:
        MalformedBodyError: path and body do not name the same.
    """
    if asked.model_name not in {"", live.model}:
        raise MalformedBodyError(
            f'the body names the model "{asked.model_name[:80]}", the path "{live.model}"', where="model_name"
        )
    if asked.model_version in {"", str(live.version)}:
        return live
    for other in others.list_versions(live.model) if others else ():
        if asked.model_version == str(other.version):
            return other
    raise MalformedBodyError(
        f'the body names the version "{asked.model_version[:80]}", {live.model}@{live.version} answers here',
        where="model_version",
    )


def _answer(question: _Question, outputs: Outputs) -> Answer:
    live = question.live
    body, json_length = live.writer.write(outputs, question.outputs, question.id)
    if json_length is None:
        return answer_bytes(body, live.headers)
    length = (_JSON_LENGTH, b"%d" % json_length)
    return answer_bytes(body, (_BLOBS, *live.headers[1:], length))
