"""The same rows in every form that the service takes: requests are written, replies are read and checked.

The forms are those of docs/reference/http.md: ``json`` (one object, or ``instances``), ``csv`` under a line
of names, bare ``float32`` rows answered in kind, and the Open Inference Protocol with its tensors as
JSON (``oip``) or behind it (``oip_binary``). A reply is right when the version that was asked answered,
with the numbers that it must give.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from timberline.benchmarks.measure.records import JSON_HEADERS, Body, Form, Target
from timberline.registry.fields import is_carried, write_field
from timberline.registry.moments import Value, parse_moment
from timberline.registry.signature import (
    NULL_TEXT,
    NUMERIC_INPUT,
    PROBABILITIES_OUTPUT,
    TEXT_INPUT,
    Column,
    SourceTable,
)

# One row as clients send it: raw values by column name, NULL is None.
Row = Mapping[str, Value]
INFER_PATH = "/v2/models/{model}/infer"
_OCTETS = "application/octet-stream"


class Nulls(NamedTuple):
    """What is NULL in CSV: the text to ``write``, None if there is none, and ``all`` that may be read so.

    ``table`` is one of those that are asked the same, which write other values alike.
    """

    write: str | None = ""
    all: frozenset[str] = frozenset({""})
    table: SourceTable = SourceTable()

    @classmethod
    def of(cls, tables: Iterable[SourceTable]) -> Nulls:
        """Of versions that are asked the same: what each of them takes is written, best an empty field."""
        tables = list(tables)
        texts = [table.null_text for table in tables]
        common = [text for text in texts[0] if all(text in others for others in texts)]
        return cls(SourceTable(null_text=tuple(common)).null_field, frozenset().union(*texts), tables[0])


def carries(form: Form, row: Row, columns: Sequence[Column], nulls: Nulls | None = None) -> bool:
    """Whether ``form`` brings this row over unchanged.

    float32 rounds what needs more than 24 bits. In CSV some texts are NULL and no strings, there is no
    row of empty fields alone, and a table's format of timestamps may leave their seconds out.
    """
    if form == "float32":
        with np.errstate(over="ignore"):
            values = _build_matrix([row], columns)
            return bool(np.array_equal(values.astype(np.float32).astype(np.float64), values, equal_nan=True))
    if form == "csv":
        nulls = nulls or Nulls()
        pairs = [(row[column.name], column) for column in columns]
        fields = [nulls.write if v is None else write_field(v, column, nulls.table) for v, column in pairs]
        texts = [field for field, (value, _) in zip(fields, pairs, strict=True) if value is not None]
        is_same = all(value is None or is_carried(value, column, nulls.table) for value, column in pairs)
        return any(fields) and None not in fields and nulls.all.isdisjoint(texts) and is_same
    return True


def write_body(
    form: Form,
    rows: Sequence[Row],
    columns: Sequence[Column],
    *,
    is_shared: bool = True,
    nulls: Nulls | None = None,
) -> Body:
    """The request for ``rows`` in ``form``; its answers are not known yet.

    Args:
        form: one that can carry the columns; float32 has no text.
        rows: at least one.
        columns: in the signature's order.
        is_shared: every version takes exactly these columns in this order. Otherwise the Open
            Inference Protocol gets a tensor a column and not the graph's own, which would be too narrow.
        nulls: how NULL is written in CSV; an empty field without.
    """
    path, headers = "/predict", dict(JSON_HEADERS)
    if form == "csv":
        headers = {"Content-Type": "text/csv; header=present", "Accept": "application/json"}
        payload = _write_csv(rows, columns, nulls or Nulls())
    elif form == "float32":
        headers = {"Content-Type": _OCTETS, "Accept": _OCTETS}
        payload = _build_matrix(rows, columns).astype("<f4").tobytes()
    elif form == "json":
        payload = msgspec.json.encode(rows[0] if len(rows) == 1 else {"instances": rows})
    else:
        path = INFER_PATH
        tensors = _group_columns(columns) if is_shared else {column.name: [column] for column in columns}
        if form == "oip":
            inputs = [_write_tensor(name, rows, group) for name, group in tensors.items()]
            payload = msgspec.json.encode({"inputs": inputs})
        else:
            payload, length = _write_blobs(tensors, rows)
            headers = {"Content-Type": _OCTETS, "Accept": "*/*"}
            headers["Inference-Header-Content-Length"] = str(length)
    return Body(payload=payload, rows=len(rows), form=form, path=path, headers=headers)


def _write_csv(rows: Sequence[Row], columns: Sequence[Column], nulls: Nulls) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    for row in rows:
        pairs = [(row[column.name], column) for column in columns]
        writer.writerow([nulls.write if v is None else write_field(v, c, nulls.table) for v, c in pairs])
    return file.getvalue().encode()


def _build_matrix(rows: Sequence[Row], columns: Sequence[Column]) -> npt.NDArray[np.float64]:
    """(rows, columns), as the graph takes them; NULL is NaN."""
    values = [[_number(row[column.name], column) for column in columns] for row in rows]
    return np.array(values, dtype=np.float64)


def _number(value: Value, column: Column) -> Value:
    return value if value is None or column.moment is None else parse_moment(str(value), column.moment)


def _group_columns(columns: Sequence[Column]) -> dict[str, list[Column]]:
    """The graph's tensors and what is in them; one with no column is left out."""
    groups = {
        NUMERIC_INPUT: [column for column in columns if column.datatype != "BYTES"],
        TEXT_INPUT: [column for column in columns if column.datatype == "BYTES"],
    }
    return {name: group for name, group in groups.items() if group}


def _write_tensor(name: str, rows: Sequence[Row], columns: Sequence[Column]) -> dict[str, object]:
    """A tensor of the protocol with its values in JSON, one flat list; NULL is null."""
    values: list[object] = [row[column.name] for row in rows for column in columns]
    if not _is_text(name, columns):
        values = [None if np.isnan(x) else x for x in _build_matrix(rows, columns).ravel().tolist()]
    return {**_describe(name, rows, columns), "data": values}


def _describe(name: str, rows: Sequence[Row], columns: Sequence[Column]) -> dict[str, object]:
    datatype = "BYTES" if _is_text(name, columns) else "FP64"
    return {"name": name, "shape": [len(rows), len(columns)], "datatype": datatype}


def _is_text(name: str, columns: Sequence[Column]) -> bool:
    """Whether the tensor holds text, as that of a single column of moments does."""
    return columns[0].datatype == "BYTES" or (columns[0].moment is not None and name != NUMERIC_INPUT)


def _write_blobs(tensors: Mapping[str, Sequence[Column]], rows: Sequence[Row]) -> tuple[bytes, int]:
    """JSON and the blobs behind it, and the length of the JSON; outputs are asked for as blobs too."""
    inputs, blobs = [], []
    for name, columns in tensors.items():
        if _is_text(name, columns):
            blob = _write_strings(rows, columns)
        else:
            blob = _build_matrix(rows, columns).astype("<f8").tobytes()
        blobs.append(blob)
        head = _describe(name, rows, columns)
        inputs.append({**head, "parameters": {"binary_data_size": len(blob)}})
    text = msgspec.json.encode({"inputs": inputs, "parameters": {"binary_data_output": True}})
    return b"".join([text, *blobs]), len(text)


def _write_strings(rows: Sequence[Row], columns: Sequence[Column]) -> bytes:
    """Strings of a blob: four bytes of length, little-endian, then UTF-8."""
    texts = [row[column.name] for row in rows for column in columns]
    parts = [(NULL_TEXT if text is None else str(text)).encode() for text in texts]
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


# Bare float32 answers name their version here and nowhere else.
_VERSION_HEADER = "x-model-version"
_LENGTH_HEADER = "inference-header-content-length"


class _Reading(NamedTuple):
    """Who answered (None where the body does not name it), and what.

    ``rows`` hold probabilities in the order of the classes; None where they are not those.
    """

    source: str | None
    rows: Sequence[Sequence[float] | None]


def check_reply(
    status: int,
    content: bytes | None,
    target: Target,
    body: Body,
    headers: Mapping[str, str] | None = None,
) -> str:
    """What is wrong with a reply to ``body``, in a few words; "" when nothing is.

    Args:
        status: of HTTP.
        content: the reply's body.
        target: who was asked.
        body: what was sent; its form decides how the reply is read.
        headers: the reply's; names are looked up in small letters.
    """
    content, headers = content or b"", headers or {}
    if status != 200:
        return f"HTTP {status}: {content[:80].decode(errors='replace')}"
    try:
        source, rows = _READERS[body.form](content, headers, target)
    except (ValueError, RecursionError) as error:  # the first: also what msgspec raises
        return f"reply is not a prediction: {error}"
    expected = f"{target.model}@{target.version}"
    named = headers.get(_VERSION_HEADER)
    if source is None and named is None:
        return f"the reply names no version, expected {expected}"
    for found in (source, named):
        if found is not None and found != expected:
            return f"{found} answered, expected {expected}"
    if len(rows) != body.rows:
        return f"{len(rows)} predictions for {body.rows} rows"
    return _compare(rows, target, body.answers.get(target.arm))


def _compare(
    given: Sequence[Sequence[float] | None], target: Target, expected: tuple[tuple[float, ...], ...] | None
) -> str:
    for row, probabilities in enumerate(given):
        if probabilities is None:
            return f"row {row}: probabilities are not those of classes {', '.join(target.classes)[:60]}"
        if expected is None:
            continue
        for name, found, known in zip(target.classes, probabilities, expected[row], strict=True):
            # Written so that NaN fails.
            if not abs(found - known) <= target.atol:
                return f"row {row}: class {name} has {found:.6g}, the manifest {known:.6g}"
    return ""


# POST /predict answered in JSON: to JSON and CSV


class _Prediction(msgspec.Struct):
    probabilities: dict[str, float]


class _Reply(msgspec.Struct):
    model: str
    version: int
    probabilities: dict[str, float] | None = None
    predictions: list[_Prediction] | None = None


_decode = msgspec.json.Decoder(_Reply).decode


def _read_json(content: bytes, headers: Mapping[str, str], target: Target) -> _Reading:
    reply = _decode(content)
    given = (
        [reply.probabilities] if reply.predictions is None else [p.probabilities for p in reply.predictions]
    )
    rows = [_order(probabilities, target.classes) for probabilities in given]
    return _Reading(f"{reply.model}@{reply.version}", rows)


def _order(probabilities: dict[str, float] | None, classes: tuple[str, ...]) -> list[float] | None:
    if probabilities is None or probabilities.keys() != set(classes):
        return None
    return [probabilities[name] for name in classes]


# POST /predict answered in kind: to float32


def _read_floats(content: bytes, headers: Mapping[str, str], target: Target) -> _Reading:
    values = np.frombuffer(content, "<f4").reshape(-1, len(target.classes))
    return _Reading(None, values.tolist())


# Open Inference Protocol: an output's values are in the JSON or, one after the other, behind it


class _Blob(msgspec.Struct):
    binary_data_size: int = 0


class _Output(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[float] | None = None
    parameters: _Blob = msgspec.field(default_factory=_Blob)


class _Inferred(msgspec.Struct):
    model_name: str
    model_version: str
    outputs: list[_Output]


_decode_inferred = msgspec.json.Decoder(_Inferred).decode


def _read_inferred(content: bytes, headers: Mapping[str, str], target: Target) -> _Reading:
    length = int(headers.get(_LENGTH_HEADER, len(content)))
    reply, offset = _decode_inferred(content[:length]), length
    source = f"{reply.model_name}@{reply.model_version}"
    for output in reply.outputs:
        size = output.parameters.binary_data_size
        if output.name == PROBABILITIES_OUTPUT:
            return _Reading(source, _read_output(output, content[offset : offset + size], target))
        offset += size
    raise ValueError(f"it has no output {PROBABILITIES_OUTPUT}")


def _read_output(output: _Output, blob: bytes, target: Target) -> Sequence[Sequence[float] | None]:
    if output.datatype != "FP32" or len(output.shape) != 2:
        raise ValueError(f"{output.name} is {output.datatype} of shape {output.shape}")
    if output.shape[1] != len(target.classes):
        return [None] * output.shape[0]
    values = np.frombuffer(blob, "<f4") if output.data is None else np.array(output.data)
    rows: list[list[float]] = values.reshape(output.shape).tolist()
    return rows


_READERS: dict[Form, Callable[[bytes, Mapping[str, str], Target], _Reading]] = {
    "json": _read_json,
    "csv": _read_json,
    "float32": _read_floats,
    "oip": _read_inferred,
    "oip_binary": _read_inferred,
}
