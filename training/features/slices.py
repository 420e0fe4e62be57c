"""Slices of ``[gate]``: conditions over the raw columns, in the language of features.sql.

The same language, so that a condition is checked before anything is read, and means to DuckDB
what it means in a feature.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from timberline.registry.errors import ConfigError
from timberline.registry.manifest import SLICE_PREFIX
from timberline.registry.signature import Column
from timberline.training.errors import FeatureError
from timberline.training.features.expressions import Feature, ValueType
from timberline.training.features.parse import parse_features
from timberline.training.features.program import FeatureProgram


def parse_slices(
    slices: Mapping[str, str], columns: Sequence[Column], *, where: str = "gate.slices"
) -> FeatureProgram:
    """Read and check conditions; the program's features ``slice_<name>`` are 1, 0 or NULL.

    Args:
        slices: condition by name.
        columns: the raw input columns that a condition may read.
        where: the key that holds them, as errors tell it.

    Raises:
        ConfigError: a condition is not one boolean expression of the language; names its key.
    """
    features = tuple(
        _parse_one(name, condition, columns, where=f"{where}.{name}") for name, condition in slices.items()
    )
    return FeatureProgram(columns=tuple(columns), features=features)


def _parse_one(name: str, condition: str, columns: Sequence[Column], *, where: str) -> Feature:
    # Under a name that no column has. A line of its own, so that a comment behind the condition ends there.
    taken = {column.name.casefold() for column in columns}
    alias = SLICE_PREFIX + name
    while alias.casefold() in taken:
        alias += "_"
    sql = f"SELECT\n{condition}\nAS {alias} FROM raw"
    try:
        features = parse_features(sql, columns, file=where).features
    except FeatureError as error:
        raise ConfigError(f"{condition[:80]!r}: {error.what}", where=where, hint=error.hint) from error
    if len(features) != 1 or features[0].expression.type is not ValueType.BOOLEAN:
        raise ConfigError(
            f"{condition[:80]!r} is not one condition",
            where=where,
            hint="Write what is true in its rows, for example \"height > 10 AND colour = 'red'\".",
        )
    return dataclasses.replace(features[0], name=f"{SLICE_PREFIX}{name}")
