"""A plot area of SVG that is as wide as its place, with text that stays its size.

Places across are percent of the width, places down are pixels: points and text are laid out by the
browser, and curves lie in an inner drawing that is stretched, their strokes not. So the same plot
fits a phone and a wide screen, and no script has to draw it again. What it looks like is said by
classes in page.css; labels of an axis lie outside of the area, in the padding of class "plot".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

from timberline.benchmarks.report.markup import Markup, format_number, tag

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
        """The place of a value; the middle where the scale has no length."""
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


# What people ask for by name.
_PERCENTILES = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]


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
    """A scale over the width of a chart."""
    return Scale(low, high, 0, 100, kind)


@dataclass
class Chart:
    """Marks are drawn in the order they are added, curves below all others.

    ``x`` runs over the width (`across`), ``y`` is linear from ``bottom`` at the lower
    edge to ``top``; ``height`` in pixels, without the labels of the axes.
    """

    x: Scale
    bottom: float
    top: float
    height: float
    _marks: list[Markup] = field(default_factory=list)
    _curves: list[Markup] = field(default_factory=list)
    _grid: list[Markup] = field(default_factory=list)

    @property
    def y(self) -> Scale:
        """Value → pixels from above."""
        return Scale(self.bottom, self.top, self.height, 0)

    def axis_x(self, format: Format, title: str = "", *, count: int = 6, is_grid: bool = True) -> None:
        """Ticks and their labels below; every other one may be left out where it is narrow."""
        self.ticks_x([(value, format(value)) for value in self.x.ticks(count)], is_grid=is_grid)
        self._name_x(title)

    def ticks_x(self, named: Sequence[tuple[float, str]], title: str = "", *, is_grid: bool = False) -> None:
        """Labels below at these values."""
        for index, (value, name) in enumerate(named):
            at = _percent(self.x(value))
            if is_grid:
                self._grid.append(tag("line", x1=at, x2=at, y1=0, y2=self.height, class_="grid"))
            minor = " minor" if index % 2 and len(named) > 4 else ""
            place: dict[str, str | float] = {"x": at, "y": self.height + 16}
            self._grid.append(tag("text", name, class_=f"tick middle{minor}", **place))
        self._name_x(title)

    def axis_y(self, format: Format, *, count: int = 5) -> None:
        """Ticks with their labels at the left."""
        for value in self.y.ticks(count):
            at = self.y(value)
            self._grid.append(tag("line", x1=0, x2="100%", y1=at, y2=at, class_="grid"))
            self._grid.append(tag("text", format(value), x=-8, y=at + 4, class_="tick end"))

    def rule_y(self, value: float, class_: str) -> None:
        """A line over the whole width."""
        at = self.y(value)
        self._marks.append(tag("line", x1=0, x2="100%", y1=at, y2=at, class_=f"rule {class_}"))

    def rule_x(self, value: float, class_: str, name: str = "", *, y: float = 10) -> None:
        """A line over the whole height, its name beside it at ``y`` pixels from above."""
        at = self.x(value)
        place = _percent(at)
        self._marks.append(tag("line", x1=place, x2=place, y1=0, y2=self.height, class_=f"rule {class_}"))
        if name:
            # In the right half it stands on the left, or it would leave the picture.
            side, dx = ("end", -4) if at > 50 else ("", 4)
            self._marks.append(tag("text", name, x=place, dx=dx, y=y, class_=f"name {side} {class_}"))

    def band_x(self, low: float, high: float, class_: str) -> None:
        """A strip over the whole height."""
        start, stop = self.x(low), self.x(high)
        place: dict[str, str | float] = {"x": _percent(start), "y": 0}
        size: dict[str, str | float] = {"width": _percent(stop - start), "height": self.height}
        self._grid.append(tag("rect", class_=class_, **place, **size))

    def dot(self, x: float, y: float, class_: str, said: str, *, radius: float = 4.5) -> None:
        """A point; ``said`` is read when one points at it."""
        place: dict[str, str | float] = {"cx": _percent(self.x(x)), "cy": self.y(y), "r": radius}
        self._marks.append(tag("circle", tag("title", said), class_=f"dot {class_}", **place))

    def whisker_y(self, x: float, low: float, high: float, class_: str) -> None:
        """An interval, upright."""
        place = _percent(self.x(x))
        start, stop = self.y(low), self.y(high)
        self._marks.append(tag("line", x1=place, x2=place, y1=start, y2=stop, class_=f"whisker {class_}"))
        for end in (start, stop):
            self._marks.append(_cap(place, end, -_CAP, 0, _CAP, 0, class_))

    def whisker_x(self, low: float, high: float, y: float, class_: str) -> None:
        """An interval, lying; an end beyond the scale has an arrow."""
        at, places = self.y(y), [_percent(self.x(low)), _percent(self.x(high))]
        self._marks.append(tag("line", x1=places[0], x2=places[1], y1=at, y2=at, class_=f"whisker {class_}"))
        for value, place in zip((low, high), places, strict=True):
            if self.x.low <= value <= self.x.high:
                self._marks.append(_cap(place, at, 0, -_CAP, 0, _CAP, class_))
            else:
                inward = _CAP if value < self.x.low else -_CAP
                self._marks += [_cap(place, at, 0, 0, inward, side, class_) for side in (-_CAP, _CAP)]

    def line(self, points: Sequence[Point], class_: str) -> None:
        """A curve through the points; none through fewer than two."""
        if len(points) < 2:
            return
        self._curves.append(tag("path", d=self._path(points), class_=f"line {class_}"))

    def area(self, upper: Sequence[Point], lower: Sequence[Point], class_: str) -> None:
        """What lies between two curves."""
        path = self._path([*upper, *reversed(lower)])
        self._curves.append(tag("path", d=f"{path}Z", class_=f"area {class_}"))

    def render(self, said: str, class_: str = "plot") -> Markup:
        """The picture; ``said`` is what it shows, for those who cannot see it."""
        height = format_number(self.height)
        stretch: dict[str, str] = {"viewBox": f"0 0 100 {height}", "preserveAspectRatio": "none"}
        size: dict[str, str] = {"width": "100%", "height": height}
        inner = tag("svg", self._curves, **size, **stretch) if self._curves else None
        return tag(
            "div",
            tag("svg", self._grid, inner, self._marks, role="img", aria_label=said, **size),
            class_=class_,
        )

    def _path(self, points: Sequence[Point]) -> str:
        places = (f"{format_number(self.x(x))} {format_number(self.y(y))}" for x, y in points)
        return "M" + "L".join(places)

    def _name_x(self, title: str) -> None:
        if title:
            self._grid.append(tag("text", title, x="50%", y=self.height + 34, class_="title middle"))


def _percent(place: float) -> str:
    return f"{format_number(place)}%"


def _cap(x: str, y: float, dx1: float, dy1: float, dx2: float, dy2: float, class_: str) -> Markup:
    """A short stroke from one offset in pixels to another; percent and pixels do not mix in one line."""
    place: dict[str, str] = {"x": x, "y": format_number(y), "overflow": "visible"}
    stroke = tag("line", x1=dx1, y1=dy1, x2=dx2, y2=dy2, class_=f"whisker {class_}")
    return tag("svg", stroke, width="1", height="1", **place)
