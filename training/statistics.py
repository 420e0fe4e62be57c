"""Statistics of one column: every figure is the same for any order of the rows and number of threads.

Floating-point sums depend on their order, so sums are taken over 62-bit integers: each value is
moved to the middle of the column's range and scaled to [-1, 1] first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import duckdb

from registry.manifest import Histogram
from training.config import ColumnSection
from training.database import fetch_row, literal, quote
from training.profile import ColumnProfile

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
BINS = 20
MAX_CATEGORIES = 1000
_UNIT = 2**62
# Smallest and largest power of two that a column's half range is scaled by.
_MAX_EXPONENT = 1000


def profile_columns(
    connection: duckdb.DuckDBPyConnection, columns: Mapping[str, ColumnSection], relation: str
) -> dict[str, ColumnProfile]:
    """Profile each column of ``relation`` (the training split), in their order."""
    numbers = {name: column for name, column in columns.items() if column.type != "string"}
    profiles = _profile_numbers(connection, numbers, relation) if numbers else {}
    for name, column in columns.items():
        if column.type == "string":
            profiles[name] = _profile_text(connection, name, relation)
    return {name: profiles[name] for name in columns}


class _Number:
    """A numeric column: its range first, then the SQL of what is still to measure and its result."""

    def __init__(self, name: str, column: ColumnSection, nulls: int, low: float, high: float) -> None:
        self.name = name
        self.column = column
        self.nulls = nulls
        self.low = low
        self.high = high
        whole = column.type != "number"
        self.is_discrete = whole and high - low < BINS
        self.edges = _unit_edges(low, high) if self.is_discrete else _equal_edges(low, high)
        self.bounds = _upper_bounds(self.edges)
        self.middle = low / 2 + high / 2
        exponent = math.frexp(max(high - self.middle, self.middle - low))[1]
        self.scale = 2.0 ** min(max(-exponent, -_MAX_EXPONENT), _MAX_EXPONENT)

    def measures(self) -> list[str]:
        """The aggregates that `complete` needs, in its order."""
        value = f"CAST({quote(self.name)} AS DOUBLE)"
        bounds = f"[{', '.join(literal(bound) for bound in self.bounds)}]"
        histogram = f"histogram({value}, {bounds})"
        if self.is_discrete:
            return [histogram]
        scaled = f"(({value} - {literal(self.middle)}) * {literal(self.scale)})"
        shares = ", ".join(repr(share) for share in QUANTILES)
        return [
            histogram,
            f"sum(CAST({scaled} * {_UNIT}e0 AS BIGINT))",
            f"sum(CAST({scaled} * {scaled} * {_UNIT}e0 AS BIGINT))",
            f"quantile_disc({value}, [{shares}])",
        ]

    def complete(self, measured: Sequence[object]) -> ColumnProfile:
        """The column's profile from the values of `measures`."""
        found = measured[0]
        assert isinstance(found, dict)
        counts = tuple(int(found.get(bound, 0)) for bound in self.bounds)
        if self.is_discrete:
            values = [self.low + step for step in range(len(counts))]
            mean, std = _moments(values, counts)
            quantiles = [_quantile(values, counts, share) for share in QUANTILES]
        else:
            _, first, second, at = measured
            assert isinstance(at, list)
            mean, std = self._moments(int(str(first)), int(str(second)), sum(counts))
            quantiles = at
        return ColumnProfile(
            dtype=self.column.type,
            nulls=self.nulls,
            histogram=Histogram(counts=counts, edges=self.edges, nulls=self.nulls),
            minimum=self.low,
            maximum=self.high,
            mean=mean,
            std=std,
            quantiles={str(share): value for share, value in zip(QUANTILES, quantiles, strict=True)},
        )

    def _moments(self, first: int, second: int, count: int) -> tuple[float, float]:
        mean = Fraction(first, _UNIT * count)
        variance = max(Fraction(second, _UNIT * count) - mean * mean, Fraction(0))
        return self.middle + float(mean) / self.scale, math.sqrt(variance) / self.scale


def _profile_numbers(
    connection: duckdb.DuckDBPyConnection, columns: Mapping[str, ColumnSection], relation: str
) -> dict[str, ColumnProfile]:
    ranges = ", ".join(
        f"count(*) - count({value}), CAST(min({value}) AS DOUBLE), CAST(max({value}) AS DOUBLE)"
        for value in (_sortable(name, column) for name, column in columns.items())
    )
    found = iter(fetch_row(connection, f"SELECT {ranges} FROM {relation}"))
    profiles: dict[str, ColumnProfile] = {}
    numbers = []
    for name, column in columns.items():
        nulls, low, high = itertools.islice(found, 3)
        assert isinstance(nulls, int)
        if isinstance(low, float) and isinstance(high, float) and math.isfinite(high - low):
            numbers.append(_Number(name, column, nulls, low, high))
        else:
            # No value at all, or an infinite one that the checks tolerated: there is nothing to bin.
            empty = Histogram(counts=(0,), edges=(0.0, 1.0), nulls=nulls)
            profiles[name] = ColumnProfile(dtype=column.type, nulls=nulls, histogram=empty)
    measures = [number.measures() for number in numbers]
    if measures:
        wanted = ", ".join(itertools.chain.from_iterable(measures))
        values = iter(fetch_row(connection, f"SELECT {wanted} FROM {relation}"))
        for number, own in zip(numbers, measures, strict=True):
            profiles[number.name] = number.complete(list(itertools.islice(values, len(own))))
    return profiles


def _sortable(name: str, column: ColumnSection) -> str:
    return f"CAST({quote(name)} AS TINYINT)" if column.type == "boolean" else quote(name)


def _profile_text(connection: duckdb.DuckDBPyConnection, name: str, relation: str) -> ColumnProfile:
    column = quote(name)
    nulls, distinct = fetch_row(
        connection, f"SELECT count(*) - count({column}), count(DISTINCT {column}) FROM {relation}"
    )
    found = connection.execute(
        f"SELECT {column}, count(*) FROM {relation} WHERE {column} IS NOT NULL "
        f"GROUP BY {column} ORDER BY 2 DESC, 1 LIMIT {MAX_CATEGORIES}"
    ).fetchall()
    counts: dict[str, int] = dict(sorted(found))
    assert isinstance(nulls, int)
    assert isinstance(distinct, int)
    return ColumnProfile(
        dtype="string",
        nulls=nulls,
        histogram=Histogram(counts=tuple(counts.values()), categories=tuple(counts), nulls=nulls),
        categories=tuple(counts),
        distinct=distinct,
    )


def _unit_edges(low: float, high: float) -> tuple[float, ...]:
    """One bin a whole number."""
    return tuple(low - 0.5 + step for step in range(int(high - low) + 2))


def _equal_edges(low: float, high: float) -> tuple[float, ...]:
    """Bins of equal width, as many as DOUBLE can tell apart up to `BINS`."""
    for bins in (BINS, 1):
        inner = (low * (1 - step / bins) + high * (step / bins) for step in range(1, bins))
        edges = (low, *inner, max(high, math.nextafter(low, math.inf)))
        if all(a < b for a, b in itertools.pairwise(edges)):
            return edges
    raise AssertionError("one bin always has two edges")


def _upper_bounds(edges: Sequence[float]) -> tuple[float, ...]:
    """The largest value of each bin: bins are half-open, the last one is closed."""
    return (*(math.nextafter(edge, -math.inf) for edge in edges[1:-1]), edges[-1])


def _moments(values: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    total = sum(counts)
    mean = Fraction(sum(int(v) * n for v, n in zip(values, counts, strict=True)), total)
    squares = Fraction(sum(int(v) ** 2 * n for v, n in zip(values, counts, strict=True)), total)
    return float(mean), math.sqrt(squares - mean * mean)


def _quantile(values: Sequence[float], counts: Sequence[int], share: float) -> float:
    """As DuckDB's quantile_disc: the first value that at least ``share`` of the rows does not exceed."""
    needed = share * sum(counts)
    for value, reached in zip(values, itertools.accumulate(counts), strict=True):
        if reached >= needed and reached > 0:
            return value
    return values[-1]
