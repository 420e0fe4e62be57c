"""A plot area in SVG that is as wide as its container, with text that keeps its size.

Horizontal positions are percent of the width, vertical ones pixels: the browser lays out points and text,
and stretches an inner drawing with the curves, but not their strokes. So the same plot fits a phone and
a wide screen without a script. templates/page.css gives colours and strokes by class; labels of an axis
lie outside of the area, in the padding of class "plot".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

from markupsafe import Markup

Point = tuple[float, float]
Format = Callable[[float], str]
Kind = Literal["linear", "log", "normal"]

# Equal steps of these are drawn equally long. "normal" is for shares: it gives both tails room.
_BENDS: dict[Kind, Callable[[float], float]] = {
    "linear": float,
    "log": math.log,
    "normal": NormalDist().inv_cdf,
}

_CAP = 4.0  # half the length of a whisker's end stroke, pixels


@dataclass(frozen=True)
class Scale:
    """Takes ``low`` to ``start`` and ``high`` to ``stop``; values outside go to the nearer end.

    Both ends of a "log" scale are positive, those of a "normal" one between 0 and 1.
    """

    low: float
    high: float
    start: float
    stop: float
    kind: Kind = "linear"

    def __call__(self, value: float) -> float:
        """The position of a value; the middle where the scale has no length."""
        bend = _BENDS[self.kind]
        low, high, at = (bend(v) for v in (self.low, self.high, min(max(value, self.low), self.high)))
        return self.start + ((at - low) / (high - low) if high > low else 0.5) * (self.stop - self.start)

    def ticks(self, count: int) -> list[float]:
        """About ``count`` round values within the scale, increasing."""
        if self.high <= self.low:
            return [self.low]
        if self.kind == "linear":
            return _linear_ticks(self.low, self.high, count)
        found = _log_ticks(self.low, self.high, count) if self.kind == "log" else _PERCENTILES
        return [value for value in found if self.low <= value <= self.high]


_PERCENTILES = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]  # those that have a name

# A leading digit and the numbers that are rounded to it; the ends are Heckbert's.
_DIGITS = ((1, 1.5), (2, 3.0), (5, 7.0), (10, 10.5))


def _linear_ticks(low: float, high: float, count: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten.

    Source: Heckbert, *Nice numbers for graph labels*, Graphics Gems, 1990.
    """
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(digit for digit, up_to in _DIGITS if rough / power < up_to)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    """1, 2 and 5 times the powers of ten, or fewer of them where there is no room."""
    if high < 4 * low:  # less than two of them, maybe
        return _linear_ticks(low, high, count)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [float(f"{digit}e{power}") for power in powers for digit in digits]
        if sum(low <= value <= high for value in found) <= count + 1:
            break
    return found


def across(low: float, high: float, kind: Kind = "linear") -> Scale:
    """A scale over the width of a chart, in percent."""
    return Scale(low, high, 0, 100, kind)


@dataclass
class Chart:
    """Marks are drawn in the order they are added, curves below all others.

    ``x`` runs over the width (`across`), ``y`` from ``bottom`` at the lower edge to ``top``;
    ``height`` in pixels, without the labels of the axes.
    """

    x: Scale
    bottom: float
    top: float
    height: float
    y_kind: Kind = "linear"
    _marks: list[Markup] = field(default_factory=list)
    _curves: list[Markup] = field(default_factory=list)
    _grid: list[Markup] = field(default_factory=list)

    @property
    def y(self) -> Scale:
        """Value → pixels from above."""
        return Scale(self.bottom, self.top, self.height, 0, self.y_kind)

    def axis_x(self, format: Format, title: str = "", *, count: int = 6, is_grid: bool = True) -> None:
        """Ticks with their labels below."""
        self.ticks_x([(value, format(value)) for value in self.x.ticks(count)], title, is_grid=is_grid)

    def ticks_x(self, named: Sequence[tuple[float, str]], title: str = "", *, is_grid: bool = False) -> None:
        """Labels below at these values; a narrow screen leaves out every other one."""
        for index, (value, name) in enumerate(named):
            x = _percent(self.x(value))
            if is_grid:
                self._grid.append(_element("line", "grid", x1=x, x2=x, y1=0, y2=self.height))
            minor = " minor" if index % 2 and len(named) > 4 else ""
            self._grid.append(_element("text", f"tick middle{minor}", name, x=x, y=self.height + 16))
        if title:
            self._grid.append(_element("text", "title middle", title, x="50%", y=self.height + 34))

    def axis_y(self, format: Format, *, count: int = 5) -> None:
        """Ticks with their labels at the left."""
        for value in self.y.ticks(count):
            y = self.y(value)
            self._grid.append(_element("line", "grid", x1=0, x2="100%", y1=y, y2=y))
            self._grid.append(_element("text", "tick end", format(value), x=-8, y=y + 4))

    def rule_y(self, value: float, class_: str) -> None:
        """A line over the whole width."""
        y = self.y(value)
        self._marks.append(_element("line", f"rule {class_}", x1=0, x2="100%", y1=y, y2=y))

    def rule_x(self, value: float, class_: str, name: str = "") -> None:
        """A line over the whole height with its name beside it."""
        x = self.x(value)
        at = _percent(x)
        self._marks.append(_element("line", f"rule {class_}", x1=at, x2=at, y1=0, y2=self.height))
        if name:
            # A name in the right half stands at the left of its line, or it would leave the picture.
            side, dx = ("end", -4) if x > 50 else ("", 4)
            self._marks.append(_element("text", f"name {side} {class_}", name, x=at, dx=dx, y=10))

    def band_x(self, low: float, high: float, class_: str) -> None:
        """A strip over the whole height."""
        start, stop = self.x(low), self.x(high)
        self._grid.append(
            _element("rect", class_, x=_percent(start), y=0, width=_percent(stop - start), height=self.height)
        )

    def dot(self, x: float, y: float, class_: str, label: str, *, radius: float = 4.5) -> None:
        """A point; ``label`` is its tooltip."""
        title = Markup("<title>{}</title>").format(label)
        self._marks.append(
            _element("circle", f"dot {class_}", title, cx=_percent(self.x(x)), cy=self.y(y), r=radius)
        )

    def whisker_y(self, x: float, low: float, high: float, class_: str) -> None:
        """An upright interval."""
        at, start, stop = _percent(self.x(x)), self.y(low), self.y(high)
        self._marks.append(_element("line", f"whisker {class_}", x1=at, x2=at, y1=start, y2=stop))
        self._marks += [_stroke(at, end, (-_CAP, 0), (_CAP, 0), class_) for end in (start, stop)]

    def whisker_x(self, low: float, high: float, y: float, class_: str) -> None:
        """A level interval; an end beyond the scale has an arrow."""
        at, (start, stop) = self.y(y), (_percent(self.x(end)) for end in (low, high))
        self._marks.append(_element("line", f"whisker {class_}", x1=start, x2=stop, y1=at, y2=at))
        for value, end in ((low, start), (high, stop)):
            if self.x.low <= value <= self.x.high:
                self._marks.append(_stroke(end, at, (0, -_CAP), (0, _CAP), class_))
            else:
                inward = _CAP if value < self.x.low else -_CAP
                self._marks += [_stroke(end, at, (0, 0), (inward, side), class_) for side in (-_CAP, _CAP)]

    def line(self, points: Sequence[Point], class_: str) -> None:
        """A curve through the points; none through fewer than two."""
        if len(points) < 2:
            return
        path = "L".join(f"{_number(self.x(x))} {_number(self.y(y))}" for x, y in points)
        self._curves.append(_element("path", f"line {class_}", d=f"M{path}"))

    def render(self, label: str, class_: str = "plot") -> Markup:
        """The picture; ``label`` is what it shows, for a reader who cannot see it."""
        return Markup(
            '<div class="{class_}"><svg width="100%" height="{height}" role="img" aria-label="{label}">{grid}'
            '<svg width="100%" height="{height}" viewBox="0 0 100 {height}" preserveAspectRatio="none">'
            "{curves}</svg>{marks}</svg></div>"
        ).format(
            class_=class_,
            height=_number(self.height),
            label=label,
            grid=Markup().join(self._grid),
            curves=Markup().join(self._curves),
            marks=Markup().join(self._marks),
        )


def _element(name: str, class_: str, content: str = "", **attributes: str | float) -> Markup:
    """One element; whatever is no `Markup` is escaped."""
    written = Markup().join(
        Markup(' {}="{}"').format(key, value if isinstance(value, str) else _number(value))
        for key, value in {**attributes, "class": class_}.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, content)


def _stroke(x: str, y: float, start: Point, stop: Point, class_: str) -> Markup:
    """A short stroke from one offset in pixels to another: one line cannot mix percent and pixels."""
    (x1, y1), (x2, y2) = start, stop
    line = _element("line", f"whisker {class_}", x1=x1, y1=y1, x2=x2, y2=y2)
    return _element("svg", "", line, width=1, height=1, x=x, y=y, overflow="visible")


def _number(value: float) -> str:
    """At most two decimals: a page has thousands of numbers, and a hundredth of a pixel is not seen."""
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def _percent(position: float) -> str:
    return f"{_number(position)}%"
