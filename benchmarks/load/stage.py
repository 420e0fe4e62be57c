"""The processes of a load measurement: services started afresh for every round, one load generator.

Champion and candidate both run, but only one of them is under load at a time: the load generator and
one service fill two cores, and two loaded services would measure each other.
"""

from __future__ import annotations

import contextlib
import math
import random
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from timberline.benchmarks.load.plan import WindowOutcome, WindowPlan, read_arrivals
from timberline.benchmarks.load.settings import LoadSettings
from timberline.benchmarks.load.window import Place, WindowResult, summarize_window
from timberline.benchmarks.measure.duet import build_target
from timberline.benchmarks.measure.records import Body
from timberline.benchmarks.measure.services import Service, exchange, launch_driver, launch_service
from timberline.registry.errors import ConfigError
from timberline.registry.manifest import Manifest

_DRIVER_LOG = "locust.log"
# What the load generator may take beside a window: its import, golden rows, warm-up, writing.
_SLACK_S = 60.0


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


@dataclass(frozen=True)
class Stage:
    """What is driven, and the running load generator; raw observations and logs go to ``folder``."""

    registry: str
    versions: Mapping[str, Manifest]
    bodies: tuple[Body, ...]
    settings: LoadSettings
    folder: Path
    driver: subprocess.Popen[bytes]

    @contextlib.contextmanager
    def services(self, number: int) -> Iterator[dict[str, Service]]:
        """Every arm's service, freshly started in random order, for one round.

        Raises:
            ServiceStartError: one did not get ready.
        """
        window = self.settings.window
        order = sorted(self.versions)
        random.Random(f"{window.seed}-{number}-start").shuffle(order)
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

    def run_window(
        self, service: Service, arm: str, load: Load, *, seed: str, round_number: int, number: int
    ) -> WindowResult:
        """Put one arm under load for one window.

        Args:
            service: that arm's.
            arm: its name.
            load: what load.
            seed: of arrivals and bodies: the same for both arms where they are to be alike.
            round_number, number: of the round, and of the window since the measurement's begin.

        Raises:
            BenchmarkError: the load generator failed.
        """
        window, log = self.settings.window, self.folder / _DRIVER_LOG
        name = f"window-{number:03}-{arm}-{load.name}.csv.gz"
        plan = WindowPlan(
            target=build_target(arm, self.versions[arm], service),
            bodies=self.bodies,
            window_s=window.seconds_at(load.rate_rps) if load.rate_rps else window.window_s,
            rate_rps=load.rate_rps,
            users=load.users,
            warmup_requests=window.warmup_requests,
            seed=seed,
            request_timeout_s=window.request_timeout_s,
            max_in_flight=window.max_in_flight,
            # Once 1 % were sent later than this, nothing can come of the window but doubt.
            max_lag_ms=self.settings.objective.p99_ms,
            observations=str(self.folder / name),
        )
        timeout_s = plan.window_s + 2 * window.request_timeout_s + _SLACK_S
        outcome = exchange(self.driver, plan, WindowOutcome, timeout_s=timeout_s, log=log)
        return summarize_window(
            Place(
                round=round_number,
                number=number,
                arm=arm,
                rate_rps=load.rate_rps,
                users=load.users,
                observations=name,
            ),
            outcome,
            read_arrivals(Path(plan.observations)),
            self.settings.objective,
            window.min_requests if load.rate_rps else 1,
        )


@contextlib.contextmanager
def open_stage(
    registry: str,
    versions: Mapping[str, Manifest],
    bodies: tuple[Body, ...],
    settings: LoadSettings,
    folder: Path,
) -> Iterator[Stage]:
    """A stage with its load generator, which is the same for all arms and rounds."""
    with launch_driver(
        log=folder / _DRIVER_LOG,
        stop_timeout_s=settings.window.stop_timeout_s,
        module="timberline.benchmarks.load.arrivals",
    ) as driver:
        yield Stage(registry, versions, bodies, settings, folder, driver)
