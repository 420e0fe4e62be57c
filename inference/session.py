"""A loaded graph: raw rows in, label and probabilities out. Knows nothing of JSON or HTTP."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from timberline.inference.errors import SignatureMismatchError
from timberline.registry.runtime.logs import NO_TELEMETRY
from timberline.registry.signature import (
    CATEGORIES_OUTPUT,
    LABEL_OUTPUT,
    NULL_TEXT,
    NUMERIC_INPUT,
    PROBABILITIES_OUTPUT,
    TEXT_INPUT,
    Column,
    Signature,
    TensorSpec,
)

os.environ.update(NO_TELEMETRY)

import onnxruntime as ort

ort.disable_telemetry_events()  # alone it stops nothing, but it is the documented switch

# Of one Run. Over 10,000 rows of forest_cover one takes 190 MiB (`make bench-attacks`), and ONNX Runtime
# keeps what it once had.
_MOST_ROWS = 1024
# One raw row in the order of the signature's columns; None is NULL.
Row = Sequence[float | int | bool | str | None]

_DATATYPES = {
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(int64)": "INT64",
    "tensor(string)": "BYTES",
}
# Of its arena, and of C++.
_NO_MEMORY = re.compile("Failed to allocate memory|bad_alloc|bad allocation")


class Feed(NamedTuple):
    """Raw rows as the graph takes them; a tensor that the graph lacks is None."""

    numeric: npt.NDArray[np.float64] | None  # (rows, numeric columns); NULL is NaN
    text: npt.NDArray[np.object_] | None  # (rows, text columns) of str; NULL is NULL_TEXT

    @property
    def row_count(self) -> int:
        """Number of rows."""
        tensor = self.text if self.numeric is None else self.numeric
        return 0 if tensor is None else len(tensor)

    def cut(self, start: int, end: int) -> Feed:
        """The rows from ``start`` up to ``end``; they share memory with this."""
        numeric = None if self.numeric is None else self.numeric[start:end]
        return Feed(numeric, None if self.text is None else self.text[start:end])

    @classmethod
    def join(cls, feeds: Sequence[Feed]) -> Feed:
        """The rows of all feeds in order; all are of one signature."""
        if len(feeds) == 1:
            return feeds[0]
        numeric = [feed.numeric for feed in feeds if feed.numeric is not None]
        text = [feed.text for feed in feeds if feed.text is not None]
        return cls(np.concatenate(numeric) if numeric else None, np.concatenate(text) if text else None)


class Outputs(NamedTuple):
    """What the graph answers for some rows."""

    labels: npt.NDArray[np.int64]  # (rows,): index of the most probable class
    probabilities: npt.NDArray[np.float32]  # (rows, classes)
    # (rows, features that are text): their codes; None of a graph that has no such feature
    categories: npt.NDArray[np.int64] | None = None

    def cut(self, start: int, end: int) -> Outputs:
        """The answers from ``start`` up to ``end``; they share memory with these."""
        categories = None if self.categories is None else self.categories[start:end]
        return Outputs(self.labels[start:end], self.probabilities[start:end], categories)

    @classmethod
    def join(cls, parts: Sequence[Outputs]) -> Outputs:
        """All answers in order; all are of one graph."""
        labels = np.concatenate([part.labels for part in parts])
        probabilities = np.concatenate([part.probabilities for part in parts])
        categories = [part.categories for part in parts if part.categories is not None]
        return cls(labels, probabilities, np.concatenate(categories) if categories else None)


# Of one row: label index, probabilities, and the codes of the features that are text (None without any).
RowAnswer = tuple[int, tuple[float, ...], Sequence[int] | None]


class RowFeeder:
    """Makes tensors of rows whose values stand in column order.

    Packed rows take a third of the time of `numpy.array` or less, but rows with NULL cannot be packed.

    Args:
        columns: of the rows.
        packs: whether packing is tried first; where NULL is likely, that only costs time.
    """

    def __init__(self, columns: Sequence[Column], *, packs: bool = True) -> None:
        self._text = tuple(i for i, column in enumerate(columns) if column.datatype == "BYTES")
        self._numeric = tuple(i for i, column in enumerate(columns) if column.datatype != "BYTES")
        self._pack = struct.Struct(f"={len(self._numeric)}d").pack
        self._packs = packs
        self.has_text = bool(self._text)

    def feed(self, rows: Sequence[Row]) -> Feed:
        """The rows as tensors."""
        text = None
        if self._text:
            texts = [[NULL_TEXT if row[i] is None else row[i] for i in self._text] for row in rows]
            text = np.array(texts, dtype=object)  # (rows, text columns)
            if not self._numeric:
                return Feed(None, text)
            rows = [[row[i] for i in self._numeric] for row in rows]
        if self._packs:
            try:
                packed = b"".join([self._pack(*row) for row in rows])
                return Feed(np.frombuffer(packed).reshape(len(rows), -1), text)  # (rows, numeric columns)
            except struct.error:  # None is no number
                pass
        return Feed(np.array(rows, dtype=np.float64), text)  # None → NaN


class Session:
    """One graph in ONNX Runtime, on one thread a Run.

    A graph that is ``row_by_row`` takes scales over a whole tensor (dynamic quantisation), so several
    rows are run one after the other: no answer depends on the rows beside its own.

    ``run`` may be called from several threads at a time; ``run_row``, which answers one row at half the cost
    or less, works in fixed memory and belongs to the event loop's thread alone.

    Args:
        graph: its bytes.
        signature: columns, tensors and classes.
        where: names it in errors.
        row_by_row: whether rows are run one after the other.
        category_count: how many features are text; the graph then has the output `CATEGORIES_OUTPUT`.

    Raises:
        SignatureMismatchError: the bytes are no graph, or not one with this signature.
        MemoryError: it needs more memory than there is.
    """

    def __init__(
        self,
        graph: bytes,
        signature: Signature,
        *,
        where: str,
        row_by_row: bool = False,
        category_count: int = 0,
    ) -> None:
        self._is_row_by_row = row_by_row
        self._session = _open_session(graph, where)
        coded = describe_categories(category_count) if category_count else ()
        _check_graph(self._session, signature, coded, where)
        columns = signature.columns
        feeder = RowFeeder(columns, packs=not any(column.is_nullable for column in columns))
        self.feed_rows = feeder.feed
        self._output_names = [LABEL_OUTPUT, PROBABILITIES_OUTPUT, *(spec.name for spec in coded)]  # `Outputs`
        self.run_row: Callable[[Row], RowAnswer]
        if feeder.has_text or coded:  # text that is made of numbers alone is rare
            self.run_row = _FedRow(self._session, columns, self._output_names).run
        else:
            self.run_row = _BoundRow(self._session, len(columns), len(signature.classes)).run

    def run(self, feed: Feed) -> Outputs:
        """Run the graph over all rows of ``feed`` (at least one), some at a time."""
        step = 1 if self._is_row_by_row else _MOST_ROWS
        if feed.row_count <= step:
            return self._run(feed)
        parts = [self._run(feed.cut(start, start + step)) for start in range(0, feed.row_count, step)]
        return Outputs.join(parts)

    def _run(self, feed: Feed) -> Outputs:
        tensors: dict[str, npt.NDArray[Any]] = {}
        if feed.numeric is not None:
            tensors[NUMERIC_INPUT] = feed.numeric
        if feed.text is not None:
            tensors[TEXT_INPUT] = feed.text
        return Outputs(*self._session.run(self._output_names, tensors))


class _BoundRow:
    """Input and output memory for one row, bound once, so that a Run copies and checks nothing."""

    def __init__(self, session: Any, columns: int, classes: int) -> None:
        self._binding = session.io_binding()
        # The public method asks at every call whether a graph is captured on a GPU; a twentieth of a Run.
        self._run = partial(session._sess.run_with_iobinding, self._binding._iobinding, None)
        self._input = np.zeros((1, columns), dtype=np.float64)
        self._probabilities = np.zeros((1, classes), dtype=np.float32)
        self._label = np.zeros(1, dtype=np.int64)
        self._binding.bind_cpu_input(NUMERIC_INPUT, self._input)
        for name, array in ((PROBABILITIES_OUTPUT, self._probabilities), (LABEL_OUTPUT, self._label)):
            self._binding.bind_output(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
        self._input_bytes = self._input.data.cast("B")
        self._output_bytes = self._probabilities.data.cast("B")
        self._label_view = self._label.data
        self._pack = struct.Struct(f"={columns}d").pack_into
        self._unpack = struct.Struct(f"={classes}f").unpack

    def run(self, row: Row) -> RowAnswer:
        """The answer to one row; the answer is copied out before the next row overwrites it."""
        try:
            self._pack(self._input_bytes, 0, *row)
        except struct.error:  # None is no number; NULL is NaN on this side
            self._pack(self._input_bytes, 0, *[float("nan") if value is None else value for value in row])
        self._run()
        return self._label_view[0], self._unpack(self._output_bytes), None


class _FedRow:
    """Input memory for one row with text, which ONNX Runtime cannot bind: it is at least not made anew."""

    def __init__(self, session: Any, columns: Sequence[Column], output_names: Sequence[str]) -> None:
        self._run = partial(session._sess.run, output_names)  # as in `_BoundRow`
        text = [i for i, column in enumerate(columns) if column.datatype == "BYTES"]
        numeric = [i for i, column in enumerate(columns) if column.datatype != "BYTES"]
        self._choose_text, self._choose_numeric = _choose(text), _choose(numeric)
        self._text = np.empty((1, len(text)), dtype=np.object_)
        self._numeric = np.zeros((1, len(numeric)), dtype=np.float64)
        self._numeric_view = self._numeric.data
        self._pack = struct.Struct(f"={len(numeric)}d").pack_into
        self._feed = {
            name: tensor
            for name, tensor in ((NUMERIC_INPUT, self._numeric), (TEXT_INPUT, self._text))
            if tensor.size
        }

    def run(self, row: Row) -> RowAnswer:
        """The answer to one row."""
        texts, numbers = self._choose_text(row), self._choose_numeric(row)
        self._text[0] = [NULL_TEXT if text is None else text for text in texts] if None in texts else texts
        try:
            self._pack(self._numeric_view, 0, *numbers)
        except struct.error:  # None is no number; NULL is NaN on this side
            self._numeric[0] = numbers
        labels, probabilities, *categories = self._run(self._feed, None)
        codes = categories[0][0].tolist() if categories else None
        return int(labels[0]), tuple(probabilities[0].tolist()), codes


def _choose(indexes: Sequence[int]) -> Callable[[Row], Sequence[Any]]:
    """What takes these values out of a row."""
    if len(indexes) > 1:
        return itemgetter(*indexes)
    return lambda row: tuple([row[index] for index in indexes])


def _open_session(graph: bytes, where: str) -> Any:
    """A session over the very bytes whose digest was checked.

    From bytes and not from a path: the file cannot change between check and load. Weights in files
    of their own, which no digest covers, are refused: of a graph in memory they would be looked for
    in the working directory (seen with 1.31), so their folder is set to what is no folder.
    """
    options = ort.SessionOptions()
    # A table's row is too little work to share: more threads make single rows slower, and spinning
    # takes the processor from the event loop. Large requests run beside each other instead.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    options.log_severity_level = 3  # errors only; warnings about fused nodes help no operator
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the binding's exceptions have no base of their own
        first = str(error).partition("\n")[0][:300]
        if is_out_of_memory(error):
            raise MemoryError(first) from error
        raise SignatureMismatchError(
            f"ONNX Runtime cannot load the graph: {first}", where=where, hint="Export the model again."
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether ONNX Runtime failed because it got no memory; its exception says so in words only."""
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def describe_categories(count: int) -> tuple[TensorSpec]:
    """The output that has the codes of so many features; no signature names it."""
    return (TensorSpec(name=CATEGORIES_OUTPUT, datatype="INT64", shape=(-1, count)),)


def _check_graph(session: Any, signature: Signature, coded: Sequence[TensorSpec], where: str) -> None:
    _check_tensors("inputs", session.get_inputs(), signature.inputs, where)
    outputs = {tensor.name: tensor for tensor in session.get_outputs()}
    expected = (*signature.outputs, *coded)
    named = [outputs[spec.name] for spec in expected if spec.name in outputs]
    _check_tensors("outputs", named, expected, where)


def _check_tensors(side: str, found: Sequence[Any], expected: Sequence[TensorSpec], where: str) -> None:
    wanted = {spec.name: (spec.datatype, spec.shape) for spec in expected}
    have = {
        tensor.name: (
            _DATATYPES.get(tensor.type, tensor.type),
            tuple(axis if isinstance(axis, int) else -1 for axis in tensor.shape),
        )
        for tensor in found
    }
    if have != wanted:
        raise SignatureMismatchError(
            f"the graph's {side} are {_show(have)}, the manifest says {_show(wanted)}",
            where=where,
            hint="The version was not published by this program's exporter; export it again.",
        )


def _show(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    return (
        ", ".join(f"{name} {kind}{list(shape)}" for name, (kind, shape) in sorted(tensors.items())) or "none"
    )
