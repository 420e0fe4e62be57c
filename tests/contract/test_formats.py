"""Lines in, lines out: CSV and JSON lines on ``/predict`` and ``/invocations``, as batch jobs send them."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from tests.support.service import RunningService, Serve
from tests.support.tiny_model import NUMERIC_COLUMNS, NUMERIC_ROWS

NAMES = [column.name for column in NUMERIC_COLUMNS]
OBJECTS = [dict(zip(NAMES, row, strict=True)) for row in NUMERIC_ROWS]
BODIES = {
    "application/json": json.dumps({"instances": OBJECTS}).encode(),
    "application/jsonlines": b"\n".join(json.dumps(row).encode() for row in OBJECTS),
    "application/x-ndjson": b"".join(json.dumps(row).encode() + b"\r\n" for row in NUMERIC_ROWS),
    "text/csv": "\n".join(
        ",".join("" if v is None else str(v).lower() for v in row) for row in NUMERIC_ROWS
    ).encode(),
}
MAX_ROWS = 8


@pytest.fixture(scope="module", params=["event loop", "thread"])
def service(request: pytest.FixtureRequest, serve: Serve) -> RunningService:
    """tiny@1, by both of the ways that bodies and rows take through it."""
    limit = "64" if request.param == "event loop" else "0"
    flags = ("--inline-max-rows", limit, "--inline-max-body-bytes", str(1024 * int(limit)))
    return serve("tiny", "--max-rows", str(MAX_ROWS), *flags)


@pytest.fixture
def expected(service: RunningService) -> list[dict[str, Any]]:
    """The answers as JSON has them."""
    answers: list[dict[str, Any]] = service.predict({"instances": OBJECTS})[1]["predictions"]
    return answers


@pytest.mark.parametrize("path", ["/predict", "/predict/tiny", "/invocations", "/v1/models/tiny:predict"])
@pytest.mark.parametrize("kind", BODIES)
def test_csv_is_answered_a_line_a_row(
    service: RunningService, expected: list[dict[str, Any]], path: str, kind: str
) -> None:
    """SageMaker's batch transform joins the answer's lines to those it sent, so there is no line of names."""
    headers = {"Content-Type": kind, "Accept": "text/csv"}
    status, found, answer = service.request("POST", path, BODIES[kind], headers)
    assert (status, found["content-type"]) == (200, "text/csv; charset=utf-8"), answer
    assert found["x-model-version"] == "tiny@1"
    assert answer.count(b"\n") == len(OBJECTS)
    rows = list(csv.reader(io.StringIO(answer.decode(), newline="")))
    for row, wanted in zip(rows, expected, strict=True):
        assert row[:2] == [wanted["prediction"], wanted["label"]]
        assert [float(value) for value in row[2:]] == list(wanted["probabilities"].values())


@pytest.mark.parametrize("kind", BODIES)
def test_json_lines_are_answered_a_line_a_row(
    service: RunningService, expected: list[dict[str, Any]], kind: str
) -> None:
    """Every line is what ``predictions`` would hold in its place."""
    headers = {"Content-Type": kind, "Accept": "application/jsonlines"}
    status, found, answer = service.request("POST", "/invocations", BODIES[kind], headers)
    assert (status, found["content-type"]) == (200, "application/jsonlines"), answer
    assert [json.loads(line) for line in answer.splitlines()] == expected


def test_lines_without_a_wish_are_answered_with_json(
    service: RunningService, expected: list[dict[str, Any]]
) -> None:
    """As every other body is; what is unknown in Accept asks for nothing."""
    for accept in ("*/*", "text/html", "image/png, application/xml"):
        headers = {"Content-Type": "application/jsonlines", "Accept": accept}
        status, found, answer = service.request("POST", "/predict", BODIES[headers["Content-Type"]], headers)
        assert (status, found["content-type"]) == (200, "application/json")
        assert json.loads(answer)["predictions"] == expected


@pytest.mark.parametrize("accept", ["text/csv", "application/jsonlines"])
def test_one_object_is_answered_with_one_line(service: RunningService, accept: str) -> None:
    """A single row in the wished format, not in the one that single rows usually have."""
    status, _, answer = service.request("POST", "/predict", OBJECTS[0], {"Accept": accept})
    assert (status, answer.count(b"\n")) == (200, 1)
    batch = service.request("POST", "/predict", {"instances": OBJECTS[:1]}, {"Accept": accept})
    assert answer == batch[2]


def test_short_lines_and_a_line_of_names(service: RunningService) -> None:
    """What else can be said of an answer can be said of lines too."""

    def ask(accept: str, query: str) -> list[str]:
        body = {"instances": OBJECTS[:1]}
        status, found, answer = service.request("POST", f"/predict{query}", body, {"Accept": accept})
        assert status == 200, answer
        assert found["content-type"].endswith("header=present") == ("header=present" in accept)
        return answer.decode().splitlines()

    names = "prediction,label,probability_1,probability_2,probability_7"
    assert ask("text/csv;header=present", "")[0] == names
    assert ask("text/csv;header=present", "?probabilities=false") == ["prediction,label", "1,Spruce"]
    assert ask("application/jsonlines", "?probabilities=false") == ['{"prediction":"1","label":"Spruce"}']


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "the body is empty"),
        (b" \n\r\n\n", 400, "the body is empty"),
        (b'{"rings":1}\n{"rings":1}, {"rings":1}', 400, "row 1: the line is not JSON"),
        (b"[0,1,true,1],[0,1,true,1]\n[0\n1,true,1]", 400, "row 0: the line is not JSON"),
        (b'{"rings":1}\n\n{"rings":\n1}', 400, "row 1: the line is not JSON"),
        (b'{"rings":1}\n{"rings":"1"}', 400, 'row 1, "rings": expected an integer'),
        (b'{"rings":1}\n[0,1,true,1]', 400, "row 1: objects and arrays are mixed"),
        (b'{"rings":1}\n7', 400, "row 1: the number 7"),
        (b'{"rings":1}\n{"rings":1,"rings":1}', 400, 'row 1, "rings": is given twice'),
        (b'{"rings":1}\n' * (MAX_ROWS + 1), 413, " rows in one request, at most 8"),
        (b"[" * 100_000, 400, "row 0: "),
    ],
)
def test_lines_that_are_no_rows_are_refused(
    service: RunningService, body: bytes, status: int, message: str
) -> None:
    """The row is named; errors are JSON whatever was asked for; a line is a row and nothing else is."""
    headers = {"Content-Type": "application/jsonlines", "Accept": "text/csv"}
    found, answered, answer = service.request("POST", "/invocations", body, headers)
    assert (found, answered["content-type"]) == (status, "application/json")
    assert message in json.loads(answer)["error"]
