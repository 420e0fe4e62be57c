"""What goes into a model and what comes out: raw columns, graph tensors, classes.

A *column* is one named raw value of a row, as a client sends it. The graph takes the columns in
at most two tensors, so that a single row costs one feed and not one a column:

- ``numeric``: FP64, shape (rows, numeric columns): every FP64, INT64 and BOOL column in order;
  FP64 because a raw integer or threshold must not move by rounding before the features see it.
- ``text``: BYTES, shape (rows, text columns): every BYTES column in order.

NULL is NaN in ``numeric`` and ``NULL_TEXT`` in ``text``.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

# Names of datatypes are those of the Open Inference Protocol.
ColumnType = Literal["FP64", "INT64", "BOOL", "BYTES"]
TensorType = Literal["FP32", "FP64", "INT64", "BYTES"]

NUMERIC_INPUT = "numeric"
TEXT_INPUT = "text"
FEATURES = "features"
PROBABILITIES_OUTPUT = "probabilities"
LABEL_OUTPUT = "label"

# U+0000 cannot stand in a CSV or JSON value that passed the checks, so it cannot be a real value.
NULL_TEXT = "\x00"

# A date is the days since 1970-01-01, a timestamp the microseconds since then in UTC; the graph takes either
# as a whole number.
Moment = Literal["date", "timestamp"]
# Of each row and each feature that is a category, its code. The service reads it to find unknown values.
CATEGORIES_OUTPUT = "categories"
# Those codes: the training values follow these in the order of `registry.runs.Fitted.vocabularies`.
UNKNOWN_CODE, NULL_CODE, FIRST_CODE = 0, 1, 2


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tensor of the graph; -1 in ``shape`` is a free axis."""

    name: str
    datatype: TensorType
    shape: tuple[int, ...]


class Column(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One raw column of a row, as clients send it.

    ``minimum``/``maximum`` (numbers) and ``categories`` (text) are what training saw, not what is
    allowed. ``default`` None means that the column is required (or, if ``is_nullable``, that it
    may be left out and is then NULL).

    A column with ``moment`` is INT64 (see `Moment`); clients send it as ISO 8601 text, or as a number: days
    of a date, seconds of a timestamp. ``time_format`` is how the training files write it, in the letters of
    strptime; None is ISO 8601.
    """

    name: str
    datatype: ColumnType
    default: float | int | bool | str | None = None
    is_nullable: bool = False
    unit: str | None = None
    description: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] | None = None
    moment: Moment | None = None
    time_format: str | None = None

    @property
    def may_be_absent(self) -> bool:
        """Whether a row may leave it out: it then has its default, or is NULL."""
        return self.default is not None or self.is_nullable


class ClassLabel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One class: ``value`` as it stands in the data (as a string), ``label`` for people."""

    value: str
    label: str


Thousands = Literal["", ",", ".", " ", "'", "_"]
# Why the graph does not read a column of the training table: no feature needs it, or it is no input at all.
UnreadRole = Literal["input", "key", "target", "ignored"]


class SourceTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the files that a version was trained from look like, so that a service reads such rows too.

    All but ``columns`` and ``unread``, the columns beside the signature's, are ``[etl]``'s in model.toml, by
    the same names: a field that is exactly one of ``null_text`` is NULL, in quotes or not. ``true_text`` and
    ``false_text`` are the words of the boolean columns; none are those that DuckDB knows. Without
    ``header`` all columns of a file stand in the order of ``columns``, which is empty with one.
    """

    delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=4)] = ","
    decimal: Literal[".", ","] = "."
    thousands: Thousands = ""
    escape: Literal['"', "\\"] = '"'
    header: bool = True
    columns: tuple[str, ...] = ()
    skip_lines: Annotated[int, msgspec.Meta(ge=0)] = 0
    comment: Annotated[str, msgspec.Meta(max_length=1)] = ""
    null_text: tuple[str, ...] = ("",)
    true_text: tuple[str, ...] = ()
    false_text: tuple[str, ...] = ()
    unread: dict[str, UnreadRole] = {}

    @property
    def null_field(self) -> str | None:
        """What to write for NULL in a field of CSV; None where nothing stands for it."""
        return "" if "" in self.null_text else next(iter(self.null_text), None)


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Raw columns in order, the graph's tensors, and the classes in the order of the probabilities.

    Outputs are ``probabilities`` (FP32, (rows, classes)) and ``label`` (INT64, (rows,): the index
    of the most probable class).
    """

    columns: tuple[Column, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    classes: tuple[ClassLabel, ...]


def build_signature(columns: tuple[Column, ...], classes: tuple[ClassLabel, ...]) -> Signature:
    """The signature of a graph over these raw columns and classes; a tensor with no column is left out."""
    numeric = sum(column.datatype != "BYTES" for column in columns)
    inputs = []
    if numeric:
        inputs.append(TensorSpec(name=NUMERIC_INPUT, datatype="FP64", shape=(-1, numeric)))
    if numeric < len(columns):
        shape = (-1, len(columns) - numeric)
        inputs.append(TensorSpec(name=TEXT_INPUT, datatype="BYTES", shape=shape))
    outputs = (
        TensorSpec(name=PROBABILITIES_OUTPUT, datatype="FP32", shape=(-1, len(classes))),
        TensorSpec(name=LABEL_OUTPUT, datatype="INT64", shape=(-1,)),
    )
    return Signature(columns=columns, inputs=tuple(inputs), outputs=outputs, classes=classes)
