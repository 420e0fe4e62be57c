"""Values → places on paper, and the round numbers to write at an axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

Kind = Literal["linear", "log", "normal"]

# Equal steps of these are drawn equally long. "normal" is for shares: it gives both tails room.
_BENDS: dict[Kind, Callable[[float], float]] = {
    "linear": float,
    "log": math.log,
    "normal": NormalDist().inv_cdf,
}


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
