"""Lists and maps of constants, which are tables to look up in: ``[10, 20][i]``, ``map {'a': 1}[x]``."""

from __future__ import annotations

from collections.abc import Sequence

from timberline.training.features.build import lookup
from timberline.training.features.expressions import (
    Expression,
    ExpressionError,
    Literal,
    LookupTable,
    ValueType,
)


def look_up_list(values: Sequence[Expression], index: Expression) -> Expression:
    """The value at ``index``, from 1 on, or from the end if it is negative; NULL beyond either end.

    Raises:
        ExpressionError: ``index`` is no whole number, or a value is no constant.
    """
    if index.type is not ValueType.BIGINT:
        raise ExpressionError(
            f"the index of a list is a whole number, and not {index.type}", "Write CAST(x AS BIGINT)."
        )
    found = _read_constants(values, "a list")
    count = len(found)
    keys = tuple(float(place) for place in (*range(-count, 0), *range(1, count + 1)))
    return lookup(index, LookupTable(keys, _as_table([*found, *found])))


def look_up_map(keys: Sequence[Expression], values: Sequence[Expression], key: Expression) -> Expression:
    """The value of ``key``; NULL where it is NULL or none of ``keys``.

    Raises:
        ExpressionError: ``key`` is of another kind than ``keys``, or something else is no constant.
    """
    known = _read_constants(keys, "a map")
    if len(values) != len(known):
        raise ExpressionError(f"the map has {len(known)} keys and {len(values)} values")
    if None in known or len(set(known)) < len(known):
        raise ExpressionError("a key of the map is NULL or there twice", "DuckDB refuses it, too.")
    is_text = isinstance(known[0], str)
    if key.type.is_moment or is_text is not (key.type is ValueType.VARCHAR):
        raise ExpressionError(
            f"the keys of the map are {'texts' if is_text else 'numbers'}, and {key.type} is looked up in it"
        )
    return lookup(key, LookupTable(_as_table(known), _as_table(_read_constants(values, "a map"))))  # type: ignore[arg-type]


def _read_constants(items: Sequence[Expression], what: str) -> list[float | str | None]:
    """What the literals hold: all texts or all numbers, with NULLs among them."""
    found: list[float | str | None] = []
    for item in items:
        if not isinstance(item, Literal):
            raise ExpressionError(f"{what} holds constants only", "Choose between expressions with CASE.")
        found.append(
            item.value if item.value is None or isinstance(item.value, str) else float(item.value) + 0.0
        )
    kinds = {type(value) for value in found if value is not None}
    if len(kinds) != 1:
        raise ExpressionError(f"{what} holds texts or numbers" + (", and not both" if kinds else ""))
    return found


def _as_table(values: Sequence[float | str | None]) -> tuple[str | None, ...] | tuple[float | None, ...]:
    return tuple(values)  # type: ignore[return-value]
