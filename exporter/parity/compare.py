"""Parity: how far the exported graph drifts from what was trained. Pure arithmetic on arrays.

Three tensors are compared, each within its own bound (`tolerances.toml` gives the reasons):

- ``features``: the graph's feature tensor against the same SQL run by DuckDB;
- ``probabilities``: the graph on raw rows against Keras on DuckDB's features;
- ``label``: the probability that Keras gives the graph's label, against Keras's best one. It is
  a different label only where the two best are further apart than the bound.

`rows.py` reads the rows, and `export.py` decides what follows from a break.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from timberline.exporter.errors import ParityInputError
from timberline.registry.manifest import ParityTensor, Precision
from timberline.registry.runtime.settings import load_settings
from timberline.registry.signature import FEATURES, LABEL_OUTPUT, PROBABILITIES_OUTPUT

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]

TOLERANCES = Path(__file__).with_name("tolerances.toml")
# Breaks kept per tensor; enough to see a pattern on one screen.
_WORST_COUNT = 5


class Tolerance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """|c - r| <= atol + rtol * |r|, and why these numbers; ``atol`` in units of the tensor."""

    atol: Annotated[float, msgspec.Meta(ge=0)]
    rtol: Annotated[float, msgspec.Meta(ge=0)]
    reason: Annotated[str, msgspec.Meta(min_length=20)]


class QuantisedTolerances(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bounds of a network of 8-bit integers; features are computed as in any other graph.

    ``golden_atol`` is how far another processor may be from the published probabilities.
    """

    probabilities: Tolerance
    label: Tolerance
    golden_atol: Annotated[float, msgspec.Meta(gt=0)]


class Tolerances(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bounds that an export has to keep, by tensor, and those of `precision` int8 in their place."""

    features: Tolerance
    probabilities: Tolerance
    label: Tolerance
    int8: QuantisedTolerances

    def choose(self, precision: Precision) -> Tolerances:
        """The bounds for a graph of this precision."""
        if precision == "float32":
            return self
        return msgspec.structs.replace(self, probabilities=self.int8.probabilities, label=self.int8.label)

    def by_tensor(self) -> dict[str, Tolerance]:
        """The bounds under the names of the tensors."""
        return {
            FEATURES: self.features,
            PROBABILITIES_OUTPUT: self.probabilities,
            LABEL_OUTPUT: self.label,
        }


class Break(msgspec.Struct, frozen=True, kw_only=True):
    """One element outside its bound: source row, tensor, name of the element's column, both values."""

    tensor: str
    row: int
    column: str
    reference: float
    candidate: float
    excess: float


class ParityFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor's parity in numbers."""

    rows: int
    worst_absolute_error: float
    worst_row: int
    breaking_rows: int


class TensorParity(ParityFigures, frozen=True, kw_only=True):
    """What was measured of one tensor; ``breaks`` are the worst few, worst first."""

    breaks: tuple[Break, ...]


ParityReport = dict[str, TensorParity]


def load_tolerances(path: Path = TOLERANCES) -> Tolerances:
    """Read the committed bounds.

    Raises:
        ConfigError: the file is not what `Tolerances` says, or a reason is missing.
    """
    return load_settings(path, Tolerances)


def compare_outputs(
    reference: Mapping[str, FloatArray],
    candidate: Mapping[str, FloatArray],
    bounds: Mapping[str, Tolerance],
    *,
    rows: IntArray,
    columns: Mapping[str, Sequence[str]],
) -> ParityReport:
    """Measure how far an exported graph drifts from the model it came from.

    An element passes when |c - r| <= atol + rtol * |r|. The bound is lopsided on purpose: the trained
    network (r) is the truth, the graph (c) is what is compared with it. NaN on both sides is equal; so are
    infinities of one sign.

    Args:
        reference: truth by tensor name; floating, shape (rows, n).
        candidate: the graph's tensors for the same rows, in the same row order.
        bounds: one a tensor.
        rows: source row numbers, shape (rows,); only for naming rows in the report.
        columns: by tensor, the n names of its second axis.

    Returns:
        Per tensor: worst absolute error, the source row it happened in, how many rows break the
        bound, and the worst breaks. No averages: a mean hides the one row that flipped class.
        Drift is a finding, not an exception; the caller decides.

    Raises:
        ParityInputError: names, dtypes or shapes differ, or only one side has NaN.

    Source: the inequality of ``numpy.isclose``, with its second argument as r.
    """
    if set(reference) != set(candidate):
        raise ParityInputError(
            f"tensors differ: expected {sorted(reference)}, the graph gives {sorted(candidate)}"
        )
    return {
        name: _compare_tensor(name, truth, candidate[name], bounds[name], rows, columns[name])
        for name, truth in reference.items()
    }


def merge_reports(first: ParityReport, second: ParityReport) -> ParityReport:
    """The report over the rows of both; for a table that is compared in chunks."""
    return {name: _merge_tensors(part, second[name]) for name, part in first.items()}


def keeps_bounds(report: ParityReport) -> bool:
    """Whether no row of any tensor breaks its bound."""
    return not any(part.breaking_rows for part in report.values())


def label_choice(probabilities: FloatArray, labels: IntArray) -> tuple[FloatArray, FloatArray]:
    """The truth's best probability a row, and the one it gives to ``labels``; both (rows, 1)."""
    best = probabilities.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(probabilities, labels.reshape(-1, 1), axis=1)
    return best, chosen  # (rows, 1) each


def manifest_parity(report: ParityReport, bounds: Mapping[str, Tolerance]) -> dict[str, ParityTensor]:
    """The report as the manifest keeps it."""
    return {
        name: ParityTensor(
            rows=part.rows,
            worst_absolute_error=part.worst_absolute_error,
            worst_row=part.worst_row,
            atol=bounds[name].atol,
            rtol=bounds[name].rtol,
        )
        for name, part in report.items()
    }


def _compare_tensor(
    name: str,
    truth: FloatArray,
    trial: FloatArray,
    bound: Tolerance,
    rows: IntArray,
    columns: Sequence[str],
) -> TensorParity:
    _check_inputs(name, truth, trial, rows, columns)
    reference = truth.astype(np.float64)
    # Equal values first: inf - inf and NaN - NaN are no error, but their difference is NaN.
    is_same = (truth == trial) | np.isnan(reference)
    error = np.zeros_like(reference)
    np.subtract(trial, reference, out=error, where=~is_same)
    np.abs(error, out=error)
    magnitude = np.where(np.isfinite(reference), np.abs(reference), 0.0)
    excess = error - (bound.atol + bound.rtol * magnitude)  # (rows, n); above 0 is a break
    worst = int(error.argmax()) // max(len(columns), 1) if error.size else 0
    per_row = excess.max(axis=1, initial=-np.inf)
    return TensorParity(
        rows=len(rows),
        worst_absolute_error=float(error.max(initial=0.0)),
        worst_row=int(rows[worst]) if len(rows) else -1,
        breaking_rows=int((per_row > 0).sum()),
        breaks=tuple(  # at most one a row, worst first
            Break(
                tensor=name,
                row=int(rows[row]),
                column=columns[column := int(excess[row].argmax())],
                reference=float(truth[row, column]),
                candidate=float(trial[row, column]),
                excess=float(per_row[row]),
            )
            for row in np.argsort(-per_row, kind="stable")[:_WORST_COUNT]
            if per_row[row] > 0
        ),
    )


def _check_inputs(
    name: str, truth: FloatArray, trial: FloatArray, rows: IntArray, columns: Sequence[str]
) -> None:
    shape = (len(rows), len(columns))
    if truth.shape != shape or trial.shape != shape:
        raise ParityInputError(
            f"shapes differ: expected {shape}, truth has {truth.shape}, the graph {trial.shape}", where=name
        )
    if truth.dtype != trial.dtype:
        raise ParityInputError(f"dtypes differ: truth {truth.dtype}, the graph {trial.dtype}", where=name)
    one_sided = np.argwhere(np.isnan(truth) != np.isnan(trial))
    if len(one_sided):
        row, column = one_sided[0]
        raise ParityInputError(
            f"only one side is NaN in {len(one_sided):,} places; first: {columns[column]} is "
            f"{truth[row, column]} in truth and {trial[row, column]} in the graph",
            where=f"{name}, source row {rows[row]}",
            hint="NULL has to mean the same on both sides.",
        )


def _merge_tensors(first: TensorParity, second: TensorParity) -> TensorParity:
    worst = second if second.worst_absolute_error > first.worst_absolute_error else first
    breaks = sorted((*first.breaks, *second.breaks), key=lambda item: -item.excess)
    return TensorParity(
        rows=first.rows + second.rows,
        worst_absolute_error=worst.worst_absolute_error,
        worst_row=worst.worst_row if worst.rows else max(first.worst_row, second.worst_row),
        breaking_rows=first.breaking_rows + second.breaking_rows,
        breaks=tuple(breaks[:_WORST_COUNT]),
    )
