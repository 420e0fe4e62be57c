"""Measure load in rounds: fixed loads, or a sweep for the highest rate; one version, or two side by side.

Services are started afresh for every round; the load generator is one process for all. Within a round both
arms get the same loads, one right after the other in random order, so that a disturbance of the machine
falls on both. Both services run, but only one of them is under load at a time: the load generator and one
service fill two cores, and two loaded services would measure each other.

A sweep goes up in geometric steps until a rate misses the objective (or down until one meets it), then
bisects in the logarithm. One window is a noisy oracle, so that a miss has to be repeated before it stands;
a rate that was met once has been met.

Source: the search of a bracket and its bisection are those for a root of a monotonic function; e.g. Press
et al., *Numerical Recipes* (3rd ed., 2007), sections 9.0 and 9.1.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import geometric_mean

import msgspec

from timberline.benchmarks.errors import BenchmarkError
from timberline.benchmarks.load.settings import LoadSettings, Objective, SweepSettings
from timberline.benchmarks.load.window import (
    Result,
    WindowKey,
    WindowOutcome,
    WindowPlan,
    WindowResult,
    read_arrivals,
    summarize_window,
)
from timberline.benchmarks.measure.duet import build_target
from timberline.benchmarks.measure.records import Body
from timberline.benchmarks.measure.services import Service, exchange, launch_driver, launch_service
from timberline.benchmarks.measure.workload import draw_bodies, load_workload
from timberline.registry.errors import ConfigError
from timberline.registry.manifest import Manifest
from timberline.registry.runtime.logs import log_event
from timberline.registry.store import Store

logger = logging.getLogger("benchmarks")
_DRIVER_LOG = "locust.log"
# What the load generator may take beside a window: its import, golden rows, warm-up, writing.
_SLACK_S = 60.0


@dataclass(frozen=True)
class Point:
    """One window at one rate; ``result`` "invalid" is one that the load generator could not drive."""

    rate_rps: float
    result: Result


class Bracket(msgspec.Struct, frozen=True):
    """What a sweep has found, in requests a second.

    - ``held_rps``: the highest rate that met the objective; None when none did.
    - ``missed_rps``: the lowest rate above that did not; None when there was none.
    - ``is_censored``: the load generator could not go on, so that the service may hold more.
    """

    held_rps: float | None
    missed_rps: float | None
    is_censored: bool


def read_bracket(points: Sequence[Point], objective: Objective) -> Bracket:
    """What the windows so far say.

    A rate counts as missed after ``objective.tries`` windows that missed it, or after
    ``objective.invalid_tries`` that the load generator could not drive.
    """
    results: dict[float, list[Result]] = {}
    for point in points:
        results.setdefault(point.rate_rps, []).append(point.result)
    held = max((rate for rate, seen in results.items() if "met" in seen), default=None)
    above = {rate: seen for rate, seen in results.items() if held is None or rate > held}
    missed = {rate for rate, seen in above.items() if seen.count("missed") >= objective.tries}
    undriven = {rate for rate, seen in above.items() if seen.count("invalid") >= objective.invalid_tries}
    lowest = min(missed | undriven, default=None)
    return Bracket(held, lowest, lowest is not None and lowest not in missed)


def next_rate(
    points: Sequence[Point], start_rps: float, rules: SweepSettings, objective: Objective
) -> float | None:
    """The rate to measure next; None when the sweep is over.

    It is over when the bracket is as narrow as ``rules.resolution``, when ``rules.max_windows`` are
    used up, or when ``rules.least_rps`` was missed.
    """
    if not points:
        return start_rps
    last = points[-1].rate_rps
    bracket = read_bracket(points, objective)
    held, missed = bracket.held_rps, bracket.missed_rps
    if len(points) >= rules.max_windows or (held and missed and missed / held <= 1 + rules.resolution):
        return None
    if last not in (held, missed):
        return last  # once more: one result is not enough
    if held and missed:
        return math.sqrt(held * missed)
    if held:
        return last * rules.growth
    return last / rules.growth if last / rules.growth >= rules.least_rps else None


def choose_start(held_before: Sequence[float], rules: SweepSettings, chance: float) -> float:
    """Where a round's sweeps begin, the same for all arms.

    A random part of a step, so that the rates tried differ from round to round: with the same grid
    in every round, two services a little apart would look equal every time.

    Args:
        held_before: rates that arms held in rounds before; the next round begins one step below.
        rules: steps and the first start.
        chance: uniform on [0, 1).
    """
    start = rules.start_rps
    if held_before:
        start = geometric_mean(held_before) / rules.growth
    return start * math.exp(chance * math.log(rules.growth))


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Open loop at ``rate_rps``, or a closed loop of ``users`` where that is None."""

    rate_rps: float | None = None
    users: int = 0

    @property
    def name(self) -> str:
        """For people and for file names: ``200rps``, ``8users``."""
        return f"{self.users}users" if self.rate_rps is None else f"{self.rate_rps:.0f}rps"


def read_loads(*, rates: str | None, users: str | None) -> list[Load]:
    """Loads as a command line gives them: numbers with commas; none for a sweep.

    Raises:
        ConfigError: not a number above 0.
    """
    try:
        loads = [Load(rate_rps=float(rate)) for rate in (rates or "").split(",") if rate]
        loads += [Load(users=int(count)) for count in (users or "").split(",") if count]
    except ValueError as error:
        raise ConfigError(str(error), where="--rate" if rates else "--users") from None
    for load in loads:
        if not 0 < (load.users if load.rate_rps is None else load.rate_rps) < math.inf:
            raise ConfigError(f"found {load.name}, expected more than 0", where="--rate or --users")
    return loads


class SweepResult(Bracket, frozen=True, kw_only=True):
    """What one arm's sweep found in one round."""

    round: int
    arm: str


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
    with launch_driver(
        log=folder / _DRIVER_LOG,
        stop_timeout_s=settings.window.stop_timeout_s,
        module="timberline.benchmarks.load.arrivals",
    ) as driver:
        run = _Run(store.location, manifests, bodies, settings, folder, driver)
        problem = ""
        try:
            for number in range(1, settings.compare.rounds + 1):
                run.measure_round(number, loads)
        except BenchmarkError as error:
            problem = str(error)
    return Measured(
        windows=tuple(run.windows), counted=tuple(run.counted), sweeps=tuple(run.sweeps), problem=problem
    )


@dataclass
class _Run:
    """What is driven, the running load generator, and the measurement as far as it has come.

    Raw observations and logs go to ``folder``.
    """

    registry: str
    versions: Mapping[str, Manifest]
    bodies: tuple[Body, ...]
    settings: LoadSettings
    folder: Path
    driver: subprocess.Popen[bytes]
    windows: list[WindowResult] = field(default_factory=list)
    counted: list[int] = field(default_factory=list)
    sweeps: list[SweepResult] = field(default_factory=list)

    def measure_round(self, number: int, loads: Sequence[Load]) -> None:
        """One round with fresh services.

        Raises:
            BenchmarkError: it cannot be believed.
        """
        chance = random.Random(f"{self.settings.window.seed}-{number}")
        with self._services(number) as services:
            for load in loads:
                self._drive_fixed(number, load, services, chance)
            if not loads:
                self._sweep(number, services, chance)

    @contextlib.contextmanager
    def _services(self, number: int) -> Iterator[dict[str, Service]]:
        """Every arm's service, freshly started in random order, for one round.

        Raises:
            ServiceStartError: one did not get ready.
        """
        window = self.settings.window
        order = _shuffle(self.versions, random.Random(f"{window.seed}-{number}-start"))
        with contextlib.ExitStack() as stack:
            launches = {
                arm: stack.enter_context(
                    launch_service(
                        self.registry,
                        self.versions[arm].model,
                        self.versions[arm].version,
                        log=self.folder / f"round-{number:02}-{arm}.log",
                        stop_timeout_s=window.stop_timeout_s,
                    )
                )
                for arm in order
            }
            yield {arm: launch.await_ready(window.start_timeout_s) for arm, launch in launches.items()}

    def _drive_fixed(
        self, number: int, load: Load, services: Mapping[str, Service], chance: random.Random
    ) -> None:
        for arm in _shuffle(services, chance):
            for _ in range(self.settings.objective.invalid_tries):
                window = self._run_window(number, services[arm], arm, load, load.name)
                if not window.problem:
                    break
            if window.problem:
                raise BenchmarkError(window.problem, where=f"round {number}, {arm}, {load.name}")
            self.counted.append(window.number)

    def _sweep(self, number: int, services: Mapping[str, Service], chance: random.Random) -> None:
        """Every arm's search, a window of each in turn, from the same start."""
        rules, objective = self.settings.sweep, self.settings.objective
        held = [sweep.held_rps for sweep in self.sweeps if sweep.held_rps is not None]
        start = choose_start(held, rules, chance.random())
        points: dict[str, list[Point]] = {arm: [] for arm in services}
        for step in range(rules.max_windows):
            for arm in _shuffle(services, chance):
                rate = next_rate(points[arm], start, rules, objective)
                if rate is not None:
                    # Equal rates of the two arms are equal loads.
                    window = self._run_window(number, services[arm], arm, Load(rate_rps=rate), f"{step}")
                    points[arm].append(Point(rate, window.result))
        for arm, seen in points.items():
            self._keep_sweep(number, arm, read_bracket(seen, objective))

    def _keep_sweep(self, number: int, arm: str, bracket: Bracket) -> None:
        self.sweeps.append(SweepResult(round=number, arm=arm, **msgspec.structs.asdict(bracket)))
        log_event(logger, "sweep measured", **msgspec.structs.asdict(self.sweeps[-1]))
        if bracket.held_rps is None:
            tried = "none was driven" if bracket.missed_rps is None else f"not even {bracket.missed_rps:.0f}"
            raise BenchmarkError(
                f"met the objective at no rate: {tried} requests/s", where=f"round {number}, {arm}"
            )

    def _run_window(self, number: int, service: Service, arm: str, load: Load, seed: str) -> WindowResult:
        """Put one arm under load for one window in round ``number``, and keep the result.

        ``seed`` is that of arrivals and bodies within the round: the same for both arms where they are to be
        alike.

        Raises:
            BenchmarkError: the load generator failed, or the service is broken.
        """
        settings, log = self.settings.window, self.folder / _DRIVER_LOG
        key = WindowKey(
            round=number,
            number=len(self.windows) + 1,
            arm=arm,
            rate_rps=load.rate_rps,
            users=load.users,
            observations=f"window-{len(self.windows) + 1:03}-{arm}-{load.name}.csv.gz",
        )
        plan = WindowPlan(
            target=build_target(arm, self.versions[arm], service),
            bodies=self.bodies,
            window_s=settings.seconds_at(load.rate_rps) if load.rate_rps else settings.window_s,
            rate_rps=load.rate_rps,
            users=load.users,
            warmup_requests=settings.warmup_requests,
            seed=f"{settings.seed}-{number}-{seed}",
            request_timeout_s=settings.request_timeout_s,
            max_in_flight=settings.max_in_flight,
            # Once 1 % were sent later than this, nothing can come of the window but doubt.
            max_lag_ms=self.settings.objective.p99_ms,
            observations=str(self.folder / key.observations),
        )
        timeout_s = plan.window_s + 2 * settings.request_timeout_s + _SLACK_S
        outcome = exchange(self.driver, plan, WindowOutcome, timeout_s=timeout_s, log=log)
        window = summarize_window(
            key,
            outcome,
            read_arrivals(Path(plan.observations)),
            self.settings.objective,
            settings.min_requests if load.rate_rps else 1,
        )
        self.windows.append(window)
        log_event(
            logger,
            "window measured",
            round=number,
            arm=arm,
            load=load.name,
            result=window.result,
            p50_ms=round(window.p50_ms, 3),
            p99_ms=round(window.p99_ms, 3),
            lag_p99_ms=round(window.lag_p99_ms, 3),
            problem=window.problem,
        )
        if window.result == "broken":
            raise BenchmarkError(window.problem, where=f"round {number}, {arm}, {load.name}")
        return window


def _shuffle(arms: Iterable[str], chance: random.Random) -> list[str]:
    order = sorted(arms)
    chance.shuffle(order)
    return order
