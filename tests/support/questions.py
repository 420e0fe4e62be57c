"""Every way to ask the tiny model for rows, and a judge who knows what each version says about them.

QUESTIONS          by name; the same rows as JSON, tensors, float32 and CSV, small and large
Judge().judge(question, answer)     the version that answered, and it alone
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tests.support.raw_clients import Answer
from tests.support.swapping import EXPECTED
from tests.support.tiny_model import CLASSES, NUMERIC_COLUMNS, NUMERIC_ROWS

Probabilities = npt.NDArray[Any]
# A version, if the body names one, and (rows, classes).
Reading = tuple[int | None, Probabilities]

# float32 in the graph against float64 here.
_ATOL = 1e-6
# Small requests between two large ones, which cost a hundred times as much.
_LARGE_EVERY = 50
_MATRIX = np.array([[np.nan if v is None else float(v) for v in row] for row in NUMERIC_ROWS])
_OCTETS = b"application/octet-stream"
_JSON = b"application/json"
_JSON_LENGTH = b"inference-header-content-length"


class Question(NamedTuple):
    """A request as it is sent, of the first ``rows`` of ``NUMERIC_ROWS``, over and over."""

    name: str
    request: bytes
    rows: int
    read: Callable[[Answer], Reading]


def write_request(target: bytes, body: bytes, *headers: tuple[bytes, bytes]) -> bytes:
    """A ``POST`` with its length."""
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    return b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (target, lines, len(body), body)


def cycle_questions(number: int) -> Iterator[Question]:
    """All kinds in turn without end, now and then a large one; clients of other numbers begin elsewhere."""
    small = [question for question in QUESTIONS.values() if question.rows <= len(NUMERIC_ROWS)]
    large = [question for question in QUESTIONS.values() if question not in small]
    for count in itertools.count(number):
        rounds, place = divmod(count, _LARGE_EVERY)
        yield large[rounds % len(large)] if place == _LARGE_EVERY - 1 else small[count % len(small)]


def end_with(question: Question) -> Question:
    """The same question as its connection's last."""
    host = b"host: x\r\n"
    return question._replace(request=question.request.replace(host, host + b"connection: close\r\n", 1))


class Judge:
    """Says which version gave an answer. Equal bytes to an equal question are judged once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes | None, bytes], int] = {}

    def judge(self, question: Question, answer: Answer) -> int:
        """The version that header and body name and whose probabilities these are, to all of its rows.

        Raises:
            AssertionError: they are not one and the same, or there is no such answer.
        """
        assert answer.status == 200, f"{answer.status} {answer.body[:300]!r}"
        key = question.name, answer.headers.get(b"x-model-version"), answer.body
        if key not in self._known:
            self._known[key] = _judge(question, answer)
        return self._known[key]


def _judge(question: Question, answer: Answer) -> int:
    model, _, number = answer.headers[b"x-model-version"].decode().partition("@")
    version = int(number)
    assert model == "tiny", model
    named, found = question.read(answer)
    assert named in {None, version}, f"the header says {version}, the body {named}"
    expected = np.resize(EXPECTED[version], (question.rows, len(CLASSES)))
    assert found.shape == expected.shape, found.shape
    assert np.abs(found - expected).max() <= _ATOL, f"not version {version}'s: {found[:3].tolist()}"
    return version


def _read_rows(answer: Answer) -> Reading:
    page = json.loads(answer.body)
    rows = page.get("predictions", [page])
    found = np.array([[row["probabilities"][label.value] for label in CLASSES] for row in rows])
    best = [CLASSES[index] for index in found.argmax(axis=1)]
    assert [(row["prediction"], row["label"]) for row in rows] == [(c.value, c.label) for c in best]
    return page["version"], found


def _read_floats(answer: Answer) -> Reading:
    return None, np.frombuffer(answer.body, "<f4").reshape(-1, len(CLASSES))


def _read_tensors(answer: Answer) -> Reading:
    length = int(answer.headers.get(_JSON_LENGTH, len(answer.body)))
    page, rest = json.loads(answer.body[:length]), answer.body[length:]
    found = {}
    for output in page["outputs"]:
        if "data" not in output:
            size = output["parameters"]["binary_data_size"]
            output["data"] = np.frombuffer(rest[:size], {"FP32": "<f4", "INT64": "<i8"}[output["datatype"]])
            rest = rest[size:]
        found[output["name"]] = np.array(output["data"]).reshape(output["shape"])
    assert not rest
    assert found["label"].tolist() == found["probabilities"].argmax(axis=1).tolist()
    return int(page["model_version"]), found["probabilities"]


def _list_questions() -> Iterator[Question]:
    names = [column.name for column in NUMERIC_COLUMNS]
    objects = [dict(zip(names, row, strict=True)) for row in NUMERIC_ROWS]
    arrays = [list(row) for row in NUMERIC_ROWS]
    yield _ask_json("object", "/predict", objects[0], 1)
    yield _ask_json("objects", "/predict", {"instances": objects}, 3)
    yield _ask_json("arrays", "/predict/tiny", {"instances": arrays}, 3)
    yield _ask_json("large", "/predict", {"instances": arrays * 100}, 300)
    squeezed = gzip.compress(json.dumps({"instances": arrays}).encode())
    media = (b"content-type", _JSON), (b"content-encoding", b"gzip")
    yield Question("gzip", write_request(b"/predict", squeezed, *media), 3, _read_rows)
    floats = _MATRIX.astype("<f4").tobytes()
    octets = (b"content-type", _OCTETS)
    yield Question("float32", write_request(b"/predict", floats, octets), 3, _read_rows)
    both = octets, (b"accept", _OCTETS)
    yield Question("float32 both ways", write_request(b"/predict", floats, *both), 3, _read_floats)
    yield Question("large float32", write_request(b"/predict", floats * 100, *both), 300, _read_floats)
    table: list[list[Any]] = [names, *arrays]
    lines = [",".join(map(_field, line)) for line in table]
    csv = "\n".join(lines).encode()
    yield Question("csv", write_request(b"/predict", csv, (b"content-type", b"text/csv")), 3, _read_rows)
    tensor = {"name": "numeric", "shape": [3, 4], "datatype": "FP64"}
    nested = [[None if v is None else float(v) for v in row] for row in NUMERIC_ROWS]
    yield _ask_json("tensor", "/v2/models/tiny/infer", {"inputs": [{**tensor, "data": nested}]}, 3)
    yield _ask_blob("blob", tensor)


def _field(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _ask_json(name: str, path: str, value: object, rows: int) -> Question:
    request = write_request(path.encode(), json.dumps(value).encode(), (b"content-type", _JSON))
    return Question(name, request, rows, _read_tensors if path.endswith("infer") else _read_rows)


def _ask_blob(name: str, tensor: dict[str, Any]) -> Question:
    sized = {**tensor, "parameters": {"binary_data_size": _MATRIX.nbytes}}
    text = json.dumps({"inputs": [sized], "parameters": {"binary_data_output": True}}).encode()
    headers = (b"content-type", _OCTETS), (_JSON_LENGTH, b"%d" % len(text))
    request = write_request(b"/v2/models/tiny/infer", text + _MATRIX.astype("<f8").tobytes(), *headers)
    return Question(name, request, 3, _read_tensors)


QUESTIONS = {question.name: question for question in _list_questions()}
