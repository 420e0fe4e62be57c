"""Measure load in rounds: fixed loads, or a sweep for the highest rate; one version, or two side by side.

Within a round both arms get the same loads, one right after the other in random order, so that what
the machine does meanwhile falls on both.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from timberline.benchmarks.errors import BenchmarkError
from timberline.benchmarks.load.settings import LoadSettings
from timberline.benchmarks.load.stage import Load, Stage, open_stage
from timberline.benchmarks.load.sweep import Bracket, Point, choose_start, next_rate, read_bracket
from timberline.benchmarks.load.window import WindowResult
from timberline.benchmarks.measure.services import Service
from timberline.benchmarks.measure.workload import draw_bodies, load_workload
from timberline.registry.runtime.logs import log_event
from timberline.registry.store import Store

logger = logging.getLogger("benchmarks")


class SweepResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one arm's sweep found in one round; rates in requests a second, as in `Bracket`."""

    round: int
    arm: str
    held_rps: float | None
    missed_rps: float | None
    is_censored: bool


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was measured; ``problem`` says why it is INVALID, and is empty when it is not.

    ``windows`` are all that were run, in the order of time; ``counted`` the numbers of those that the
    figures of fixed loads are made of.
    """

    windows: tuple[WindowResult, ...]
    counted: tuple[int, ...]
    sweeps: tuple[SweepResult, ...]
    problem: str


def measure_load(
    store: Store,
    model: str,
    versions: Mapping[str, int],
    settings: LoadSettings,
    loads: Sequence[Load],
    folder: Path,
) -> Measured:
    """Start the services and put them under load; a sweep if ``loads`` is empty.

    Args:
        store: the registry with the versions.
        model: its name.
        versions: by arm: "candidate", and "champion" if there are two.
        settings: see load.toml.
        loads: fixed loads, each measured in every round.
        folder: where raw observations and logs go.

    Returns:
        What was measured until the end, or until something showed that it cannot be believed.

    Raises:
        RegistryError: a version is not there, or its files are damaged.
        WorkloadError: these versions cannot be asked what the workload asks.
    """
    manifests = {
        arm: store.open_version(model, version).verify().manifest for arm, version in versions.items()
    }
    bodies = draw_bodies(load_workload(settings.window.workload), manifests)
    with open_stage(store.location, manifests, bodies, settings, folder) as stage:
        run = _Run(stage)
        try:
            for number in range(1, settings.compare.rounds + 1):
                run.measure_round(number, loads)
        except BenchmarkError as error:
            run.problem = str(error)
    return Measured(
        windows=tuple(run.windows),
        counted=tuple(run.counted),
        sweeps=tuple(run.sweeps),
        problem=run.problem,
    )


class _Run:
    """A measurement as far as it has come."""

    def __init__(self, stage: Stage) -> None:
        self.windows: list[WindowResult] = []
        self.counted: list[int] = []
        self.sweeps: list[SweepResult] = []
        self.problem = ""
        self._stage = stage
        self._objective = stage.settings.objective
        self._seed = stage.settings.window.seed

    def measure_round(self, number: int, loads: Sequence[Load]) -> None:
        """One round with fresh services.

        Raises:
            BenchmarkError: it cannot be believed.
        """
        chance = random.Random(f"{self._seed}-{number}")
        with self._stage.services(number) as services:
            if loads:
                for load in loads:
                    self._drive_fixed(number, load, services, chance)
            else:
                self._sweep(number, services, chance)

    def _drive_fixed(
        self, number: int, load: Load, services: Mapping[str, Service], chance: random.Random
    ) -> None:
        seed = f"{self._seed}-{number}-{load.name}"
        for arm in _shuffle(services, chance):
            for _ in range(self._objective.invalid_tries):
                window = self._run_window(number, services[arm], arm, load, seed)
                if not window.problem:
                    break
            if window.problem:
                raise BenchmarkError(window.problem, where=f"round {number}, {arm}, {load.name}")
            self.counted.append(window.number)

    def _sweep(self, number: int, services: Mapping[str, Service], chance: random.Random) -> None:
        """Every arm's search, a window of each in turn, from the same start."""
        rules = self._stage.settings.sweep
        held = [sweep.held_rps for sweep in self.sweeps if sweep.held_rps is not None]
        start = choose_start(held, rules, chance.random())
        points: dict[str, list[Point]] = {arm: [] for arm in services}
        for step in range(rules.max_windows):
            for arm in _shuffle(services, chance):
                rate = next_rate(points[arm], start, rules, self._objective)
                if rate is None:
                    continue
                # Equal rates of the two arms are equal loads.
                load = Load(rate_rps=rate)
                window = self._run_window(number, services[arm], arm, load, f"{self._seed}-{number}-{step}")
                points[arm].append(Point(rate, window.result))
        for arm, seen in points.items():
            self._keep_sweep(number, arm, read_bracket(seen, self._objective))

    def _keep_sweep(self, number: int, arm: str, bracket: Bracket) -> None:
        self.sweeps.append(
            SweepResult(
                round=number,
                arm=arm,
                held_rps=bracket.held_rps,
                missed_rps=bracket.missed_rps,
                is_censored=bracket.is_censored,
            )
        )
        log_event(logger, "sweep measured", **msgspec.structs.asdict(self.sweeps[-1]))
        if bracket.held_rps is None:
            tried = "none was driven" if bracket.missed_rps is None else f"not even {bracket.missed_rps:.0f}"
            raise BenchmarkError(
                f"met the objective at no rate: {tried} requests/s", where=f"round {number}, {arm}"
            )

    def _run_window(
        self, round_number: int, service: Service, arm: str, load: Load, seed: str
    ) -> WindowResult:
        """One window, kept.

        Raises:
            BenchmarkError: the service is broken.
        """
        number = len(self.windows) + 1
        window = self._stage.run_window(
            service, arm, load, seed=seed, round_number=round_number, number=number
        )
        self.windows.append(window)
        log_event(
            logger,
            "window measured",
            round=round_number,
            arm=arm,
            load=load.name,
            result=window.result,
            p50_ms=round(window.p50_ms, 3),
            p99_ms=round(window.p99_ms, 3),
            lag_p99_ms=round(window.lag_p99_ms, 3),
            problem=window.problem,
        )
        if window.result == "broken":
            raise BenchmarkError(window.problem, where=f"round {round_number}, {arm}, {load.name}")
        return window


def _shuffle(services: Mapping[str, Service], chance: random.Random) -> list[str]:
    order = sorted(services)
    chance.shuffle(order)
    return order
