"""Histories with chosen latency ratios, with and without a registry.

releases = make_releases([1.0, 1.1])            # values alone: three versions, the last one 10 % slower
version = publish_release(store, 1.1)           # tiny@n with a verdict that says so; not promoted
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tests.support.manifests import give_verdict, publish_tiny
from timberline.benchmarks.history.releases import Link, Release, chain_ratios
from timberline.registry.manifest import Interval
from timberline.registry.store import Store
from timberline.registry.verdict import VERDICT_FILE, Outcome, VerdictLine, encode_verdict


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


def publish_release(store: Store, ratio: float | None = None, outcome: Outcome = "PASS") -> int:
    """A published and judged version whose p50 was ``ratio`` times its champion's; not promoted."""
    version = publish_tiny(store)
    verdict = give_verdict(store, "tiny", version, outcome)
    if ratio is not None:
        line = msgspec.structs.replace(make_line("p50", ratio, ratio * 1.04, "ms, ratio"), outcome=outcome)
        changed = msgspec.structs.replace(verdict, lines=(line,))
        store.open_version("tiny", version).write_document(VERDICT_FILE, encode_verdict(changed))
    return version
