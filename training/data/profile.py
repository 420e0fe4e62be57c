"""profile.json: its shape, and the counts over whole rows in it (rows, classes, fingerprints, duplicates).

`training.data.statistics` measures the columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from timberline.registry.errors import StageError
from timberline.registry.manifest import Histogram
from timberline.registry.rows import count_and_sum, fingerprint, hash_fast
from timberline.registry.runtime.documents import decode_document
from timberline.registry.signature import ClassLabel, Column
from timberline.training.config import ColumnKind
from timberline.training.data.database import Connection, fetch_row
from timberline.training.data.splits import SPLIT_NAMES
from timberline.training.errors import DatasetError

PROFILE_SCHEMA_VERSION = 1


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table in a profile."""


class ColumnProfile(_Part, frozen=True, kw_only=True):
    """One raw input column over the training split.

    Numbers: ``std`` is that of the rows themselves (divided by n); ``quantiles`` maps a share to
    the value that at least this share of the rows does not exceed. Text: ``categories`` are the
    1,000 most frequent values in the order of their text, ``distinct`` counts all of them.
    """

    dtype: ColumnKind
    nulls: int
    histogram: Histogram
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None
    quantiles: dict[str, float] | None = None
    categories: tuple[str, ...] | None = None
    distinct: int | None = None


class Duplicates(_Part, frozen=True, kw_only=True):
    """Rows whose raw inputs are in more than one split; ``rows`` counts them by split.

    ``distinct_inputs`` counts the different inputs. Rows are compared by a 64-bit hash: among a
    million rows a false find has a chance of one in 30 million.
    """

    distinct_inputs: int
    rows: dict[str, int]


class Profile(_Part, frozen=True, kw_only=True):
    """What the prepared data are.

    ``classes`` is final: model.toml's, or those found in the data. ``class_counts`` are rows by
    split in class order. ``fingerprints`` identify the rows of ``source``, ``train``,
    ``validation`` and ``test`` whatever their order; they are comparable between runs of the same
    ``duckdb`` version. ``input_columns`` are the declared inputs with what training saw in them.
    """

    schema_version: int
    model: str
    duckdb: str
    classes: tuple[ClassLabel, ...]
    feature_names: tuple[str, ...]
    input_columns: tuple[Column, ...]
    rejected_lines: int
    rows: dict[str, int]
    class_counts: dict[str, tuple[int, ...]]
    fingerprints: dict[str, str]
    duplicates: Duplicates
    columns: dict[str, ColumnProfile]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the whole source."""
        return self.fingerprints["source"]

    @property
    def histograms(self) -> dict[str, Histogram]:
        """The histogram of each raw input column over the training split."""
        return {name: column.histogram for name, column in self.columns.items()}


def load_profile(path: Path) -> Profile:
    """Read ``profile.json``.

    Raises:
        StageError: there is none.
        DatasetError: it is damaged, or of another ``schema_version``.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise StageError("the data is not prepared", where=str(path), hint="Run `timberline etl`.") from None
    what, hint = "a profile", "Run `timberline etl` again."
    return decode_document(
        data, Profile, PROFILE_SCHEMA_VERSION, DatasetError, what=what, where=str(path), hint=hint
    )


@dataclass(frozen=True)
class SplitSummary:
    """What was counted, by split name."""

    rows: dict[str, int]
    class_counts: dict[str, tuple[int, ...]]
    fingerprints: dict[str, str]
    duplicates: Duplicates


def summarise_splits(
    connection: Connection,
    relation: str,
    *,
    class_count: int,
    columns: Iterable[str],
    inputs: Iterable[str],
) -> SplitSummary:
    """Count ``relation``, which has ``__class__`` and ``__split__``.

    Args:
        columns: what a fingerprint covers: every stored raw column.
        inputs: what makes two rows duplicates: the raw inputs, whatever their class.
    """
    counts = {name: [0] * class_count for name in SPLIT_NAMES}
    for split, index, rows in connection.execute(
        f"SELECT __split__, __class__, count(*) FROM {relation} GROUP BY ALL"
    ).fetchall():
        counts[SPLIT_NAMES[split]][index] = rows
    return SplitSummary(
        rows={name: sum(found) for name, found in counts.items()},
        class_counts={name: tuple(found) for name, found in counts.items()},
        fingerprints=_fingerprint_splits(connection, relation, columns),
        duplicates=_find_duplicates(connection, relation, inputs),
    )


def _fingerprint_splits(connection: Connection, relation: str, columns: Iterable[str]) -> dict[str, str]:
    found = connection.execute(
        f"SELECT __split__, {count_and_sum(columns)} FROM {relation} GROUP BY __split__"
    ).fetchall()
    sums = {SPLIT_NAMES[split]: (rows, int(total)) for split, rows, total in found}
    sums["source"] = (sum(rows for rows, _ in sums.values()), sum(total for _, total in sums.values()))
    return {name: fingerprint(rows, total) for name, (rows, total) in sums.items()}


def _find_duplicates(connection: Connection, relation: str, inputs: Iterable[str]) -> Duplicates:
    in_split = ", ".join(f"count_if(__split__ = {number}) AS n{number}" for number in range(3))
    held = " + ".join(f"CAST(n{number} > 0 AS INTEGER)" for number in range(3))
    totals = ", ".join(f"coalesce(sum(n{number}), 0)" for number in range(3))
    distinct, *rows = fetch_row(
        connection,
        f"SELECT count(*), {totals} FROM (SELECT {in_split} FROM {relation} "
        f"GROUP BY {hash_fast(inputs)}) WHERE {held} > 1",
    )
    return Duplicates(distinct_inputs=distinct, rows=dict(zip(SPLIT_NAMES, rows, strict=True)))
