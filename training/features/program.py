"""features.sql as a whole: its columns, its features in order, and the SQL that computes them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from timberline.registry.signature import Column
from timberline.training.features.expressions import Call, ColumnRef, Expression, Feature, may_hold_null
from timberline.training.features.render import render_feature, render_select


@dataclass(frozen=True)
class FeatureProgram:
    """features.sql, checked: raw columns, all that it reads among them, and its features in order."""

    columns: tuple[Column, ...]
    features: tuple[Feature, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The features' names in order."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def nullable(self) -> tuple[bool, ...]:
        """Of each feature, whether a NULL in a nullable column may make it NULL."""
        return tuple(may_hold_null(feature.expression) for feature in self.features)

    @cached_property
    def read_names(self) -> frozenset[str]:
        """The names of the columns that a feature reads."""
        waiting: list[Expression] = [feature.expression for feature in self.features]
        seen, names = set[Expression](), set[str]()
        while waiting:
            part = waiting.pop()
            if isinstance(part, ColumnRef):
                names.add(part.column)
            elif isinstance(part, Call) and part not in seen:
                seen.add(part)
                waiting += part.arguments
        return frozenset(names)

    def narrow(self) -> FeatureProgram:
        """The same features over the columns that they read, and no others."""
        read = tuple(column for column in self.columns if column.name in self.read_names)
        return FeatureProgram(columns=read, features=self.features)

    def select_sql(self, relation: str) -> str:
        """The canonical DuckDB statement that selects the features, each as FLOAT, from ``relation``.

        Args:
            relation: what stands behind FROM: a table's name or a subquery in parentheses. It must
                have the program's columns under their names, of any type that casts to theirs.
        """
        return render_select(self.features, relation)

    def feature_sql(self, feature: Feature) -> str:
        """The canonical DuckDB expression of one feature, as FLOAT and without its name."""
        return render_feature(feature.expression)
