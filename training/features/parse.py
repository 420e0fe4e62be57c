"""features.sql → `FeatureProgram`: the shape of the statement, the expansion of stars, the names.

`check` decides what a single expression may contain and what type it has. The slices of ``[gate]`` are
conditions in the same language: they are checked before anything is read.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from sqlglot import exp

from timberline.registry.errors import ConfigError
from timberline.registry.manifest import SLICE_PREFIX
from timberline.registry.runs import Fitted
from timberline.registry.signature import Column
from timberline.training.errors import FeatureError
from timberline.training.features import build, dates
from timberline.training.features.check import Checker
from timberline.training.features.expressions import Expression, Feature, ValueType, read_columns
from timberline.training.features.language import Source, nearest, write_sql
from timberline.training.features.learned import Learning
from timberline.training.features.program import FeatureProgram
from timberline.training.features.relation import Named, Relation, make_raw

RELATION = "raw"
# The prepared table's own columns are named like this (`registry.runs.ROW_COLUMN`).
_RESERVED = "__"
# sqlglot's names of clauses that differ from SQL's by more than case and a last letter ("joins", "with_").
_CLAUSES = {"group": "GROUP BY", "order": "ORDER BY", "db": "a schema"}
_CLAUSE_HINTS = {
    "WHERE": "Rows are chosen by [split] and [checks] of model.toml.",
    "JOIN": "A small table can be written as a map: map {'a': 1, 'b': 2}[x].",
    "GROUP BY": "What is known of the whole training split is fitted.mean(x) and the like.",
}


def parse_features(
    sql: str, columns: Sequence[Column], *, file: str = "features.sql", fitted: Fitted | None = None
) -> FeatureProgram:
    """Read, check and type features.sql.

    Args:
        sql: one ``SELECT <expression [AS name]>, ... FROM raw``; ``WITH`` may come before it.
        columns: the raw input columns that it may read, in the order ``*`` expands to.
        file: the file's name in errors.
        fitted: what was learned for it from the training split; without, a feature that is text stays text.

    Raises:
        FeatureError: it has something outside the language; the message shows the place and the nearest
            thing that is inside.
    """
    source = Source(sql, file)
    try:
        return _Parser(source, tuple(columns), fitted).parse()
    except RecursionError:
        raise source.refuse(exp.Null(), "an expression is nested too deeply") from None


@dataclasses.dataclass(frozen=True)
class _Item(Named):
    """What one place of a SELECT gives; ``node`` is for errors, ``is_starred`` of what a star stands for."""

    node: exp.Expr
    is_starred: bool = False


class _Parser:
    def __init__(self, source: Source, columns: tuple[Column, ...], fitted: Fitted | None) -> None:
        self._source = source
        self._learning = Learning(fitted)
        self._columns = columns
        self._raw = make_raw(columns)

    def parse(self) -> FeatureProgram:
        statements = self._source.parse()
        if len(statements) != 1 or not isinstance(statements[0], exp.Select):
            place = statements[min(len(statements), 2) - 1] if statements else exp.Null()
            raise self._source.refuse(
                place,
                f"expected one SELECT, found {_describe(statements)}",
                "Write `SELECT <expression> AS <name>, ... FROM raw`.",
            )
        items = self._read_select(statements[0], {RELATION: self._raw})
        features = tuple(map(self._make_feature, items))
        self._refuse_twins([(item.node, feature.name) for item, feature in zip(items, features, strict=True)])
        return FeatureProgram(columns=self._columns, features=features, learned=self._learning.calls)

    # Relations: raw, and what WITH and FROM make of it. They are inlined: nothing but expressions is left.

    def _read_select(self, select: exp.Select, relations: Mapping[str, Relation]) -> list[_Item]:
        self._refuse_clauses(select, {"expressions", "from_", "with_"})
        known = dict(relations)
        for cte in select.args["with_"].expressions if select.args.get("with_") else ():
            if select.args["with_"].args.get("recursive"):
                raise self._source.refuse(cte, "WITH RECURSIVE is not supported", "Write WITH.")
            relation = self._make_relation(cte, cte.this, known)
            known[relation.name.casefold()] = relation
        relation = self._find_relation(select, known)
        coming = {item.alias.casefold() for item in select.expressions if isinstance(item, exp.Alias)}
        checker = Checker(self._source, relation, self._learning, coming)
        items: list[_Item] = []
        for node in select.expressions:
            found = list(self._read_item(node, checker))
            items += found
            if isinstance(node, exp.Alias) and len(found) == 1:
                checker.aliases.setdefault(found[0].name.casefold(), found[0])
        if not items:
            raise self._source.refuse(select, "selects nothing")
        self._refuse_twins([(item.node, item.name) for item in items])
        return items

    def _refuse_twins(self, named: Sequence[tuple[exp.Expr, str]]) -> None:
        seen: set[str] = set()
        for node, name in named:
            if name.casefold() in seen:
                hint = "Number the names of a COLUMNS: AS 'name_\\0'." if node.find(exp.Columns) else ""
                raise self._source.refuse(node, f"the name {name!r} is given twice", hint)
            seen.add(name.casefold())

    def _make_relation(self, place: exp.Expr, query: exp.Expr, known: Mapping[str, Relation]) -> Relation:
        """What a CTE or a subquery in FROM selects, under its name."""
        if not isinstance(query, exp.Select):
            raise self._source.refuse(
                place, f"expected a SELECT, found {_describe([query])}", "One SELECT makes one row of each."
            )
        items: Sequence[Named] = self._read_select(query, known)
        alias = place.args.get("alias")
        names = [column.name for column in alias.args.get("columns") or ()] if alias else []
        if len(names) > len(items):
            raise self._source.refuse(place, f"{len(names)} names for {len(items)} columns")
        items = [dataclasses.replace(item, name=name) for item, name in zip(items, names, strict=False)] + [
            *items[len(names) :]
        ]
        return Relation(place.alias or "", items)

    def _find_relation(self, select: exp.Select, known: Mapping[str, Relation]) -> Relation:
        origin = select.args.get("from_")
        table = origin.this if origin else None
        if isinstance(table, exp.Subquery):
            self._refuse_clauses(table, {"this", "alias"})
            return self._make_relation(table, table.this, known)
        if isinstance(table, exp.Table):
            self._refuse_clauses(table, {"this", "alias"})
            relation = known.get(table.name.casefold())
            if relation is not None:
                return Relation(table.alias or relation.name, relation.items)
        names = [relation.name for relation in known.values()]
        found = f"FROM {table.sql('duckdb')[:60]}" if table is not None else "no FROM"
        raise self._source.refuse(
            table if table is not None else select,
            f"expected FROM {' or '.join(names)}, found {found}",
            nearest(table.name, names) if isinstance(table, exp.Table) else "",
        )

    def _refuse_clauses(self, node: exp.Expr, allowed: set[str]) -> None:
        for key, value in node.args.items():
            if value and key not in allowed:
                place = value[0] if isinstance(value, list) else value
                place = place if isinstance(place, exp.Expr) else node
                name = _CLAUSES.get(key) or key.rstrip("s_").upper()
                hint = _CLAUSE_HINTS.get(name, "")
                raise self._source.refuse(
                    place, f"{name} is not supported: each raw row becomes one row of features", hint
                )

    # Items of a SELECT.

    def _read_item(self, item: exp.Expr, checker: Checker) -> Iterator[_Item]:
        alias = item.alias if isinstance(item, exp.Alias) else None
        inner = item.this if isinstance(item, exp.Alias) else item
        names = None if alias is not None else self._expand(inner, checker)
        if names is not None:
            yield from (_Item(*named, node=item, is_starred=True) for named in map(_parts, names))
            return
        spread = inner.find(exp.Columns)
        if spread is not None:
            yield from self._spread(item, spread, checker)
            return
        column = checker.read_column(inner)
        if column is not None:
            yield _Item(alias if alias is not None else column.name, column.expression, column.write, item)
            return
        if alias is None:
            raise self._source.refuse(
                item, "a computed feature has no name", "Write `<expression> AS <name>`."
            )
        yield _Item(alias, checker.check(inner), partial(write_sql, inner), item)

    def _spread(self, item: exp.Expr, spread: exp.Columns, checker: Checker) -> Iterator[_Item]:
        """An expression over COLUMNS(...): once for each column, named after it."""
        inner = item.this if isinstance(item, exp.Alias) else item
        if any(other != spread for other in inner.find_all(exp.Columns)):
            raise self._source.refuse(item, "an expression has two different COLUMNS")
        if not isinstance(item, exp.Alias):
            raise self._source.refuse(
                item,
                "computed features have no names",
                "Write `<expression> AS 'log_\\0'`: \\0 is the column.",
            )
        pattern = spread.this.name if isinstance(spread.this, exp.Literal) else ".*"
        for named in self._expand(spread, checker) or ():
            column = exp.column(exp.to_identifier(named.name))
            copy = inner.transform(lambda node, of=column: of if isinstance(node, exp.Columns) else node)
            name = _fill_name(item.alias, named.name, re.search(pattern, named.name))
            try:
                yield _Item(name, checker.check(copy), partial(write_sql, copy), item)
            except FeatureError as error:
                raise self._source.refuse(spread, f"for {named.name}, {error.what}", error.hint) from None

    def _make_feature(self, item: _Item) -> Feature:
        name, expression = item.name, item.expression
        if not name or (name.startswith(_RESERVED) and name.endswith(_RESERVED)):
            raise self._source.refuse(
                item.node,
                f"{name!r} cannot be a feature's name",
                f"Names like {_RESERVED}row{_RESERVED} are the ETL's own.",
            )
        raw = self._raw.find(name)
        if raw is not None and expression is not raw.expression:
            if not item.is_starred:
                raise self._source.refuse(
                    item.node,
                    f"feature {name!r} has the name of a raw column and is something else",
                    "Give it a name of its own.",
                )
            # The prepared table has the raw column under its name.
            name, raw = f"{raw.name}_replaced", None
        if not read_columns(expression):
            raise self._source.refuse(
                item.node,
                f"feature {name!r} is a constant, which carries no information",
                "A constant can be named in a WITH and used in other expressions.",
            )
        if expression.type.is_moment:
            hint = dates.refuse(expression).hint
            if item.is_starred:
                moments = [exp.to_identifier(c.name).sql("duckdb") for c in self._columns if c.moment]
                hint = f"Leave it out, as `* EXCLUDE ({', '.join(moments)})` does. {hint}"
            raise self._source.refuse(item.node, f"feature {name!r} is a {expression.type}", hint)
        name = raw.name if raw is not None else name
        fitted = self._learning.fitted
        if expression.type is not ValueType.VARCHAR or fitted is None:
            return Feature(name=name, expression=expression, write=item.write)
        vocabulary = fitted.vocabularies[name]
        return Feature(
            name=name, expression=build.code(expression, vocabulary), vocabulary=vocabulary, write=item.write
        )

    def _expand(self, item: exp.Expr, checker: Checker) -> list[Named] | None:
        """What ``*`` or COLUMNS stands for; None if ``item`` is neither."""
        relation = checker.relation
        if isinstance(item, exp.Columns):
            if isinstance(item.this, exp.Star):
                return self._expand_star(item.this, checker)
            if isinstance(item.this, exp.Literal) and item.this.is_string:
                return self._expand_pattern(item, item.this.name, relation)
            if isinstance(item.this, exp.Array):
                named = {checker.find_named(node, node.name) for node in item.this.expressions}
                return [each for each in relation.items if each in named]
            raise self._source.refuse(
                item,
                "COLUMNS takes one regular expression in quotes",
                "COLUMNS('x.*'), or COLUMNS(['x', 'y']).",
            )
        if isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
            checker.check_qualifier(item)
            return self._expand_star(item.this, checker)
        return self._expand_star(item, checker) if isinstance(item, exp.Star) else None

    def _expand_star(self, star: exp.Star, checker: Checker) -> list[Named]:
        for key, value in star.args.items():
            if value and key not in {"except_", "replace"}:
                raise self._source.refuse(
                    star, f"{key.rstrip('_').upper()} of a star is not supported", "Write EXCLUDE or REPLACE."
                )
        excluded = {checker.find_named(node, node.name).name for node in star.args.get("except_") or ()}
        replaced = {}
        for node in star.args.get("replace") or ():
            name = checker.find_named(node.args["alias"], node.alias).name
            replaced[name] = Named(name, checker.check(node.this), partial(write_sql, node.this))
        return [replaced.get(c.name, c) for c in checker.relation.items if c.name not in excluded]

    def _expand_pattern(self, item: exp.Expr, pattern: str, relation: Relation) -> list[Named]:
        """As in DuckDB: the pattern may match anywhere in the name, and case counts."""
        try:
            found = [named for named in relation.items if re.search(pattern, named.name)]
        except re.error as error:
            raise self._source.refuse(item, f"{pattern!r} is no regular expression: {error}") from None
        if not found:
            hint = nearest(pattern, (named.name for named in relation.items))
            raise self._source.refuse(item, f"no column matches {pattern!r}", hint)
        return found


def _parts(named: Named) -> tuple[str, Expression, Callable[[], str]]:
    return named.name, named.expression, named.write


def _fill_name(alias: str, column: str, match: re.Match[str] | None) -> str:
    """The alias with the column's name for ``\\0``, and for ``\\1`` what the pattern's group matched."""

    def fill(digit: re.Match[str]) -> str:
        number = int(digit[1])
        if number == 0 or match is None or number > match.re.groups:
            return column
        return match[number] or ""

    return re.sub(r"\\(\d)", fill, alias)


def _describe(statements: Sequence[exp.Expr]) -> str:
    if len(statements) == 1:
        return f"{type(statements[0]).__name__.upper()}"
    return f"{len(statements)} statements" if statements else "nothing"


def parse_slices(
    slices: Mapping[str, str], columns: Sequence[Column], *, where: str = "gate.slices"
) -> FeatureProgram:
    """Read and check conditions; the program's features ``slice_<name>`` are 1, 0 or NULL.

    Args:
        slices: condition by name.
        columns: the raw input columns that a condition may read.
        where: their key in errors.

    Raises:
        ConfigError: a condition is not one boolean expression of the language; names its key.
    """
    features = tuple(
        _parse_one(name, condition, columns, where=f"{where}.{name}") for name, condition in slices.items()
    )
    return FeatureProgram(columns=tuple(columns), features=features)


def _parse_one(name: str, condition: str, columns: Sequence[Column], *, where: str) -> Feature:
    # The alias is a name that no column has. A comment in the condition ends with its line.
    taken = {column.name.casefold() for column in columns}
    alias = SLICE_PREFIX + name
    while alias.casefold() in taken:
        alias += "_"
    sql = f"SELECT\n{condition}\nAS {alias} FROM raw"
    try:
        program = parse_features(sql, columns, file=where)
        features = program.features
    except FeatureError as error:
        raise ConfigError(f"{condition[:80]!r}: {error.what}", where=where, hint=error.hint) from error
    if program.learned:
        raise ConfigError(
            f"{condition[:80]!r} has {program.learned[0].key}, which is learned for features only",
            where=where,
        )
    if len(features) != 1 or features[0].expression.type is not ValueType.BOOLEAN:
        raise ConfigError(
            f"{condition[:80]!r} is not one condition",
            where=where,
            hint="Write what is true in its rows, for example \"height > 10 AND colour = 'red'\".",
        )
    return dataclasses.replace(features[0], name=f"{SLICE_PREFIX}{name}")
