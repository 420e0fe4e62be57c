"""features.sql → `FeatureProgram`: the shape of the statement, the expansion of stars, the names.

`check` decides what a single expression may contain and what type it has. The slices of ``[gate]`` are
conditions in the same language: they are checked before anything is read.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

from sqlglot import exp

from timberline.registry.errors import ConfigError
from timberline.registry.manifest import SLICE_PREFIX
from timberline.registry.runs import Fitted
from timberline.registry.signature import Column
from timberline.training.errors import FeatureError
from timberline.training.features import build
from timberline.training.features.check import Checker
from timberline.training.features.expressions import ColumnRef, Feature, ValueType
from timberline.training.features.language import Source, nearest
from timberline.training.features.program import FeatureProgram

RELATION = "raw"
# The prepared table's own columns are named like this (`registry.runs.ROW_COLUMN`).
_RESERVED = "__"
# sqlglot's names of clauses that differ from SQL's by more than case and a last letter ("joins", "with_").
_CLAUSES = {"group": "GROUP BY", "order": "ORDER BY", "alias": "an alias of the table", "db": "a schema"}


def parse_features(
    sql: str, columns: Sequence[Column], *, file: str = "features.sql", fitted: Fitted | None = None
) -> FeatureProgram:
    """Read, check and type features.sql.

    Args:
        sql: one ``SELECT <expression [AS name]>, ... FROM raw``.
        columns: the raw input columns that it may read, in the order ``*`` expands to.
        file: the file's name in errors.
        fitted: what was learned for it from the training split; without, a feature that is text stays text.

    Raises:
        FeatureError: it has something outside the language; the message has line and column, and
            the list of what is supported.
    """
    source = Source(sql, file)
    try:
        return _Parser(source, tuple(columns), fitted).parse()
    except RecursionError:
        raise source.refuse(exp.Null(), "an expression is nested too deeply") from None


def read_texts(sql: str, *, file: str = "features.sql") -> dict[str, str]:
    """The text of every computed feature by its name, casefolded; for people, in DuckDB's spelling.

    Args:
        sql: a statement that `parse_features` reads.
        file: as there.
    """
    (select,) = Source(sql, file).parse()
    assert isinstance(select, exp.Select)
    computed = [item for item in select.expressions if isinstance(item, exp.Alias)]
    return {item.alias.casefold(): item.this.sql("duckdb") for item in computed}


class _Parser:
    def __init__(self, source: Source, columns: tuple[Column, ...], fitted: Fitted | None) -> None:
        self._source = source
        self._fitted = fitted
        self._columns = columns
        self._checker = Checker(source, columns, fitted)

    def parse(self) -> FeatureProgram:
        statements = self._source.parse()
        if len(statements) != 1 or not isinstance(statements[0], exp.Select):
            place = statements[min(len(statements), 2) - 1] if statements else exp.Null()
            raise self._source.refuse(place, f"expected one SELECT, found {_describe(statements)}")
        select = statements[0]
        self._check_clauses(select)
        features: dict[str, Feature] = {}
        for item in select.expressions:
            for feature in self._read_item(item):
                if feature.name.casefold() in features:
                    raise self._source.refuse(item, f"the name {feature.name!r} is given twice")
                features[feature.name.casefold()] = feature
        if not features:
            raise self._source.refuse(select, "selects nothing")
        return FeatureProgram(
            columns=self._columns,
            features=tuple(features.values()),
            learned=tuple(self._checker.learned.values()),
        )

    def _check_clauses(self, select: exp.Select) -> None:
        origin = select.args.get("from_")
        table = origin.this if origin else None
        if not isinstance(table, exp.Table) or table.name.casefold() != RELATION:
            found = f"FROM {table.sql('duckdb')[:60]}" if table is not None else "no FROM"
            raise self._source.refuse(
                table if table is not None else select, f"expected FROM raw, found {found}"
            )
        for node, allowed in ((table, {"this"}), (select, {"expressions", "from_"})):
            for key, value in node.args.items():
                if value and key not in allowed:
                    place = value[0] if isinstance(value, list) else value
                    place = place if isinstance(place, exp.Expr) else node
                    name = _CLAUSES.get(key) or key.rstrip("s_").upper()
                    raise self._source.refuse(
                        place, f"{name} is not supported: each raw row becomes one row of features"
                    )

    def _read_item(self, item: exp.Expr) -> Iterator[Feature]:
        names = self._expand(item)
        if names is not None:
            for name in names:
                yield self._make_feature(item, name, exp.column(name, quoted=True))
            return
        alias = item.alias if isinstance(item, exp.Alias) else None
        inner = item.this if isinstance(item, exp.Alias) else item
        if alias is None and not isinstance(inner.unnest(), exp.Column):
            raise self._source.refuse(
                item, "a computed feature has no name", "Write `<expression> AS <name>`."
            )
        yield self._make_feature(item, alias, inner)

    def _make_feature(self, item: exp.Expr, alias: str | None, node: exp.Expr) -> Feature:
        expression = self._checker.check(node)
        if alias is None:
            assert isinstance(expression, ColumnRef)
            alias = expression.column
        if not alias or (alias.startswith(_RESERVED) and alias.endswith(_RESERVED)):
            raise self._source.refuse(
                item,
                f"{alias!r} cannot be a feature's name",
                f"Names like {_RESERVED}row{_RESERVED} are the ETL's own.",
            )
        raw = self._checker.find_column(alias)
        if raw is not None and not (isinstance(expression, ColumnRef) and expression.column == raw.column):
            raise self._source.refuse(
                item,
                f"feature {alias!r} has the name of a raw column and is something else",
                "Give it a name of its own.",
            )
        if not self._checker.reads_columns(node):
            raise self._source.refuse(item, f"feature {alias!r} is a constant, which carries no information")
        name = raw.column if raw is not None else alias
        if expression.type is not ValueType.VARCHAR or self._fitted is None:
            return Feature(name=name, expression=expression)
        vocabulary = self._fitted.vocabularies[name]
        return Feature(name=name, expression=build.code(expression, vocabulary), vocabulary=vocabulary)

    def _expand(self, item: exp.Expr) -> list[str] | None:
        """Names of the columns that ``*`` or COLUMNS stands for; None if ``item`` is neither."""
        if isinstance(item, exp.Columns):
            if isinstance(item.this, exp.Star):
                return self._expand_star(item.this)
            if isinstance(item.this, exp.Literal) and item.this.is_string:
                return self._expand_pattern(item, item.this.name)
            raise self._source.refuse(item, "COLUMNS takes one regular expression in quotes")
        if isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
            self._checker.check_qualifier(item)
            return self._expand_star(item.this)
        return self._expand_star(item) if isinstance(item, exp.Star) else None

    def _expand_star(self, star: exp.Star) -> list[str]:
        for key, value in star.args.items():
            if value and key != "except_":
                raise self._source.refuse(star, f"{key.rstrip('_').upper()} of a star is not supported")
        excluded = set()
        for node in star.args.get("except_") or ():
            column = self._checker.find_column(node.name)
            if column is None:
                raise self._checker.unknown_column(node, node.name)
            excluded.add(column.column)
        return [c.name for c in self._columns if c.name not in excluded]

    def _expand_pattern(self, item: exp.Expr, pattern: str) -> list[str]:
        """As in DuckDB: the pattern may match anywhere in the name, and case counts."""
        try:
            names = [c.name for c in self._columns if re.search(pattern, c.name)]
        except re.error as error:
            raise self._source.refuse(item, f"{pattern!r} is no regular expression: {error}") from None
        if not names:
            hint = nearest(pattern, (c.name for c in self._columns))
            raise self._source.refuse(item, f"no column matches {pattern!r}", hint)
        return names


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
