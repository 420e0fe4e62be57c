"""The real service and the table that its model was trained from: its columns, its NULLs, its delimiter.

Whoever has the training table's rows, or sent them to a version that read more of them, is answered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.support.service import RunningService, running_service
from tests.support.tiny_model import MIXED_COLUMNS, expect_probabilities, publish_mixed
from timberline.registry.signature import SourceTable
from timberline.registry.store import open_store

TABLE = SourceTable(
    delimiter=";",
    null_text=("NA", "?"),
    unread={"Id": "ignored", "answer": "target", "age": "input", "place": "input"},
)
HEADER = "Id,slope,soil,age,is_wet,rings,note,height,place,answer"
LINES = ("7,NA,clay,old,YES,1_000,?, 12.5,north,2", "8,+3.,sand,NA,f,4e1,x,.5,NA,1", "9,1,,1,N,5.0,,1,,")
ROWS: tuple[tuple[Any, ...], ...] = (
    # soil, height, rings, is_wet, slope, note; where "" is no NULL, it is a text.
    ("clay", 12.5, 1000, True, None, None),
    ("sand", 0.5, 40, False, 3.0, "x"),
    ("", 1.0, 5, False, 1.0, ""),
)
NAMES = [column.name for column in MIXED_COLUMNS]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """tiny_text@1, which reads six of its table's ten columns."""
    registry = tmp_path_factory.mktemp("registry")
    publish_mixed(open_store(registry), table=TABLE)
    with running_service(registry, "tiny_text") as running:
        yield running


def ask(service: RunningService, body: object, kind: str = "application/json") -> list[list[float]]:
    """The probabilities of every row of a body that is answered."""
    status, _, answer = service.request("POST", "/predict", body, {"Content-Type": kind})
    assert status == 200, answer
    found = json.loads(answer)
    return [list(row["probabilities"].values()) for row in found.get("predictions", [found])]


def refuse(service: RunningService, body: object, kind: str = "application/json") -> str:
    """What a body is refused with."""
    status, _, answer = service.request("POST", "/predict", body, {"Content-Type": kind})
    assert status == 400, answer
    return str(json.loads(answer)["error"])


def expect(rows: Sequence[Sequence[Any]]) -> list[Any]:
    """What the graph says of rows of `MIXED_COLUMNS`."""
    found = expect_probabilities(MIXED_COLUMNS, rows).tolist()
    return [pytest.approx(row, abs=1e-6) for row in found]


@pytest.mark.parametrize("copies", [1, 500], ids=["short", "long"])
@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("kind", ["text/csv", "text/csv; header=present"])
def test_lines_of_the_training_file_are_answered(
    service: RunningService, delimiter: str, kind: str, copies: int
) -> None:
    """Every value is what it was in training, in any order of columns and beside what no feature reads."""
    text = "\r\n".join([HEADER, *LINES * copies]).replace(",", delimiter)
    assert ask(service, text.encode(), kind) == expect(ROWS) * copies


@pytest.mark.parametrize("copies", [1, 500], ids=["short", "long"])
def test_json_rows_with_columns_that_are_not_read_are_answered(service: RunningService, copies: int) -> None:
    """A client of a version that read them goes on sending them, whatever they hold by now."""
    beside = {"age": [1, {"a": ":"}], "place": None, "Id": "x:y", "answer": 3}
    rows = [{**beside, **dict(zip(NAMES, row, strict=True))} for row in ROWS]
    assert ask(service, {"instances": rows * copies}) == expect(ROWS) * copies
    lines = "\n".join(json.dumps(row) for row in rows * copies)
    assert ask(service, lines.encode(), "application/jsonlines") == expect(ROWS) * copies
    assert [ask(service, row)[0] for row in rows] == expect(ROWS)
    # The names may be written with escapes, and stand behind the others.
    row = json.dumps(dict(zip(NAMES, ROWS[0], strict=True)))
    assert ask(service, (row[:-1] + ',"\\u0061ge":NaN}').encode()) == expect(ROWS[:1])


@pytest.mark.parametrize("is_binary", [False, True], ids=["json", "binary"])
def test_tensors_of_columns_that_are_not_read_are_answered(service: RunningService, is_binary: bool) -> None:
    """Clients of the protocol send a tensor a column, and know no other version's columns than theirs."""
    tensors: list[dict[str, Any]] = [
        {"name": "age", "datatype": "BYTES", "shape": [1, 1], "data": ["old"]},
        {"name": "soil", "datatype": "BYTES", "shape": [1], "data": ["clay"]},
        {"name": "rings", "datatype": "INT64", "shape": [1], "data": [1000]},
        {"name": "height", "datatype": "FP64", "shape": [1], "data": [12.5]},
        {"name": "is_wet", "datatype": "BOOL", "shape": [1], "data": [True]},
    ]
    headers, blob = {"Content-Type": "application/json"}, b""
    if is_binary:
        blob = b"\3\0\0\0old"
        tensors[0] = {**tensors[0], "parameters": {"binary_data_size": len(blob)}}
        del tensors[0]["data"]
    text = json.dumps({"inputs": tensors, "outputs": [{"name": "probabilities"}]}).encode()
    if is_binary:
        headers["Inference-Header-Content-Length"] = str(len(text))
    path = "/v2/models/tiny_text/infer"
    status, _, answer = service.request("POST", path, text + blob, headers)
    assert status == 200, answer
    assert [json.loads(answer)["outputs"][0]["data"]] == expect(ROWS[:1])
    # Alone they are no row, and of another number of rows they are a mistake.
    two_rows = {**tensors[0], "shape": [2]}
    for wrong, told in ((tensors[:1], "does not read"), ([two_rows, *tensors[1:]], '"age" has 2')):
        text = json.dumps({"inputs": wrong}).encode()
        if is_binary:
            headers["Inference-Header-Content-Length"] = str(len(text))
        status, _, answer = service.request("POST", path, text + blob, headers)
        assert (status, told in json.loads(answer)["error"]) == (400, True), answer


def test_a_text_that_is_null_in_the_table_is_no_number_in_json(service: RunningService) -> None:
    """JSON has a null of its own; the error says so to whoever sends the table's."""
    row = {"soil": "clay", "rings": 4}
    assert refuse(service, {**row, "slope": "NA"}) == (
        '"slope": expected a number, found the string "NA". '
        "The training table writes NULL so; in JSON it is null."
    )
    assert (
        refuse(service, {**row, "slope": "nought"}) == '"slope": expected a number, found the string "nought"'
    )
    assert ask(service, {**row, "slope": None}) == ask(service, row)
    # A string is itself: no other text of JSON means NULL.
    assert ask(service, {**row, "note": "NA"}) != ask(service, {**row, "note": None})


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("rings;soil;plaice\n4;clay;x", 'header: unknown name "plaice". Columns: soil'),
        ("rings,soil,Ring\n4,clay,x", 'header: unknown name "Ring". Did you mean "rings"?'),
        ("clay,1,soil,1,1,1\n", 'row 0, "rings": expected a number, found "soil"'),
        ("Id,age\n4,5", "header: names no column that the model reads"),
        ("rings,soil,age,age\n4,clay,1,2", 'header, "age": is given twice'),
        ("rings,soil\nNA,clay", 'row 0, "rings": is missing. It has no default.'),
        ("rings,soil\n,clay", 'row 0, "rings": expected a number, found ""'),
        ("rings,soil,is_wet\n4,clay, yes", 'row 0, "is_wet": expected true or false, found " yes"'),
        ("rings,soil,slope\n4,clay,inf", 'row 0, "slope": expected a number, found "inf"'),
        ("rings,soil,height\n4,clay,nan", 'row 0, "height": expected a number, found "nan"'),
    ],
)
def test_what_the_table_does_not_have_is_still_refused(service: RunningService, body: str, told: str) -> None:
    """A misspelt name must not be taken for a column that is not read."""
    assert refuse(service, body.encode(), "text/csv").startswith(told)


def test_an_unknown_name_in_a_header_is_named(service: RunningService) -> None:
    """With the nearest column, as in JSON."""
    for header in ("rings,soil,hight", "rings;soil;hight"):
        line = "4,clay,1".replace(",", header[5])
        told = refuse(service, f"{header}\n{line}".encode(), "text/csv; header=present")
        assert told == 'header: unknown name "hight". Did you mean "height"?'
    assert refuse(service, {"rings": 4, "soil": "clay", "plaice": 1}).startswith('unknown name "plaice"')
    assert refuse(service, {"age": 4}).startswith("no column that the model reads is named. Columns: soil")
