"""One sqlglot expression → one typed `Expression`, or a refusal that points at the text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from sqlglot import exp

from timberline.registry.runs import Fitted
from timberline.registry.signature import Column
from timberline.training.errors import FeatureError
from timberline.training.features import build
from timberline.training.features.build import ExpressionError
from timberline.training.features.expressions import ColumnRef, Expression, Literal, ValueType
from timberline.training.features.language import OPERATORS, Source, nearest
from timberline.training.features.learned import SCHEMA, Learned, read_learned

_TYPES = {
    "FP64": ValueType.DOUBLE,
    "INT64": ValueType.BIGINT,
    "BOOL": ValueType.BOOLEAN,
    "BYTES": ValueType.VARCHAR,
}

_MOMENTS = {"date": ValueType.DATE, "timestamp": ValueType.TIMESTAMP}

# sqlglot's names of operators that are not ours. Functions and operators without a handler of their own have
# the arguments `this` and, if two, `expression`.
_RENAMED = {"neq": "ne", "lte": "le", "gte": "ge"}
_SIMPLE = frozenset({*OPERATORS, "nullif", "radians", "degrees"})
# Whole numbers up to here are exact as DOUBLE.
_LARGEST_EXACT = 2**53
# Flags of sqlglot classes for other dialects; in DuckDB's they are fixed.
_DIALECT_FLAGS = {"typed", "safe", "ignore_nulls", "_type"}
_CASTS = {
    exp.DType.DOUBLE: "DOUBLE",
    exp.DType.FLOAT: "FLOAT",
    exp.DType.BIGINT: "BIGINT",
    exp.DType.INT: "BIGINT",
    exp.DType.BOOLEAN: "BOOLEAN",
}
_WORDS: tuple[tuple[tuple[type[exp.Expr], ...], str], ...] = (
    ((exp.Window, exp.WithinGroup), "a window function"),
    ((exp.Query, exp.Exists), "a subquery"),
    ((exp.AggFunc,), "the aggregate {name}()"),
    ((exp.Columns, exp.Star), "COLUMNS or a star inside an expression"),
    ((exp.Anonymous, exp.Func), "the function {name}()"),
)


class Checker:
    """Types expressions over one set of raw columns.

    A column is one object however often it is named, so that the tree shows what is shared.
    """

    def __init__(self, source: Source, columns: Sequence[Column], fitted: Fitted | None = None) -> None:
        self._source = source
        self._fitted = fitted
        self.learned: dict[str, Learned] = {}
        self._columns = {
            c.name.casefold(): ColumnRef(
                column=c.name,
                type=_MOMENTS[c.moment] if c.moment else _TYPES[c.datatype],
                nullable=c.is_nullable,
            )
            for c in columns
        }

    def find_column(self, name: str) -> ColumnRef | None:
        """The raw column of this name; case does not count, as in DuckDB."""
        return self._columns.get(name.casefold())

    def check(self, node: exp.Expr) -> Expression:
        """Type one expression.

        Raises:
            FeatureError: it, or a part of it, is outside the language.
        """
        handler = self._handler(node)
        try:
            return handler(node)
        except ExpressionError as error:
            raise self._source.refuse(node, str(error), error.hint) from None

    def reads_columns(self, node: exp.Expr) -> bool:
        """Whether the expression names a raw column at all."""
        return node.find(exp.Column) is not None

    def check_qualifier(self, column: exp.Column) -> None:
        """Refuse ``other.column``; ``raw.column`` is the column."""
        qualifier = ".".join(part.name for part in column.parts[:-1])
        if qualifier.casefold() not in {"", "raw"}:
            raise self._source.refuse(column, f"there is no table {qualifier!r}", "The only table is `raw`.")

    def unknown_column(self, node: exp.Expr, name: str) -> FeatureError:
        """The error for a name that no raw input column has."""
        known = [column.column for column in self._columns.values()]
        return self._source.unknown(
            node, f"there is no input column {name!r}", nearest(name, known) or f"There are: {_list(known)}."
        )

    def _handler(self, node: exp.Expr) -> Callable[[exp.Expr], Expression]:
        handler = self._handlers().get(type(node))
        if handler is not None:
            return handler
        if _RENAMED.get(node.key, node.key) in _SIMPLE:
            return self._simple
        raise self._source.refuse(node, f"{self._describe(node)} is not supported")

    def _handlers(self) -> dict[type[exp.Expr], Callable[[exp.Expr], Expression]]:
        return {
            exp.Paren: lambda node: self.check(node.this),
            exp.Column: self._column,
            exp.Literal: self._literal,
            exp.Boolean: lambda node: Literal(bool(node.this), ValueType.BOOLEAN),
            exp.Null: lambda node: build.NULL,
            exp.Pi: lambda node: build.number(build.PI),
            exp.Log: self._log,
            exp.Round: lambda node: self._digits("round", node),
            exp.Trunc: lambda node: self._digits("trunc", node),
            exp.Greatest: lambda node: build.extreme("greatest", self._list(node)),
            exp.Least: lambda node: build.extreme("least", self._list(node)),
            exp.Coalesce: lambda node: build.coalesce(self._list(node)),
            exp.Between: self._between,
            exp.In: self._in,
            exp.Is: self._is,
            exp.Case: self._case,
            exp.If: self._if,
            exp.Cast: self._cast,
            exp.Dot: self._dot,
        }

    def _describe(self, node: exp.Expr) -> str:
        """What a refused piece of SQL is, in the user's words."""
        for kinds, words in _WORDS:
            if isinstance(node, kinds):
                return words.format(name=self._source.name_of(node))
        return f"`{node.sql('duckdb')[:60]}`"

    def _simple(self, node: exp.Expr) -> Expression:
        expected = [key for key in ("this", "expression") if node.arg_types.get(key)]
        self._only(node, *expected)
        operator = _RENAMED.get(node.key, node.key)
        return build.call(operator, [self.check(node.args[key]) for key in expected])

    def _only(self, node: exp.Expr, *allowed: str) -> None:
        """Refuse arguments that change what a known function means."""
        for key, value in node.args.items():
            if value and key not in allowed and key not in _DIALECT_FLAGS:
                raise self._source.refuse(
                    node, f"{self._describe(node)} with {key.rstrip('_')!r} is not supported"
                )
        for key in allowed:
            if node.args.get(key) is None:
                raise self._source.refuse(node, f"{self._describe(node)} has too few arguments")

    def _list(self, node: exp.Expr) -> list[Expression]:
        return [self.check(argument) for argument in (node.this, *node.expressions)]

    def _column(self, node: exp.Expr) -> Expression:
        assert isinstance(node, exp.Column)
        self.check_qualifier(node)
        if isinstance(node.this, exp.Star):
            raise self._source.refuse(node, "a star inside an expression is not supported")
        column = self.find_column(node.name)
        if column is None:
            raise self.unknown_column(node, node.name)
        return column

    def _literal(self, node: exp.Expr) -> Expression:
        if node.args.get("is_string"):
            return Literal(node.name, ValueType.VARCHAR)
        try:
            whole = int(node.name)
        except ValueError:
            value = float(node.name)
            if math.isinf(value):
                raise ExpressionError(f"{node.name} is beyond the range of DOUBLE") from None
            return build.number(value)
        if whole > _LARGEST_EXACT:
            raise ExpressionError(
                f"{node.name} is beyond 2^53", "Write a DOUBLE, which may be rounded: 1e16."
            )
        return Literal(float(whole), ValueType.BIGINT)

    def _log(self, node: exp.Expr) -> Expression:
        if node.args.get("expression") is None:
            return build.logarithm(build.number(10.0), self.check(node.this))
        return build.logarithm(self.check(node.this), self.check(node.expression))

    def _digits(self, operator: str, node: exp.Expr) -> Expression:
        self._only(node, "this", *(["decimals"] if node.args.get("decimals") else []))
        digits = node.args.get("decimals")
        return build.rounded(operator, self.check(node.this), self.check(digits) if digits else None)

    def _between(self, node: exp.Expr) -> Expression:
        self._only(node, "this", "low", "high")
        value = self.check(node.this)
        low, high = self.check(node.args["low"]), self.check(node.args["high"])
        return build.call("and", [build.call("ge", [value, low]), build.call("le", [value, high])])

    def _in(self, node: exp.Expr) -> Expression:
        self._only(node, "this", "expressions")
        value = self.check(node.this)
        options = [self.check(option) for option in node.expressions]
        return build.call("or", [build.call("eq", [value, option]) for option in options])

    def _is(self, node: exp.Expr) -> Expression:
        if not isinstance(node.expression, exp.Null):
            raise self._source.refuse(node, "IS takes NULL only")
        return build.call("is_null", [self.check(node.this)])

    def _case(self, node: exp.Expr) -> Expression:
        operand = self.check(node.this) if node.this is not None else None
        branches = []
        for branch in node.args["ifs"]:
            condition = self.check(branch.this)
            if operand is not None:
                condition = build.call("eq", [operand, condition])
            branches.append((condition, self.check(branch.args["true"])))
        default = node.args.get("default")
        return build.case(branches, self.check(default) if default is not None else build.NULL)

    def _if(self, node: exp.Expr) -> Expression:
        self._only(node, "this", "true", "false")
        condition, value, other = (self.check(node.args[key]) for key in ("this", "true", "false"))
        return build.case([(condition, value)], other)

    def _dot(self, node: exp.Expr) -> Expression:
        function = node.expression
        if node.this.name.casefold() != SCHEMA or not isinstance(function, exp.Anonymous):
            raise self._source.refuse(node, f"{self._describe(node)} is not supported")
        found = read_learned(function, [self.check(argument) for argument in function.expressions])
        known = self.learned.setdefault(found.key, found)
        return known.stand_in() if self._fitted is None else known.bind(self._fitted)

    def _cast(self, node: exp.Expr) -> Expression:
        target = node.args["to"]
        kind = _CASTS.get(target.this)
        if kind is None or target.expressions:
            raise self._source.refuse(
                node,
                f"CAST to {target.sql('duckdb')} is not supported",
                "Cast to DOUBLE, FLOAT, BIGINT or BOOLEAN.",
            )
        return build.cast(self.check(node.this), kind)


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20])
    return f"{shown}, ..." if len(names) > 20 else shown
