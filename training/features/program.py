"""features.sql as a whole: its columns, its features in order, and the SQL that computes them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from registry.signature import Column
from training.features.expressions import Feature, may_hold_null
from training.features.render import render_feature, render_select


@dataclass(frozen=True)
class FeatureProgram:
    """features.sql, checked: the raw columns it may read and its features in the order of the SELECT."""

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

    def select_sql(self, relation: str, *, computed_only: bool = False) -> str:
        """The canonical DuckDB statement that selects the features, each as FLOAT, from ``relation``.

        Args:
            relation: what stands behind FROM: a table's name or a subquery in parentheses. It must
                have the program's columns under their names, of any type that casts to theirs.
            computed_only: leave out the features that are plain columns.
        """
        chosen = [f for f in self.features if not (computed_only and f.is_plain_column)]
        return render_select(chosen, relation)

    def feature_sql(self, feature: Feature) -> str:
        """The canonical DuckDB expression of one feature, as FLOAT and without its name."""
        return render_feature(feature.expression)
