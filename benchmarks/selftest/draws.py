"""Worse models by the hundred: how often the rule for held-out answers blocks them, by how many rows it has.

No service is started. Each draw is a version of its own in a registry of its own, judged by what the
gate judges before it starts anything.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from timberline.benchmarks.analysis.evidence import judge_static
from timberline.benchmarks.analysis.power import rows_to_block
from timberline.benchmarks.gate.settings import GateSettings
from timberline.benchmarks.selftest.binomial import bound_rate
from timberline.benchmarks.selftest.ledger import append_rows, locked, read_rows
from timberline.benchmarks.selftest.scenarios import FALSE_BLOCK_RATE, FOUND_RATE
from timberline.benchmarks.selftest.worse import CHURN, stage_worse
from timberline.registry.runtime.stages import digest_value
from timberline.registry.store import Store

# A draw takes milliseconds; writing each one down takes longer.
_AT_ONCE = 25
_ORDER = ("BLOCK", "INVALID", "INCONCLUSIVE", "PASS")


class DrawRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One worse candidate: what was asked for, what was drawn, what the gate said and by which lines.

    ``rows`` 0 stands for all rows there are; ``drop`` and ``churn`` are expected, ``seen_drop`` and
    ``seen_churn`` what came out.
    """

    config_digest: str
    rows: int
    drop: float
    churn: float
    seed: int
    seen_rows: int
    seen_drop: float
    seen_churn: float
    outcome: str
    deciding: str


@dataclass(frozen=True)
class DrawRate:
    """Block rate of draws of one drop and number of rows, with 95 % bounds.

    ``needed`` is how many rows block such a drop with the power of the settings, 0 within the limit.
    ``by`` counts which lines blocked.
    """

    rows: int
    drop: float
    churn: float
    draws: int
    blocked: int
    passed: int
    rate: float
    low: float
    high: float
    needed: int
    stated: str
    by: dict[str, int]


@dataclass(frozen=True)
class Draws:
    """What is drawn from and where it is written."""

    store: Store
    model: str
    version: int
    settings: GateSettings
    path: Path

    def digest_config(self) -> str:
        """What two draws must share to be counted together."""
        identity = self.store.open_version(self.model, self.version).digests
        return digest_value([self.settings.accuracy, identity])

    @property
    def limit(self) -> float:
        """The drop of accuracy that the model allows."""
        return self.store.open_version(self.model, self.version).manifest.gate.max_accuracy_drop

    def read_done(self) -> list[DrawRow]:
        """The draws that count here and now."""
        digest = self.digest_config()
        return [row for row in read_rows(self.path, DrawRow) if row.config_digest == digest]


def run_draws(draws: Draws, *, drops: Sequence[float], sizes: Sequence[int], count: int) -> None:
    """Draw until there are ``count`` of each drop and number of rows (0: all); goes on where it was."""
    with locked(draws.path):
        done = draws.read_done()
        fresh: list[DrawRow] = []
        for rows, drop in ((rows, drop) for rows in sizes for drop in drops):
            seeds = {row.seed for row in done if (row.rows, row.drop) == (rows, drop)}
            for seed in sorted(set(range(count)) - seeds):
                fresh.append(_draw(draws, rows, drop, seed))
                if len(fresh) == _AT_ONCE:
                    append_rows(draws.path, fresh)
                    fresh = []
        if fresh:
            append_rows(draws.path, fresh)


def _draw(draws: Draws, rows: int, drop: float, seed: int) -> DrawRow:
    with tempfile.TemporaryDirectory(prefix="timberline-") as folder:
        staged = stage_worse(
            draws.store, draws.model, draws.version, Path(folder), drop=drop, seed=seed, rows=rows or None
        )
        arms = {"champion": staged.champion, "candidate": staged.candidate}
        versions = {arm: staged.store.open_version(draws.model, number) for arm, number in arms.items()}
        static = judge_static(staged.store, versions, draws.settings.accuracy)
    outcome = next(name for name in _ORDER if any(line.outcome == name for line in static.lines))
    pairs = static.comparison.pairs if static.comparison else None
    return DrawRow(
        config_digest=draws.digest_config(),
        rows=rows,
        drop=drop,
        churn=CHURN,
        seed=seed,
        seen_rows=pairs.rows if pairs else 0,
        seen_drop=pairs.drop if pairs else math.nan,
        seen_churn=pairs.rate if pairs else math.nan,
        outcome=outcome,
        deciding="" if outcome == "PASS" else "+".join(n.name for n in static.lines if n.outcome == outcome),
    )


def measure_draws(rows: Sequence[DrawRow], settings: GateSettings, limit: float) -> tuple[DrawRate, ...]:
    """A rate for each number of rows and drop; ``limit`` is the drop that the model allows."""
    return tuple(_measure(group, settings, limit) for group in _group(rows))


def _group(rows: Sequence[DrawRow]) -> Iterator[list[DrawRow]]:
    keys = sorted({(row.rows, row.drop) for row in rows}, key=lambda key: (key[0] or math.inf, key[1]))
    return ([row for row in rows if (row.rows, row.drop) == key] for key in keys)


def _measure(rows: Sequence[DrawRow], settings: GateSettings, limit: float) -> DrawRate:
    first = rows[0]
    blocks = [row.deciding for row in rows if row.outcome == "BLOCK"]
    low, high = bound_rate(len(blocks), len(rows))
    accuracy = settings.accuracy
    needed = (
        rows_to_block(first.churn, first.drop, limit, alpha=accuracy.alpha_block, power=accuracy.power)
        if first.drop > limit
        else 0
    )
    if needed:
        stated = f">= {FOUND_RATE:.0%}" if first.seen_rows >= needed else f"needs {needed:,} rows"
    else:
        stated = "within the limit" if first.drop else f"<= {FALSE_BLOCK_RATE:.0%}"
    names = [name for block in blocks for name in block.split("+")]
    return DrawRate(
        rows=first.seen_rows,
        drop=first.drop,
        churn=first.churn,
        draws=len(rows),
        blocked=len(blocks),
        passed=sum(row.outcome == "PASS" for row in rows),
        rate=len(blocks) / len(rows),
        low=low,
        high=high,
        needed=needed,
        stated=stated,
        by={name: names.count(name) for name in dict.fromkeys(names)},
    )


_HEAD = ("rows", "accuracy", "draws", "block", "pass", "block rate (95 %)", "stated", "blocked by")


def format_draws(rates: Sequence[DrawRate]) -> str:
    """A table for people, as Markdown."""
    lines = [_HEAD, tuple("---" for _ in _HEAD)]
    lines += [
        (
            f"{rate.rows:,}",
            f"-{rate.drop:.1%}" if rate.drop else "same",
            str(rate.draws),
            str(rate.blocked),
            str(rate.passed),
            f"{rate.rate:.3f} ({rate.low:.3f} to {rate.high:.3f})",
            rate.stated,
            ", ".join(f"{name} {count}" for name, count in rate.by.items()),
        )
        for rate in rates
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
