"""The requests of the service's benchmark, whole and as bytes, made from a version's golden rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from timberline.benchmarks.errors import WorkloadError
from timberline.benchmarks.load.connections import write_post
from timberline.registry import moments
from timberline.registry.manifest import Manifest
from timberline.registry.signature import NUMERIC_INPUT

_JSON = "content-type: application/json"
_OCTETS = "content-type: application/octet-stream"
# Headers that every client sends: few, as each costs every server.
_USUAL = ("host: 127.0.0.1", "user-agent: timberline-benchmark")
_ANY = "accept: */*"
_BINARY_ANSWER = "accept: application/octet-stream"


def write_row(manifest: Manifest, *, is_chunked: bool = False) -> bytes:
    """``POST /predict`` of the first golden row as an object of all raw columns.

    ``is_chunked`` sends the body in one chunk, the way that the service has no short cut for.
    """
    names = [column.name for column in manifest.signature.columns]
    row = moments.write_row(manifest.golden.rows[0], manifest.signature.columns)
    body = msgspec.json.encode(dict(zip(names, row, strict=True)))
    whole = _write("/predict", body, _JSON, _ANY)
    if not is_chunked:
        return whole
    head = whole[: -len(body)].replace(b"content-length: %d" % len(body), b"transfer-encoding: chunked")
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def write_least_row(manifest: Manifest) -> bytes:
    """The same row with the columns only that must be given, or the first one if none must."""
    columns = manifest.signature.columns
    values = moments.write_row(manifest.golden.rows[0], columns)
    row = {column.name: value for column, value in zip(columns, values, strict=True)}
    needed = [column.name for column in columns if not column.may_be_absent]
    body = msgspec.json.encode({name: row[name] for name in needed or [columns[0].name]})
    return _write("/predict", body, _JSON)


def write_protocol_row(manifest: Manifest) -> bytes:
    """The same row as JSON of the Open Inference Protocol."""
    matrix = build_matrix(manifest, 1)
    tensor = {
        "name": NUMERIC_INPUT,
        "shape": matrix.shape,
        "datatype": "FP64",
        "data": [None if np.isnan(value) else value for value in matrix[0].tolist()],
    }
    return _write(_infer_path(manifest), msgspec.json.encode({"inputs": [tensor]}), _JSON, _ANY)


def write_protocol_batch(manifest: Manifest, matrix: npt.NDArray[np.float64]) -> bytes:
    """``matrix``, (rows, columns), as one binary FP64 tensor; all outputs are asked for in binary."""
    blob = matrix.astype("<f8").tobytes()
    tensor = {
        "name": NUMERIC_INPUT,
        "shape": matrix.shape,
        "datatype": "FP64",
        "parameters": {"binary_data_size": len(blob)},
    }
    head = msgspec.json.encode({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    length = f"inference-header-content-length: {len(head)}"
    return _write(_infer_path(manifest), head + blob, _OCTETS, _ANY, length)


def write_octet_batch(matrix: npt.NDArray[np.float64]) -> bytes:
    """``matrix``, (rows, columns), as bare float32 rows for ``POST /predict``, answered in kind."""
    return _write("/predict", matrix.astype("<f4").tobytes(), _OCTETS, _BINARY_ANSWER)


def build_matrix(manifest: Manifest, rows: int) -> npt.NDArray[np.float64]:
    """Golden rows, over and over, as the graph takes them: (rows, columns); NULL is NaN.

    Raises:
        WorkloadError: there is a column of text.
    """
    columns = manifest.signature.columns
    if any(column.datatype == "BYTES" for column in columns):
        raise WorkloadError(
            "has columns of text; the graph alone and the competitors are measured on numbers only",
            where=f"{manifest.model}@{manifest.version}",
        )
    golden: Sequence[Any] = manifest.golden.rows
    return np.array([golden[i % len(golden)] for i in range(rows)], dtype=np.float64)  # None → NaN


def _infer_path(manifest: Manifest) -> str:
    return f"/v2/models/{manifest.model}/infer"


def _write(path: str, body: bytes, *headers: str) -> bytes:
    return write_post(path, body, *_USUAL, *headers)
