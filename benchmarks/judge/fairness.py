"""Had both arms the machine alike? Pure.

A process that others keep from its processor answers late, and makes the other arm look fast: a
starved champion would carry a slow candidate through the gate. What a request takes beyond its
service's own work (client latency less net time: the wire, the wake-up, the wait for a processor,
a stopped process) is no version's doing, and is alike for two processes that are treated alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

from benchmarks.config import GateSettings
from benchmarks.judge.latency import OBSERVATIONS
from benchmarks.judge.measure import ArmRun, Restart, bound_mean
from registry.verdict import VerdictLine


def mean_outside_ms(run: ArmRun) -> float:
    """Milliseconds a request that one arm's service did not use; a mean, as a stall hits few requests.

    All of the latency where the service does not tell its times.
    """
    return (sum(run.latencies_ms) - sum(run.net_ms)) / len(run.latencies_ms)


def find_starved(arms: Mapping[str, ArmRun], max_ratio: float) -> str:
    """Which arm was kept from working in one restart, and how much; "" if none was.

    Args:
        arms: both with observations, or one alone, which is compared with none.
        max_ratio: of the means outside of the services, above which it is no chance.
    """
    if set(arms) != {"candidate", "champion"}:
        return ""
    outside = {arm: mean_outside_ms(run) for arm, run in arms.items()}
    starved, other = sorted(outside, key=outside.__getitem__, reverse=True)
    if outside[starved] <= max_ratio * outside[other]:
        return ""
    return (
        f"the {starved} was starved: {outside[starved]:.2f} ms of a request were not its own work, "
        f"{outside[other]:.2f} ms of the {other}'s"
    )


def judge_fairness(restarts: Sequence[Restart], settings: GateSettings) -> VerdictLine:
    """INVALID when over all restarts one arm is proven to have waited longer than the other.

    Every look has the same level: a verdict that is withheld once too often lets nothing through.

    Args:
        restarts: at least one; both arms were observed in each.
        settings: its ``validity`` says how much longer, and how sure.
    """
    validity = settings.validity
    bounds = bound_mean(
        [math.log(_outside(r, "candidate") / _outside(r, "champion")) for r in restarts],
        s0=validity.s0_outside,
        nu0=settings.latency.nu0,
        alpha_low=validity.alpha_outside,
        alpha_high=validity.alpha_outside,
    )
    limit = math.log(validity.max_mean_outside_ratio)
    starved = "candidate" if bounds.low > limit else "champion" if bounds.high < -limit else ""
    reason = "no arm is proven to have been kept waiting for longer than the other"
    if starved:
        reason = f"the {starved} was starved: the machine kept its requests waiting, not its model"
    return VerdictLine(
        name="fairness",
        candidate=median(_outside(r, "candidate") for r in restarts),
        champion=median(_outside(r, "champion") for r in restarts),
        difference=math.exp(bounds.mean),
        low=math.exp(bounds.low),
        high=math.exp(bounds.high),
        limit=validity.max_mean_outside_ratio,
        unit="ms outside the service, ratio",
        outcome="INVALID" if starved else "PASS",
        reason=reason,
        evidence=OBSERVATIONS,
    )


def _outside(restart: Restart, arm: str) -> float:
    return mean_outside_ms(restart.arms[arm])
