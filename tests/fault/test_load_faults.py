"""What load measurements must not miss, and what they must not believe; real services and processes."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.support.freezing import freezing
from tests.support.tiny_model import publish_numeric
from tests.support.wrong_services import Answer, answering
from timberline.benchmarks.load.measure import Load, measure_load
from timberline.benchmarks.load.settings import DEFAULT_LOAD, LoadSettings
from timberline.benchmarks.load.window import (
    Arrival,
    WindowKey,
    WindowOutcome,
    WindowPlan,
    WindowResult,
    read_arrivals,
    summarize_window,
)
from timberline.benchmarks.measure.duet import build_target
from timberline.benchmarks.measure.records import Body, Target
from timberline.benchmarks.measure.services import exchange, launch_driver, launch_service
from timberline.benchmarks.measure.workload import Mix, Workload, draw_bodies
from timberline.registry.runtime.settings import load_settings
from timberline.registry.store import open_store

DEADLINE_S = 60.0
RIGHT = {"probabilities": {"1": 0.75, "2": 0.25}, "model": "tiny", "version": 1}
BODY = Body(payload=b'{"rings": 3}', rows=1, answers={"candidate": ((0.75, 0.25),)})
# Bounds that no busy machine breaks, so that only what a test does is seen.
PATIENT = msgspec.structs.replace(
    load_settings(DEFAULT_LOAD, LoadSettings).objective, p99_ms=5000.0, max_lag_share=1.0, max_cpu_share=1.0
)


class Seen(NamedTuple):
    """One window."""

    outcome: WindowOutcome
    arrivals: list[Arrival]
    result: WindowResult

    def share_above(self, latency_ms: float) -> float:
        """Of the requests that were sent."""
        return sum(one.latency_ms > latency_ms for one in self.arrivals) / len(self.arrivals)


class Generator(NamedTuple):
    """The load generator's process."""

    process: Any
    folder: Path

    def drive(self, target: Target, bodies: tuple[Body, ...], **changes: Any) -> Seen:
        """Drive a window, by default an open one; ``changes`` are of the plan."""
        plan = WindowPlan(
            target=target,
            bodies=bodies,
            **{
                "window_s": 1.0,
                "rate_rps": 100.0,
                "users": 0,
                "warmup_requests": 3,
                "seed": "1",
                "request_timeout_s": 10.0,
                "max_in_flight": 256,
                "max_lag_ms": PATIENT.max_lag_ms,
                "observations": str(self.folder / "window.csv.gz"),
                **changes,
            },
        )
        log = self.folder / "locust.log"
        outcome = exchange(self.process, plan, WindowOutcome, timeout_s=DEADLINE_S, log=log)
        arrivals = read_arrivals(Path(plan.observations))
        place = WindowKey(
            round=1,
            number=1,
            arm=target.arm,
            rate_rps=plan.rate_rps,
            users=plan.users,
            observations=plan.observations,
        )
        objective = msgspec.structs.replace(PATIENT, max_lag_share=plan.max_lag_ms / PATIENT.p99_ms)
        return Seen(outcome, arrivals, summarize_window(place, outcome, arrivals, objective, 1))

    def wake(self, target: Target, bodies: tuple[Body, ...]) -> None:
        """Let it finish its imports, so that what comes next falls into a window."""
        self.drive(target, bodies, window_s=0.1)


@contextlib.contextmanager
def generating(folder: Path) -> Iterator[Generator]:
    """A load generator that is ready for windows."""
    log = folder / "locust.log"
    with launch_driver(log=log, stop_timeout_s=5.0, module="timberline.benchmarks.load.arrivals") as process:
        yield Generator(process, folder)


def address(url: str) -> Target:
    """A service of two classes at ``url``."""
    return Target(
        arm="candidate", url=url, model="tiny", version=1, classes=("1", "2"), atol=1e-5, golden=(BODY,)
    )


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[int, Target, tuple[Body, ...]]]:
    """The real service with a tiny model: its process, its address, bodies of every form."""
    store = open_store(folder / "registry")
    manifest = store.open_version("tiny", publish_numeric(store)).manifest
    mix = tuple(Mix(rows=2, form=form) for form in ("json", "csv", "float32", "oip", "oip_binary"))
    bodies = draw_bodies(Workload(seed=1, bodies=20, mix=mix), {"candidate": manifest})
    log = folder / "service.log"
    with launch_service(store.location, "tiny", 1, log=log, stop_timeout_s=10.0) as launch:
        service = launch.await_ready(DEADLINE_S)
        yield service.process.pid, build_target("candidate", manifest, service), bodies


def test_an_open_loop_sees_the_stalls_that_a_closed_one_hides(tmp_path: Path) -> None:
    """A client that waits sends nothing while the service stands still: one late request a stall.

    The service stands still for a quarter of the time. That is what the open loop has to say of the
    requests that were due, whatever the speed of the machine.
    """
    with serving(tmp_path) as (pid, target, bodies), generating(tmp_path) as generator:
        generator.wake(target, bodies)
        with freezing(pid, frozen_s=0.3, every_s=1.2):
            closed = generator.drive(target, bodies, rate_rps=None, users=1, window_s=2.4)
            opened = generator.drive(target, bodies, rate_rps=100.0, window_s=2.4)
    assert closed.result.problem == opened.result.problem == ""
    shares = {"closed": closed.share_above(100.0), "open": opened.share_above(100.0)}
    assert shares["open"] > 0.05, shares
    assert shares["open"] > 4 * shares["closed"], shares


def test_every_request_of_the_timetable_is_sent_and_answered(tmp_path: Path) -> None:
    """In all forms, with unrounded latencies from the due time; the control of the tests below."""
    with serving(tmp_path) as (_, target, bodies), generating(tmp_path) as generator:
        first = generator.drive(target, bodies)
        again = generator.drive(target, bodies)
    assert first.result.problem == again.result.problem == ""
    assert first.outcome.scheduled == len(first.arrivals) == first.result.right
    assert [a.body for a in first.arrivals] == [a.body for a in again.arrivals]
    assert [a.due_s for a in first.arrivals] == pytest.approx([a.due_s for a in again.arrivals])
    assert all(one.latency_ms > one.lag_ms > 0 for one in first.arrivals)
    assert any(one.latency_ms != round(one.latency_ms) for one in first.arrivals)


def test_a_load_generator_that_stood_still_is_not_believed(tmp_path: Path) -> None:
    """The latencies of such a window are its own fault, and would be laid at the service's door."""
    with serving(tmp_path) as (_, target, bodies), generating(tmp_path) as generator:
        generator.wake(target, bodies)
        with freezing(generator.process.pid, frozen_s=0.2, every_s=0.4):
            seen = generator.drive(target, bodies, max_lag_ms=50.0, window_s=2.0)
    assert "the load generator lags" in seen.result.problem
    assert seen.result.lag_p99_ms > 50.0


def test_a_service_that_is_down_is_broken_and_not_quick(tmp_path: Path) -> None:
    """Refused connections are answered in microseconds."""
    with answering(lambda _: (200, RIGHT)) as url:
        pass
    with generating(tmp_path) as generator:
        seen = generator.drive(address(url), (BODY,))
    assert seen.result.result == "broken"
    assert "refused" in seen.result.problem


def test_a_service_that_dies_under_load_is_broken(tmp_path: Path) -> None:
    """No rate is the limit of a service that is gone."""
    with serving(tmp_path) as (pid, target, bodies), generating(tmp_path) as generator:
        generator.wake(target, bodies)
        death = threading.Timer(1.0, os.kill, (pid, signal.SIGKILL))
        death.start()
        seen = generator.drive(target, bodies, window_s=DEADLINE_S)
        death.join()
    assert seen.result.result == "broken"
    assert "wrong answers" in seen.result.problem
    assert len(seen.arrivals) < seen.outcome.scheduled / 2  # and the window was not sat out


@pytest.mark.parametrize(
    ("answer", "result", "message"),
    [
        (lambda n: (200, RIGHT) if n < 10 else (200, RIGHT | {"version": 2}), "broken", "tiny@2 answered"),
        (lambda n: (200, RIGHT) if n != 9 else (500, {"error": "no"}), "broken", "HTTP 500"),
        (lambda n: (200, RIGHT) if n < 10 or n % 2 else (503, {"error": "busy"}), "missed", ""),
        (lambda n: (200, RIGHT) if n < 4 else (503, {"error": "busy"}), "broken", "no right answer"),
    ],
    ids=["wrong version", "one failed", "half refused", "all refused"],
)
def test_failures_under_load_are_told_apart(
    tmp_path: Path, answer: Answer, result: str, message: str
) -> None:
    """A refusal is what overload looks like; anything else is a fault that no lower rate cures."""
    with answering(answer) as url, generating(tmp_path) as generator:
        seen = generator.drive(address(url), (BODY,), window_s=0.5)
    assert seen.result.result == result
    assert message in seen.result.problem


def test_a_service_that_drowns_is_let_go(tmp_path: Path) -> None:
    """Requests pile up on a service that stands still; the window ends, and is no success."""
    with serving(tmp_path) as (pid, target, bodies), generating(tmp_path) as generator:
        generator.wake(target, bodies)
        with freezing(pid, frozen_s=1.0, every_s=1.1):
            seen = generator.drive(target, bodies, window_s=5.0, rate_rps=400.0, max_in_flight=50)
    assert seen.outcome.is_cut
    assert seen.result.result == "missed"
    assert len(seen.arrivals) < seen.outcome.scheduled


def quick_settings() -> LoadSettings:
    """The committed rules in little."""
    changes = ["compare.rounds=2", "window.window_s=0.2", "window.min_requests=5", "sweep.start_rps=50"]
    return load_settings(DEFAULT_LOAD, LoadSettings, overrides=changes)


@pytest.mark.parametrize(
    "loads", [(Load(rate_rps=50.0),), (Load(users=1),), ()], ids=["open", "closed", "sweep"]
)
def test_a_version_that_cannot_be_served_is_invalid(tmp_path: Path, loads: tuple[Load, ...]) -> None:
    """No answer is not a quick answer, in any kind of measurement."""
    store = open_store(tmp_path / "registry")
    publish_numeric(store, model_bytes=b"not ONNX")
    measured = measure_load(store, "tiny", {"candidate": 1}, quick_settings(), loads, tmp_path)
    assert "tiny@1: ended with exit code" in measured.problem
    assert measured.windows == ()
