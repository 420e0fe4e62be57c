"""The fast way and the exact way of reading a body agree on every body, and answers survive the wire."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.tiny_model import MIXED_COLUMNS, NUMERIC_COLUMNS
from timberline.inference.errors import BatchTooLargeError, RequestError
from timberline.inference.formats.codec import AnswerEncoder, RowDecoder
from timberline.inference.formats.outline import Limits
from timberline.inference.formats.strict_json import read_exactly
from timberline.inference.session import Outputs
from timberline.registry.signature import ClassLabel, Column, SourceTable

MAX_ROWS = 3
# What a client may send beside the columns of numbers; those beside the others are all read.
LEAN_COLUMNS = NUMERIC_COLUMNS[:2]
DATED_COLUMNS = (
    *NUMERIC_COLUMNS[:1],
    Column(name="born", datatype="INT64", moment="date"),
    Column(name="seen", datatype="INT64", moment="timestamp", is_nullable=True),
    Column(name="paid", datatype="INT64", moment="date", default=0),
)
TABLES: dict[tuple[Column, ...], SourceTable] = {
    NUMERIC_COLUMNS: SourceTable(),
    MIXED_COLUMNS: SourceTable(null_text=("NA", "")),
    LEAN_COLUMNS: SourceTable(unread={"x": "input", "Rings": "target", "instances": "ignored"}),
    DATED_COLUMNS: SourceTable(),
}
DECODERS: dict[tuple[Column, ...], RowDecoder] = {
    columns: RowDecoder(columns, MAX_ROWS, table=table) for columns, table in TABLES.items()
}

# Written as text, so that what no JSON library would write is tried too.
fitting: dict[str, st.SearchStrategy[str]] = {
    "FP64": st.one_of(
        st.integers(-(2**60), 2**60).map(str),
        st.floats(allow_nan=False, allow_infinity=False).map(repr),
        st.sampled_from(["1.0", "-0.0", "1E-2", "1e-400", "0." + "1" * 400]),
    ),
    "INT64": st.sampled_from(["0", "-7", "1.0", "1e2", "-0.0", "9007199254740991", "-9007199254740991.0"]),
    "BOOL": st.sampled_from(["true", "false"]),
    "date": st.dates().map(lambda day: f'"{day}"')
    | st.sampled_from(["-1", "15826.0", '"2013-05-01T00:00Z"']),
    "timestamp": st.sampled_from(
        ["1367411400", "-0.5", '"2013-05-01"', '"2013-05-01 12:30"', '"2013-05-01T12:30:00.123456789-02:30"']
    ),
    "BYTES": st.one_of(
        st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=8).map(json.dumps),
        st.sampled_from(['""', '"a:b"', '"\\":"', '"\\ud83d\\ude00"', '"\\u00fc"', '"ü"']),
    ),
}
wild = st.one_of(
    *fitting.values(),
    st.sampled_from(["1e999", "-1e999", "NaN", "Infinity", "01", "1.", "+1", "1.5", "9" * 400]),
    st.sampled_from(["9007199254740992", "9007199254740993", "1e16", "-1e16"]),
    st.sampled_from(['"\\u0000"', '"a\\u0000"', '"\\ud800"', '"\ud800"', '"\x01"', "'a'", '"\\x"']),
    st.sampled_from(["null", "[]", "{}", '{"a":1}', "[[1]]", "", "nul"]),
    st.sampled_from(
        ['"2013-02-30"', '"2013-05-01T12:30 Europe/Berlin"', '"1-1-1"', "1e305", "-719163", '""']
    ),
)

beside_fitting = st.sampled_from(
    [
        "",
        "",
        ',"parameters":null',
        ',"parameters":{}',
        ',"parameters":{"probabilities":true}',
        ',"parameters":{"probabilities":false}',
        ',"signature_name":"serving_default"',
        ',"signature_name":null,"parameters":{"probabilities":false}',
    ]
)
beside = st.one_of(
    beside_fitting,
    st.sampled_from(
        [
            ',"parameters":{"probabilities":1}',
            ',"parameters":{"probabilities":null}',
            ',"parameters":{"probabilities":true,"probabilities":false}',
            ',"parameters":{"top":1}',
            ',"parameters":[]',
            ',"parameters":null,"parameters":null',
            ',"signature_name":"","signature_name":""',
            ',"signature_name":"other"',
            ',"signature_name":["serving_default"]',
            ',"signature_name":1',
            ',"x":":"',
        ]
    ),
)


@st.composite
def cells(draw: st.DrawFn, column: Column, wildness: int) -> str:
    """One value; in ``wildness`` of twenty any token, else one that the column takes."""
    if draw(st.integers(1, 20)) <= wildness:
        token: str = draw(wild)
        return token
    if column.is_nullable and draw(st.booleans()):
        return "null"
    return draw(fitting[column.moment or column.datatype])


@st.composite
def objects(draw: st.DrawFn, columns: tuple[Column, ...], wildness: int) -> str:
    """A row as an object; names may be left out and, if wild, made up, escaped or given twice."""
    pairs = []
    for column in columns:
        is_optional = column.default is not None or column.is_nullable
        if draw(st.integers(1, 20)) > (8 if is_optional else wildness):
            pairs.append((json.dumps(column.name), draw(cells(column, wildness))))
    if draw(st.integers(1, 20)) <= wildness:
        pairs.append((draw(st.sampled_from(['"rings"', '"\\u0072ings"', '"Rings"', '"x"', "x"])), "1"))
    for name in TABLES[columns].unread:
        if draw(st.integers(1, 20)) <= 8:
            value = draw(wild if wildness else st.sampled_from(["1", "null", '"a:b"', '[{"a":[1]}]']))
            pairs.append((json.dumps(name), value))
    space = draw(st.sampled_from(["", "", " ", "\n"]))
    return "{" + ",".join(f"{n}{space}:{space}{v}" for n, v in draw(st.permutations(pairs))) + "}"


@st.composite
def arrays(draw: st.DrawFn, columns: tuple[Column, ...], wildness: int) -> str:
    """A row as an array, now and then of another width."""
    values = [draw(cells(column, wildness)) for column in columns]
    if draw(st.integers(1, 20)) <= wildness:
        values = draw(st.sampled_from([[], values[:-1], [*values, "1"]]))
    return "[" + ",".join(values) + "]"


@st.composite
def bodies(draw: st.DrawFn, columns: tuple[Column, ...]) -> bytes:
    """Whole bodies: half of them in order, the others with a fault in a value, a row or a byte."""
    wildness = draw(st.sampled_from([0, 0, 1, 5]))
    rows = [objects(columns, wildness), arrays(columns, wildness)]
    kind = draw(st.sampled_from([None, *rows, *([st.one_of(rows)] if wildness else [])]))
    if kind is None:  # a single row
        text = draw(rows[0])
    else:
        heads = ['{"instances":[', ' {\n"instances" : [ ', '{"\\u0069nstances":[']
        head = draw(st.sampled_from(heads + ['{"x":1,"instances":['] * (wildness > 0)))
        rows_text = ",".join(draw(st.lists(kind, min_size=not wildness, max_size=MAX_ROWS + 1)))
        text = head + rows_text + "]" + draw(beside if wildness else beside_fitting) + "}"
    body = text.encode("utf-8", "surrogatepass")
    place = draw(st.integers(0, len(body)))
    damage = draw(st.sampled_from(["none"] * 18 + ["cut", "insert"])) if wildness else "none"
    if damage == "none":
        return body
    return body[:place] + (
        draw(st.binary(min_size=1, max_size=2)) + body[place:] if damage == "insert" else b""
    )


cases = st.sampled_from(list(DECODERS)).flatmap(lambda columns: st.tuples(st.just(columns), bodies(columns)))


def read_either_way(read: Any) -> tuple[str, Any]:
    """("rows", …) or ("error", kind and message)."""
    try:
        batch = read()
    except RequestError as error:
        return "error", (type(error).__name__, str(error))
    return "rows", ([tuple(row) for row in batch.rows], batch.is_single, batch.is_short)


@settings(max_examples=300, deadline=None)
@given(case=cases)
@example(case=(NUMERIC_COLUMNS, b'{"rings":1,"rings":1}'))
@example(case=(NUMERIC_COLUMNS, b'{"instances":[{"rings":1}],"instances":[[0,1,true,null]]}'))
@example(case=(NUMERIC_COLUMNS, b"[" * 5000))
@example(case=(LEAN_COLUMNS, b'{"instances":[{"x":1,"rings":1}]}'))
@example(case=(LEAN_COLUMNS, b'{"instances":[1],"rings":1}'))
@example(case=(LEAN_COLUMNS, b'{"instances":1,"rings":1}'))
@example(case=(LEAN_COLUMNS, b'{"x":1}'))
@example(case=(LEAN_COLUMNS, b'{"x":1,"rings":1,"x":1}'))
@example(case=(LEAN_COLUMNS, b'{"x":{"x":1},"rings":1}'))
@example(case=(LEAN_COLUMNS, b'{"x":NaN,"rings":1}'))
@example(case=(LEAN_COLUMNS, b'{"rings":1,"x":' + b"[" * 5000 + b"]" * 5000 + b"}"))
@example(case=(LEAN_COLUMNS, b'{"instances":[{"rings":1,"x":' + b'{"a":' * 5000))
@example(case=(LEAN_COLUMNS, b'{"x":"\\u0000","rings":1}'))
@example(case=(MIXED_COLUMNS, b'{"soil":"NA","rings":"NA"}'))
@example(case=(NUMERIC_COLUMNS, b"\xef\xbb\xbf{}"))
def test_both_ways_of_reading_agree(case: tuple[tuple[Column, ...], bytes]) -> None:
    """The fast way is an optimisation; where it accepts or refuses anything else, it is a hole."""
    columns, body = case
    fast = read_either_way(lambda: DECODERS[columns].decode(body))
    exact = read_either_way(lambda: read_exactly(body, columns, MAX_ROWS, TABLES[columns]))
    assert fast == exact
    if fast[0] == "rows":
        for row in fast[1][0]:
            assert all(not isinstance(value, float) or math.isfinite(value) for value in row)


def read_in_slices(decoder: RowDecoder, body: bytes) -> tuple[str, Any]:
    """As `read_either_way`, the way of bodies that are too long to be decoded at once."""
    try:
        batch = decoder.decode_large(body)
        rows = [tuple(row) for part in batch.slices for row in part]
    except RequestError as error:
        return "error", (type(error).__name__, str(error))
    return "rows", (rows, batch.is_single, batch.is_short)


@settings(max_examples=400, deadline=None)
@given(case=cases, block=st.integers(1, 40), longest=st.sampled_from([60, 10_000]))
@example(case=(NUMERIC_COLUMNS, b'{"instances":[[0,1,true,null],[0,1,true,null],]}'), block=1, longest=10_000)
@example(
    case=(LEAN_COLUMNS, b'{"instances":[{"rings":1,"x":' + b"[" * 2000 + b"]" * 2000 + b"}]}"),
    block=9,
    longest=10_000,
)
@example(case=(NUMERIC_COLUMNS, b'{"instances":[[0,1,true,null] [0,1,true,null]]}'), block=1, longest=10_000)
@example(
    case=(NUMERIC_COLUMNS, b'{"instances":[{"rings":1},{"rings":1,"rings":1}]}'), block=9, longest=10_000
)
@example(case=(NUMERIC_COLUMNS, b'{"instances":[ ],"parameters":null}' + b" " * 60), block=9, longest=60)
@example(
    case=(NUMERIC_COLUMNS, b'{"parameters":{},"instances":[{"rings":1}' + b" " * 60 + b"]}"),
    block=9,
    longest=60,
)
@example(
    case=(MIXED_COLUMNS, b'{"instances":[{"soil":"},{\\"","rings":1},{"soil":"\\\\","rings":1}]}'),
    block=1,
    longest=60,
)
def test_a_body_in_slices_is_read_as_a_whole_one(
    case: tuple[tuple[Column, ...], bytes], block: int, longest: int
) -> None:
    """Where a long body is cut must not show; only, of several faults it may name another first."""
    columns, body = case
    decoder = RowDecoder(columns, MAX_ROWS, Limits(longest, block), TABLES[columns])
    found = read_in_slices(decoder, body)
    exact = read_either_way(lambda: read_exactly(body, columns, MAX_ROWS, TABLES[columns]))
    if exact[0] == "rows":
        if found[0] == "error":
            assert f"more than {longest}" in found[1][1]
            assert len(body) > longest
        else:
            assert found == exact
    else:
        assert found[0] == "error"


def test_many_rows_of_few_bytes_are_not_short() -> None:
    """Values that are left out cost a body nothing, and the event loop as much as others."""
    decoder = RowDecoder(NUMERIC_COLUMNS, 100_000)
    few, many = (b'{"instances":[' + b",".join([b'{"rings":1}'] * count) + b"]}" for count in (4096, 4097))
    short = decoder.decode_short(few)
    assert short is not None
    assert short == decoder.decode(few)
    assert decoder.decode_short(many) is None
    assert len(decoder.decode(many).rows) == 4097


@pytest.mark.parametrize(
    "fault",
    [
        b"nul",
        b'"a',
        b"[0,1,true,null",
        b"{}]",
        b"[0,1,true]",
        b'{"rings":1,"rings":2}',
        b'{"ring":1}',
        b"[0,1.5,true,null]",
        b"[0,1,true,null],",
        b"[[0],1,true,null]",
        b'{"rings":1 "height":2}',
        b"[0,1,true,null]]",
        b'{"\xff":1}',
        "[ü]".encode(),
    ],
)
@pytest.mark.parametrize("block", [1, 30, 1000])
def test_one_fault_in_a_long_body_is_named_as_in_a_short_one(fault: bytes, block: int) -> None:
    """Row, line and column are of the whole body, wherever it was cut."""
    good = b"[0,1,true,null],\n"
    if fault.startswith(b"{"):
        good = b'{"rings":1, \n"slope":null},'
    body = b'{"instances":[\n' + good * 5 + fault + b"]\n}"
    decoder = RowDecoder(NUMERIC_COLUMNS, 100, Limits(10_000, block))
    exact = read_either_way(lambda: read_exactly(body, NUMERIC_COLUMNS, 100))
    assert exact[0] == "error"
    assert read_in_slices(decoder, body) == exact


def read_lines(decoder: RowDecoder, body: bytes) -> tuple[str, Any]:
    """As `read_either_way`, of a row a line."""
    try:
        return "rows", [tuple(row) for part in decoder.decode_lines(body) for row in part]
    except RequestError as error:
        return "error", (type(error).__name__, str(error))


@settings(max_examples=400, deadline=None)
@given(
    rows=st.sampled_from(list(DECODERS)).flatmap(
        lambda columns: st.tuples(
            st.just(columns),
            st.sampled_from([objects, arrays]).flatmap(
                lambda kind: st.lists(kind(columns, 1), min_size=1, max_size=MAX_ROWS + 1)
            ),
        )
    ),
    end=st.sampled_from(["\n", "\r\n", "\n\n", " \n\t\n", "\n" * 50]),
    block=st.sampled_from([1, 9, 40, 10_000]),
)
def test_lines_are_read_as_the_same_rows_in_an_array(
    rows: tuple[tuple[Column, ...], list[str]], end: str, block: int
) -> None:
    """One set of rules for rows, whatever stands between them, and wherever a long body is cut."""
    columns, lines = rows
    lines = [line.replace("\n", " ") for line in lines]
    body = (end.join(lines) + end).encode("utf-8", "surrogatepass")
    array = ('{"instances":[' + ",".join(lines) + "]}").encode("utf-8", "surrogatepass")
    found = read_lines(RowDecoder(columns, MAX_ROWS, Limits(10_000, block), TABLES[columns]), body)
    expected = read_either_way(lambda: read_exactly(array, columns, MAX_ROWS, TABLES[columns]))
    assert found[0] == expected[0]
    if found[0] == "rows":
        assert (found[1], False, False) == expected[1]
    elif expected[1][0] == "RowError":
        assert found == expected


@settings(max_examples=400, deadline=None)
@given(
    text=st.lists(
        st.sampled_from(
            [
                *("\n", "\r", " ", "\n\n", "\v", "\x00", "\ufeff"),
                *("[0,1,true,null]", "[0,1", ",true,null]", ",", "[", "]"),
                *('{"rings":1}', '{"rings":', "1}", '{"rings":1,"rings":1}', '"', '"\\', "7"),
            ]
        ),
        max_size=12,
    ).map("".join),
    block=st.sampled_from([1, 9, 40, 10_000]),
)
def test_each_line_is_one_row_and_each_row_one_line(text: str, block: int) -> None:
    """The decoder of many lines would take a row broken over two; two rows on a line fit into an array."""
    lines = [line for line in text.split("\n") if line.strip(" \t\r")]
    wanted: list[Any] = []
    for line in lines[: 4 * MAX_ROWS]:
        array = b'{"instances":[%b]}' % line.encode()
        wanted.append(read_either_way(lambda array=array: read_exactly(array, NUMERIC_COLUMNS, MAX_ROWS)))
    are_whole = all(kind == "rows" and len(value[0]) == 1 for kind, value in wanted)
    are_alike = len({line.lstrip(" \t\r")[:1] for line in lines}) == 1
    found = read_lines(RowDecoder(NUMERIC_COLUMNS, MAX_ROWS, Limits(10_000, block)), text.encode())
    if found[0] == "rows":
        assert found[1] == [value[0][0] for _, value in wanted]
    assert (found[0] == "rows") == (0 < len(lines) <= MAX_ROWS and are_whole and are_alike)


@pytest.mark.parametrize("block", [1, 30, 1000])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (b"nul", "row 5: the line is not JSON: Expecting value at line 7 column 1"),
        (b"[0,1,true,null", "row 5: the line is not JSON: Expecting ',' delimiter at line 7 column 15"),
        (b"[0,1,true,null],", "row 5: the line is not JSON: Extra data at line 7 column 16"),
        (b'["\xff"]', "row 5: the line is not UTF-8: invalid start byte at byte 93"),
        (b"[" * 100_000, "row 5: the line is nested too deeply; a row's values are not nested"),
        (b"[0,1.5,true,null]", 'row 5, "rings": expected an integer, found 1.5'),
        (b'{"rings":1}', "row 5: objects and arrays are mixed; send one or the other"),
        (b"[" + b" " * 200_000 + b"]", "row 5: has more than 150,000 bytes, the most that are read of one"),
    ],
)
def test_a_fault_in_long_lines_is_named_as_in_short_ones(fault: bytes, message: str, block: int) -> None:
    """Row, line and column are of the whole body, wherever it was cut."""
    body = b"\n" + b"[0,1,true,null] \r\n" * 5 + fault + b"\n[0,1,true,null]"
    kind, found = read_lines(RowDecoder(NUMERIC_COLUMNS, 100, Limits(150_000, block)), body)
    assert (kind, found[1]) == ("error", message)


@pytest.mark.parametrize("block", [1, 7, 64 * 1024])
def test_lines_are_counted_before_one_is_decoded(block: int) -> None:
    """Rows are many times their bytes: a body of too many costs the look at it."""
    decoder = RowDecoder(NUMERIC_COLUMNS, 100, Limits(10_000, block))
    most = b"\n".join([b"[0,1,true,null]"] * 100)
    assert len([row for part in decoder.decode_lines(most) for row in part]) == 100
    with pytest.raises(BatchTooLargeError):  # and not at the first row, which is none
        decoder.decode_lines(b"7\n" + most)


@settings(max_examples=100, deadline=None)
@given(
    probabilities=st.lists(st.floats(0, 1, width=32), min_size=2, max_size=9),
    names=st.text(min_size=1, max_size=12),
)
def test_answers_bring_every_float32_back(probabilities: list[float], names: str) -> None:
    """What is compared with Keras is what comes out of the answer; rounding would be an error of its own."""
    classes = [ClassLabel(value=f"{names}{index}", label=names) for index in range(len(probabilities))]
    encoder = AnswerEncoder("any", 7, classes)
    best = int(np.argmax(probabilities))
    short = json.loads(encoder.encode_label(best))
    answer = json.loads(encoder.encode_row(best, tuple(probabilities)))
    assert list(answer) == ["prediction", "label", "probabilities", "model", "version"]
    assert (answer["prediction"], answer["label"]) == (f"{names}{best}", names)
    assert (answer["model"], answer["version"]) == ("any", 7)
    back = np.array(list(answer["probabilities"].values()), dtype=np.float32)
    assert back.tolist() == probabilities
    outputs = Outputs(np.array([best, 0]), np.array([probabilities] * 2, dtype=np.float32))
    rows = json.loads(encoder.encode_rows(outputs))
    assert list(rows) == ["predictions", "model", "version"]
    del answer["model"], answer["version"]
    assert rows["predictions"][0] == answer
    del short["model"], short["version"], answer["probabilities"]
    assert short == answer == json.loads(encoder.encode_labels(outputs))["predictions"][0]
    assert np.frombuffer(encoder.encode_floats(outputs), "<f4").tolist() == probabilities * 2
    for is_short in (False, True):
        lines = encoder.encode_lines(outputs, is_short=is_short).decode().removesuffix("\n").split("\n")
        whole = rows if not is_short else json.loads(encoder.encode_labels(outputs))
        assert [json.loads(line) for line in lines] == whole["predictions"]
        table = io.StringIO(
            encoder.encode_csv(outputs, is_short=is_short, has_header=True).decode(), newline=""
        )
        header, *cells = csv.reader(table)
        assert [row[:2] for row in cells] == [[f"{names}{index}", names] for index in (best, 0)]
        assert len(header) == len(set(header)) == (2 if is_short else 2 + len(classes))
        for row in cells if not is_short else ():
            assert np.array(row[2:], dtype=np.float32).tolist() == probabilities


@pytest.mark.parametrize("count", [1, 4096 // 3, 4096 // 3 + 1, 5000])
def test_answers_in_slices_are_those_of_each_row(count: int) -> None:
    """A large answer is written some rows at a time, and its bytes are bounded before one is written."""
    classes = [ClassLabel(value=value, label=f'a "{value}", and % too') for value in ("x", "y,z", "ü")]
    encoder = AnswerEncoder("any", 7, classes)
    labels = np.arange(count) % 3
    probabilities = np.full((count, 3), -1.1754944e-38, dtype=np.float32)  # no float32 is longer
    outputs = Outputs(labels, probabilities)
    rows = [
        json.loads(encoder.encode_row(label, tuple(row)))
        for label, row in zip(labels.tolist(), probabilities.tolist(), strict=True)
    ]
    for row in rows:
        del row["model"], row["version"]
    full = encoder.encode_rows(outputs)
    lines = encoder.encode_lines(outputs, is_short=False)
    table = encoder.encode_csv(outputs, is_short=False, has_header=True)
    assert json.loads(full)["predictions"] == rows
    assert [json.loads(line) for line in lines.splitlines()] == rows
    cells = list(csv.reader(io.StringIO(table.decode(), newline="")))[1:]
    assert [[*row[:2], *map(float, row[2:])] for row in cells] == [
        [row["prediction"], row["label"], *row["probabilities"].values()] for row in rows
    ]
    if count > 100:  # what stands around the rows counts for nothing
        assert max(map(len, (full, lines, table))) <= encoder.count_bytes(count)
    for row in rows:
        del row["probabilities"]
    assert json.loads(encoder.encode_labels(outputs))["predictions"] == rows
    assert [json.loads(line) for line in encoder.encode_lines(outputs, is_short=True).splitlines()] == rows
    short = encoder.encode_csv(outputs, is_short=True, has_header=False)
    assert list(csv.reader(io.StringIO(short.decode(), newline=""))) == [[*row.values()] for row in rows]
