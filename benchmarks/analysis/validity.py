"""Can the restarts be believed together, and is a failure the candidate's fault? Pure.

Both arms are asked in turn, by the same client, on the same machine. What breaks around them breaks
for both; what only the candidate fails is the candidate's. A process that others keep from its processor
answers late, and makes the other arm look fast: a starved champion would carry a slow candidate through the
gate. What a request takes beyond its service's own work (client latency less net time: the wire, the
wake-up, the wait for a processor, a stopped process) is not caused by a version, and is alike for two
processes that are treated alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from scipy.stats import binomtest, fisher_exact

from timberline.benchmarks.analysis.latency import (
    OBSERVATIONS,
)
from timberline.benchmarks.analysis.statistics import Bounds, bound_mean
from timberline.benchmarks.measure.duet import mean_outside_ms
from timberline.benchmarks.measure.records import Restart
from timberline.benchmarks.settings import GateSettings, ValiditySettings
from timberline.registry.verdict import Outcome, VerdictLine


def judge_answers(restarts: Sequence[Restart]) -> VerdictLine:
    """Every request was answered rightly by the version that was asked; INVALID otherwise, never PASS."""
    problem = next((f"restart {r.number}: {r.problem}" for r in restarts if r.problem), "")
    if not restarts:
        problem = "nothing was measured"
    pairs = sum(restart.pairs for restart in restarts)
    return VerdictLine(
        name="answers",
        candidate=float(pairs),
        unit="pairs",
        outcome="INVALID" if problem else "PASS",
        reason=problem
        or f"all answers right in {len(restarts)} restarts: model, version, golden probabilities",
    )


_SURE = 0.95


@dataclass(frozen=True)
class Tally:
    """Requests of one arm, golden rows and warm-up included, and how many of them failed."""

    requests: int
    failures: int

    @property
    def share(self) -> float | None:
        """Of failed requests, 0 to 1; None of none."""
        return self.failures / self.requests if self.requests else None

    @property
    def most(self) -> float | None:
        """One-sided upper bound of the true share.

        Source: Clopper & Pearson, *The use of confidence or fiducial limits*, Biometrika 26 (1934).
        """
        if not self.requests:
            return None
        test = binomtest(self.failures, self.requests, alternative="less")
        return float(test.proportion_ci(_SURE, method="exact").high)


def judge_error_rate(restarts: Sequence[Restart], alpha: float) -> VerdictLine:
    """BLOCK a candidate that fails requests beside a champion that fails none.

    Everything else that failed is INVALID, never PASS: failures of the champion prove nothing good
    about the candidate, failures of both are the machine's or the workload's, and the candidate's
    alone may be so few that the champion was merely lucky. ``high`` is the largest share of failures
    that as many good answers leave possible at 95 % (Clopper and Pearson).

    Args:
        restarts: in any state; what failed before the window counts as well.
        alpha: chance of blocking a candidate that fails no more often than the champion.
    """
    candidate, champion = (count_failures(restarts, arm) for arm in ("candidate", "champion"))
    outcome, reason = _decide(candidate, champion, alpha)
    return VerdictLine(
        name="error_rate",
        candidate=candidate.share,
        champion=champion.share,
        difference=_subtract(candidate.share, champion.share),
        high=candidate.most,
        limit=0.0,
        unit="share of requests",
        outcome=outcome,
        reason=reason,
        evidence=OBSERVATIONS,
    )


def count_failures(restarts: Sequence[Restart], arm: str) -> Tally:
    """Of all restarts; those that an arm was not asked in add nothing."""
    runs = [restart.arms[arm] for restart in restarts if arm in restart.arms]
    return Tally(sum(run.request_count for run in runs), sum(run.failure_count for run in runs))


def compare_failures(candidate: Tally, champion: Tally) -> float:
    """Chance of so many failures among the candidate's requests if both arms fail alike, one-sided.

    Source: R. A. Fisher's exact test, as `scipy.stats.fisher_exact`. It takes requests for
    independent; a stall that fails several in a row hits both arms, which are asked in turn.
    """
    table = [[tally.failures, tally.requests - tally.failures] for tally in (candidate, champion)]
    return float(fisher_exact(table, alternative="greater").pvalue)


def _decide(candidate: Tally, champion: Tally, alpha: float) -> tuple[Outcome, str]:
    if not candidate.requests:
        return "INVALID", "the candidate was asked nothing"
    text = f"{candidate.failures} of {candidate.requests} requests of the candidate failed"
    if champion.requests:
        text += f", {champion.failures} of {champion.requests} of the champion"
    if not candidate.failures and not champion.failures:
        return "PASS", text
    if champion.failures:
        return "INVALID", f"{text}: what fails for the champion is not the candidate's fault"
    if not champion.requests:
        return "INVALID", f"{text}: without a champion its cause is unknown"
    chance = compare_failures(candidate, champion)
    if chance > alpha:
        return "INVALID", f"{text}: too few to know the cause, p = {chance:.2g}"
    return "BLOCK", f"{text}: Fisher's exact test, p = {chance:.1g}"


def _subtract(candidate: float | None, champion: float | None) -> float | None:
    return None if candidate is None or champion is None else candidate - champion


def judge_fairness(restarts: Sequence[Restart], settings: GateSettings) -> VerdictLine:
    """INVALID when over all restarts one arm is proven to have had less of the machine.

    Two ratios of time outside of the services are bounded: of the means of all of it, and of the p99s
    of what is left without waits in the run queue, which a busy machine hardly disturbs. The second
    finds a process that is stopped or throttled for a hundredth of the time.
    Every look has the same level: a verdict that is withheld once too often lets nothing through.

    Args:
        restarts: at least one; both arms were observed in each.
        settings: its ``validity`` holds how much less, and how sure.
    """
    validity, nu0 = settings.validity, settings.latency.nu0
    waits = [math.log(_outside(r, "candidate") / _outside(r, "champion")) for r in restarts]
    waited = _bound(waits, validity.s0_outside, nu0, validity)
    starved = _name(waited, math.log(validity.max_mean_outside_ratio))
    pauses = [ratio for restart in restarts if (ratio := _compare_pauses(restart)) is not None]
    if not starved and pauses:
        paused = _bound(pauses, validity.s0_outside_p99, nu0, validity)
        starved = _name(paused, math.log(validity.max_outside_p99_ratio))
    reason = "no arm is proven to have been kept waiting for longer than the other"
    if starved:
        reason = f"the {starved} was starved: the machine kept its requests waiting, not its model"
    return VerdictLine(
        name="fairness",
        candidate=median(_outside(r, "candidate") for r in restarts),
        champion=median(_outside(r, "champion") for r in restarts),
        difference=math.exp(waited.mean),
        low=math.exp(waited.low),
        high=math.exp(waited.high),
        limit=validity.max_mean_outside_ratio,
        unit="ms outside the service, ratio",
        outcome="INVALID" if starved else "PASS",
        reason=reason,
        evidence=OBSERVATIONS,
    )


def _outside(restart: Restart, arm: str) -> float:
    return mean_outside_ms(restart.arms[arm])


def _compare_pauses(restart: Restart) -> float | None:
    """ln of the ratio of the p99s of time outside that was no wait; None where that is not known."""
    pauses = {}
    for arm, run in restart.arms.items():
        away = np.subtract(run.client_net_ms, run.net_ms) if run.client_net_ms and run.net_ms else np.zeros(1)
        pauses[arm] = float(np.quantile(away, 0.99))
    # Where almost everything is waits, these are taken for a little more than they were.
    if min(pauses.values()) <= 0:
        return None
    return math.log(pauses["candidate"] / pauses["champion"])


def _bound(values: Sequence[float], s0: float, nu0: float, validity: ValiditySettings) -> Bounds:
    alpha = validity.alpha_fairness
    return bound_mean(values, s0=s0, nu0=nu0, alpha_low=alpha, alpha_high=alpha)


def _name(bounds: Bounds, limit: float) -> str:
    return "candidate" if bounds.low > limit else "champion" if bounds.high < -limit else ""
