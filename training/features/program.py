"""features.sql as a whole: its columns, its features in order, and the SQL that computes them.

A ``lookup`` reads a temporary table: `FeatureProgram.prepare_sql` has the statements that make those of a
program, to be run first on the same connection.

In that SQL every number is a DOUBLE and every guard is written out, so that no choice of DuckDB's
(DECIMAL literals, whole-number overflow, errors at run time) can make the table differ from the graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from timberline.registry.rows import quote
from timberline.registry.signature import FIRST_CODE, Column
from timberline.training.features import dates
from timberline.training.features.expressions import (
    Call,
    ColumnRef,
    Expression,
    Feature,
    Literal,
    LookupTable,
    ValueType,
    may_be_negative_zero,
    may_hold_null,
    read_columns,
)
from timberline.training.features.learned import Learned
from timberline.training.features.texts import LONGEST

LARGEST_FLOAT = 3.4028234663852886e38
_NAN = "'nan'::DOUBLE"
_INFINITE = "'inf'::DOUBLE"
# The columns of a look-up's table: inside of its subquery they hide columns of the row by the same names.
_FROM, _TO = "__from__", "__to__"
_INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "mod": "%",
    "eq": "=",
    "ne": "<>",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "and": "AND",
    "or": "OR",
}
_TEMPLATES = {
    "intdiv": "trunc({} / nullif({}, 0e0))",
    "neg": "(-{})",
    "not": "(NOT {})",
    "is_null": "({} IS NULL)",
    "bit_and": "CAST((CAST({} AS BIGINT) & CAST({} AS BIGINT)) AS DOUBLE)",
    "bit_or": "CAST((CAST({} AS BIGINT) | CAST({} AS BIGINT)) AS DOUBLE)",
    "bit_xor": "CAST(xor(CAST({} AS BIGINT), CAST({} AS BIGINT)) AS DOUBLE)",
}


@dataclass(frozen=True)
class FeatureProgram:
    """features.sql, checked: raw columns, all that it reads among them, and its features in order.

    ``learned``: its ``fitted.*`` calls. Before they, and the vocabularies of its text features, are fitted
    there is no SQL of the features that need them.
    """

    columns: tuple[Column, ...]
    features: tuple[Feature, ...]
    learned: tuple[Learned, ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The features' names in order."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def nullable(self) -> tuple[bool, ...]:
        """Of each feature, whether a NULL in a nullable column may make it NULL."""
        return tuple(may_hold_null(feature.expression) for feature in self.features)

    @cached_property
    def category_sizes(self) -> tuple[int | None, ...]:
        """Of each feature that is a category, how many codes it has; None of a number."""
        return tuple(
            None if feature.vocabulary is None else FIRST_CODE + len(feature.vocabulary)
            for feature in self.features
        )

    @cached_property
    def tables(self) -> tuple[LookupTable, ...]:
        """What the features look up in, each once."""
        return list_tables(feature.expression for feature in self.features)

    @property
    def prepare_sql(self) -> tuple[str, ...]:
        """The statements that `select_sql` and `feature_sql` need to have been run on their connection."""
        return tuple(map(make_table, self.tables))

    @cached_property
    def read_names(self) -> frozenset[str]:
        """The names of the columns that a feature reads."""
        return frozenset(name for feature in self.features for name in read_columns(feature.expression))

    def narrow(self) -> FeatureProgram:
        """The same features over the columns that they read, and no others."""
        read = tuple(column for column in self.columns if column.name in self.read_names)
        return FeatureProgram(columns=read, features=self.features, learned=self.learned)

    def select_sql(self, relation: str, *, order: str | None = None) -> str:
        """The canonical DuckDB statement that selects the features, each as FLOAT, from ``relation``.

        Args:
            relation: what follows FROM: a table's name or a subquery in parentheses. It must
                have the program's columns under their names, of any type that casts to theirs.
            order: the column of ``relation`` that the rows are in the order of; without it they keep theirs
                unless the program has ``tables``.
        """
        sql = render_select(self.features, relation)
        return f"{sql}\nORDER BY {quote(order)}" if order and self.tables else sql

    def feature_sql(self, feature: Feature) -> str:
        """The canonical DuckDB expression of one feature, as FLOAT and without its name."""
        return render_feature(feature.expression)


def list_tables(expressions: Iterable[Expression]) -> tuple[LookupTable, ...]:
    """The tables in ``expressions``, each once."""
    waiting, seen = list(expressions), set[Expression]()
    found: dict[LookupTable, None] = {}
    while waiting:
        part = waiting.pop()
        if isinstance(part, Call) and part not in seen:
            seen.add(part)
            waiting += part.arguments
            if part.table is not None:
                found[part.table] = None
    return tuple(found)


def make_table(table: LookupTable) -> str:
    """The statement that makes the temporary table of ``table``."""
    keys, values = (
        ", ".join(_constant(item) for item in items) or "NULL" for items in (table.keys, table.values)
    )
    keys, values = (
        f"CAST([{keys}] AS {_list_type(table.keys)})",
        f"CAST([{values}] AS {_list_type(table.values)})",
    )
    select = f"SELECT unnest({keys}) AS {_FROM}, unnest({values}) AS {_TO}"
    return f"CREATE TEMP TABLE IF NOT EXISTS {table.name} AS {select}"


def _list_type(items: Sequence[float | str | None]) -> str:
    return "VARCHAR[]" if any(isinstance(item, str) for item in items) else "DOUBLE[]"


def _constant(value: float | str | None) -> str:
    return "NULL" if value is None else _text(value) if isinstance(value, str) else _number(float(value))


def render_select(features: Sequence[Feature], relation: str) -> str:
    """One SELECT of the features as FLOAT from ``relation``."""
    items = ",\n".join(f"  {render_feature(f.expression)} AS {quote(f.name)}" for f in features)
    return f"SELECT\n{items}\nFROM {relation}"


def render_feature(expression: Expression) -> str:
    """The expression as FLOAT; beyond the range of FLOAT it is infinite, where DuckDB's cast would fail."""
    text = render(expression)
    if expression.type is ValueType.BOOLEAN or _fits_float(expression):
        return f"CAST({text} AS FLOAT)"
    return f"coalesce(TRY_CAST({text} AS FLOAT), CAST({text} * {_INFINITE} AS FLOAT))"


def render(expression: Expression) -> str:
    """The expression as DOUBLE, BOOLEAN or VARCHAR."""
    if isinstance(expression, Literal):
        return _literal(expression)
    if isinstance(expression, ColumnRef):
        return _column(expression)
    arguments = [render(argument) for argument in expression.arguments]
    if expression.table is not None:
        return _lookup(expression.table, expression.arguments[0], arguments[0])
    text = dates.render(expression, arguments) or _call(expression, arguments)
    return f"nullif({text}, {_NAN})" if expression.makes_nan else text


def _fits_float(expression: Expression) -> bool:
    return max(abs(expression.low), abs(expression.high)) <= LARGEST_FLOAT


def _literal(literal: Literal) -> str:
    value = literal.value
    if value is None:
        return f"CAST(NULL AS {_machine_type(literal.type)})"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return _number(float(value))


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _number(value: float) -> str:
    if math.isinf(value):
        return _INFINITE if value > 0 else f"(-{_INFINITE})"
    # With an exponent it is a DOUBLE; without one DuckDB reads a DECIMAL.
    text = repr(abs(value))
    text = text if "e" in text else f"{text}e0"
    return f"(-{text})" if math.copysign(1, value) < 0 else text


def _machine_type(type: ValueType) -> str:
    return "DOUBLE" if type.is_number or type.is_moment else str(type)


def _column(column: ColumnRef) -> str:
    text = f"CAST({quote(column.column)} AS {_machine_type(column.type)})"
    return f"nullif({text}, {_NAN})" if column.nullable and column.type is ValueType.DOUBLE else text


def _call(call: Call, arguments: list[str]) -> str:  # noqa: PLR0911  (one line an operator that needs its own)
    operator = call.operator
    if operator in _INFIX:
        return "(" + f" {_INFIX[operator]} ".join(arguments) + ")"
    if operator in _TEMPLATES:
        return _TEMPLATES[operator].format(*arguments)
    match operator:
        case "div":
            return f"({arguments[0]} / {_plus_zero(call.arguments[1], arguments[1])})"
        case "pow":
            return f"pow({_plus_zero(call.arguments[0], arguments[0])}, {arguments[1]})"
        case "case":
            *pairs, default = arguments
            branches = " ".join(
                f"WHEN {condition} THEN {value}"
                for condition, value in zip(pairs[::2], pairs[1::2], strict=True)
            )
            return f"CASE {branches} ELSE {default} END"
        case "sign" | "to_double":
            return f"CAST({_function(operator, arguments)} AS DOUBLE)"
        case "to_bigint":
            is_boolean = call.arguments[0].type is ValueType.BOOLEAN
            return f"CAST({arguments[0]} AS DOUBLE)" if is_boolean else f"round_even({arguments[0]}, 0)"
        case "to_float":
            return f"CAST({render_feature(call.arguments[0])} AS DOUBLE)"
        case "atan2":
            parts = map(_plus_zero, call.arguments, arguments)
            return f"atan2({', '.join(parts)})"
    return _text_function(call, arguments) or _function(operator, arguments)


def _text_function(call: Call, arguments: list[str]) -> str | None:
    match call.operator:
        case "concat":
            return f"({' || '.join(arguments)})"
        case "like" | "ilike":
            return f"({arguments[0]} {call.operator.upper()} {arguments[1]} ESCAPE '\\')"
        case "length":
            return f"CAST(length(left({arguments[0]}, {LONGEST})) AS DOUBLE)"
        case "left" | "right" | "split_part":
            return f"{call.operator}({', '.join(arguments[:-1])}, {int(call.arguments[-1].low)})"
    return None


def _lookup(table: LookupTable, expression: Expression, value: str) -> str:
    found = f"(SELECT {_TO} FROM {table.name} WHERE {_FROM} = {value})"
    if table.other is not None:
        found = f"coalesce({found}, {_constant(table.other)})"
    if table.null == table.other or not expression.nullable:
        return found
    return f"CASE WHEN {value} IS NULL THEN {_constant(table.null)} ELSE {found} END"


def _plus_zero(expression: Expression, text: str) -> str:
    """With 0 for -0: a matrix product in the graph does not distinguish them."""
    return f"({text} + 0e0)" if may_be_negative_zero(expression) else text


def _function(name: str, arguments: list[str]) -> str:
    return arguments[0] if name == "to_double" else f"{name}({', '.join(arguments)})"
