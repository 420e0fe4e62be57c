"""Drive champion and candidate side by side, in fresh processes for every restart.

The restart is the unit of replication: placement, memory layout and start order make identical
processes differ by several percent, and only new processes show that spread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from timberline.benchmarks.errors import BenchmarkError
from timberline.benchmarks.measure.records import (
    ArmRun,
    Body,
    Observation,
    Outcome,
    Plan,
    Restart,
    Target,
    read_observations,
)
from timberline.benchmarks.measure.services import SERVICE, Service, drive, launch_driver, launch_service
from timberline.benchmarks.measure.workload import golden_bodies
from timberline.benchmarks.settings import DuetSettings
from timberline.registry.manifest import Manifest
from timberline.registry.runtime.logs import log_event

logger = logging.getLogger("benchmarks")
# What a Locust run may take beside its window: import, golden rows, warm-up, writing.
_DRIVER_SLACK_S = 60.0
_DRIVER_LOG = "locust.log"
# The service is asked to report its own times, which the client cannot see.
_SERVICE_FLAGS = ("--server-timing",)


@dataclass(frozen=True)
class Duet:
    """What is driven and how; ``versions`` by arm ("candidate", and "champion" if there is one).

    ``programs``: by arm, the module and flags that stand in the place of ``inference``; see `open_duet`.
    """

    registry: str
    versions: Mapping[str, Manifest]
    bodies: tuple[Body, ...]
    settings: DuetSettings
    folder: Path
    driver: subprocess.Popen[bytes]
    programs: Mapping[str, Sequence[str]]

    def run_restart(self, number: int) -> Restart:
        """Start every service, drive them for one window, end them.

        What goes wrong is in the result's ``problem``: a restart that cannot be believed is
        evidence too. Raw observations and logs stay in ``folder``.
        """
        try:
            return self._run_restart(number)
        except BenchmarkError as error:
            return Restart(number=number, pairs=0, arms={}, problem=str(error))

    def _run_restart(self, number: int) -> Restart:
        seed = f"{self.settings.seed}-{number}"
        observations = self.folder / f"restart-{number:02}.csv.gz"
        with self._services(number, random.Random(seed)) as services:
            pids = [self.driver.pid, *(service.process.pid for service in services.values())]
            log_event(logger, "services ready", logging.DEBUG, number=number, pids=pids)
            plan = Plan(
                targets=tuple(build_target(arm, self.versions[arm], s) for arm, s in services.items()),
                bodies=self.bodies,
                users=1,
                window_s=self.settings.window_s,
                warmup_cycles=self.settings.warmup_pairs,
                seed=seed,
                request_timeout_s=self.settings.request_timeout_s,
                observations=str(observations),
                min_cycles=self.settings.min_pairs,
                placement=self.settings.placement if sys.platform == "linux" else "free",
            )
            timeout_s = 3 * self.settings.window_s + self.settings.request_timeout_s + _DRIVER_SLACK_S
            outcome = drive(self.driver, plan, timeout_s=timeout_s, log=self.folder / _DRIVER_LOG)
            residents = {arm: service.resident_bytes() for arm, service in services.items()}
        seen = read_observations(observations)
        arms = {
            arm: dataclasses.replace(
                build_arm([o for o in seen if o.arm == arm], services[arm].ready_s, residents[arm]),
                request_count=outcome.asked.get(arm, 0),
                failure_count=outcome.failed.get(arm, 0),
                cpu_s=outcome.cpu_s.get(arm, math.nan),
            )
            for arm in sorted(services)
        }
        problem = find_problem(outcome, seen, arms, self.settings)
        return Restart(number, outcome.cycles, arms, problem, outcome.cpu_share)

    @contextlib.contextmanager
    def _services(self, number: int, chance: random.Random) -> Iterator[dict[str, Service]]:
        """Every service ready, started in random order; the order of the result is random too."""
        order = sorted(self.versions)
        chance.shuffle(order)
        with contextlib.ExitStack() as stack:
            launches = {}
            for arm in order:
                manifest = self.versions[arm]
                launches[arm] = stack.enter_context(
                    launch_service(
                        self.registry,
                        manifest.model,
                        manifest.version,
                        log=self.folder / f"restart-{number:02}-{arm}.log",
                        stop_timeout_s=self.settings.stop_timeout_s,
                        flags=_SERVICE_FLAGS,
                        program=self.programs.get(arm, SERVICE),
                    )
                )
            chance.shuffle(order)
            yield {arm: launches[arm].await_ready(self.settings.start_timeout_s) for arm in order}


@contextlib.contextmanager
def open_duet(
    registry: str,
    versions: Mapping[str, Manifest],
    bodies: tuple[Body, ...],
    settings: DuetSettings,
    folder: Path,
    programs: Mapping[str, Sequence[str]],
) -> Iterator[Duet]:
    """A duet with its Locust process, which serves all restarts: it is the same for both arms.

    Args:
        registry: where both versions are.
        versions: manifests by arm.
        bodies: what is asked.
        settings: how long and how often.
        folder: where raw observations and logs go.
        programs: by arm, the module, and flags before its verb, that stand in the place of ``inference``.
    """
    with launch_driver(log=folder / _DRIVER_LOG, stop_timeout_s=settings.stop_timeout_s) as driver:
        yield Duet(registry, versions, bodies, settings, folder, driver, programs)


def build_arm(observations: Sequence[Observation], ready_s: float, resident_bytes: int) -> ArmRun:
    """The observations of one arm in the order sent, as they are judged."""
    net = tuple(seen.net_ms for seen in observations)
    client = tuple(seen.client_net_ms for seen in observations)
    is_told = bool(net) and not any(map(math.isnan, net))
    handler = sum(seen.handler_ms for seen in observations)
    return ArmRun(
        latencies_ms=tuple(seen.latency_ms for seen in observations),
        ready_s=ready_s,
        resident_bytes=resident_bytes,
        net_ms=net if is_told else (),
        client_net_ms=() if any(map(math.isnan, client)) else client,
        lost_share=1 - sum(seen.cpu_ms for seen in observations) / handler if is_told else 0.0,
    )


def build_target(arm: str, manifest: Manifest, service: Service) -> Target:
    """A ready service as the load generator has to see it."""
    return Target(
        arm=arm,
        pid=service.process.pid,
        url=service.url,
        model=manifest.model,
        version=manifest.version,
        classes=tuple(label.value for label in manifest.signature.classes),
        atol=manifest.golden.atol,
        golden=golden_bodies(manifest, arm),
    )


def find_problem(
    outcome: Outcome, observations: Sequence[Observation], arms: Mapping[str, ArmRun], settings: DuetSettings
) -> str:
    """Why a restart cannot be believed; "" when it can.

    Args:
        outcome: of the load generator.
        observations: of the window, in the order sent.
        arms: the same by arm.
        settings: what is too little, and what too much.
    """
    return next(_list_problems(outcome, observations, arms, settings), "")


def _list_problems(
    outcome: Outcome, observations: Sequence[Observation], arms: Mapping[str, ArmRun], settings: DuetSettings
) -> Iterator[str]:
    if outcome.failures:
        yield f"{outcome.failures} failed requests, the first: {outcome.first_failure}"
    if outcome.cycles < settings.min_pairs:
        yield f"{outcome.cycles} pairs, expected at least {settings.min_pairs}"
    if outcome.clock_jump_s > settings.max_clock_jump_s:
        yield f"a clock jumped by {outcome.clock_jump_s:.1f} s"
    shares = {arm: len(run.latencies_ms) for arm, run in arms.items()}
    if set(shares.values()) != {outcome.cycles}:
        yield f"unequal shares: {shares} observations of {outcome.cycles} pairs"
    silence = find_standstill(observations)
    if silence > settings.max_standstill_share * settings.window_s:
        yield f"nothing came or went for {silence:.2f} s of a window of {settings.window_s:g} s"
    starved = find_starved(arms, settings.max_outside_ratio)
    if starved:
        yield starved


def find_standstill(observations: Sequence[Observation]) -> float:
    """The longest time, in seconds, in which no service worked and no request was sent or answered.

    That is between an answer and the next request, where only the load generator can linger, or
    within a request beyond its service's own time. Only one request is in flight at any time.
    """
    between = [
        after.sent_s - before.sent_s - before.latency_ms / 1e3 for before, after in pairwise(observations)
    ]
    within = [
        (seen.latency_ms - (0.0 if math.isnan(seen.handler_ms) else seen.handler_ms)) / 1e3
        for seen in observations
    ]
    return max([0.0, *between, *within])


def mean_outside_ms(run: ArmRun) -> float:
    """Milliseconds a request that one arm's service did not use; a mean, as a stall hits few requests.

    All of the latency where the service does not report its times.
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
