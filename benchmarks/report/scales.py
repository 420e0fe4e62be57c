"""Values → places on paper, and the round numbers to write at an axis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

_NORMAL = NormalDist()


class Scale(Protocol):
    """Takes ``low`` to ``start`` and ``high`` to ``stop``; values outside go to the nearer end."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        """The place of a value."""
        ...

    def ticks(self, count: int) -> list[float]:
        """About ``count`` round values within the scale, increasing."""
        ...


@dataclass(frozen=True)
class LinearScale:
    """Equal differences get equal lengths."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """The place of a value."""
        return _place(self, value, self.low, self.high)

    def ticks(self, count: int) -> list[float]:
        """Multiples of 1, 2 or 5 times a power of ten.

        Source: Heckbert, *Nice numbers for graph labels*, Graphics Gems, 1990.
        """
        if self.high <= self.low:
            return [self.low]
        step = _round_up((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


@dataclass(frozen=True)
class LogScale:
    """Equal ratios get equal lengths; both ends are positive."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """The place of a value; 0 and less is the lower end."""
        return _place(self, math.log(max(value, self.low)), math.log(self.low), math.log(self.high))

    def ticks(self, count: int) -> list[float]:
        """1, 2 and 5 times the powers of ten, or only the powers where there is no room for more."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            values = [digit * 10.0**power for power in powers for digit in digits]
            inside = [v for v in values if self.low * (1 - 1e-9) <= v <= self.high * (1 + 1e-9)]
            if len(inside) <= count + 1:
                break
        return inside


@dataclass(frozen=True)
class NormalScale:
    """Shares between 0 and 1 as far apart as a normal distribution's quantiles: room for both tails."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """The place of a share."""
        value = min(max(value, self.low), self.high)
        return _place(self, *map(_NORMAL.inv_cdf, (value, self.low, self.high)))

    def ticks(self, count: int) -> list[float]:
        """The percentiles that people name; ``count`` below 7 leaves every other one out."""
        named = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99] if count >= 7 else [0.01, 0.25, 0.5, 0.75, 0.99]
        return [value for value in named if self.low <= value <= self.high]


def _place(scale: LinearScale | LogScale | NormalScale, value: float, low: float, high: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return scale.start + min(max(share, 0.0), 1.0) * (scale.stop - scale.start)


def _round_up(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= step * (1 - 1e-9))
