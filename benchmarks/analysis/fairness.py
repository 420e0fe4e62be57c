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

import numpy as np

from timberline.benchmarks.analysis.question import OBSERVATIONS
from timberline.benchmarks.analysis.statistics import ArmRun, Bounds, Restart, bound_mean
from timberline.benchmarks.gate.settings import GateSettings, ValiditySettings
from timberline.registry.verdict import VerdictLine


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
    """INVALID when over all restarts one arm is proven to have had less of the machine.

    Two ratios of time outside of the services are bounded: of the means of all of it, and of the p99s
    of what is left without waits in the run queue, which a busy machine hardly disturbs. The second
    finds a process that is stopped or throttled for a hundredth of the time.
    Every look has the same level: a verdict that is withheld once too often lets nothing through.

    Args:
        restarts: at least one; both arms were observed in each.
        settings: its ``validity`` says how much less, and how sure.
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
    """ln of the ratio of the p99s of time outside that was no wait; None where the kernel does not tell."""
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
