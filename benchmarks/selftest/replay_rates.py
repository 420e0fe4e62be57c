"""Replayed pairs → how often equal recipes are blocked, worse ones are, and a drip is stopped. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
import numpy.typing as npt

from timberline.benchmarks.analysis.earlier import Earlier, Releases, judge_total
from timberline.benchmarks.analysis.limits import InForce, limits_in_force
from timberline.benchmarks.analysis.quality import (
    judge_calibration,
    judge_drop,
    judge_log_loss,
    judge_recalls,
    judge_slices,
)
from timberline.benchmarks.analysis.statistics import Discordance
from timberline.benchmarks.analysis.verdict import find_gravest
from timberline.benchmarks.selftest.replays import DRIP_SHARE, RELEASES, PairRow, RunRow, restore_comparison
from timberline.benchmarks.selftest.scenarios import (
    DRIP,
    DRIP_RETRAINED,
    DRIPS,
    RETRAINED,
    Finding,
    bound_rate,
    find_finding,
    format_bounded,
    format_table,
)
from timberline.benchmarks.settings import AccuracySettings
from timberline.registry.manifest import GateLimits
from timberline.registry.runs import NOISE_SCHEMA_VERSION, TrainingNoise
from timberline.registry.verdict import Outcome, VerdictLine

# Runs that a recipe is calibrated with, the champion's own among them: the default of `--seeds`.
RUNS = 5
# Drips that are replayed; each begins with another run.
CHAINS = {DRIP: 10, DRIP_RETRAINED: 22}
# Rates that are stated: retrained equals, really worse recipes.
EQUAL_RATE = 0.02
WORSE_RATE = 0.95
# By this release of a drip.
STOPPED_BY = 3
_RESAMPLES = 4000
_CHAIN_RELEASES, _CHAINS = 12, 200
_SEED = 20260101

Matrix = npt.NDArray[np.float64]


# How a pair ended and the lines that decided it, joined by ``+``.
Ending = tuple[Outcome, str]


@dataclass(frozen=True)
class ReplayRate:
    """One scenario by one kind of limits.

    ``count`` pairs or chains, of which ``blocked`` were blocked and ``passed`` passed; ``low`` and ``high``
    bound ``rate`` with 95 %: over resampled seeds, of a drip over chains (Clopper-Pearson); NaN where nothing
    bounds it. ``by`` counts the lines that blocked.
    """

    arm: str
    limits: str
    count: int
    blocked: int
    passed: int
    rate: float
    low: float
    high: float
    stated: str
    by: dict[str, int]

    @property
    def finding(self) -> Finding:
        """What is stated is "kept" or "broken" when the whole interval says so, else "open"."""
        return find_finding(self.stated, self.low, self.high)


@dataclass
class Judge:
    """The current rule on pairs; ``runs`` are those of all scenarios, ``limits`` the model's own."""

    runs: Sequence[RunRow]
    limits: GateLimits
    settings: AccuracySettings

    @cached_property
    def good(self) -> dict[int, RunRow]:
        """The runs of the recipe itself, by seed."""
        return {run.seed: run for run in self.runs if run.arm == RETRAINED}

    @cached_property
    def stated(self) -> InForce:
        """The limits without any noise."""
        return limits_in_force(self.limits, None, self.settings)

    def with_noise(self, champion: int, without: Iterable[int]) -> InForce:
        """The limits after the champion's recipe was calibrated: its own run and others, not ``without``.

        A real candidate is not one of the runs that its limits come from.
        """
        barred = {champion, *without}
        others = [seed for seed in self.good if seed not in barred]
        chance = np.random.default_rng([_SEED, champion, *sorted(barred - {champion})])
        chosen = [champion, *chance.choice(others, RUNS - 1, replace=False).tolist()]
        own = self.good[champion]
        noise = TrainingNoise(
            schema_version=NOISE_SCHEMA_VERSION,
            model="",
            version=1,
            recipe="",
            test_fingerprint="",
            rows=own.rows,
            measured_at="",
            runs=tuple(self.good[seed].quality for seed in chosen),
        )
        return limits_in_force(self.limits, noise, self.settings)

    def find_limits(self, row: PairRow, *, has_noise: bool) -> InForce:
        """Those that a pair is judged by."""
        champion, candidate = row.seeds
        barred = [candidate] if row.arm in {RETRAINED, *DRIPS} else []
        return self.with_noise(champion, barred) if has_noise else self.stated

    def judge(self, row: PairRow, limits: InForce) -> list[VerdictLine]:
        """The lines about held-out rows that set the two side by side."""
        compared = restore_comparison(row, next(iter(self.good.values())))
        judges: list[Callable[..., VerdictLine]] = [judge_drop, judge_recalls, judge_log_loss]
        if compared.slices:
            judges.append(judge_slices)
        # Its bootstrap takes most of the time, and a change that is within the limit itself proves nothing.
        if row.ece_change > limits.calibration.pass_below:
            judges.append(judge_calibration)
        return [judge(compared, limits, self.settings) for judge in judges]

    def judge_total(self, rows: Sequence[PairRow], limits: InForce) -> VerdictLine:
        """The line about earlier releases; ``rows`` are of one candidate, beside each of them."""
        count = next(iter(self.good.values())).rows
        earlier = [
            Earlier(number, Discordance(count, row.lost, row.gained), 0.0, 0.0)
            for number, row in enumerate(rows, 1)
        ]
        return judge_total(Releases(tuple(earlier)), limits, self.settings)


def judge_pairs(rows: Sequence[PairRow], judge: Judge) -> list[PairRow]:
    """The rows with how each pair ends by the current rule."""
    return [_judge_pair(row, judge) for row in rows]


def _judge_pair(row: PairRow, judge: Judge) -> PairRow:
    lines = (judge.judge(row, judge.find_limits(row, has_noise=has_noise)) for has_noise in (False, True))
    stated, noise = map(find_gravest, lines)
    return msgspec.structs.replace(
        row,
        stated=stated[0],
        stated_by=stated[1],
        noise=noise[0],
        noise_by=noise[1],
    )


def measure_rates(rows: Sequence[PairRow], judge: Judge) -> list[ReplayRate]:
    """The rates of all scenarios, each by the limits as stated and by those with the noise of training.

    Args:
        rows: as `judge_pairs` gives them.
        judge: the rule that gave them.
    """
    arms = dict.fromkeys(row.arm for row in rows if row.arm not in DRIPS)
    drips = {arm: [row for row in rows if row.arm == arm] for arm in DRIPS}
    retrained = {row.seeds: row for row in rows if row.arm == RETRAINED}
    rates = [
        _measure_pairs(arm, [row for row in rows if row.arm == arm], kind)
        for arm in arms
        for kind in ("stated", "noise")
    ]
    for has_noise in (False, True):
        for arm, chains in drips.items():
            if chains:
                rates += _measure_drips(arm, chains, judge, has_noise=has_noise)
        if len(judge.good) >= _CHAIN_RELEASES + 1 + RUNS:
            rates.append(_measure_chains(retrained, judge, has_noise=has_noise))
    return rates


def _measure_pairs(arm: str, rows: Sequence[PairRow], kind: str) -> ReplayRate:
    blocked = [row for row in rows if getattr(row, kind) == "BLOCK"]
    low, high = bound_by_seeds({row.seeds: getattr(row, kind) == "BLOCK" for row in rows}, arm == RETRAINED)
    return ReplayRate(
        arm=arm,
        limits=kind,
        count=len(rows),
        blocked=len(blocked),
        passed=sum(getattr(row, kind) == "PASS" for row in rows),
        rate=len(blocked) / len(rows),
        low=low,
        high=high,
        stated=f"<= {EQUAL_RATE:.0%}" if arm == RETRAINED else f">= {WORSE_RATE:.0%}",
        by=_count(name for row in blocked for name in getattr(row, f"{kind}_by").split("+")),
    )


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def bound_by_seeds(blocked: Mapping[tuple[int, int], bool], is_one_recipe: bool) -> tuple[float, float]:
    """95 % percentile bounds of the share of pairs that were blocked, by resampling seeds.

    The unit is the seed: pairs that share one are not independent. Of one recipe, champions and candidates
    are drawn together, and a seed is not paired with itself; of two, each on its own.

    Source: Efron, Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13; of both sides of a
    table: Owen, *The pigeonhole bootstrap*, Ann. Appl. Stat. 1 (2007) 386-411.
    """
    champions = sorted({champion for champion, _ in blocked})
    candidates = sorted({candidate for _, candidate in blocked})
    outcome, is_there = (np.zeros((len(champions), len(candidates))) for _ in range(2))
    for (champion, candidate), is_blocked in blocked.items():
        at = champions.index(champion), candidates.index(candidate)
        outcome[at], is_there[at] = is_blocked, 1.0
    chance = np.random.default_rng(_SEED)
    drawn = _draw_weights(chance, len(champions))
    other = drawn if is_one_recipe else _draw_weights(chance, len(candidates))
    shares = _weigh(drawn, outcome, other) / np.maximum(_weigh(drawn, is_there, other), 1e-12)
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)


def _draw_weights(chance: np.random.Generator, count: int) -> Matrix:
    """How often each of ``count`` is drawn, (resamples, count)."""
    return chance.multinomial(count, np.full(count, 1 / count), _RESAMPLES).astype(float)


def _weigh(left: Matrix, table: Matrix, right: Matrix) -> Matrix:
    weighed: Matrix = np.einsum("ri,ij,rj->r", left, table, right, optimize=True)
    return weighed


def _measure_drips(arm: str, rows: Sequence[PairRow], judge: Judge, *, has_noise: bool) -> list[ReplayRate]:
    """How many chains had been stopped by each release."""
    chains: dict[int, list[PairRow]] = {}
    for row in rows:
        chains.setdefault(row.chain, []).append(row)
    ends = [_follow(chain, judge, has_noise=has_noise) for chain in chains.values()]
    kind = "noise" if has_noise else "stated"
    # A limit that three releases keep does not stop them.
    is_stated = (arm, kind) == (DRIP, "stated") and judge.stated.total.in_force < STOPPED_BY * DRIP_SHARE
    return [
        _rate_drip(arm, ends, release, kind, is_stated=is_stated and release == STOPPED_BY)
        for release in range(1, RELEASES[arm] + 1)
    ]


def _rate_drip(
    arm: str, ends: Sequence[Sequence[Ending]], release: int, kind: str, *, is_stated: bool
) -> ReplayRate:
    firsts = [next((one for one in chain[:release] if one[0] == "BLOCK"), None) for chain in ends]
    blocks = [one for one in firsts if one]
    low, high = bound_rate(len(blocks), len(ends))
    return ReplayRate(
        arm=f"{arm}, by release {release}",
        limits=kind,
        count=len(ends),
        blocked=len(blocks),
        passed=sum(all(outcome == "PASS" for outcome, _ in chain[:release]) for chain in ends),
        rate=len(blocks) / len(ends),
        low=low,
        high=high,
        stated=f">= {WORSE_RATE:.0%}" if is_stated else "",
        by=_count(name for _, by in blocks for name in by.split("+")),
    )


def _follow(chain: Sequence[PairRow], judge: Judge, *, has_noise: bool) -> list[Ending]:
    """How each release ends beside the one before and beside all before it, all of which went through."""
    steps = {(_step(row.champion), _step(row.candidate)): row for row in chain}
    seeds = {seed for row in chain for seed in row.seeds}
    ends = []
    for release in range(1, RELEASES[chain[0].arm] + 1):
        row = steps[release - 1, release]
        champion, _ = row.seeds
        limits = judge.with_noise(champion, seeds) if has_noise else judge.stated
        total = judge.judge_total([steps[before, release] for before in range(release)], limits)
        ends.append(find_gravest([*judge.judge(row, limits), total]))
    return ends


def _step(name: str) -> int:
    return int(name.partition("+")[2])


def _measure_chains(pairs: Mapping[tuple[int, int], PairRow], judge: Judge, *, has_noise: bool) -> ReplayRate:
    """Releases of equal recipes one after the other: how often the line about earlier ones blocks one.

    Chains of a dozen out of two dozen runs are all much alike, so that no bounds are given: they would be of
    these runs and not of the recipe.
    """
    seeds, chance = sorted(judge.good), np.random.default_rng(_SEED)
    chains = [chance.permutation(seeds)[: _CHAIN_RELEASES + 1].tolist() for _ in range(_CHAINS)]
    ends = [_end_chain(chain, pairs, judge, has_noise=has_noise) for chain in chains]
    count = ends.count("BLOCK")
    return ReplayRate(
        arm=f"{_CHAIN_RELEASES} equal releases",
        limits="noise" if has_noise else "stated",
        count=len(ends),
        blocked=count,
        passed=ends.count("PASS"),
        rate=count / len(ends),
        low=math.nan,
        high=math.nan,
        stated="",
        by={"accuracy_total": count} if count else {},
    )


def _end_chain(
    chain: Sequence[int], pairs: Mapping[tuple[int, int], PairRow], judge: Judge, *, has_noise: bool
) -> str:
    """How the first release ends that does not pass the line about the ones before; PASS when all do."""
    for release in range(1, len(chain)):
        limits = judge.with_noise(chain[release - 1], chain) if has_noise else judge.stated
        before = [pairs[seed, chain[release]] for seed in chain[:release]]
        outcome = judge.judge_total(before, limits).outcome
        if outcome != "PASS":
            return outcome
    return "PASS"


_HEAD = ("arm", "limits", "pairs", "block", "pass", "block rate (95 %)", "stated", "blocked by")


def format_replays(rates: Sequence[ReplayRate]) -> str:
    """A table for people, as Markdown."""
    return format_table(
        _HEAD,
        [
            (
                rate.arm,
                "with noise" if rate.limits == "noise" else "as stated",
                str(rate.count),
                str(rate.blocked),
                str(rate.passed),
                format_bounded(rate.rate, rate.low, rate.high),
                rate.stated,
                ", ".join(f"{name} {count}" for name, count in rate.by.items()),
            )
            for rate in rates
        ],
    )
