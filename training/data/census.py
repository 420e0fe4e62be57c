"""Counts over whole rows: rows and classes by split, fingerprints, inputs that stand in two splits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import duckdb

from timberline.registry.rows import count_and_sum, fingerprint, hash_fast
from timberline.training.data.database import fetch_row
from timberline.training.data.profile import Duplicates
from timberline.training.data.splits import SPLIT_NAMES


@dataclass(frozen=True)
class Census:
    """What was counted, by split name."""

    rows: dict[str, int]
    class_counts: dict[str, tuple[int, ...]]
    fingerprints: dict[str, str]
    duplicates: Duplicates


def take_census(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    *,
    class_count: int,
    columns: Iterable[str],
    inputs: Iterable[str],
) -> Census:
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
    return Census(
        rows={name: sum(found) for name, found in counts.items()},
        class_counts={name: tuple(found) for name, found in counts.items()},
        fingerprints=_fingerprint_splits(connection, relation, columns),
        duplicates=_find_duplicates(connection, relation, inputs),
    )


def _fingerprint_splits(
    connection: duckdb.DuckDBPyConnection, relation: str, columns: Iterable[str]
) -> dict[str, str]:
    found = connection.execute(
        f"SELECT __split__, {count_and_sum(columns)} FROM {relation} GROUP BY __split__"
    ).fetchall()
    sums = {SPLIT_NAMES[split]: (rows, int(total)) for split, rows, total in found}
    sums["source"] = (sum(rows for rows, _ in sums.values()), sum(total for _, total in sums.values()))
    return {name: fingerprint(rows, total) for name, (rows, total) in sums.items()}


def _find_duplicates(
    connection: duckdb.DuckDBPyConnection, relation: str, inputs: Iterable[str]
) -> Duplicates:
    in_split = ", ".join(f"count_if(__split__ = {number}) AS n{number}" for number in range(3))
    held = " + ".join(f"CAST(n{number} > 0 AS INTEGER)" for number in range(3))
    totals = ", ".join(f"coalesce(sum(n{number}), 0)" for number in range(3))
    distinct, *rows = fetch_row(
        connection,
        f"SELECT count(*), {totals} FROM (SELECT {in_split} FROM {relation} "
        f"GROUP BY {hash_fast(inputs)}) WHERE {held} > 1",
    )
    counts = (int(str(count)) for count in rows)
    return Duplicates(distinct_inputs=int(str(distinct)), rows=dict(zip(SPLIT_NAMES, counts, strict=True)))
