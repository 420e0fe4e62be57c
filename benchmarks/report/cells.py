"""Numbers of a verdict's line as people read them: the same cells in every document."""

from __future__ import annotations

from timberline.registry.verdict import Verdict, VerdictLine

HEAD = ("", "what", "champion", "candidate", "difference", "bounds", "limit", "why")


def describe_match(verdict: Verdict) -> str:
    """The second half of a title: against whom."""
    if verdict.champion is None:
        return "(first version, judged alone)"
    return f"against version {verdict.champion.version}"


def lay_cells(line: VerdictLine) -> tuple[str, ...]:
    """One line as text, a cell for each of ``HEAD``."""
    scale = _scale(line)
    bounds = f"{scale(line.low)} to {scale(line.high)}" if line.low is not None else ""
    change = scale(line.difference, sign=not line.unit.endswith("ratio"))
    value = _value_scale(line)
    limit = scale(line.limit)
    return (
        line.label,
        line.name,
        value(line.champion),
        value(line.candidate),
        change,
        bounds,
        limit,
        line.reason,
    )


class _Scale:
    """Numbers of one unit as people read them."""

    def __init__(self, unit: str) -> None:
        self._unit = unit

    def __call__(self, value: float | None, *, sign: bool = False) -> str:
        if value is None:
            return ""
        plus = "+" if sign else ""
        if self._unit.startswith("share"):
            return f"{value:{plus}.2%}"
        if self._unit == "bytes":
            return f"{value / 1e6:{plus},.1f} MB"
        if self._unit == "ratio":
            return f"× {value:.3f}"
        if self._unit in ("pairs", "rows"):
            return f"{value:,.0f} {self._unit}"
        return f"{value:{plus}.4g} {self._unit}".rstrip()


def _scale(line: VerdictLine) -> _Scale:
    """Of difference, bounds and limit."""
    return _Scale(line.unit.rpartition(", ")[2])


def _value_scale(line: VerdictLine) -> _Scale:
    """Of the two values themselves."""
    return _Scale(line.unit.partition(",")[0])
