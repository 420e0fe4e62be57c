"""What is done to the candidate of a self-test, and how often the gate blocks it.

The rates are set beside those that are stated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Literal

from scipy.stats import binomtest

from timberline.benchmarks.selftest.ledger import GateRow
from timberline.registry.errors import ConfigError


def bound_rate(count: int, of: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided bounds of a rate seen ``count`` times in ``of``; nothing seen bounds nothing.

    Source: Clopper & Pearson, *The use of confidence or fiducial limits illustrated in the case of the
    binomial*, Biometrika 26 (1934) 404-413, as scipy's "exact" method.
    """
    if of == 0:
        return 0.0, 1.0
    interval = binomtest(count, of).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def bound_rate_below(count: int, of: int, *, confidence: float = 0.95) -> float:
    """The exact one-sided lower bound: an alarm that uses it is wrong once in 20 machines that are right."""
    if of == 0:
        return 0.0
    return float(binomtest(count, of, alternative="greater").proportion_ci(confidence, method="exact").low)


# Gates of identical versions that a calibration was cut into.
NIGHTLY = "aa_nightly"
# Replayed runs of one recipe, and releases each worse than the one before.
RETRAINED = "retrained"
DRIP = "drip"
DRIP_RETRAINED = "drip_retrained"
DRIPS = (DRIP, DRIP_RETRAINED)
SLOWED = "timberline.benchmarks.selftest.slowed"
# The tail of the self-test: one request in a hundred takes 5 ms more.
TAIL_SHARE = 0.01
TAIL_MS = 5.0
# The rates that are promised: identical versions, and regressions of this size or more.
FALSE_BLOCK_RATE = 0.01
FOUND_RATE = 0.95
FOUND_DROP = 0.02
# By kind of scenario: the smallest share that is promised to be found.
_FOUND = {"cpu": 0.1, "service": 0.2, "work": 0.2, "worse": FOUND_DROP}


@dataclass(frozen=True)
class Base:
    """What a request of the champion takes, in ms: for the client, in the service, and of its processor.

    The first two are medians net of waits for a processor, the third is the mean of all that the
    service's process computes.
    """

    client_ms: float
    service_ms: float
    cpu_ms: float


@dataclass(frozen=True)
class Scenario:
    """One kind of candidate.

    - ``aa``: the champion itself; ``aa_nightly`` likewise, of restarts that a calibration made.
    - ``cpu_5``: the champion's model, every request slower by processor time of 5 % of its net client p50.
    - ``service_20``: likewise by 20 % of its net p50 in the service.
    - ``work_20``: no request slower, but 20 % more processor time, taken after the answer.
    - ``tail``, ``tail_sleep``: one request in a hundred takes 5 ms more, computing or asleep.
    - ``worse_0.5``: a model that answers 0.5 % more of the held-out rows wrong, no slower.
    """

    name: str
    kind: Literal["aa", "cpu", "service", "work", "tail", "worse"]
    share: float = 0.0
    is_asleep: bool = False

    @property
    def stated(self) -> str:
        """How often the gate blocks it, where that is promised: ``<= 1%``, ``>= 95%``; "" where it is not."""
        if self.kind == "aa" or (self.kind != "tail" and self.share == 0):
            return f"<= {FALSE_BLOCK_RATE:.0%}"
        is_found = self.kind == "tail" or (self.kind in _FOUND and self.share >= _FOUND[self.kind])
        return f">= {FOUND_RATE:.0%}" if is_found else ""

    @property
    def is_slowed(self) -> bool:
        """Whether processor time is added to every request."""
        return self.kind in {"cpu", "service", "work"}

    def base_us(self, base: Base) -> float:
        """What the share is of, in µs; NaN for a scenario to which no time is added."""
        times = {"cpu": base.client_ms, "service": base.service_ms, "work": base.cpu_ms}
        return 1e3 * times.get(self.kind, math.nan)

    def injected_us(self, base: Base) -> float:
        """Processor time added to every request, in µs."""
        return self.share * self.base_us(base) if self.is_slowed else 0.0

    def programs(self, injected_us: float, seed: int) -> dict[str, tuple[str, ...]]:
        """What serves each arm in the place of ``inference``; nothing where the service itself does.

        The champion of a slowed candidate is slowed by nothing, so that they differ in that alone.
        """
        if self.is_slowed:
            flag = "--work-us" if self.kind == "work" else "--cpu-us"
            candidate: tuple[str, ...] = (flag, f"{injected_us:.2f}")
        elif self.kind == "tail":
            candidate = ("--tail-share", str(TAIL_SHARE), "--tail-ms", str(TAIL_MS), "--seed", str(seed))
            candidate += ("--tail-kind", "sleep" if self.is_asleep else "cpu")
        else:
            return {}
        return {"champion": (SLOWED,), "candidate": (SLOWED, *candidate)}


def parse_scenario(name: str) -> Scenario:
    """The scenario of this name.

    Raises:
        ConfigError: there is none.
    """
    if name in {"aa", NIGHTLY}:
        return Scenario(name, "aa")
    if name in {"tail", "tail_sleep"}:
        return Scenario(name, "tail", is_asleep=name == "tail_sleep")
    for kind in _SHARED:
        if match := re.fullmatch(rf"{kind}_(\d+(?:\.\d+)?)", name):
            return Scenario(name, kind, float(match[1]) / 100)
    raise ConfigError(
        f"no arm {name[:80]!r}",
        where="--arms",
        hint="There are aa, tail, tail_sleep, and cpu, service, work and worse with _<percent>.",
    )


_SHARED: tuple[Literal["cpu", "service", "work", "worse"], ...] = ("cpu", "service", "work", "worse")


def parse_scenarios(text: str, gates: int) -> dict[str, int]:
    """``aa=300,cpu_5`` → how many gates of each scenario; ``gates`` where no number is given.

    Raises:
        ConfigError: a scenario is unknown or named twice, or a number is none.
    """
    wanted: dict[str, int] = {}
    for part in text.split(","):
        name, equals, count = part.strip().partition("=")
        if name in wanted or (equals and not count.isdecimal()):
            raise ConfigError(
                f"{part[:80]!r} is named twice or has no number", where="--arms", hint="Say aa=300,cpu_5=100."
            )
        wanted[parse_scenario(name).name] = int(count) if equals else gates
    return wanted


def choose_scenario(wanted: dict[str, int], done: Sequence[str]) -> str | None:
    """The scenario that is furthest behind its number, the first of equals; None when all are done.

    Scenarios take turns, so that an hour in which the machine is busy is an hour for all of them.
    """
    progress = {name: done.count(name) / count for name, count in wanted.items() if count}
    behind = {name: share for name, share in progress.items() if share < 1}
    return min(behind, key=behind.__getitem__) if behind else None


def read_folders(good: Path, worse: Sequence[str]) -> dict[str, Path]:
    """The folders of replayed runs by scenario; ``worse`` are ``arm=folder``.

    Raises:
        ConfigError: a scenario is named twice, is one of replays' own, or has no folder.
    """
    folders = {RETRAINED: good}
    for text in worse:
        name, _, folder = text.partition("=")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in {*folders, *DRIPS} or not folder:
            raise ConfigError(
                f"{text[:80]!r} is named twice or is no arm=folder", where="--worse", hint="Say half=FOLDER."
            )
        folders[name] = Path(folder)
    return folders


Finding = Literal["kept", "open", "broken", ""]


@dataclass(frozen=True)
class Rate:
    """The gates of one scenario.

    ``rate`` is of the gates that ended with an answer: INVALID ones show nothing of the candidate and
    are to be run again. ``low`` and ``high`` bound it with 95 % confidence. ``finding``: what
    is stated is "kept" or "broken" when the whole interval says so, else "open".
    """

    arm: str
    gates: int
    blocked: int
    passed: int
    inconclusive: int
    invalid: int
    rate: float
    low: float
    high: float
    stated: str
    finding: Finding
    injected_share: float
    median_s: float
    max_s: float
    median_restarts: float


def measure_rates(rows: Sequence[GateRow]) -> tuple[Rate, ...]:
    """One rate for each scenario in ``rows``, in order of appearance."""
    return tuple(
        _measure(arm, [row for row in rows if row.arm == arm]) for arm in dict.fromkeys(r.arm for r in rows)
    )


def _measure(name: str, rows: Sequence[GateRow]) -> Rate:
    counts = {outcome: sum(row.outcome == outcome for row in rows) for outcome in _OUTCOMES}
    answered = len(rows) - counts["INVALID"]
    low, high = bound_rate(counts["BLOCK"], answered)
    stated = parse_scenario(name).stated
    shares = [row.injected_share for row in rows if not math.isnan(row.injected_share)]
    return Rate(
        arm=name,
        gates=len(rows),
        blocked=counts["BLOCK"],
        passed=counts["PASS"],
        inconclusive=counts["INCONCLUSIVE"],
        invalid=counts["INVALID"],
        rate=counts["BLOCK"] / answered if answered else math.nan,
        low=low,
        high=high,
        stated=stated,
        finding=find_finding(stated, low, high),
        injected_share=fmean(shares) if shares else math.nan,
        median_s=median(row.seconds for row in rows),
        max_s=max(row.seconds for row in rows),
        median_restarts=median(row.restarts for row in rows),
    )


_OUTCOMES = ("PASS", "BLOCK", "INCONCLUSIVE", "INVALID")


def find_finding(stated: str, low: float, high: float) -> Finding:
    """Whether a rate within these bounds keeps what is stated of it, ``<= 1%`` or ``>= 95%``."""
    bound = float(stated.strip("<>= %") or 0) / 100
    if stated.startswith("<"):
        return "broken" if low > bound else "kept" if high <= bound else "open"
    if stated.startswith(">"):
        return "broken" if high < bound else "kept" if low >= bound else "open"
    return ""


def find_alarm(rows: Sequence[GateRow]) -> str:
    """What is wrong with the gate on this machine; "" when nothing is known to be.

    Identical versions that are blocked more often than is stated make every other verdict doubtful.
    """
    answered = [row for row in rows if parse_scenario(row.arm).kind == "aa" and row.outcome != "INVALID"]
    blocked = sum(row.outcome == "BLOCK" for row in answered)
    low = bound_rate_below(blocked, len(answered))
    if low <= FALSE_BLOCK_RATE:
        return ""
    return (
        f"identical versions were blocked {blocked} times in {len(answered)}, at least {low:.1%} of the time "
        f"and not {FALSE_BLOCK_RATE:.0%}: calibrate this machine again, and believe no block until then"
    )


_HEAD = ("arm", "gates", "block", "pass", "inconclusive", "invalid", "block rate (95 %)", "stated", "finding")
_HEAD_MORE = ("injected", "median s", "max s", "restarts")


def format_rates(rates: Sequence[Rate]) -> str:
    """A table for people, as Markdown."""
    return format_table(_HEAD + _HEAD_MORE, [_cells(rate) for rate in rates])


def format_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table whose columns stand below each other."""
    cells = [head, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, " | ".join("-" * max(width, 3) for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def format_bounded(rate: float, low: float, high: float) -> str:
    """A rate with its bounds, or alone where there are none (NaN)."""
    return f"{rate:.3f}" if math.isnan(low) else f"{rate:.3f} ({low:.3f} to {high:.3f})"


def _cells(rate: Rate) -> tuple[str, ...]:
    counts = (rate.gates, rate.blocked, rate.passed, rate.inconclusive, rate.invalid)
    return (
        rate.arm,
        *map(str, counts),
        format_bounded(rate.rate, rate.low, rate.high),
        rate.stated,
        rate.finding,
        f"{rate.injected_share:.1%}" if rate.injected_share > 0 else "",
        f"{rate.median_s:.0f}",
        f"{rate.max_s:.0f}",
        f"{rate.median_restarts:g}",
    )
