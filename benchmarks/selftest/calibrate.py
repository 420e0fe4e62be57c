"""How far identical processes differ on this class of machine: measured, stored, watched from then on."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from timberline.benchmarks.analysis.statistics import Restart
from timberline.benchmarks.errors import BenchmarkError
from timberline.benchmarks.gate.calibration import (
    Calibration,
    apply_calibration,
    load_calibration,
    store_calibration,
)
from timberline.benchmarks.machine import machine_class
from timberline.benchmarks.selftest.identical import run_identical
from timberline.benchmarks.selftest.ledger import locked
from timberline.benchmarks.selftest.rejudge import judge_restarts
from timberline.benchmarks.selftest.run import SelfTest, record_gate
from timberline.benchmarks.selftest.scenarios import NIGHTLY
from timberline.registry.errors import ConfigError
from timberline.registry.runtime.documents import utc_now
from timberline.registry.runtime.files import fresh_folder
from timberline.registry.runtime.logs import log_event

_logger = logging.getLogger("benchmarks")

# From so many restarts on an SD is good to a quarter of itself: 1 / sqrt(2 * 8).
FEWEST_RESTARTS = 8
# Two processes that are alike to the byte have no spread, but a spread of 0 would prove anything.
_SMALLEST = 1e-6


def calibrate(test: SelfTest, count: int) -> tuple[Calibration, Path]:
    """Measure a version beside itself in ``count`` restarts and store by how much they differ.

    The restarts are gates of identical versions, too: judged with what was stored before, they are
    kept as arm `NIGHTLY`, so that a machine that has changed is noticed; see `rates.find_alarm`. Raw
    observations stay beside the calibration.

    Returns:
        the calibration and where it is.

    Raises:
        ConfigError: too few restarts were asked for.
        BenchmarkError: one of them cannot be believed, or the service does not tell its times; nothing
            is stored then.
    """
    if count < FEWEST_RESTARTS:
        raise ConfigError(f"{count} are too few, expected {FEWEST_RESTARTS} or more", where="--restarts")
    began, load = time.monotonic(), os.getloadavg()[0]
    settings = test.settings.duet
    with (
        locked(test.path),
        fresh_folder(test.calibrations / f"{machine_class()}-restarts") as fresh,
    ):
        restarts = run_identical(test.store, test.model, test.version, settings, fresh, count)
        calibration = summarize(test, restarts)
        keep_gates(test, restarts, seconds=(time.monotonic() - began) / count, load_average=load)
    return calibration, store_calibration(test.calibrations, calibration)


def summarize(test: SelfTest, restarts: Sequence[Restart]) -> Calibration:
    """The spread of every contrast over restarts of identical processes.

    Raises:
        BenchmarkError: the service does not tell its times.
    """
    contrasts = [restart.contrasts for restart in restarts]
    net_p50 = [c.net_p50 for c in contrasts if c.net_p50 is not None]
    net_p99 = [c.net_p99 for c in contrasts if c.net_p99 is not None]
    net_tail = [c.net_tail for c in contrasts if c.net_tail is not None]
    client_p99 = [c.client_p99 for c in contrasts if c.client_p99 is not None]
    service_p50 = [c.service_p50 for c in contrasts if c.service_p50 is not None]
    cpu = [c.cpu_per_request for c in contrasts if c.cpu_per_request is not None]
    if len(net_p50) < len(restarts) or len(net_p99) < len(restarts):
        raise BenchmarkError("the service did not tell its times", where=f"{test.model}@{test.version}")
    client_p50 = [c.client_p50 for c in contrasts]
    judged = [net_p50, service_p50, net_p99, net_tail, client_p50, client_p99, cpu]
    settings = test.settings
    return Calibration(
        machine_class=machine_class(),
        measured_at=utc_now("microseconds"),
        model=f"{test.model}@{test.version}",
        workload=settings.duet.workload,
        window_s=settings.duet.window_s,
        restarts=len(restarts),
        nu0=round(min(count_freedom(values) for values in judged if values), 2),
        net_p50=measure_spread(net_p50),
        net_p99=measure_spread(net_p99),
        net_tail=measure_spread(net_tail),
        client_p50=measure_spread(client_p50),
        # Where the kernel does not tell waits there is no such contrast, and no use for its spread.
        client_p99=measure_spread(client_p99) if client_p99 else settings.latency.s0.client_p99,
        memory=measure_spread([_log_ratio(r, "resident_bytes") for r in restarts]),
        start_up=measure_spread([_log_ratio(r, "ready_s") for r in restarts]),
        service_p50=measure_spread(service_p50),
        cpu_per_request=measure_spread(cpu) if cpu else None,
    )


def _log_ratio(restart: Restart, name: str) -> float:
    candidate, champion = (float(getattr(restart.arms[arm], name)) for arm in ("candidate", "champion"))
    return math.log(candidate / champion)


def measure_spread(values: Sequence[float]) -> float:
    """The root mean square: the SD about 0, which is the true mean when both processes are one version.

    Not a robust estimate. Restarts have heavy tails, and the mean of a few of them is what is judged: its
    variance is the whole variance over their number, tails included. A spread of the bulk alone
    would call the tails regressions.
    """
    root = float(np.sqrt(np.mean(np.square(values))))
    return float(f"{max(root, _SMALLEST):.6g}")


def count_freedom(values: Sequence[float]) -> float:
    """How many values of a normal distribution know their variance as well as these do.

    nu = 2 n / (k - 1), k = n sum(x^4) / sum(x^2)^2 the kurtosis about 0: n for a normal distribution (k
    is 3), fewer the heavier the tails. The variance of a mean square is sigma^4 (k - 1) / n, that of a
    scaled chi-square 2 sigma^4 / nu.

    Source: O'Neill, *Some useful moment results in sampling problems*, Am. Stat. 68 (2014) 282-296
    (variance of a sample variance); Satterthwaite, *An approximate distribution of estimates of
    variance components*, Biometrics Bull. 2 (1946) 110-114 (matching by it).
    """
    squares = np.square(np.asarray(values, dtype=float))
    count, total = squares.size, float(squares.sum())
    if total == 0:
        return float(count)
    kurtosis = count * float(np.square(squares).sum()) / total**2
    # Values that are all as far from 0 know their variance too well to be believed.
    return float(count) if kurtosis <= 3 else 2 * count / (kurtosis - 1)


def keep_gates(test: SelfTest, restarts: Sequence[Restart], *, seconds: float, load_average: float) -> None:
    """Cut the restarts into gates, as many as the rule can decide, and write them down.

    ``seconds`` is what one restart took.
    """
    known = load_calibration(test.calibrations, machine_class())
    settings = apply_calibration(test.settings, known)
    limits = test.store.open_version(test.model, test.version).manifest.gate
    number, left = len(test.read_done()), list(restarts)
    while len(left) >= settings.duet.looks[0]:
        outcome, deciding, used = judge_restarts(left, limits, settings)
        is_undecided = outcome == "INCONCLUSIVE" and used < settings.duet.looks[-1]
        if is_undecided:
            break
        number += 1
        row = record_gate(
            test,
            left[:used],
            arm=NIGHTLY,
            number=number,
            seed=test.settings.duet.seed,
            started_at=utc_now("microseconds"),
            load_average=load_average,
            outcome=outcome,
            deciding=deciding,
            seconds=seconds * used,
        )
        log_event(_logger, "gate of identical versions", outcome=row.outcome, by=row.deciding)
        left = left[used:]
