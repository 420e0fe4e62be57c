"""Statistics of one column: every figure is the same for any order of the rows and number of threads.

Floating-point sums depend on their order, so sums are taken over 62-bit integers: each value is
moved to the middle of the column's range and scaled to [-1, 1] first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from timberline.registry.manifest import Histogram
from timberline.registry.rows import quote
from timberline.registry.runtime.progress import Progress
from timberline.training.config import ColumnSection
from timberline.training.data.database import (
    STATEMENT_COLUMNS,
    Connection,
    fetch_aggregates,
    fetch_row,
    literal,
    parse_bytes,
)
from timberline.training.data.profile import ColumnProfile

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
BINS = 20
MAX_CATEGORIES = 1000
_UNIT = 2**62
_LARGEST_HALF = 2**52
# A sorted copy of a column takes 8 bytes a value, and up to twice that while the threads' copies are joined.
_BYTES_PER_VALUE = 16
# Bins in which values are counted to find their ranks: few rows share one, and 4,096 counts are small.
_RANK_BINS = 4096
# Powers of two that a column's half range is scaled by: the widest needs the first.
_MIN_EXPONENT, _MAX_EXPONENT = -1024, 1000


def profile_columns(
    connection: Connection,
    columns: Mapping[str, ColumnSection],
    relation: str,
    *,
    statement_columns: int = STATEMENT_COLUMNS,
    held_values: int | None = None,
    progress: Progress | None = None,
) -> dict[str, ColumnProfile]:
    """Profile each column of ``relation``, the training split, in their order.

    Args:
        relation: what follows FROM: a table, or one with a WHERE.
        statement_columns: columns in one statement, at most; the profile does not depend on it.
        held_values: values of which memory may hold so many at once; by default what the database's
            memory allows. The profile does not depend on it.
        progress: shows a step that has `count_parts` parts.
    """
    profiler = _Profiler(
        connection, relation, statement_columns, held_values or _fitting(connection), progress
    )
    numbers = {name: column for name, column in columns.items() if column.type != "string"}
    profiles = profiler.profile_numbers(numbers)
    for name, column in columns.items():
        if column.type == "string":
            profiles[name] = profiler.profile_text(name)
    return {name: profiles[name] for name in columns}


def count_parts(columns: Mapping[str, ColumnSection]) -> int:
    """The parts of `profile_columns` for `Progress`: numbers are gone through twice."""
    return sum(1 if column.type == "string" else 2 for column in columns.values())


def _fitting(connection: Connection) -> int:
    """How many values quantile_disc, which never spills, may hold in half of the database's memory."""
    limit = parse_bytes(fetch_row(connection, "SELECT current_setting('memory_limit')")[0])
    return limit // 2 // _BYTES_PER_VALUE


class _Number:
    """A numeric column: its range first, then the SQL of what is still to measure and its result."""

    def __init__(self, name: str, column: ColumnSection, nulls: int, low: float, high: float) -> None:
        self.name = name
        self.value = f"CAST({quote(name)} AS DOUBLE)"
        self.column = column
        self.nulls = nulls
        self.low = low
        self.high = high
        # Beyond, there is no number half way between two that could be an edge.
        has_halves = column.type != "number" and max(abs(low), abs(high)) < _LARGEST_HALF
        self.is_discrete = has_halves and high - low < BINS
        self.edges = _unit_edges(low, high) if self.is_discrete else _equal_edges(low, high)
        self.bounds = _upper_bounds(self.edges)
        self.middle = low / 2 + high / 2
        exponent = math.frexp(max(high - self.middle, self.middle - low))[1]
        self.scale = 2.0 ** min(max(-exponent, _MIN_EXPONENT), _MAX_EXPONENT)

    def measures(self) -> list[str]:
        """The aggregates that `complete` needs, in its order."""
        value = self.value
        bounds = f"[{', '.join(literal(bound) for bound in self.bounds)}]"
        histogram = f"histogram({value}, {bounds})"
        if self.is_discrete:
            return [histogram]
        scaled = f"(({value} - {literal(self.middle)}) * {literal(self.scale)})"
        return [
            histogram,
            f"sum(CAST({scaled} * {_UNIT}e0 AS BIGINT))",
            f"sum(CAST({scaled} * {scaled} * {_UNIT}e0 AS BIGINT))",
        ]

    def quantiles(self) -> str:
        """The aggregate that gives the value at each of `QUANTILES`; it holds every value in memory."""
        return f"quantile_disc({self.value}, [{', '.join(repr(share) for share in QUANTILES)}])"

    def complete(self, measured: Sequence[Any]) -> ColumnProfile:
        """The column's profile from the values of `measures` and, if not discrete, of `quantiles`."""
        counts = tuple(int(measured[0].get(bound, 0)) for bound in self.bounds)
        if self.is_discrete:
            values = [self.low + step for step in range(len(counts))]
            mean, std = _moments(values, counts)
            quantiles = [_quantile(values, counts, share) for share in QUANTILES]
        else:
            _, first, second, quantiles = measured
            mean, std = self._moments(first, second, sum(counts))
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


@dataclass(frozen=True)
class _Profiler:
    """The statements over one relation."""

    connection: Connection
    relation: str
    statement_columns: int
    held_values: int
    progress: Progress | None

    def profile_numbers(self, columns: Mapping[str, ColumnSection]) -> dict[str, ColumnProfile]:
        """Ranges first, since the bins depend on them; then what is measured within them."""
        ranges = [
            [f"count(*) - count({value})", f"CAST(min({value}) AS DOUBLE)", f"CAST(max({value}) AS DOUBLE)"]
            for value in (_sortable(name, column) for name, column in columns.items())
        ]
        profiles: dict[str, ColumnProfile] = {}
        numbers: list[_Number] = []
        for (name, column), (nulls, low, high) in zip(columns.items(), self._fetch(ranges), strict=True):
            if low is not None and math.isfinite(high - low):
                numbers.append(_Number(name, column, nulls, low, high))
            else:
                # No value at all, or an infinite one that the checks tolerated: there is nothing to bin.
                empty = Histogram(counts=(0,), edges=(0.0, 1.0), nulls=nulls)
                profiles[name] = ColumnProfile(dtype=column.type, nulls=nulls, histogram=empty)
        profiles |= self._profile_discrete([number for number in numbers if number.is_discrete])
        return profiles | self._profile_spread([number for number in numbers if not number.is_discrete])

    def _profile_discrete(self, numbers: Sequence[_Number]) -> dict[str, ColumnProfile]:
        measured = self._fetch([number.measures() for number in numbers])
        return {number.name: number.complete(own) for number, own in zip(numbers, measured, strict=True)}

    def _profile_spread(self, numbers: Sequence[_Number]) -> dict[str, ColumnProfile]:
        """Columns that need quantiles: together in a statement are as many as memory holds the values of."""
        if not numbers:
            return {}
        rows = fetch_row(self.connection, f"SELECT count(*) FROM {self.relation}")[0]
        held_columns = self.held_values // rows
        if held_columns:
            wanted = [[*number.measures(), number.quantiles()] for number in numbers]
            measured = self._fetch(wanted, min(held_columns, self.statement_columns))
        else:
            measured = [
                (*own, self._find_quantiles(number, rows - number.nulls))
                for number, own in zip(
                    numbers, self._fetch([number.measures() for number in numbers]), strict=True
                )
            ]
        return {number.name: number.complete(own) for number, own in zip(numbers, measured, strict=True)}

    def _fetch(
        self, wanted: Sequence[Sequence[str]], statement_columns: int | None = None
    ) -> list[tuple[Any, ...]]:
        return fetch_aggregates(
            self.connection,
            wanted,
            self.relation,
            statement_columns=statement_columns or self.statement_columns,
            progress=self.progress,
        )

    def _find_quantiles(self, number: _Number, count: int) -> list[float]:
        """What quantile_disc gives for ``count`` values, in statements that spill.

        The values are counted in narrow bins; then those of the bins that hold a wanted rank are
        counted one by one.
        """
        ranks = [_rank(share, count) for share in QUANTILES]
        width = (number.high / _RANK_BINS - number.low / _RANK_BINS) or 1.0
        position = f"floor(({number.value} - {literal(number.low)}) / {literal(width)})"
        binned = (
            f"SELECT {number.value} AS value, CAST(least({position}, {_RANK_BINS - 1}) AS INTEGER) AS bin "
            f"FROM {self.relation}"
        )
        bins = self.connection.execute(
            f"SELECT bin, count(*) FROM ({binned}) WHERE value IS NOT NULL GROUP BY bin ORDER BY bin"
        ).fetchall()
        before, befores = 0, {}
        for index, size in bins:
            if any(before < rank <= before + size for rank in ranks):
                befores[index] = before
            before += size
        offset = f"CASE bin {' '.join(f'WHEN {index} THEN {rows}' for index, rows in befores.items())} END"
        is_wanted = " OR ".join(f"{rank} BETWEEN upto - size + 1 AND upto" for rank in ranks)
        found = self.connection.execute(f"""
            SELECT value, upto FROM (
                SELECT value, size, {offset} + sum(size) OVER (PARTITION BY bin ORDER BY value) AS upto
                FROM (
                    SELECT bin, value, count(*) AS size FROM ({binned})
                    WHERE bin IN ({", ".join(map(str, befores))}) GROUP BY bin, value
                )
            )
            WHERE {is_wanted} ORDER BY upto
        """).fetchall()
        return [next(value for value, upto in found if rank <= upto) for rank in ranks]

    def profile_text(self, name: str) -> ColumnProfile:
        """Rows by value, of the most frequent values, and how many there are."""
        column = quote(name)
        if self.progress is not None:
            self.progress.begin_part()
        nulls, distinct = fetch_row(
            self.connection,
            f"SELECT count(*) - count({column}), count(DISTINCT {column}) FROM {self.relation}",
        )
        found = self.connection.execute(
            f"SELECT {column}, count(*) FROM (SELECT {column} FROM {self.relation}) "
            f"WHERE {column} IS NOT NULL GROUP BY {column} "
            f"ORDER BY 2 DESC, 1 LIMIT {MAX_CATEGORIES}"
        ).fetchall()
        counts: dict[str, int] = dict(sorted(found))
        return ColumnProfile(
            dtype="string",
            nulls=nulls,
            histogram=Histogram(counts=tuple(counts.values()), categories=tuple(counts), nulls=nulls),
            categories=tuple(counts),
            distinct=distinct,
        )


def _sortable(name: str, column: ColumnSection) -> str:
    return f"CAST({quote(name)} AS TINYINT)" if column.type == "boolean" else quote(name)


def _rank(share: float, count: int) -> int:
    """The 1-based place of a quantile among ``count`` sorted values, as quantile_disc rounds it."""
    return max(1, math.ceil(Fraction(repr(share)) * count))


def _unit_edges(low: float, high: float) -> tuple[float, ...]:
    """One bin a whole number."""
    return tuple(low - 0.5 + step for step in range(int(high - low) + 2))


def _equal_edges(low: float, high: float) -> tuple[float, ...]:
    """Bins of equal width, as many as DOUBLE can distinguish, up to `BINS`."""
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
