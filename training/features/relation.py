"""What an expression can name: the raw columns, or what a WITH made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from timberline.registry.signature import Column
from timberline.training.features.expressions import ColumnRef, Expression, ValueType

_TYPES = {
    "FP64": ValueType.DOUBLE,
    "INT64": ValueType.BIGINT,
    "BOOL": ValueType.BOOLEAN,
    "BYTES": ValueType.VARCHAR,
}
_MOMENTS = {"date": ValueType.DATE, "timestamp": ValueType.TIMESTAMP}


@dataclass(frozen=True)
class Named:
    """A value with a name; ``write`` says how its author wrote it, in DuckDB's spelling."""

    name: str
    expression: Expression
    write: Callable[[], str]


class Relation:
    """Named values in order. Case does not count in a name, and the first of two counts, as in DuckDB."""

    def __init__(self, name: str, items: Sequence[Named]) -> None:
        self.name = name
        self.items = items
        self._by_name = {item.name.casefold(): item for item in reversed(items)}

    def find(self, name: str) -> Named | None:
        """The value of this name."""
        return self._by_name.get(name.casefold())


def make_raw(columns: Sequence[Column]) -> Relation:
    """The raw columns; a column is one object however often it is named, so that what is shared shows."""
    return Relation("raw", [Named(c.name, _reference(c), partial(str, c.name)) for c in columns])


def _reference(column: Column) -> ColumnRef:
    kind = _MOMENTS[column.moment] if column.moment else _TYPES[column.datatype]
    return ColumnRef(column=column.name, type=kind, nullable=column.is_nullable)
