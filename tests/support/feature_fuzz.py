"""Random features over random rows in DuckDB and in the graph; a disagreement shrinks to two lines.

``python -m tests.support.feature_fuzz --count 200000 --seed 1`` exits with 1 if there is one. Another DuckDB
is one that ``PYTHONPATH`` finds first.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import random
import secrets
import sys
import time
from collections.abc import Callable, Sequence

import duckdb
import numpy as np

from tests.support.feature_grammar import FEATURES, Node, draw, shrink
from tests.support.feature_parity import COLUMNS, FloatArray, Rows, compute_in_duckdb, compute_in_graph
from timberline.exporter.compiler.compile import build_feature_graph
from timberline.registry.moments import FIRST_DAY, LAST_DAY
from timberline.registry.runs import Fitted
from timberline.registry.signature import Column
from timberline.training.features import (
    Expression,
    Feature,
    FeatureError,
    FeatureProgram,
    ValueType,
    parse_features,
)
from timberline.training.features.learned import Learned

# Before 2.0 DuckDB refuses what has no finite answer, ln(0) or sqrt(-1), and 2.0 gives the IEEE 754 one.
_DOMAIN_ERRORS: tuple[type[Exception], ...] = (
    (duckdb.OutOfRangeException, duckdb.InvalidInputException) if duckdb.__version__ < "2" else ()
)
_BATCH = 30  # what shares a graph; the exporter's time grows with its square
_ROWS = 200
_EMPTY_EVERY = 10  # batches
_PART = 5_000  # after which it says how far it is
_DEPTH = 4
_OPSET = 20  # the first that has functions of text
_DAY_US = 86_400_000_000
_LARGEST = 2**53 - 1
# Of what is rounded: an ulp of 32 bits, and near zero the bound in docs/reference/features.md.
_ROUNDING, _NEAR_ZERO = 2**-23, 1e-15

_SMALL = (0, 1, -1, 2, 3, -3, 7, 10, -12, 100, 255, 1000, -4096, 1_000_000, -(2**22), 2**22)
_LARGE = (*_SMALL, 2**31 - 1, -(2**31), 2**40 + 1, _LARGEST, -_LARGEST)
_REAL = (0.0, -0.0, 0.5, -0.5, 1.0, -1.5, 2.5, 0.1, 0.49999999999999994, -0.75, 12.7, -99.99, 1e-8, 1234.5678)
_EXTREME = (
    *_REAL,
    -65536.0,
    1e10,
    2.0**53,
    1e150,
    -1e200,
    1.7976931348623157e308,
    5e-324,
    -2.2250738585072014e-308,
)
_DAYS = (
    0,
    1,
    -1,
    59,
    364,
    365,
    10_956,
    10_957,
    11_016,
    18_628,
    -25_509,
    FIRST_DAY,
    FIRST_DAY + 365,
    LAST_DAY,
)
_TIMES = (0, 1, -1, 999_999, 10_957 * _DAY_US, 11_016 * _DAY_US - 1, _LARGEST, -_LARGEST)
_TEXTS = (
    "red",
    "green",
    "blue",
    "",
    "Red",
    "RED",
    "ö",
    "Ö",
    "it's",
    " red ",
    "a,B",
    "a,b,c",
    "\n",
    "İ",
    "x" * 300,
)
# Of a feature that is text: not all that is drawn.
_VOCABULARY = ("red", "blue", "", "RED", "a", "B", "redred", "ö")
# What a constant may be fitted to.
_POOLS: dict[ValueType, Sequence[float | str]] = {
    ValueType.VARCHAR: _VOCABULARY,
    ValueType.BIGINT: _SMALL,
    ValueType.DOUBLE: _EXTREME,
}


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """One expression and one row of which the sides differ or one gives none, or DuckDB leaves the bounds.

    ``told`` says how.
    """

    node: Node
    row: Rows
    told: str
    is_domain_error: bool = False

    def __str__(self) -> str:
        values = {name: values[0] for name, values in self.row.items() if values}
        return f"SELECT {self.node.sql} AS f FROM raw\n  {self.told}, of {values}"


def draw_rows(generator: random.Random, count: int) -> dict[str, list[object]]:
    """Rows of `feature_grammar.COLUMNS`: with NULL, NaN, both zeros and the extremes of each type."""
    return {column.name: [_draw_value(generator, column) for _ in range(count)] for column in COLUMNS}


def _draw_value(generator: random.Random, column: Column) -> object:  # noqa: PLR0911  (one line a type)
    pick = generator.choice
    if column.is_nullable and generator.random() < 0.2:
        return pick([None, math.nan]) if column.datatype == "FP64" else None
    match column.moment or column.datatype:
        case "date":
            return pick([pick(_DAYS), generator.randrange(-40_000, 40_000)])
        case "timestamp":
            return pick([pick(_TIMES), generator.randrange(-_LARGEST, _LARGEST)])
        case "INT64":
            # Sums of `i` and `j` are one matrix product in the graph, exact up to 2**22 in any order.
            return pick(_SMALL if column.name in {"i", "j"} else _LARGE)
        case "FP64":
            return pick([pick(_EXTREME), generator.uniform(-100, 100)])
        case "BYTES":
            return pick(_TEXTS)
    return pick([False, True])


def read_feature(node: Node, name: str = "f") -> Feature | None:
    """The expression as a feature; None if it is refused as a constant is."""
    sql = f"SELECT {node.sql} AS {name} FROM raw"
    try:
        fitted = _draw_fitted(parse_features(sql, COLUMNS).learned, name)
        (feature,) = parse_features(sql, COLUMNS, fitted=fitted).features
    except FeatureError as error:
        if "is a constant" in error.what:
            return None
        raise AssertionError(f"{node.sql}: {error.what}") from error
    return feature


def _draw_fitted(calls: Sequence[Learned], name: str) -> Fitted:
    """What a training split could have taught, the same for the same calls."""
    constants: dict[str, float | str | None] = {}
    tables: dict[str, dict[str, float]] = {}
    for call in calls:
        pick = random.Random(call.key).choice
        if call.is_table:
            keys = _VOCABULARY if call.argument.type is ValueType.VARCHAR else map(str, _SMALL)
            tables[call.key] = {key: pick(_EXTREME) for key in keys}
            constants.update(call.constants(pick(_EXTREME), pick(_EXTREME)))
        else:
            constants[call.key] = pick(_POOLS[call.result_type])
    return Fitted(vocabularies={name: _VOCABULARY}, constants=constants, tables=tables)


def compute_both(features: Sequence[Feature], rows: Rows) -> tuple[FloatArray, FloatArray]:
    """The features as DuckDB and as the graph compute them; (rows, features)."""
    program = FeatureProgram(columns=COLUMNS, features=tuple(features))
    model = build_feature_graph(program, _OPSET)
    return compute_in_duckdb(program, rows), compute_in_graph(model, program, rows)


def differ(node: Node, expected: FloatArray, found: FloatArray) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """In which rows the two sides of one expression differ."""
    if node.is_rounded:
        same = np.isclose(found, expected, rtol=_ROUNDING, atol=_NEAR_ZERO, equal_nan=True)
    else:
        same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    return np.asarray(~same)


def leave_bounds(expression: Expression, values: FloatArray) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """In which rows a number is outside of what the graph was written for."""
    if not expression.type.is_number:
        return np.zeros(len(values), dtype=np.bool_)
    with np.errstate(over="ignore"):
        low, high = np.float32(expression.low), np.float32(expression.high)
    return np.asarray((values < low) | (values > high))


Compute = Callable[[Sequence[Feature], Rows], tuple[FloatArray, FloatArray]]


def find_disagreements(
    nodes: Sequence[Node], rows: Rows, compute: Compute = compute_both
) -> list[Disagreement]:
    """Of each expression that the two sides compute differently its first such row, as it was drawn."""
    known = [(node, feature) for node in nodes if (feature := read_feature(node)) is not None]
    if not known:
        return []
    named = [dataclasses.replace(feature, name=f"f{index}") for index, (_, feature) in enumerate(known)]
    try:
        expected, found = compute(named, rows)
    except Exception as error:  # whatever one side dies of is what is looked for
        if len(known) > 1:
            return [one for node, _ in known for one in find_disagreements([node], rows, compute)]
        lines = str(error).splitlines() or [""]
        told = f"{type(error).__name__}: {lines[0][:200]}"
        return [Disagreement(known[0][0], _take(rows, 0), told, isinstance(error, _DOMAIN_ERRORS))]
    disagreements = []
    for index, (node, feature) in enumerate(known):
        right, other = expected[:, index], found[:, index]
        wrong = np.flatnonzero(differ(node, right, other))
        outside = np.flatnonzero(leave_bounds(feature.expression, right))
        if wrong.size:
            told = f"DuckDB {float(right[wrong[0]])!r}, graph {float(other[wrong[0]])!r}"
            disagreements.append(Disagreement(node, _take(rows, int(wrong[0])), told))
        elif outside.size:
            low, high = feature.expression.low, feature.expression.high
            told = f"DuckDB {float(right[outside[0]])!r}, outside of {low!r} to {high!r}"
            disagreements.append(Disagreement(node, _take(rows, int(outside[0])), told))
    return disagreements


def _take(rows: Rows, at: int) -> Rows:
    return {name: list(values[at : at + 1]) for name, values in rows.items()}


def shrink_disagreement(first: Disagreement, compute: Compute = compute_both) -> Disagreement:
    """The smallest expression found that still disagrees on the row, and what it reads of that.

    One that agrees by itself, and disagrees only among others or other rows, stays as it was drawn.
    """
    current = next(iter(find_disagreements([first.node], first.row, compute)), None)
    found = first
    while current is not None:
        found = current
        smaller = (node for node in shrink(found.node) if node.size < found.node.size)
        wrong = (one for node in smaller for one in find_disagreements([node], first.row, compute))
        current = next(wrong, None)
    feature = read_feature(found.node)
    assert feature is not None
    read = FeatureProgram(columns=COLUMNS, features=(feature,)).read_names
    return dataclasses.replace(found, row={name: found.row[name] for name in found.row if name in read})


def fuzz(count: int, seed: str) -> tuple[int, list[Disagreement]]:
    """Draw ``count`` expressions in batches, each over rows of its own, and some over an empty table.

    Returns:
        How many were compared, and the disagreements of the first batch that has one, shrunk.
    """
    compared = 0
    for start in range(0, count, _BATCH):
        generator = random.Random(f"{seed}/{start}")
        size = min(_BATCH, count - start)
        nodes = [draw(generator, generator.choice(FEATURES), _DEPTH) for _ in range(size)]
        found = find_disagreements(nodes, draw_rows(generator, _ROWS))
        if start % (_EMPTY_EVERY * _BATCH) == 0:
            found += find_disagreements(nodes, draw_rows(generator, 0))
        disagreements = [one for one in found if not one.is_domain_error]
        compared += size - (len(found) - len(disagreements))
        if disagreements:
            return compared, [shrink_disagreement(one) for one in disagreements]
    return compared, []


def main() -> int:
    """Run and print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--seed", default=secrets.token_hex(4))
    arguments = parser.parse_args()
    start = time.monotonic()
    print(f"seed {arguments.seed}, DuckDB {duckdb.__version__}", flush=True)
    compared, disagreements = 0, list[Disagreement]()
    for part in range(0, arguments.count, _PART):
        count, disagreements = fuzz(min(_PART, arguments.count - part), f"{arguments.seed}.{part}")
        compared += count
        print(f"{compared} expressions in {time.monotonic() - start:.0f} s", flush=True)
        if disagreements:
            break
    for found in disagreements:
        print(found)
    print(f"{len(disagreements)} disagreements")
    return 1 if disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
