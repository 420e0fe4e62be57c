"""Whole gates on candidates that are known to be as good, slower or worse; and the machine's calibration.

Every gate is the real one: fresh processes, real load, the current rule. Gates that were done before, on
this class of machine and with this rule, count: kill it, start it again, and it goes on. A calibration
measures how far identical processes differ on this class of machine, stores it, and watches it from then on.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import msgspec
import numpy as np
import numpy.typing as npt

from timberline.benchmarks.analysis.evidence import judge_static
from timberline.benchmarks.errors import BenchmarkError
from timberline.benchmarks.gate.calibration import (
    Calibration,
    apply_calibration,
    load_calibration,
    store_calibration,
)
from timberline.benchmarks.gate.run import GateResult, run_gate
from timberline.benchmarks.machine import machine_class
from timberline.benchmarks.measure.duet import open_duet
from timberline.benchmarks.measure.records import CONTRASTS, Restart
from timberline.benchmarks.measure.workload import draw_bodies, load_workload
from timberline.benchmarks.selftest.ledger import (
    GateRow,
    RestartRow,
    append_rows,
    find_restarts,
    judge_restarts,
    locked,
    read_restarts,
    read_rows,
    rejudge,
    write_row,
)
from timberline.benchmarks.selftest.scenarios import NIGHTLY, Base, Scenario, choose_scenario, parse_scenario
from timberline.benchmarks.selftest.worse import stage_worse
from timberline.benchmarks.settings import GATE_VERSION, GateSettings
from timberline.registry.errors import ConfigError
from timberline.registry.runtime.documents import utc_now
from timberline.registry.runtime.files import fresh_folder
from timberline.registry.runtime.logs import log_event
from timberline.registry.runtime.stages import digest_value
from timberline.registry.runtime.working_copy import share_folder
from timberline.registry.store import Store
from timberline.registry.verdict import Verdict

_logger = logging.getLogger("benchmarks")
# The champion's p50, of which the injected share is taken, drifts with the neighbours' load: the last
# few gates know it better than the first one.
_RECENT_GATES = 5
_BASE_RESTARTS = 2


@dataclass(frozen=True)
class SelfTest:
    """What is gated and where it is written.

    ``data`` is the folder of generated data: gates go to ``selftest/`` in it, spreads are looked for
    in ``calibrations/``. ``path`` is the CSV file of gates.
    """

    store: Store
    model: str
    version: int
    data: Path
    settings: GateSettings
    path: Path

    @property
    def folder(self) -> Path:
        """Where gates leave their reports, each in the place of the one before."""
        return self.data / "selftest"

    @property
    def calibrations(self) -> Path:
        """Where the spreads of this class of machine may be."""
        return self.data / "calibrations"

    def read_calibration(self) -> Calibration | None:
        """The spreads of this class of machine, if it was calibrated."""
        return load_calibration(self.calibrations, machine_class())

    def check(self) -> None:
        """Refuse a version that is blocked before anything is started: no gate could show anything.

        Raises:
            ConfigError: it does not keep its own floors, or its files cannot be believed.
        """
        opened = self.store.open_version(self.model, self.version)
        versions = {"champion": opened, "candidate": opened}
        for line in judge_static(self.store, versions, self.settings.accuracy).lines:
            if line.outcome in {"BLOCK", "INVALID"}:
                raise ConfigError(
                    f"{line.name} is {line.outcome} for the version beside itself: {line.reason}",
                    where=f"{self.model}@{self.version}",
                    hint="Give a version that a gate could pass with --model MODEL@VERSION.",
                )

    def digest_config(self) -> str:
        """What two gates must share to be counted together, beside the machine: rule, load and model."""
        settings = self.settings
        known, identity = self.read_calibration(), self.store.open_version(self.model, self.version).digests
        return digest_value([GATE_VERSION, settings, load_workload(settings.duet.workload), known, identity])

    def read_done(self) -> list[GateRow]:
        """The gates that count here and now."""
        key = (machine_class(), GATE_VERSION, self.digest_config())
        rows = read_rows(self.path, GateRow)
        return [row for row in rows if (row.machine_class, row.gate_version, row.config_digest) == key]


def run_identical(test: SelfTest, folder: Path, count: int) -> list[Restart]:
    """``count`` restarts of two processes of one version; raw observations and logs go to ``folder``.

    Raises:
        BenchmarkError: a restart cannot be believed; that of identical processes is never left out, for
            what is left would differ by less than they do.
    """
    manifest, settings = test.store.open_version(test.model, test.version).manifest, test.settings.duet
    versions = {"champion": manifest, "candidate": manifest}
    bodies = draw_bodies(load_workload(settings.workload), versions)
    restarts = []
    with open_duet(test.store.location, versions, bodies, settings, folder, {}) as duet:
        for number in range(1, count + 1):
            restarts.append(duet.run_restart(number))
            if restarts[-1].problem:
                raise BenchmarkError(
                    restarts[-1].problem,
                    where=f"restart {number} of {test.model}@{test.version} beside itself",
                    hint="Measure again; if it comes again, the machine cannot be measured on.",
                )
    return restarts


def list_nightly(test: SelfTest) -> list[GateRow]:
    """The gates of identical versions that calibrations were, of this class of machine and gate version.

    Whatever was calibrated before each: every calibration changes the spreads, and with them what two
    gates must share to be counted together, but the machine that they watch is the same.
    """
    rows = read_rows(test.path, GateRow)
    key = (machine_class(), GATE_VERSION, NIGHTLY)
    return [row for row in rows if (row.machine_class, row.gate_version, row.arm) == key]


def list_rejudged(test: SelfTest) -> list[GateRow]:
    """Re-evaluate every stored gate of this class of machine and model with the current rules."""
    gates = [row for row in read_rows(test.path, GateRow) if row.machine_class == machine_class()]
    gates = [row for row in gates if row.model == f"{test.model}@{test.version}"]
    settings = apply_calibration(test.settings, test.read_calibration())
    limits = test.store.open_version(test.model, test.version).manifest.gate
    return rejudge(gates, read_rows(find_restarts(test.path), RestartRow), limits, settings)


def run_selftest(test: SelfTest, wanted: Mapping[str, int]) -> None:
    """Run gates, one scenario after the other in turn, until there are as many of each as ``wanted``.

    Raises:
        BenchmarkError: another run writes to the file, or the champion cannot be measured.
        ConfigError: see `SelfTest.check`.
    """
    test.check()
    with locked(test.path):
        done = test.read_done()
        while name := choose_scenario(dict(wanted), [row.arm for row in done]):
            done.append(_run_one(test, parse_scenario(name), done))


def _run_one(test: SelfTest, scenario: Scenario, done: Sequence[GateRow]) -> GateRow:
    number = len(done) + 1
    seed = test.settings.duet.seed + number
    injected_us = scenario.injected_us(_measure_base(test, done)) if scenario.is_slowed else 0.0
    started = utc_now("microseconds")
    load = os.getloadavg()[0]
    result = _gate(test, scenario, scenario.programs(injected_us, seed), seed)
    assert result.report is not None
    assert result.verdict is not None  # a gate with a champion named is always run
    row = record_gate(
        test,
        read_restarts(result.report.parent),
        arm=scenario.name,
        number=number,
        seed=seed,
        started_at=started,
        load_average=load,
        outcome=result.verdict.outcome,
        deciding=_name_deciding(result.verdict),
        marked="+".join(line.name for line in result.verdict.lines if line.is_marked),
        seconds=result.seconds,
        injected_us=injected_us,
    )
    log_event(_logger, "gate done", number=number, arm=scenario.name, outcome=row.outcome, by=row.deciding)
    return row


def record_gate(
    test: SelfTest,
    restarts: Sequence[Restart],
    *,
    arm: str,
    number: int,
    seed: int,
    started_at: str,
    load_average: float,
    outcome: str,
    deciding: str,
    seconds: float,
    marked: str = "",
    injected_us: float = 0.0,
) -> GateRow:
    """Write one gate and its restarts down; see `GateRow`."""
    believed = [restart for restart in restarts if not restart.problem]
    contrasts = [restart.contrasts for restart in believed]
    base = middle_base([measure_base(restart) for restart in believed])
    row = GateRow(
        started_at=started_at,
        machine_class=machine_class(),
        gate_version=GATE_VERSION,
        config_digest=test.digest_config(),
        model=f"{test.model}@{test.version}",
        arm=arm,
        number=number,
        seed=seed,
        injected_us=injected_us,
        injected_share=injected_us / parse_scenario(arm).base_us(base) if injected_us else 0.0,
        outcome=outcome,
        deciding=deciding,
        marked=marked,
        restarts=len(restarts),
        seconds=seconds,
        load_average=load_average,
        base_p50_ms=base.client_ms,
        base_service_ms=base.service_ms,
        base_cpu_ms=base.cpu_ms,
        champion_p50_ms=_middle([restart.arms["champion"].p50_ms for restart in believed]),
        candidate_p50_ms=_middle([restart.arms["candidate"].p50_ms for restart in believed]),
        **{name: _mean([getattr(c, name) for c in contrasts]) for name in CONTRASTS},
    )
    if restarts:
        rows = [write_row(restart, started_at=started_at, arm=arm) for restart in restarts]
        append_rows(find_restarts(test.path), rows)
    append_rows(test.path, [row])  # last: a gate counts when everything about it is there
    return row


def _name_deciding(verdict: Verdict) -> str:
    """The lines that a verdict other than PASS comes from, such as ``net_p50+net_p99``."""
    if verdict.outcome == "PASS":
        return ""
    return "+".join(line.name for line in verdict.lines if line.outcome == verdict.outcome)


def _gate(test: SelfTest, scenario: Scenario, programs: Mapping[str, Sequence[str]], seed: int) -> GateResult:
    settings = msgspec.structs.replace(
        test.settings, duet=msgspec.structs.replace(test.settings.duet, seed=seed)
    )
    with tempfile.TemporaryDirectory(prefix="timberline-") as scratch:
        store, candidate, champion = test.store, test.version, test.version
        if scenario.kind == "worse":
            folder, drop = Path(scratch), scenario.share
            staged = stage_worse(store, test.model, test.version, folder, drop=drop, seed=seed)
            store, candidate, champion = staged.store, staged.candidate, staged.champion
        return run_gate(
            store,
            test.model,
            test.folder,
            settings,
            candidate=f"{test.model}@{candidate}",
            champion=f"{test.model}@{champion}",
            programs=programs,
            calibrations=test.calibrations,
        )


def _middle(values: Sequence[float]) -> float:
    return median(values) if values else math.nan


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return fmean(known) if known else math.nan


def _measure_base(test: SelfTest, done: Sequence[GateRow]) -> Base:
    """What a request of the champion takes now: of the latest gates, or else measured."""
    recent = [
        Base(row.base_p50_ms, row.base_service_ms, row.base_cpu_ms)
        for row in done
        if not math.isnan(row.base_p50_ms)
    ]
    if recent:
        return middle_base(recent[-_RECENT_GATES:])
    with tempfile.TemporaryDirectory(prefix="timberline-") as scratch:
        restarts = run_identical(test, Path(scratch), _BASE_RESTARTS)
    return middle_base([measure_base(restart) for restart in restarts])


def measure_base(restart: Restart) -> Base:
    """What a request of the champion took in one restart, less waits where they are known."""
    champion = restart.arms["champion"]
    return Base(
        client_ms=median(champion.client_net_ms) if champion.client_net_ms else champion.p50_ms,
        service_ms=_middle(champion.net_ms),
        cpu_ms=champion.cpu_ms,
    )


def middle_base(bases: Sequence[Base]) -> Base:
    """The median of each; NaN of none."""
    return Base(
        _middle([base.client_ms for base in bases]),
        _middle([base.service_ms for base in bases]),
        _middle([base.cpu_ms for base in bases]),
    )


# From so many restarts on an SD is good to a quarter of itself: 1 / sqrt(2 * 8).
FEWEST_RESTARTS = 8
# Two processes that are alike to the byte have no spread, but a spread of 0 would prove anything.
_SMALLEST = 1e-6


def calibrate(test: SelfTest, count: int) -> tuple[Calibration, Path]:
    """Measure a version beside itself in ``count`` restarts and store by how much they differ.

    The restarts are gates of identical versions, too: judged with what was stored before, they are
    kept as scenario `NIGHTLY`, so that a machine that has changed is noticed; see `rates.find_alarm`. Raw
    observations stay beside the calibration.

    Returns:
        the calibration and where it is.

    Raises:
        ConfigError: too few restarts were asked for.
        BenchmarkError: one of them cannot be believed, or the service does not report its times; nothing
            is stored then.
    """
    if count < FEWEST_RESTARTS:
        raise ConfigError(f"{count} are too few, expected {FEWEST_RESTARTS} or more", where="--restarts")
    began, load = time.monotonic(), os.getloadavg()[0]
    folder = test.calibrations / f"{machine_class()}-restarts"
    with locked(test.path), fresh_folder(folder) as fresh:
        restarts = run_identical(test, fresh, count)
        calibration = summarize(test, restarts)
        keep_gates(test, restarts, seconds=(time.monotonic() - began) / count, load_average=load)
    share_folder(folder, "calibrate")
    return calibration, store_calibration(test.calibrations, calibration)


def summarize(test: SelfTest, restarts: Sequence[Restart]) -> Calibration:
    """The spread of every contrast over restarts of identical processes.

    Raises:
        BenchmarkError: the service does not report its times.
    """
    contrasts = [restart.contrasts for restart in restarts]
    found = {
        name: [value for c in contrasts if (value := getattr(c, name)) is not None] for name in CONTRASTS
    }
    if min(len(found["net_p50"]), len(found["net_p99"])) < len(restarts):
        raise BenchmarkError("the service did not report its times", where=f"{test.model}@{test.version}")
    spreads = {name: measure_spread(values) for name, values in found.items() if values}
    # Where the kernel does not report waits there is no such contrast, and no use for its spread.
    spreads.setdefault("client_p99", test.settings.latency.s0.client_p99)
    return Calibration(
        machine_class=machine_class(),
        measured_at=utc_now("microseconds"),
        model=f"{test.model}@{test.version}",
        workload=test.settings.duet.workload,
        window_s=test.settings.duet.window_s,
        restarts=len(restarts),
        nu0=round(min(count_freedom(values) for values in found.values() if values), 2),
        memory=measure_spread([_log_ratio(r, "resident_bytes") for r in restarts]),
        start_up=measure_spread([_log_ratio(r, "ready_s") for r in restarts]),
        **spreads,
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


def count_freedom(values: Sequence[float] | npt.NDArray[np.float64]) -> float:
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
    settings = apply_calibration(test.settings, test.read_calibration())
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
