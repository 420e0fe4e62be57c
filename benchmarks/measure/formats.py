"""The same rows in every form that the service takes: payload, path and headers of a request.

The forms are those of docs/serving.md: ``json`` (one object, or ``instances``), ``csv`` under a line of
names, bare ``float32`` rows answered in kind, and the Open Inference Protocol with its tensors as
JSON (``oip``) or behind it (``oip_binary``).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from timberline.benchmarks.measure.records import JSON_HEADERS, Body, Form
from timberline.registry.signature import NULL_TEXT, NUMERIC_INPUT, TEXT_INPUT, Column, SourceTable

# One row as clients send it: raw values by column name, NULL is None.
Row = Mapping[str, float | int | bool | str | None]

INFER_PATH = "/v2/models/{model}/infer"
_OCTETS = "application/octet-stream"


class Nulls(NamedTuple):
    """What is NULL in CSV: the text to ``write``, None if there is none, and ``all`` that may be read so."""

    write: str | None = ""
    all: frozenset[str] = frozenset({""})

    @classmethod
    def of(cls, tables: Iterable[SourceTable]) -> Nulls:
        """Of versions that are asked the same: what each of them takes is written, best an empty field."""
        texts = [table.null_text for table in tables]
        common = [text for text in texts[0] if all(text in others for others in texts)]
        return cls(SourceTable(null_text=tuple(common)).null_field, frozenset().union(*texts))


def carries(form: Form, row: Row, columns: Sequence[Column], nulls: Nulls | None = None) -> bool:
    """Whether ``form`` brings this row over unchanged.

    float32 rounds what needs more than 24 bits. In CSV some texts are NULL and no strings, and there is no
    row of empty fields alone.
    """
    if form == "float32":
        with np.errstate(over="ignore"):
            return all(value is None or float(np.float32(value)) == value for value in row.values())
    if form == "csv":
        nulls = nulls or Nulls()
        values = [row[column.name] for column in columns]
        fields = [nulls.write if value is None else _write_field(value) for value in values]
        texts = [_write_field(value) for value in values if value is not None]
        return any(fields) and None not in fields and nulls.all.isdisjoint(texts)
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
    if form == "csv":
        headers = {"Content-Type": "text/csv; header=present", "Accept": "application/json"}
        payload = _write_csv(rows, columns, nulls or Nulls())
        return Body(payload=payload, rows=len(rows), form=form, headers=headers)
    if form == "float32":
        payload = _build_matrix(rows, columns).astype("<f4").tobytes()
        headers = {"Content-Type": _OCTETS, "Accept": _OCTETS}
        return Body(payload=payload, rows=len(rows), form=form, headers=headers)
    if form == "json":
        tree = rows[0] if len(rows) == 1 else {"instances": rows}
        return Body(payload=msgspec.json.encode(tree), rows=len(rows))
    tensors = _group_columns(columns) if is_shared else {column.name: [column] for column in columns}
    if form == "oip":
        inputs = [_write_tensor(name, rows, group) for name, group in tensors.items()]
        payload, headers = msgspec.json.encode({"inputs": inputs}), dict(JSON_HEADERS)
    else:
        payload, length = _write_blobs(tensors, rows)
        headers = {"Content-Type": _OCTETS, "Accept": "*/*", "Inference-Header-Content-Length": str(length)}
    return Body(payload=payload, rows=len(rows), form=form, path=INFER_PATH, headers=headers)


def _write_csv(rows: Sequence[Row], columns: Sequence[Column], nulls: Nulls) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    names = [column.name for column in columns]
    writer.writerow(names)
    values = [[row[name] for name in names] for row in rows]
    writer.writerows([[nulls.write if v is None else _write_field(v) for v in row] for row in values])
    return file.getvalue().encode()


def _write_field(value: float | int | bool | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _build_matrix(rows: Sequence[Row], columns: Sequence[Column]) -> npt.NDArray[np.float64]:
    """(rows, columns); NULL is NaN."""
    values = [[row[column.name] for column in columns] for row in rows]
    return np.array(values, dtype=np.float64)


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
    if not _is_text(columns):
        values = [None if np.isnan(x) else x for x in _build_matrix(rows, columns).ravel().tolist()]
    return {**_describe(name, rows, columns), "data": values}


def _describe(name: str, rows: Sequence[Row], columns: Sequence[Column]) -> dict[str, object]:
    datatype = "BYTES" if _is_text(columns) else "FP64"
    return {"name": name, "shape": [len(rows), len(columns)], "datatype": datatype}


def _is_text(columns: Sequence[Column]) -> bool:
    return columns[0].datatype == "BYTES"


def _write_blobs(tensors: Mapping[str, Sequence[Column]], rows: Sequence[Row]) -> tuple[bytes, int]:
    """JSON and the blobs behind it, and the length of the JSON; outputs are asked for as blobs too."""
    inputs, blobs = [], []
    for name, columns in tensors.items():
        if _is_text(columns):
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
