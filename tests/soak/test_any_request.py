"""A million requests that nobody should send: each is answered, and the service is as it was before."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.support.fuzzing import Attack, Fuzzer, draw_documented, draw_trees, list_valid_seeds
from tests.support.raw_clients import Answer, Clients, run_clients, split_answer
from tests.support.service import RunningService, running_service
from tests.support.soak import MOST_GROWTH_BYTES, SIZES, Summary, measure_footprint, show_bytes
from tests.support.swapping import EXPECTED
from tests.support.tiny_model import CLASSES, NUMERIC_ROWS

SEED = 20
CONNECTIONS = 16
# So small that chance reaches them, and every way through the service is taken: on the loop, in a
# thread, refused for its rows, refused for its bytes.
FLAGS = (
    *("--max-rows", "200", "--max-body-bytes", "30000"),
    *("--inline-max-rows", "8", "--inline-max-body-bytes", "2000"),
)
REFUSALS = {400, 404, 413, 415, 503}
# Also what is wrong with the HTTP itself: too slow cannot be.
UNFRAMED = {200, *REFUSALS, 405}
# One connection in this many attacks the reading of HTTP.
UNFRAMED_EVERY = 50
# Rounding of float32, over three of them.
ATOL = 1e-6


class Prediction(msgspec.Struct, forbid_unknown_fields=True):
    """One row's answer."""

    prediction: str
    label: str
    probabilities: dict[str, float] | None = None


class Single(Prediction, forbid_unknown_fields=True, kw_only=True):
    """The answer to one object."""

    model: str
    version: int


class Batch(msgspec.Struct, forbid_unknown_fields=True):
    """The answer to rows."""

    predictions: list[Prediction]
    model: str
    version: int


class Refusal(msgspec.Struct, forbid_unknown_fields=True):
    """The one shape of every error."""

    error: str


_read_refusal = msgspec.json.Decoder(Refusal).decode
_read_single = msgspec.json.Decoder(Single).decode
_read_batch = msgspec.json.Decoder(Batch).decode


class Siege:
    """Clients that attack a service, and what it did."""

    def __init__(self, service: RunningService, fuzzer: Fuzzer) -> None:
        self.statuses: Counter[int] = Counter()
        self.unframed = 0
        self.resident_bytes: list[int] = []  # of the service, after each tenth
        self._service = service
        self._fuzzer = fuzzer
        self._made = 0
        self.clients = Clients(service, [self._attack() for _ in range(CONNECTIONS)], self._take)

    async def run(self) -> None:
        """Send everything."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.clients.run()), group.create_task(self._attack_unframed())]
            await self.clients.wait_for(lambda: all(task.done() for task in tasks))

    def _attack(self) -> Iterator[Attack]:
        while self._made < SIZES.bodies:
            self._made += 1
            yield self._fuzzer.make()

    async def _attack_unframed(self) -> None:
        while self._made < SIZES.bodies and not self.clients.is_over:
            if self._made < self.unframed * UNFRAMED_EVERY:
                await asyncio.sleep(0.001)
                continue
            self.unframed += 1
            attack = self._fuzzer.make_unframed()
            try:
                answers = await (await self.clients.connect()).pour(attack.request)
                check_unframed(answers)
            except Exception as error:  # whatever it was, it is the finding
                self.clients.wrong.append(f"{error!r}; it had sent {attack!r:.2000}")

    def _take(self, number: int, attack: Attack, answer: Answer) -> None:
        self.statuses[answer.status] += 1
        if self.clients.answered % (SIZES.bodies // 10) == 0:
            self.resident_bytes.append(measure_footprint(self._service.process.pid).resident_bytes)
        check_answer(attack, answer)


def check_answer(attack: Attack, answer: Answer) -> None:
    """The answer is rows that make sense, or says what is wrong."""
    if answer.status == 200:
        check_good(attack, answer)
    else:
        check_refusal(answer, REFUSALS)


def check_refusal(answer: Answer, statuses: set[int]) -> None:
    """An error of the client's, said in the one shape."""
    assert answer.status in statuses, f"{answer.status} {answer.body[:300]!r}"
    assert answer.headers[b"content-type"] == b"application/json", answer
    error = _read_refusal(answer.body).error
    assert 10 < len(error) < 700, error


def check_good(attack: Attack, answer: Answer) -> None:
    """Whatever was understood, what came of it is an answer of a version."""
    if attack.target.startswith(b"/v2/repository/index"):
        assert len(json.loads(answer.body)) == 2, answer
        return
    assert answer.headers[b"x-model-version"] in {b"tiny@1", b"tiny_text@1"}, answer
    if b"/infer" in attack.target:
        check_tensors(answer)
    elif answer.headers[b"content-type"] == b"application/octet-stream":
        check_probabilities(np.frombuffer(answer.body, "<f4"))
    elif answer.body.startswith(b'{"predictions":'):
        for row in _read_batch(answer.body).predictions:
            check_row(row)
    else:
        check_row(_read_single(answer.body))


def check_row(row: Prediction) -> None:
    """The class is the likeliest one, the probabilities are some."""
    if row.probabilities is not None:
        assert len(row.probabilities) == len(CLASSES), row
        assert row.probabilities[row.prediction] == max(row.probabilities.values()), row
        assert math.isclose(sum(row.probabilities.values()), 1, abs_tol=ATOL), row


def check_probabilities(flat: Any) -> None:
    """Of whole rows, each of which adds up to 1."""
    sums = np.asarray(flat, np.float64).reshape(-1, len(CLASSES)).sum(axis=1)  # (rows, classes) → (rows,)
    assert len(sums), "no rows"
    assert np.abs(sums - 1).max() < ATOL, sums


def check_tensors(answer: Answer) -> None:
    """Outputs as their shapes say, blobs as long as they say."""
    length = int(answer.headers.get(b"inference-header-content-length", len(answer.body)))
    rest = answer.body[length:]
    for output in json.loads(answer.body[:length])["outputs"]:
        values: Any = output.get("data")
        if values is None:
            size = output["parameters"]["binary_data_size"]
            values = np.frombuffer(rest[:size], {"FP32": "<f4", "INT64": "<i8"}[output["datatype"]])
            rest = rest[size:]
        assert np.size(values) == math.prod(output["shape"]), output
        if output["name"] == "probabilities":
            check_probabilities(values)
    assert not rest, rest


def check_unframed(answers: bytes) -> None:
    """Whatever comes back is whole answers; it may be nothing, as the client is at its end already."""
    while answers.startswith(b"HTTP/1.1 100 "):
        answers = answers.partition(b"\r\n\r\n")[2]
    while answers:
        found = split_answer(answers)
        assert found is not None, f"half an answer: {answers[:300]!r}"
        answer, length = found
        assert answer.status in UNFRAMED, f"{answer.status} {answer.body[:300]!r}"
        if answer.status != 200:
            check_refusal(answer, UNFRAMED)
        answers = answers[length:]


@pytest.fixture
def service(published: Path) -> Iterator[RunningService]:
    """A version with numbers only and one with strings."""
    with running_service(published, "tiny,tiny_text", *FLAGS) as running:
        yield running


def test_what_the_attacks_are_made_of_is_right(service: RunningService) -> None:
    """Requests that were wrong before they were mutated would all be turned away at the same door."""
    for target, headers, body in list_valid_seeds():
        sent = {name.decode(): value.decode() for name, value in headers}
        status, _, answer = service.request("POST", target.decode(), body, sent)
        assert status == 200, (target, body, answer)


def test_any_request_is_answered_and_leaves_no_trace(service: RunningService) -> None:
    """A stranger's bytes must not be able to fail the service, nor to fill it up little by little."""
    document = service.get_json("/openapi.json")
    drawn = [*draw_trees(SIZES.trees, SEED), *draw_documented(document, SIZES.documented, SEED)]
    summary = Summary("any request is answered")
    siege = Siege(service, Fuzzer(list_valid_seeds(), drawn, SEED))
    clients = siege.clients
    try:
        run_clients(siege.run)
    finally:
        summary.show(
            bodies=clients.sent,
            unframed=siege.unframed,
            drawn=len(drawn),
            answers=dict(sorted(siege.statuses.items())),
            lost=len(clients.lost),
            wrong=len(clients.wrong),
            resident=" → ".join(map(show_bytes, siege.resident_bytes)),
        )
    assert clients.lost == clients.wrong == [], clients.describe()
    assert clients.answered == SIZES.bodies
    assert len(siege.resident_bytes) == 10
    assert max(siege.resident_bytes) - siege.resident_bytes[0] < MOST_GROWTH_BYTES
    status, answer = service.predict({"instances": [list(row) for row in NUMERIC_ROWS]})
    assert status == 200
    found = [list(row["probabilities"].values()) for row in answer["predictions"]]
    np.testing.assert_allclose(found, EXPECTED[1], atol=ATOL)
    assert "a request failed" not in service.log
