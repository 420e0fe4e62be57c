"""Ask a version's graph about raw rows, as the service would, and keep its answers in a file.

The file has the columns of an evaluation.parquet, so that it is read and checked as one: a verdict on rows
of another table can be worked out again from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from timberline.benchmarks.analysis.raw_rows import RawRows, list_stored, read_batches
from timberline.benchmarks.errors import EvidenceError
from timberline.registry.manifest import Manifest
from timberline.registry.rows import StoredColumn
from timberline.registry.runs import CLASS_COLUMN, ROW_COLUMN
from timberline.registry.runtime.logs import NO_TELEMETRY
from timberline.registry.signature import (
    LABEL_OUTPUT,
    NULL_TEXT,
    NUMERIC_INPUT,
    PROBABILITIES_OUTPUT,
    TEXT_INPUT,
    Signature,
)
from timberline.registry.store import MODEL_FILE, Store

os.environ.update(NO_TELEMETRY)

# Of the gate's folder; ``*`` is the arm, or the number of an earlier version.
SCORED_FILES = "scored-*.parquet"
# As the exporter proves a graph; its bounds hold for any number of threads.
_THREADS = 2
_ERRORS_ONLY = 3

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Feeds = Mapping[str, npt.NDArray[Any]]
Answer = Callable[[Feeds], tuple[Floats, Integers]]


def name_scored(who: str) -> str:
    """The file's name for an arm, or for the number of an earlier version."""
    return SCORED_FILES.replace("*", who)


def map_classes(signature: Signature, onto: Signature) -> Integers:
    """For each class its index in ``onto``, found by its value; shape (classes,).

    Raises:
        EvidenceError: ``onto`` lacks one.
    """
    places = {label.value: index for index, label in enumerate(onto.classes)}
    missing = [label.value for label in signature.classes if label.value not in places]
    if missing:
        raise EvidenceError(f"the candidate lacks class {', '.join(missing)[:80]}", where="signature")
    return np.array([places[label.value] for label in signature.classes], np.int64)


def score_rows(
    store: Store, manifest: Manifest, rows: RawRows, chosen: Integers | None, onto: Signature, path: Path
) -> None:
    """Write the version's answers to the chosen rows, in the classes of ``onto``.

    Columns: row INT64, class_index and label_index INT16, p_0 to p_{C-1} FLOAT. A class that the version
    does not know has probability 0.

    Args:
        store: where the version is.
        manifest: the version.
        rows: what is asked.
        chosen: row numbers, ascending; None for all.
        onto: whose classes the indexes are of; the rows' own classes are such indexes already.
        path: the file to write.

    Raises:
        EvidenceError: the rows lack a column, the graph cannot be run, or ``onto`` lacks a class.
    """
    places, width = map_classes(manifest.signature, onto), len(onto.classes)
    columns = list_stored(manifest.signature.columns)
    answer = _open_graph(store, manifest)
    schema = pa.schema(
        [("row", pa.int64()), ("class_index", pa.int16()), ("label_index", pa.int16())]
        + [(f"p_{index}", pa.float32()) for index in range(width)]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in read_batches(rows, columns, manifest.version):
            table = pa.Table.from_batches([batch])
            if chosen is not None:
                table = table.filter(pa.array(_is_among(table[ROW_COLUMN].to_numpy(), chosen)))
            if not table.num_rows:
                continue
            probabilities, labels = answer(_make_feeds(table, columns))
            chances = np.zeros((table.num_rows, width), np.float32)
            chances[:, places] = probabilities  # (rows, its classes) → (rows, classes)
            values = [table[ROW_COLUMN], table[CLASS_COLUMN], places[labels], *chances.T]
            arrays = [_as_array(value, field.type) for value, field in zip(values, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def drop_chances(path: Path) -> None:
    """Keep rows, truth and labels of a file of answers."""
    table = pq.read_table(path, columns=["row", "class_index", "label_index"])
    pq.write_table(table, path, compression="zstd")


def _as_array(values: pa.ChunkedArray | npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    return values.cast(kind) if isinstance(values, pa.ChunkedArray) else pa.array(values, kind)


def _is_among(numbers: Integers, chosen: Integers) -> npt.NDArray[np.bool_]:
    """Whether each number is one of ``chosen``, which ascends."""
    if not chosen.size:
        return np.zeros(numbers.size, bool)
    places = np.minimum(np.searchsorted(chosen, numbers), chosen.size - 1)
    found: npt.NDArray[np.bool_] = chosen[places] == numbers
    return found


def _make_feeds(table: pa.Table, columns: Sequence[StoredColumn]) -> Feeds:
    """Raw columns → the graph's inputs: `numeric` float64 (rows, n) and `text` str (rows, k)."""
    numeric = [table[column.name] for column in columns if column.datatype != "BYTES"]
    text = [table[column.name] for column in columns if column.datatype == "BYTES"]
    feeds: dict[str, npt.NDArray[Any]] = {}
    if numeric:
        feeds[NUMERIC_INPUT] = np.stack([_as_numbers(values) for values in numeric], axis=1)
    if text:
        filled = [pc.fill_null(values, NULL_TEXT).to_numpy(zero_copy_only=False) for values in text]
        feeds[TEXT_INPUT] = np.stack(filled, axis=1).astype(object)
    return feeds


def _as_numbers(values: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """(rows,); NULL is NaN."""
    if values.type == pa.bool_():
        values = values.cast(pa.uint8())
    numbers: npt.NDArray[np.float64] = values.cast(pa.float64()).to_numpy()
    return numbers


def _open_graph(store: Store, manifest: Manifest) -> Answer:
    """The graph as a function; one that is quantised gets a row at a time, as in the service.

    Raises:
        EvidenceError: ONNX Runtime refuses it.
    """
    where = f"{manifest.model}@{manifest.version}"
    graph = store.open_version(manifest.model, manifest.version).read_file(MODEL_FILE)
    run = _load(graph, manifest, where)
    if manifest.precision != "int8":
        return run

    def run_each(feeds: Feeds) -> tuple[Floats, Integers]:
        count = len(next(iter(feeds.values())))
        parts = [run({name: feed[i : i + 1] for name, feed in feeds.items()}) for i in range(count)]
        return np.concatenate([p for p, _ in parts]), np.concatenate([labels for _, labels in parts])

    return run_each


def _load(model: bytes, manifest: Manifest, where: str) -> Answer:
    # Imported late: most gates compare stored answers and run no graph themselves.
    import onnxruntime  # noqa: PLC0415
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415

    onnxruntime.disable_telemetry_events()
    # They have no base class of their own; ValueError is for inputs of other names.
    refusals = (
        state.EPFail,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NotImplemented,
        state.RuntimeException,
        ValueError,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1 if manifest.precision == "int8" else _THREADS
    options.inter_op_num_threads = 1
    # Threads that wait in a loop double the processor time of so small a network.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except refusals as error:
        raise EvidenceError(f"ONNX Runtime refuses the graph: {error}", where=where) from error
    width = len(manifest.signature.classes)

    def run(feeds: Feeds) -> tuple[Floats, Integers]:
        try:
            probabilities, labels = session.run([PROBABILITIES_OUTPUT, LABEL_OUTPUT], dict(feeds))
        except refusals as error:
            raise EvidenceError(f"the graph does not answer: {error}", where=where) from error
        if probabilities.shape != (labels.size, width) or not 0 <= labels.min() <= labels.max() < width:
            raise EvidenceError(f"the graph does not answer with its {width} classes", where=where)
        return probabilities, labels

    return run
