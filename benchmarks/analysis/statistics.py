"""From raw latencies to what is judged: percentiles, contrasts of restarts, moderated bounds.

Pure: numbers in, numbers out. Percentiles are taken over pooled raw observations, never averaged
and never read from Locust's tables, which round to whole milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from timberline.benchmarks.errors import EvidenceError


@dataclass(frozen=True)
class Latencies:
    """Client latencies of one arm, in milliseconds."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def summarize_latencies(values_ms: Sequence[float]) -> Latencies:
    """Percentiles by linear interpolation between order statistics (numpy's default, Hyndman & Fan's type 7).

    Raises:
        EvidenceError: there is no observation, or one is not a positive finite number.
    """
    values = np.asarray(values_ms, dtype=float)
    if values.size == 0:
        raise EvidenceError("no latency was observed", where="latencies")
    if not np.all(np.isfinite(values)) or values.min() <= 0:
        raise EvidenceError("a latency is not a positive number", where="latencies")
    p50, p95, p99 = np.quantile(values, [0.50, 0.95, 0.99])
    return Latencies(
        count=values.size,
        p50_ms=float(p50),
        p95_ms=float(p95),
        p99_ms=float(p99),
        max_ms=float(values.max()),
    )


@dataclass(frozen=True)
class Bounds:
    """A mean over restarts with its one-sided bounds; ``sd`` is moderated, ``count`` the restarts."""

    mean: float
    low: float
    high: float
    sd: float
    count: int


def moderate_sd(values: Sequence[float], s0: float, nu0: float) -> tuple[float, float]:
    """The SD of a few values, steadied by a stored one, and its degrees of freedom.

    s^2 = (nu0 s0^2 + (K - 1) s_K^2) / (nu0 + K - 1): four restarts alone would give a t with 3
    degrees of freedom; the spread known from earlier identical processes counts for nu0 more.

    Source: Smyth, *Linear models and empirical Bayes methods*, Stat. Appl. Genet. Mol. Biol. 3
    (2004), equation for the posterior variance.
    """
    count = len(values)
    freedom = nu0 + count - 1
    spread = float(np.var(values, ddof=1)) if count > 1 else 0.0
    return math.sqrt((nu0 * s0**2 + (count - 1) * spread) / freedom), freedom


def bound_mean(
    values: Sequence[float], *, s0: float, nu0: float, alpha_low: float, alpha_high: float
) -> Bounds:
    """The mean over restarts with a lower bound at ``alpha_low`` and an upper one at ``alpha_high``.

    mean -+ t(1 - alpha; nu0 + K - 1) s / sqrt(K), s moderated.

    Raises:
        EvidenceError: there is no value, or one is not finite.
    """
    if not values or not np.all(np.isfinite(values)):
        raise EvidenceError("a restart has no usable value", where="latencies")
    sd, freedom = moderate_sd(values, s0, nu0)
    error = sd / math.sqrt(len(values))
    mean = float(np.mean(values))
    return Bounds(
        mean=mean,
        low=mean - float(student.isf(alpha_low, freedom)) * error,
        high=mean + float(student.isf(alpha_high, freedom)) * error,
        sd=sd,
        count=len(values),
    )


@dataclass(frozen=True)
class ArmRun:
    """One arm in one restart: raw times of its requests, start-up time and memory.

    The tuples hold one number a request, milliseconds, in the order sent. ``net_ms`` is time in the
    service less what others had the processor for; empty where the service does not tell.
    ``client_net_ms`` is what the client saw less every wait for a processor, the service's and its own.
    ``lost_share`` is the part of the time in the service that it did not compute, 0 to 1. ``cpu_s`` is the
    processor time that all threads of the service's process used for them, in seconds; NaN where it
    cannot be read.
    ``request_count`` is everything that was asked, golden rows and warm-up too; ``failure_count``
    what of it failed or was answered wrongly.
    """

    latencies_ms: tuple[float, ...]
    ready_s: float
    resident_bytes: int
    net_ms: tuple[float, ...] = ()
    client_net_ms: tuple[float, ...] = ()
    lost_share: float = 0.0
    request_count: int = 0
    failure_count: int = 0
    cpu_s: float = math.nan

    @property
    def p50_ms(self) -> float:
        """Median client latency of this restart."""
        return summarize_latencies(self.latencies_ms).p50_ms

    @property
    def cpu_ms(self) -> float:
        """Processor time of the service a request, in milliseconds; NaN where it cannot be read."""
        return 1e3 * self.cpu_s / len(self.latencies_ms) if self.latencies_ms else math.nan


@dataclass(frozen=True)
class Contrasts:
    """What one restart says about candidate against champion.

    - ``net_p50``: difference of the medians of net time, as a share of the champion's client p50 net
      of all waits (with them it would be smaller the busier the machine is).
    - ``net_p99``: ln of the ratio of the p99s of net time.
    - ``net_tail``: ln of the ratio of the means of the slowest twentieth of net times (expected
      shortfall at 95 %; Acerbi & Tasche, *J. Banking & Finance* 26, 2002). A p99 sees nothing of what
      hits fewer than one request in a hundred, and is a coin at exactly that.
    - ``client_p50``: ln of the ratio of the client p50s, waits included.
    - ``client_p99``: ln of the ratio of the client p99s net of all waits.
    - ``service_p50``: ln of the ratio of the medians of net time.
    - ``cpu_per_request``: ln of the ratio of the services' processor times a request; all that the
      process does in the window, also before, after and beside its requests.

    None where the service or the kernel does not tell.
    """

    net_p50: float | None
    net_p99: float | None
    client_p50: float
    client_p99: float | None = None
    net_tail: float | None = None
    service_p50: float | None = None
    cpu_per_request: float | None = None


@dataclass(frozen=True)
class Restart:
    """One start of every service under test and the cycles it gave.

    ``problem`` says why the restart cannot be believed, and is empty when it can: a service that
    did not start, a failed request, a wrong answer, too few pairs, a clock that jumped.
    ``cpu_share`` is the load generator's processor time as a share of one core. ``recorded`` are the
    contrasts of a restart whose single times were not kept.
    """

    number: int
    pairs: int
    arms: Mapping[str, ArmRun]
    problem: str = ""
    cpu_share: float = 0.0
    recorded: Contrasts | None = None

    @property
    def log_ratio(self) -> float:
        """ln(p50 candidate / p50 champion), the contrast that is judged."""
        return math.log(self.arms["candidate"].p50_ms / self.arms["champion"].p50_ms)

    @property
    def contrasts(self) -> Contrasts:
        """The contrasts that are judged; both arms have to be there."""
        if self.recorded is not None:
            return self.recorded
        champion, candidate = self.arms["champion"], self.arms["candidate"]
        net_p50 = net_p99 = net_tail = client_p99 = service_p50 = cpu = None
        whole = champion.p50_ms
        if champion.client_net_ms and candidate.client_net_ms:
            client_p99 = _log_p99_ratio(champion.client_net_ms, candidate.client_net_ms)
            whole = float(np.median(champion.client_net_ms))
        if champion.net_ms and candidate.net_ms:
            net_p99 = _log_p99_ratio(champion.net_ms, candidate.net_ms)
            net_tail = math.log(average_slowest(candidate.net_ms) / average_slowest(champion.net_ms))
            before, after = (float(np.median(arm.net_ms)) for arm in (champion, candidate))
            net_p50 = (after - before) / whole
            if before > 0 and after > 0:
                service_p50 = math.log(after / before)
        # A clock of coarse ticks may have seen nothing at all, here and above.
        if champion.cpu_s > 0 and candidate.cpu_s > 0:
            cpu = math.log(candidate.cpu_ms / champion.cpu_ms)
        return Contrasts(net_p50, net_p99, self.log_ratio, client_p99, net_tail, service_p50, cpu)


def average_slowest(times_ms: Sequence[float]) -> float:
    """Mean of the slowest twentieth, at least one."""
    count = max(1, len(times_ms) // 20)
    return float(np.mean(np.partition(times_ms, -count)[-count:]))


def _log_p99_ratio(champion: Sequence[float], candidate: Sequence[float]) -> float:
    return math.log(float(np.quantile(candidate, 0.99)) / float(np.quantile(champion, 0.99)))


def pool_latencies(restarts: Sequence[Restart], arm: str) -> Latencies:
    """Percentiles over all observations of an arm; reported, never judged."""
    return summarize_latencies([ms for restart in restarts for ms in restart.arms[arm].latencies_ms])
