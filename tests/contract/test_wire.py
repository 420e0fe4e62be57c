"""The wire: every answer and every error of the real service, against golden JSON.

A case's long body is written as head, a repeated part, how often, tail; one that is no text in
base64. Probabilities may differ in
the seventh digit between processors; everything else, also the order of keys, may not differ.
"""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.service import RunningService, Serve, running_service
from tests.support.tiny_model import (
    MIXED_COLUMNS,
    MIXED_ROWS,
    NUMERIC_COLUMNS,
    NUMERIC_ROWS,
    expect_probabilities,
    publish_mixed,
)
from timberline.registry.store import open_store

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden" / "wire.json").read_text("utf-8"))
# The tiny graph computes in float32, the expectation in float64: 2^-23 relative, some operations deep.
ATOL = 1e-6


@pytest.fixture(scope="module")
def service(serve: Serve) -> RunningService:
    """tiny@1 with small limits, so that they can be reached."""
    return serve("tiny", "--max-rows", "8", "--max-body-bytes", "200000")


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_the_wire_is_as_written_down(service: RunningService, case: dict[str, Any]) -> None:
    """Clients parse these answers and people read these errors; a change to either must be meant."""
    sent = read_body(case)
    status, headers, answer = service.request(case["method"], case["path"], sent, case["headers"])
    assert status == case["status"], answer
    assert headers["content-type"] == "application/json"
    assert headers["allow"] == case.get("allow")
    assert_same(json.loads(answer), case["answer"])


def read_body(case: dict[str, Any]) -> bytes | None:
    """The bytes that a case sends."""
    if "base64" in case:
        return base64.b64decode(case["base64"])
    body = case["body"]
    if isinstance(body, list):
        head, part, count, tail = body
        body = head + part * count + tail
    return None if body is None else body.encode()


def assert_same(found: Any, expected: Any) -> None:
    """Equal, keys in the same order, floats within `ATOL`."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=ATOL)
    else:
        assert found == expected


def test_the_probe_says_what_is_served_and_how_much_was_answered(service: RunningService) -> None:
    """Scripts and the page at / read these names; the figures are live, so no golden answer has them."""
    before = service.get_json("/")
    assert service.predict({"instances": [{"rings": 4}, {"rings": 40}]})[0] == 200
    status, headers, body = service.request("GET", "/", headers={"Accept": "*/*"})
    after = json.loads(body)
    assert (status, headers["content-type"], headers["vary"]) == (200, "application/json", "accept")
    assert {key: after.pop(key) - before[key] for key in ("requests", "predictions")} == {
        "requests": 1,
        "predictions": 2,
    }
    assert after.pop("uptime_s") >= before["uptime_s"] >= 0
    assert after == {
        "status": "alive",
        "model": "tiny",
        "version": 1,
        "title": "Tiny",
        "predict": "/predict",
        "metadata": "/v2/models/tiny",
        "metrics": "/metrics",
        "models": {"tiny": ["1"]},
    }


def test_every_error_names_what_is_wrong_in_one_string() -> None:
    """One shape on every route: a client needs one way to show any error."""
    errors = [case for case in CASES if case["status"] != 200]
    assert {case["status"] for case in errors} == {400, 404, 405, 413, 415}
    for case in errors:
        assert list(case["answer"]) == ["error"]
        assert isinstance(case["answer"]["error"], str)


@pytest.mark.parametrize("as_object", [True, False], ids=["objects", "arrays"])
def test_text_columns_and_nulls_reach_the_graph(text_service: RunningService, as_object: bool) -> None:
    """Strings and NULL take another tensor than numbers; the answer must be the model's own all the same."""
    names = [column.name for column in MIXED_COLUMNS]
    rows = [dict(zip(names, row, strict=True)) if as_object else row for row in MIXED_ROWS]
    status, answer = text_service.predict({"instances": rows})
    assert status == 200, answer
    expected = expect_probabilities(MIXED_COLUMNS, MIXED_ROWS)
    for found, wanted in zip(answer["predictions"], expected.tolist(), strict=True):
        assert list(found["probabilities"].values()) == pytest.approx(wanted, abs=ATOL)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"soil":"\xff","rings":4}', "the body is not UTF-8: invalid start byte at byte 9"),
        (b'\xff\xfe{\x00"\x00', "the body is not UTF-8: invalid start byte at byte 0"),
        (b'{"soil":"a\\u0000","rings":4}', '"soil": the string holds U+0000'),
        (b'{"soil":"\\u0000","rings":4}', '"soil": the string holds U+0000'),
        (b'{"soil":"\\ud800","rings":4}', '"soil": the string holds half of a surrogate pair'),
        (b'{"soil":4,"rings":4}', '"soil": expected a string, found the number 4'),
        (b'{"soil":NaN,"rings":4}', '"soil": expected a string, found NaN'),
        (b'{"soil":"clay","rings":4,"soil":":"}', '"soil": is given twice'),
    ],
)
def test_strings_that_no_text_column_holds_are_refused(
    text_service: RunningService, body: bytes, message: str
) -> None:
    """U+0000 is NULL on the graph's side, so a client must not be able to write it."""
    status, _, answer = text_service.request("POST", "/predict", body)
    assert (status, json.loads(answer)) == (400, {"error": message})


def test_colons_in_strings_are_not_taken_for_names_given_twice(text_service: RunningService) -> None:
    """The check for doubled names counts colons; a time of day must not trip it."""
    status, answer = text_service.predict({"soil": 'a:b":c', "rings": 4, "note": "12:30:00"})
    assert status == 200, answer


def test_float32_rows_are_refused_where_a_column_holds_text(text_service: RunningService) -> None:
    """Rather than guess how a string was put into four bytes."""
    headers = {"Content-Type": "application/octet-stream"}
    status, _, answer = text_service.request("POST", "/predict", b"\0" * 24, headers)
    assert (status, json.loads(answer)["error"]) == (
        415,
        '"soil": float32 rows hold numbers only. This column holds text; send application/json or text/csv.',
    )


@pytest.mark.parametrize("header", ["", "soil,height,rings,is_wet,slope,note\r\n"], ids=["bare", "headed"])
def test_csv_brings_strings_and_nulls_to_the_graph(text_service: RunningService, header: str) -> None:
    """A field with a comma, a quote or a line end in it is one field, and an empty one is NULL."""
    body = header + 'clay,12.5,40,false,,\r\n"a ""b"", c\r\n",30,400,TRUE,12,"ü:7"\r\n'
    status, _, answer = text_service.request("POST", "/predict", body.encode(), {"Content-Type": "text/csv"})
    assert status == 200, answer
    rows = [("clay", 12.5, 40, False, None, None), ('a "b", c\r\n', 30.0, 400, True, 12.0, "ü:7")]
    expected = expect_probabilities(MIXED_COLUMNS, rows)
    for found, wanted in zip(json.loads(answer)["predictions"], expected.tolist(), strict=True):
        assert list(found["probabilities"].values()) == pytest.approx(wanted, abs=ATOL)


@pytest.mark.parametrize("kind", ["text/csv", "application/octet-stream", "application/json"])
def test_bare_probabilities_are_float32_by_row_and_class(service: RunningService, kind: str) -> None:
    """What a client of many rows reads without parsing; the header still says which version it was."""
    rows = [[12.5, 40, 0, 1.0], [30.0, 400, 1, 12.0], [0.0, 1, 1, -3.5]]
    body = {
        "text/csv": "\n".join(",".join(map(str, row)) for row in rows).encode(),
        "application/octet-stream": np.array(rows, dtype="<f4").tobytes(),
        "application/json": json.dumps({"instances": [[*r[:2], bool(r[2]), r[3]] for r in rows]}).encode(),
    }[kind]
    asked = {"Content-Type": kind, "Accept": "application/octet-stream"}
    status, headers, answer = service.request("POST", "/predict", body, asked)
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    assert headers["x-model-version"] == "tiny@1"
    found = np.frombuffer(answer, dtype="<f4").reshape(-1, 3)
    expected = expect_probabilities(NUMERIC_COLUMNS, [(*row[:2], bool(row[2]), row[3]) for row in rows])
    np.testing.assert_allclose(found, expected, atol=ATOL)


def test_every_model_of_a_service_answers_by_its_name(registry: Path) -> None:
    """One process may serve several; without a name it is the first that answers."""
    publish_mixed(open_store(registry))
    with running_service(registry, "tiny,tiny_text") as service:
        row = {"rings": 40, "soil": "clay"}
        status, _, answer = service.request("POST", "/predict/tiny_text", row)
        assert (status, json.loads(answer)["model"]) == (200, "tiny_text")
        assert service.request("POST", "/predict/tiny", row)[0] == 400  # it has no soil
        assert service.predict({"rings": 40})[1]["model"] == "tiny"
        assert service.request("GET", "/predict/tiny")[0] == 405


def test_the_answer_is_the_same_by_every_way(service: RunningService) -> None:
    """One row is run in bound memory, few on the event loop and many in a thread: one model, one answer."""
    names = [column.name for column in NUMERIC_COLUMNS]
    singles = [
        service.predict(dict(zip(names, row, strict=True)))[1]["probabilities"] for row in NUMERIC_ROWS
    ]
    _, batch = service.predict({"instances": NUMERIC_ROWS})
    for single, row in zip(singles, batch["predictions"], strict=True):
        assert_same(single, row["probabilities"])


def test_concurrent_requests_get_their_own_answers(service: RunningService) -> None:
    """Single rows share one buffer; a mix-up would be a wrong prediction that nobody notices."""
    rows = [(float(height), 1 + height * 7, height % 2 == 0, None) for height in range(400)]
    names = [column.name for column in NUMERIC_COLUMNS]
    expected = expect_probabilities(NUMERIC_COLUMNS, rows)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda row: service.predict(dict(zip(names, row, strict=True))), rows))
    for (status, answer), wanted in zip(answers, expected.tolist(), strict=True):
        assert status == 200
        assert list(answer["probabilities"].values()) == pytest.approx(wanted, abs=1e-5)


def test_model_metadata_describes_the_graph_and_the_card(service: RunningService) -> None:
    """A client can be built from this page alone: tensors for machines, columns and quality for people."""
    page = service.get_json("/v2/models/tiny")
    assert page == service.get_json("/v2/models/tiny/versions/1")
    assert {key: page[key] for key in ("name", "versions", "platform", "inputs", "outputs")} == {
        "name": "tiny",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "numeric", "datatype": "FP64", "shape": [-1, 4]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "label", "datatype": "INT64", "shape": [-1]},
        ],
    }
    assert [column["name"] for column in page["card"]["columns"]] == [c.name for c in NUMERIC_COLUMNS]
    assert page["card"]["metrics"]["accuracy"]["value"] == 0.75


def test_head_answers_like_get_without_a_body(service: RunningService) -> None:
    """Load balancers probe with HEAD."""
    status, headers, body = service.request("HEAD", "/v2/health/ready")
    assert (status, body) == (200, b"")
    assert headers["content-length"] == str(len(service.request("GET", "/v2/health/ready")[2]))
