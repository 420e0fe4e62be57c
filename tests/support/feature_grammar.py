"""Random expressions of the feature language, by type: what a grammar of forms can say, and smaller versions.

A form is SQL with holes that are types: ``({number} + {number})``. A new function is a form of the type that
it gives; a new type is a key of `FORMS` and of `LEAVES`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

_PARTS = ("year", "quarter", "month", "day", "dayofyear", "dayofweek", "isodow", "week", "isoyear")
_TIME_PARTS = ("hour", "minute", "second")
_STEPS = ("year", "quarter", "month", "week", "day", "hour", "minute", "second")
_COMPARISONS = ("=", "<>", "<", "<=", ">", ">=")

LEAVES: dict[str, tuple[str, ...]] = {
    "whole": ("i", "j", "n", "i", "n", "0", "1", "2", "-3", "10", "255", "1000000"),
    "number": ("x", "y", "x", "y", "x", "y", "1.00000001", "0.5", "-1.5", "0.1", "1e6", "1e-300", "NULL"),
    "condition": ("b", "c", "true", "NULL"),
    "text": ("t", "u"),
    "word": (
        "'red'",
        "'blue'",
        "''",
        "'it''s'",
        "'no such'",
        "'ö'",
        "'RED'",
        "' red '",
        "'a,B'",
        "'r'",
        "'redred'",
        "fitted.mode(t)",
        "fitted.mode(lower(u))",
    ),
    "pattern": ("'%e%'", "'r_d'", "'%'", "'_'", "''", "'R%'", "'%,%'", "'%d'"),
    "regex": ("'r.d|blue'", "'[a-z]*'", "''", "'.*e.*'", "'(?i)R[E]d'", "'\\\\W+'"),
    "count": ("1", "2", "3", "40"),
    "place": ("1", "2", "3", "-1", "-2"),
    "date": ("d", "e", "d", "e", "DATE '2000-02-29'", "DATE '1970-01-01'", "DATE '0001-01-01'"),
    "timestamp": (
        "p",
        "q",
        "p",
        "q",
        "TIMESTAMP '2000-02-29 12:00:00'",
        "TIMESTAMP '1969-12-31 23:59:59.999999'",
    ),
    "day_text": ("'2000-01-01'", "'1969-12-31'", "'2100-12-31'", "NULL"),
    "days": ("1", "-1", "30", "-800000", "60000000", "i", "n"),
    "shift": ("0", "1", "7", "31"),
    # What is learned is over: no call of it stands inside of another.
    "sample": ("x", "y", "n", "abs(x)"),
    "integers": ("i", "n", "(i % 7)"),
    "categories": ("i", "n", "(i % 7)", "t", "u", "trim(u)"),
}


def _choices(kind: str) -> list[str]:
    """Forms that choose between values of one type."""
    chosen = "{" + kind + "}"
    return [
        f"coalesce({chosen}, {chosen})",
        f"if({{condition}}, {chosen}, {chosen})",
        f"CASE WHEN {{condition}} THEN {chosen} WHEN {{condition}} THEN {chosen} END",
        f"CASE WHEN {{condition}} THEN {chosen} ELSE {chosen} END",
    ]


def _order(kind: str) -> list[str]:
    """Conditions about two values of one type that has an order."""
    value = "{" + kind + "}"
    return [
        *(f"({value} {comparison} {value})" for comparison in _COMPARISONS),
        f"({value} BETWEEN {value} AND {value})",
        f"({value} IN ({value}, {value}))",
        f"({value} IS DISTINCT FROM {value})",
    ]


FORMS: dict[str, list[str]] = {
    "whole": [
        *(f"({{whole}} {operator} {{whole}})" for operator in ("+", "-", "*", "//", "%")),
        "(- {whole})",
        "abs({whole})",
        "sign({number})",
        "CAST({number} AS BIGINT)",
        "CAST({condition} AS INTEGER)",
        "TRY_CAST({number} AS INTEGER)",
        "TRY_CAST({number} AS BIGINT)",
        "({whole} & {whole})",
        "({whole} | {whole})",
        "xor({whole}, {whole})",
        "(~{whole})",
        "({whole} << {shift})",
        "({whole} >> {shift})",
        *(f"{part}({{moment}})" for part in (*_PARTS, *_TIME_PARTS)),
        *(f"date_diff('{step}', {{moment}}, {{moment}})" for step in _STEPS),
        "date_part('dow', {moment})",
        "extract(doy FROM {moment})",
        "({date} - {date})",
        "greatest({whole}, {whole})",
        "nullif({whole}, {whole})",
        "CASE {text} WHEN {word} THEN {whole} ELSE {whole} END",
        "length({text})",
        "[10, 20, NULL, 40][{whole}]",
        "map {'red': 1, 'blue': 2, '': NULL}[{text}]",
        "map {1: 10, -3: 20, 255: 30}[{whole}]",
        *(f"fitted.{name}({{integers}})" for name in ("mode", "min", "max")),
        *_choices("whole"),
    ],
    "number": [
        *(f"({{number}} {operator} {{number}})" for operator in ("+", "-", "*", "/", "%", "+", "-")),
        "(- {number})",
        "abs({number})",
        "sqrt({number})",
        "floor({number})",
        "ceil({number})",
        "trunc({number})",
        "round({number})",
        "round({number}, 2)",
        "power({number}, 2)",
        "CAST({number} AS FLOAT)",
        "TRY_CAST({number} AS FLOAT)",
        "CAST({condition} AS DOUBLE)",
        "epoch({moment})",
        "list_extract([0.5, NULL, 1.5], {whole})",
        "map {0.5: 1.5, 100: -0.5}[{number}]",
        *(f"fitted.{name}({{sample}})" for name in ("mean", "median", "std", "min", "max")),
        "fitted.quantile({sample}, 0.9)",
        "fitted.frequency({categories})",
        "fitted.target_mean({categories}, 20)",
        "greatest({number}, {number}, {number})",
        "least({number}, {number})",
        "nullif({number}, {number})",
        "CASE {number} WHEN 1 THEN {number} WHEN 2 THEN 5 ELSE {number} END",
        "CASE i WHEN 1 THEN {number} WHEN 2 THEN 3 WHEN 3 THEN 0 WHEN 7 THEN x WHEN 0 THEN 9 END",
        *_choices("number"),
    ],
    "condition": [
        "({condition} AND {condition})",
        "({condition} OR {condition})",
        "(NOT {condition})",
        "({any} IS NULL)",
        "({any} IS NOT NULL)",
        "({condition} IS TRUE)",
        "({condition} IS NOT FALSE)",
        "({condition} = {condition})",
        "CAST({number} AS BOOLEAN)",
        "isnan({number})",
        "isinf({number})",
        "isfinite({number})",
        "({text} = {word})",
        "({text} <> {word})",
        "({text} IN ({word}, {word}))",
        "({number} NOT IN (1, 2, 3, 5.5, {number}))",
        "({cut} = {word})",
        "({cut} IN ({word}, {word}, {word}, {word}, {word}))",
        "({text} LIKE {pattern})",
        "({text} NOT LIKE {pattern})",
        "(lower({text}) LIKE {pattern})",
        "({text} ILIKE {pattern})",
        "starts_with({text}, {word})",
        "ends_with({text}, {word})",
        "contains({text}, {word})",
        "regexp_full_match({text}, {regex})",
        "regexp_matches({text}, {regex})",
        "({moment} < {day_text})",
        "({moment} IN ({day_text}, {day_text}))",
        *_order("number"),
        *_order("moment"),
        *_choices("condition"),
    ],
    "text": [
        "nullif({text}, {word})",
        "coalesce({text}, {word})",
        "if({condition}, {text}, {word})",
        "({text} || {word})",
        "({text} || {text})",
        "concat({text}, {word}, {text})",
        *_choices("text"),
    ],
    # Text that the graph does not have itself, and only knows which word it is.
    "cut": [
        *(f"{name}({{text}})" for name in ("lower", "upper", "trim", "ltrim", "rtrim")),
        "left({text}, {count})",
        "right({text}, {count})",
        "substr({text}, 1, {count})",
        "split_part({text}, ',', {place})",
        "lower(trim({text}))",
        "trim(upper({text}))",
        "upper(split_part({text}, 'e', {place}))",
        "map {'red': 'blue', 'ö': 'RED'}[{text}]",
    ],
    "date": [
        "({date} + {days})",
        "({date} - {days})",
        "CAST({moment} AS DATE)",
        "last_day({moment})",
        "greatest({date}, {date})",
        "nullif({date}, {date})",
        *_choices("date"),
    ],
    "timestamp": [
        *(f"date_trunc('{step}', {{moment}})" for step in _STEPS),
        "CAST({moment} AS TIMESTAMP)",
        "least({date}, {timestamp})",
        "coalesce({timestamp}, {date})",
        *_choices("timestamp"),
    ],
    # Not defined to the last bit by IEEE 754: nothing that a comparison or a floor could turn into a step is
    # made of these, and their arguments are of a size that the bounds of docs/reference/features.md are for.
    "rounded": [
        *(f"{name}({{angle}})" for name in ("sin", "cos", "atan")),
        "exp({angle} / 10)",
        "ln(abs({number}))",
        "log10({number})",
        "cbrt({number})",
        "pow(abs({angle}), 0.7)",
        "asin({share})",
        "acos({share})",
        "atan2({angle}, {angle})",
        "tan({share})",
    ],
    "angle": ["({whole} % 100)", "(x % 100)", "radians({whole} % 720)", "(2 * pi() * month({moment}) / 12)"],
    "share": ["(({whole} % 100) / 100)", "(x % 1)"],
}
# Types that any of several others will do for.
UNIONS: dict[str, tuple[str, ...]] = {
    "number": ("number", "number", "whole"),
    "moment": ("date", "timestamp"),
    "any": ("number", "condition", "text", "cut", "date", "timestamp"),
}
FEATURES = ("number", "number", "whole", "condition", "condition", "rounded", "text", "cut")
_HOLE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Node:
    """An expression: a form of ``kind``, and what fills its holes; a leaf has none."""

    kind: str
    form: str
    children: tuple[Node, ...] = ()

    @property
    def sql(self) -> str:
        """The expression as text."""
        parts = iter(self.children)
        return _HOLE.sub(lambda _: next(parts).sql, self.form)

    @property
    def size(self) -> int:
        """How many forms and leaves it is of."""
        return 1 + sum(child.size for child in self.children)

    @property
    def is_rounded(self) -> bool:
        """Whether its last bits are not defined."""
        return self.kind == "rounded"


def draw(generator: random.Random, kind: str, depth: int) -> Node:
    """A random expression of a type, at most ``depth`` forms deep."""
    kind = generator.choice(UNIONS.get(kind, (kind,)))
    leaves, forms = LEAVES.get(kind, ()), FORMS.get(kind, [])
    if leaves and (not forms or depth == 0 or generator.random() < 0.15):
        return Node(kind, generator.choice(leaves))
    form = generator.choice(forms)
    holes = _HOLE.findall(form)
    return Node(kind, form, tuple(draw(generator, hole, max(depth - 1, 0)) for hole in holes))


def shrink(node: Node) -> Iterator[Node]:
    """Other expressions of its type: a part of it, a leaf, or the same with a part so changed."""
    parts = sorted((part for part in _parts(node) if part.kind == node.kind), key=lambda part: part.size)
    yield from parts
    yield from map(_over_columns, parts)  # a part that reads no column is no feature by itself
    if node.children:
        yield from (Node(node.kind, leaf) for leaf in LEAVES.get(node.kind, ()))
    for index, child in enumerate(node.children):
        for smaller in shrink(child):
            children = (*node.children[:index], smaller, *node.children[index + 1 :])
            yield Node(node.kind, node.form, children)


def _over_columns(node: Node) -> Node:
    """The expression over the first leaf of each type, which is a column if it may be one."""
    if not node.children:
        return Node(node.kind, LEAVES[node.kind][0]) if node.kind in LEAVES else node
    return Node(node.kind, node.form, tuple(map(_over_columns, node.children)))


def _parts(node: Node) -> Iterator[Node]:
    for child in node.children:
        yield child
        yield from _parts(child)


def fill_form(generator: random.Random, kind: str, form: str) -> Node:
    """The form with a leaf, or the least there is, in each hole."""
    return Node(kind, form, tuple(draw(generator, hole, 0) for hole in _HOLE.findall(form)))
