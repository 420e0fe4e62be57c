"""Histories with chosen latency ratios, without a registry."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.history.chain import Link, chain_ratios
from benchmarks.history.releases import Release
from registry.manifest import Interval
from registry.verdict import VerdictLine


def make_line(name: str, difference: float, high: float, unit: str) -> VerdictLine:
    """A line that passed; for a ratio the champion took 0.4 ms."""
    return VerdictLine(
        name=name,
        candidate=0.4 * difference,
        champion=0.4,
        difference=difference,
        low=difference - (high - difference),
        high=high,
        unit=unit,
        outcome="PASS",
        reason="made up",
    )


def make_releases(ratios: Sequence[float], error: float = 1.02) -> list[Release]:
    """A first version and one a ratio, each promoted after its champion; ``error`` is high / ratio."""
    links = [Link(n, n - 1, ratio, ratio * error) for n, ratio in enumerate(ratios, start=2)]
    indexes = chain_ratios(links, [1])
    lines = {link.version: (make_line("p50", link.ratio, link.high, "ms, ratio"),) for link in links}
    champions = {link.version: link.champion for link in links}
    return [
        Release(
            version=version,
            created_at=f"2026-01-{version:02}T08:00:00+00:00",
            accuracy=Interval(value=0.8, low=0.79, high=0.81),
            test_fingerprint="one",
            model_bytes=100_000,
            outcome="PASS",
            champion=champions.get(version),
            promoted_at=f"2026-01-{version:02}T09:00:00+00:00",
            lines=lines.get(version, ()),
            latency=index,
        )
        for version, index in sorted(indexes.items())
    ]
