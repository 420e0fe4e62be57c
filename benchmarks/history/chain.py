"""Ratios between neighbours → one index over all releases.

Every candidate was measured beside its champion in one run, so the ratio is free of the machine, its
neighbours and its year. The product of the ratios along the champions is therefore a latency index
that no change of machine distorts, which a stored baseline is. The price: its error grows with every
link, because the variances of the logarithms add up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# The verdict's upper bound is a one-sided 95 % one, or a stricter one where the gate may look several
# times, at a t with a few degrees of freedom. Read as a plain normal 95 % bound it gives a standard
# error that is too large, by 40 % with the levels of gates.toml, and never too small unless
# `alpha_pass` was set above 5 %.
_BOUND_QUANTILE = 1.6449
_TWO_SIDED_95 = 1.9600


@dataclass(frozen=True)
class Link:
    """``version`` takes ``ratio`` times as long as ``champion``, at most ``high`` times."""

    version: int
    champion: int
    ratio: float
    high: float

    @property
    def log_error(self) -> float:
        """Standard error of ln(ratio)."""
        return standard_error(math.log(self.ratio), math.log(self.high))


@dataclass(frozen=True)
class LatencyIndex:
    """How long a version takes, as a multiple of ``root``'s time, with its 95 % interval.

    Indexes of different roots are not comparable. ``path`` holds the links from the root to here, as
    (version, variance of the logarithm of its ratio); it is empty for the root itself.
    """

    root: int
    path: tuple[tuple[int, float], ...]
    value: float
    low: float
    high: float

    @property
    def log_error(self) -> float:
        """Standard error of ln(value)."""
        return math.sqrt(sum(variance for _, variance in self.path))


def standard_error(value: float, high: float) -> float:
    """The standard error behind a one-sided upper bound of a verdict; rather too large than too small."""
    return max(0.0, high - value) / _BOUND_QUANTILE


def chain_ratios(links: Sequence[Link], first: Iterable[int] = ()) -> dict[int, LatencyIndex]:
    """The index of every version that is linked to another, by version.

    Args:
        links: in the order they were measured. A champion that no earlier link leads to (its own
            verdict is missing, or was given later) is the root of a new chain.
        first: versions that were judged without a champion; roots too, also when nothing follows.
    """
    indexes = {version: _root(version) for version in first}
    for link in links:
        champion = indexes.setdefault(link.champion, _root(link.champion))
        # A verdict given again later, against a champion that came after, must not close a circle.
        if link.version not in indexes:
            indexes[link.version] = _append(champion, link)
    return indexes


def _root(version: int) -> LatencyIndex:
    return LatencyIndex(root=version, path=(), value=1.0, low=1.0, high=1.0)


def _append(champion: LatencyIndex, link: Link) -> LatencyIndex:
    path = (*champion.path, (link.version, link.log_error**2))
    value = champion.value * link.ratio
    spread = math.exp(_TWO_SIDED_95 * math.sqrt(sum(variance for _, variance in path)))
    return LatencyIndex(root=champion.root, path=path, value=value, low=value / spread, high=value * spread)
