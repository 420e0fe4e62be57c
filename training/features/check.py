"""One sqlglot expression → one typed `Expression`, or a refusal that points at the text."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence, Set

from sqlglot import exp

from timberline.training.errors import FeatureError
from timberline.training.features import build, dates, texts
from timberline.training.features.advice import advise
from timberline.training.features.expressions import Expression, ExpressionError, Literal, ValueType
from timberline.training.features.language import OPERATORS, Source, nearest
from timberline.training.features.learned import SCHEMA, Learning, read_learned
from timberline.training.features.literals import look_up_list, look_up_map
from timberline.training.features.program import render
from timberline.training.features.relation import Named, Relation

# sqlglot's names of operators that are not ours. Functions and operators without a handler of their own have
# the arguments `this` and, if two, `expression`.
_RENAMED = {"neq": "ne", "lte": "le", "gte": "ge"}
_SIMPLE = frozenset({*OPERATORS, "nullif", "radians", "degrees"})
# Whole numbers up to here are exact as DOUBLE.
_LARGEST_EXACT = 2**53
# Flags of sqlglot classes for other dialects; in DuckDB's they are fixed.
_DIALECT_FLAGS = {"typed", "safe", "ignore_nulls", "_type", "date_part_boundary"}
_CASTS = {
    exp.DType.DOUBLE: "DOUBLE",
    exp.DType.FLOAT: "FLOAT",
    exp.DType.BIGINT: "BIGINT",
    exp.DType.INT: "BIGINT",
    exp.DType.BOOLEAN: "BOOLEAN",
    exp.DType.DATE: "DATE",
    exp.DType.TIMESTAMP: "TIMESTAMP",
    exp.DType.TIMESTAMPNTZ: "TIMESTAMP",
}
# What a DOUBLE may be to become one: the largest double below 2**63 is 1024 less.
_LIMITS = {exp.DType.INT: (-(2.0**31), 2.0**31 - 1), exp.DType.BIGINT: (-(2.0**63), 2.0**63 - 1024)}
_PARTS: dict[type[exp.Expr], str] = {
    exp.Year: "year",
    exp.Quarter: "quarter",
    exp.Month: "month",
    exp.Week: "week",
    exp.WeekOfYear: "week",
    exp.Day: "day",
    exp.DayOfMonth: "day",
    exp.DayOfWeek: "dayofweek",
    exp.DayOfWeekIso: "isodow",
    exp.DayOfYear: "dayofyear",
    exp.Hour: "hour",
    exp.Minute: "minute",
    exp.Second: "second",
    exp.TimeToUnix: "epoch",
}
_WORDS: tuple[tuple[tuple[type[exp.Expr], ...], str], ...] = (
    ((exp.Window, exp.WithinGroup), "a window function"),
    ((exp.Query, exp.Exists), "a subquery"),
    ((exp.AggFunc,), "the aggregate {name}()"),
    ((exp.Columns, exp.Star), "COLUMNS or a star inside an expression"),
    ((exp.Anonymous, exp.Func), "the function {name}()"),
)


class Checker:
    """Types the expressions of one SELECT.

    Args:
        source: the text, for errors.
        relation: what it selects from.
        learning: where its ``fitted.*`` calls are kept.
        coming: the aliases that it gives, casefolded; ``aliases`` holds those that were given so far.
    """

    def __init__(
        self, source: Source, relation: Relation, learning: Learning, coming: Set[str] = frozenset()
    ) -> None:
        self._source = source
        self._learning = learning
        self.relation = relation
        self._coming = coming
        self.aliases: dict[str, Named] = {}

    def find_named(self, node: exp.Expr, name: str) -> Named:
        """The column of the relation.

        Raises:
            FeatureError: it has none of this name.
        """
        named = self.relation.find(name)
        if named is None:
            raise self._unknown(node, name)
        return named

    def read_column(self, node: exp.Expr) -> Named | None:
        """What a bare name stands for; None of anything else. A column goes before an alias, as in DuckDB."""
        node = node.unnest()
        if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star):
            return None
        self.check_qualifier(node)
        named = self.relation.find(node.name)
        if named is None and len(node.parts) == 1:
            named = self.aliases.get(node.name.casefold())
        if named is None:
            raise self._unknown(node, node.name)
        return named

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

    def check_qualifier(self, column: exp.Column) -> None:
        """Refuse ``other.column``; ``raw.column`` is the column."""
        qualifier = ".".join(part.name for part in column.parts[:-1])
        if qualifier and qualifier.casefold() != self.relation.name.casefold():
            hint = f"The only table here is `{self.relation.name}`."
            raise self._source.refuse(column, f"there is no table {qualifier!r}", hint)

    def _unknown(self, node: exp.Expr, name: str) -> FeatureError:
        """The error for a name that neither a column nor an earlier alias has."""
        if name.casefold() in self._coming:
            hint = "It is given further down: an alias can be used in the expressions behind its own."
            return self._source.refuse(node, f"{name!r} is not known yet", hint)
        known = [item.name for item in (*self.relation.items, *self.aliases.values())]
        what = "input column" if self.relation.name == "raw" else "column"
        hint = nearest(name, known) or f"There are: {_list(known)}."
        return self._source.refuse(node, f"there is no {what} {name!r}", hint)

    def _handler(self, node: exp.Expr) -> Callable[[exp.Expr], Expression]:
        handler = self._handlers.get(type(node))
        if handler is not None:
            return handler
        if _RENAMED.get(node.key, node.key) in _SIMPLE:
            return self._simple
        hint = advise(node, self._source.name_of(node))
        raise self._source.refuse(node, f"{self._describe(node)} is not supported", hint)

    @functools.cached_property
    def _handlers(self) -> dict[type[exp.Expr], Callable[[exp.Expr], Expression]]:
        return {
            **dict.fromkeys(_PARTS, self._part),
            exp.Extract: lambda node: dates.part(node.name.lower(), self.check(node.expression)),
            exp.TimestampTrunc: self._date_trunc,
            exp.DateTrunc: self._date_trunc,
            exp.DateDiff: self._date_diff,
            exp.LastDay: self._last_day,
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
            exp.Bracket: self._bracket,
            exp.ToMap: self._map,
            exp.Anonymous: self._named,
            exp.Lower: lambda node: self._cut("lower", node),
            exp.Upper: lambda node: self._cut("upper", node),
            exp.Trim: self._trim,
            exp.Left: lambda node: self._cut("left", node, "expression"),
            exp.Right: lambda node: self._cut("right", node, "expression"),
            exp.Substring: self._substring,
            exp.SplitPart: lambda node: self._cut("split_part", node, "delimiter", "part_index"),
            exp.DPipe: self._join,
            exp.Concat: self._join,
            exp.Like: self._like,
            exp.ILike: self._like,
            exp.Escape: self._like,
            exp.StartsWith: lambda node: self._holds("{}%", node.this, node.expression),
            exp.EndsWith: lambda node: self._holds("%{}", node.this, node.expression),
            exp.Contains: lambda node: self._holds("%{}%", node.this, node.expression),
            exp.RegexpFullMatch: self._matches,
            exp.RegexpLike: self._matches,
            exp.Length: self._length,
            exp.Dot: self._dot,
            exp.TryCast: self._try_cast,
            exp.NullSafeEQ: lambda node: build.is_same(*self._pair(node)),
            exp.NullSafeNEQ: lambda node: build.call("not", [build.is_same(*self._pair(node))]),
            exp.IsNan: lambda node: build.call("is_null", [build.call("abs", [self.check(node.this)])]),
            exp.IsInf: lambda node: build.is_infinite(self.check(node.this)),
            exp.BitwiseAnd: lambda node: build.bits("bit_and", *self._bit_operands(node)),
            exp.BitwiseOr: lambda node: build.bits("bit_or", *self._bit_operands(node)),
            exp.BitwiseXor: lambda node: build.bits("bit_xor", *self._pair(node)),
            exp.BitwiseLeftShift: lambda node: build.shift(*self._bit_operands(node), is_left=True),
            exp.BitwiseRightShift: lambda node: build.shift(*self._bit_operands(node), is_left=False),
            exp.BitwiseNot: self._bit_not,
        }

    @functools.cached_property
    def _functions(self) -> dict[str, Callable[[exp.Expr], Expression]]:
        """Functions that sqlglot has no class for, by their names."""
        return {
            "isoyear": lambda node: dates.part("isoyear", *self._exactly(node, 1)),
            "weekday": lambda node: dates.part("weekday", *self._exactly(node, 1)),
            "isfinite": lambda node: build.is_finite(*self._exactly(node, 1)),
            "date_part": self._date_part,
            "datepart": self._date_part,
            "prefix": lambda node: self._holds("{}%", *self._nodes(node, 2)),
            "suffix": lambda node: self._holds("%{}", *self._nodes(node, 2)),
            **dict.fromkeys(("list_extract", "list_element", "array_extract"), self._list_extract),
            "map_extract_value": self._map_extract,
        }

    def _exactly(self, node: exp.Expr, count: int) -> list[Expression]:
        return self._checked(self._nodes(node, count))

    def _nodes(self, node: exp.Expr, count: int) -> list[exp.Expr]:
        if len(node.expressions) != count:
            raise self._source.refuse(
                node, f"{self._describe(node)} takes {count} argument{'s' * (count > 1)}"
            )
        return list(node.expressions)

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
        return self._checked([node.this, *node.expressions])

    def _column(self, node: exp.Expr) -> Expression:
        named = self.read_column(node)
        if named is None:
            raise self._source.refuse(
                node,
                "a star inside an expression is not supported",
                "Write COLUMNS(*), and AS 'name_\\0' behind it.",
            )
        return named.expression

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
        if isinstance(node.expression, exp.Boolean):
            value = build.as_boolean(self.check(node.this))
            is_so = value if node.expression.this else build.call("not", [value])
            return build.coalesce([is_so, Literal(False, ValueType.BOOLEAN)])
        if not isinstance(node.expression, exp.Null):
            raise self._source.refuse(node, "IS takes NULL, TRUE, FALSE or [NOT] DISTINCT FROM")
        return build.call("is_null", [self.check(node.this)])

    def _pair(self, node: exp.Expr) -> tuple[Expression, Expression]:
        self._only(node, "this", "expression")
        return self.check(node.this), self.check(node.expression)

    def _bit_operands(self, node: exp.Expr) -> tuple[Expression, Expression]:
        self._need_parentheses(node)
        return self._pair(node)

    def _bit_not(self, node: exp.Expr) -> Expression:
        self._need_parentheses(node)
        return build.call("sub", [build.call("neg", [self.check(node.this)]), Literal(1.0, ValueType.BIGINT)])

    def _need_parentheses(self, node: exp.Expr) -> None:
        """Refuse bits beside other operators: whose turn comes first, the parser and DuckDB do not agree."""
        arms = [node.this, node.args.get("expression")]
        is_chain = isinstance(node.this, type(node)) and not isinstance(node, exp.BitwiseNot)
        near = [arm for arm in arms[is_chain:] if isinstance(arm, exp.Binary | exp.BitwiseNot)]
        if isinstance(node.parent, exp.Binary) and not isinstance(node.parent, exp.Predicate | exp.Connector):
            near += [] if isinstance(node.parent, type(node)) else [node.parent]
        # xor() and the point in fitted.mean() are operators to the parser alone.
        if any(not isinstance(other, exp.Func | exp.BitwiseXor | exp.Dot) for other in near):
            raise self._source.refuse(node, "bit operators beside others need parentheses")

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

    def _part(self, node: exp.Expr) -> Expression:
        self._only(node, "this")
        return dates.part(_PARTS[type(node)], self.check(node.this))

    def _date_part(self, node: exp.Expr) -> Expression:
        unit, value = self._exactly(node, 2)
        if not isinstance(unit, Literal) or not isinstance(unit.value, str):
            raise self._source.refuse(node, "the first argument is a part's name in quotes, such as 'month'")
        return dates.part(unit.value.lower(), value)

    def _date_trunc(self, node: exp.Expr) -> Expression:
        self._only(node, "this", "unit")
        return dates.truncate(self._unit(node), self.check(node.this))

    def _date_diff(self, node: exp.Expr) -> Expression:
        self._only(node, "this", "expression", "unit")
        return dates.difference(self._unit(node), self.check(node.expression), self.check(node.this))

    def _unit(self, node: exp.Expr) -> str:
        if not self._source.behind(node).lstrip("( ").startswith("'"):
            raise self._source.refuse(node, "the first argument is a unit's name in quotes, such as 'month'")
        return str(node.args["unit"].name).lower()

    def _last_day(self, node: exp.Expr) -> Expression:
        self._only(node, "this")
        return dates.last_day(self.check(node.this))

    def _if(self, node: exp.Expr) -> Expression:
        self._only(node, "this", "true", "false")
        condition, value, other = (self.check(node.args[key]) for key in ("this", "true", "false"))
        return build.case([(condition, value)], other)

    def _bracket(self, node: exp.Expr) -> Expression:
        """``[10, 20][i]``, ``map(['a'], [1])[x]``."""
        inner = node.this.unnest()
        if isinstance(inner, exp.Array) and len(node.expressions) == 1:
            return look_up_list(self._checked(inner.expressions), self.check(node.expressions[0]))
        if isinstance(inner, exp.Map | exp.ToMap) and len(node.expressions) == 1:
            return self._look_up(inner, node.expressions[0])
        raise self._source.refuse(
            node,
            f"`{node.sql('duckdb')[:60]}` is not supported",
            "Brackets look up in a list or map of constants: map {'a': 1}[x].",
        )

    def _map(self, node: exp.Expr) -> Expression:
        """``map {'a': 1}[x]``, whose brackets the parser takes to be those of what is in braces."""
        if isinstance(node.this, exp.Bracket) and len(node.this.expressions) == 1:
            return self._look_up(exp.ToMap(this=node.this.this), node.this.expressions[0])
        raise self._source.refuse(node, "a map is no value", "Look something up in it: map {'a': 1}[x].")

    def _look_up(self, table: exp.Map | exp.ToMap, key: exp.Expr) -> Expression:
        if isinstance(table, exp.Map):
            keys, values = (getattr(table.args.get(name), "expressions", []) for name in ("keys", "values"))
        else:
            pairs = [pair for pair in table.this.expressions if isinstance(pair, exp.PropertyEQ)]
            keys, values = [pair.this for pair in pairs], [pair.expression for pair in pairs]
        return look_up_map(self._checked(keys), self._checked(values), self.check(key))

    def _named(self, node: exp.Expr) -> Expression:
        """A function that the parser does not know."""
        name = node.name.lower()
        if (handler := self._functions.get(name)) is not None:
            return handler(node)
        raise self._source.refuse(node, f"{self._describe(node)} is not supported", advise(node, name))

    def _list_extract(self, node: exp.Expr) -> Expression:
        values, index = self._nodes(node, 2)
        if not isinstance(values.unnest(), exp.Array):
            raise self._source.refuse(node, "the first argument is a list of constants", "[10, 20, 30][i].")
        return look_up_list(self._checked(values.unnest().expressions), self.check(index))

    def _map_extract(self, node: exp.Expr) -> Expression:
        table, key = self._nodes(node, 2)
        inner = table.unnest()
        if not isinstance(inner, exp.Map | exp.ToMap):
            raise self._source.refuse(node, "the first argument is a map of constants", "map {'a': 1}[x].")
        return self._look_up(inner, key)

    def _checked(self, nodes: Sequence[exp.Expr]) -> list[Expression]:
        return [self.check(node) for node in nodes]

    def _dot(self, node: exp.Expr) -> Expression:
        function = node.expression
        if node.this.name.casefold() != SCHEMA or not isinstance(function, exp.Anonymous):
            raise self._source.refuse(node, f"{self._describe(node)} is not supported")
        found = read_learned(function, [self.check(argument) for argument in function.expressions])
        return self._learning.add(found, render(found.argument))

    # Text.

    def _cut(self, function: str, node: exp.Expr, *arguments: str) -> Expression:
        self._only(node, "this", *arguments)
        return texts.cut(function, *self._checked([node.args[key] for key in ("this", *arguments)]))

    def _trim(self, node: exp.Expr) -> Expression:
        if node.args.get("expression") is not None:
            raise self._source.refuse(node, "trim takes one text, and cuts blanks", "trim(x).")
        sides = {"": "trim", "LEADING": "ltrim", "TRAILING": "rtrim", "BOTH": "trim"}
        return texts.cut(sides[node.args.get("position") or ""], self.check(node.this))

    def _substring(self, node: exp.Expr) -> Expression:
        start, count = (node.args.get(key) for key in ("start", "length"))
        if not isinstance(start, exp.Literal) or start.name != "1" or count is None:
            raise self._source.refuse(
                node,
                "a substring is cut from the first character on",
                "Write left(x, 3), right(x, 3) or split_part.",
            )
        return texts.cut("left", self.check(node.this), self.check(count))

    def _join(self, node: exp.Expr) -> Expression:
        if isinstance(node, exp.Concat):
            return texts.concat_skipping_null(self._checked(node.expressions))
        return texts.concat(self._checked([node.this, node.expression]))

    def _like(self, node: exp.Expr) -> Expression:
        escape = node.expression.name if isinstance(node, exp.Escape) else ""
        inner = node.this if isinstance(node, exp.Escape) else node
        is_negated = bool(inner.args.get("negate"))
        if not isinstance(inner, exp.Like | exp.ILike) or len(escape) > 1:
            raise self._source.refuse(node, "ESCAPE takes one character, behind LIKE or ILIKE")
        value, pattern = self._checked([inner.this, inner.expression])
        found = texts.like(value, pattern, escape=escape, folded=isinstance(inner, exp.ILike))
        return build.call("not", [found]) if is_negated else found

    def _holds(self, form: str, value: exp.Expr, part: exp.Expr) -> Expression:
        return texts.holds(self.check(value), self.check(part), form)

    def _matches(self, node: exp.Expr) -> Expression:
        is_anywhere = isinstance(node, exp.RegexpLike)
        if is_anywhere and not self._source.is_function(node):
            raise self._source.refuse(
                node,
                "~ means different things in DuckDB's versions",
                "Write regexp_matches or regexp_full_match.",
            )
        flags = node.args.get("flag") or node.args.get("options")
        self._only(node, "this", "expression", *(key for key in ("flag", "options") if node.args.get(key)))
        value, pattern = self._checked([node.this, node.expression])
        return texts.matches(value, pattern, flags.name if flags is not None else "", anywhere=is_anywhere)

    def _length(self, node: exp.Expr) -> Expression:
        self._only(node, "this")
        return texts.length(self.check(node.this))

    def _try_cast(self, node: exp.Expr) -> Expression:
        limits = _LIMITS.get(node.args["to"].this)
        return build.try_cast(self.check(node.this), self._target(node), limits)

    def _cast(self, node: exp.Expr) -> Expression:
        return build.cast(self.check(node.this), self._target(node))

    def _target(self, node: exp.Expr) -> str:
        target = node.args["to"]
        kind = _CASTS.get(target.this)
        if kind is None or target.expressions:
            raise self._source.refuse(
                node,
                f"CAST to {target.sql('duckdb')} is not supported",
                "Cast to DOUBLE, FLOAT, BIGINT, BOOLEAN, DATE or TIMESTAMP.",
            )
        return kind


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20])
    return f"{shown}, ..." if len(names) > 20 else shown
