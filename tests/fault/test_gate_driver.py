"""What the gate's Locust process counts, times and gives up, at a real service and at wrong ones."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.service import RunningService, running_service
from tests.support.tiny_model import publish_numeric
from tests.support.wrong_services import answering
from timberline.benchmarks.measure.records import (
    Body,
    Form,
    Observation,
    Outcome,
    Plan,
    Target,
    read_observations,
)
from timberline.benchmarks.measure.services import drive, launch_driver
from timberline.benchmarks.measure.workload import Mix, Workload, draw_bodies, golden_bodies
from timberline.registry.manifest import Manifest
from timberline.registry.store import open_store

ARMS = ("candidate", "champion")
DEADLINE_S = 60.0
BODY = Body(payload=b'{"rings": 3}', rows=1, answers={"candidate": ((0.75, 0.25),)})
RIGHT = {"probabilities": {"1": 0.75, "2": 0.25}, "model": "tiny", "version": 1}


Driver = subprocess.Popen[bytes]
Served = tuple[RunningService, Manifest]
Run = Callable[..., tuple[Outcome, list[Observation]]]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """One Locust process for all plans, as in a gate."""
    with launch_driver(log=tmp_path_factory.mktemp("driver") / "log", stop_timeout_s=5.0) as process:
        yield process


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service that tells its times, and its version's manifest."""
    folder = tmp_path_factory.mktemp("served")
    store = open_store(folder)
    manifest = store.open_version("tiny", publish_numeric(store)).manifest
    with running_service(folder, "tiny", "--server-timing", "true") as service:
        yield service, manifest


def address(served: Served, arm: str) -> Target:
    """The service as the target of one arm."""
    service, manifest = served
    return Target(
        arm=arm,
        pid=service.process.pid,
        url=f"http://{service.host}:{service.port}",
        model="tiny",
        version=manifest.version,
        classes=tuple(label.value for label in manifest.signature.classes),
        atol=manifest.golden.atol,
        golden=golden_bodies(manifest, arm),
    )


@pytest.fixture
def run(driver: Driver, tmp_path: Path) -> Run:
    """One plan, and what came of it."""
    return lambda **changes: run_plan(driver, tmp_path, **changes)


def run_plan(driver: Driver, folder: Path, **changes: Any) -> tuple[Outcome, list[Observation]]:
    """One plan, and what came of it."""
    path = folder / "observations.csv.gz"
    known = {"users": 1, "window_s": 0.3, "warmup_cycles": 2, "seed": "0", "request_timeout_s": 5.0}
    plan = Plan(**{"bodies": (BODY,), **known, "observations": str(path), **changes})
    return drive(driver, plan, timeout_s=DEADLINE_S, log=folder / "none"), read_observations(path)


@pytest.fixture
def run_both(served: Served, run: Run) -> Run:
    """The service in both roles, asked for its golden rows."""
    targets = tuple(address(served, arm) for arm in ARMS)
    bodies = golden_bodies(served[1], "candidate")
    return lambda **changes: run(targets=targets, **{"bodies": bodies, **changes})


def wrong_target(url: str, **changes: Any) -> Target:
    """A stand-in as the candidate; its version has no golden rows unless given."""
    known = {"arm": "candidate", "url": url, "model": "tiny", "version": 1, "classes": ("1", "2")}
    return Target(**{**known, "atol": 1e-5, "golden": (), **changes})


def test_everything_that_was_asked_is_counted(served: Served, run_both: Run) -> None:
    """Golden rows and warm-up count as asked, and pairs of the window alone are observed."""
    outcome, seen = run_both(warmup_cycles=7, min_cycles=40, window_s=1.0)
    assert (outcome.failures, outcome.first_failure, outcome.failed) == (0, "", {})
    golden = len(served[1].golden.rows)
    assert outcome.asked == dict.fromkeys(ARMS, golden + 7 + outcome.cycles)
    assert outcome.cycles >= 40 or outcome.elapsed_s >= 3 * 0.2  # a busy machine: as long as it may take
    assert [one.pair for one in seen] == [number for number in range(outcome.cycles) for _ in ARMS]
    assert Counter(one.arm for one in seen) == dict.fromkeys(ARMS, outcome.cycles)
    assert {one.body for one in seen} == set(range(golden))
    assert {one.problem for one in seen} == {""}
    assert outcome.elapsed_s >= seen[-1].sent_s > 0
    assert 0 < outcome.cpu_share < 1.5


def test_the_times_of_a_request_fit_into_each_other(run_both: Run) -> None:
    """One after the other, none before the window; what the service tells is within what the client saw."""
    _, seen = run_both()
    assert seen[0].sent_s >= -1e-3
    for before, after in pairwise(seen):
        assert after.sent_s >= before.sent_s + before.latency_ms / 1e3 - 1e-3
    for one in seen:
        assert 0 < one.handler_ms < one.latency_ms
        assert one.cpu_ms > 0
        assert one.queue_ms >= 0 or math.isnan(one.queue_ms)
        assert one.wait_ms >= 0 or math.isnan(one.wait_ms)
        assert one.wake_ms >= 0 or math.isnan(one.wake_ms)
    assert sum(one.queue_ms for one in seen) < 1e3 * (seen[-1].sent_s + 1)


def test_a_service_that_tells_no_times_has_none(run: Run) -> None:
    """Not told is not zero."""
    with answering(lambda _: (200, RIGHT)) as url:
        outcome, seen = run(targets=(wrong_target(url),))
    assert outcome.failures == 0
    assert all(math.isnan(one.handler_ms) and math.isnan(one.wait_ms) for one in seen)
    assert all(math.isnan(one.cpu_ms) and math.isnan(one.wake_ms) for one in seen)
    assert not any(math.isnan(one.queue_ms) for one in seen) or sys.platform != "linux"


def test_every_form_is_sent_as_it_is(served: Served, run_both: Run) -> None:
    """Path, headers and payload of each; an answer to another form would not be read."""
    forms: tuple[Form, ...] = ("json", "csv", "float32", "oip", "oip_binary")
    mix = tuple(Mix(rows=2, form=form) for form in forms)
    bodies = draw_bodies(Workload(seed=1, bodies=40, mix=mix), {"candidate": served[1]})
    assert {body.form for body in bodies} == set(forms)
    outcome, seen = run_both(bodies=bodies, min_cycles=200, window_s=1.0)
    assert (outcome.failures, outcome.first_failure) == (0, "")
    assert {bodies[one.body].form for one in seen} == set(forms)


def test_a_window_lasts_until_its_pairs_are_there_and_no_longer_than_thrice(run_both: Run) -> None:
    """A machine that is busy for a while gets more time, and one that stays so does not get all of it."""
    short, _ = run_both(window_s=0.1, min_cycles=0)
    longer, _ = run_both(window_s=0.1, min_cycles=10**6)
    # The last request begins before the end; and only a lower bound of a time can be relied on.
    assert short.elapsed_s >= 0.05
    assert longer.elapsed_s >= 0.25
    assert 0 < longer.cycles < 10**6


@pytest.mark.parametrize("users", [2, 5])
def test_users_side_by_side_share_the_pairs(served: Served, run_both: Run, users: int) -> None:
    """`bench` asks with several; each pair is one user's, and each draws bodies of its own."""
    outcome, seen = run_both(users=users, min_cycles=50)
    assert outcome.failures == 0
    golden = len(served[1].golden.rows)
    assert outcome.asked == dict.fromkeys(ARMS, users * (golden + 2) + outcome.cycles)
    pairs = Counter((one.pair, one.arm) for one in seen)
    assert set(pairs.values()) == {1}
    assert {pair for pair, _ in pairs} == set(range(outcome.cycles))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are not moved elsewhere")
@pytest.mark.parametrize("placement", ["free", "shared"])
def test_both_services_share_a_processor_where_it_is_asked_for(
    served: Served, run_both: Run, placement: str
) -> None:
    """What runs beside them then hits both alike; every thread counts, as any of them may answer."""
    threads = [int(task.name) for task in Path(f"/proc/{served[0].process.pid}/task").iterdir()]
    everywhere = os.sched_getaffinity(0)
    try:
        outcome, _ = run_both(placement=placement, min_cycles=60)
        masks = {frozenset(os.sched_getaffinity(thread)) for thread in threads}
    finally:
        for thread in threads:
            os.sched_setaffinity(thread, everywhere)
    assert outcome.failures == 0
    if placement == "free":
        assert masks == {frozenset(everywhere)}
    else:
        (mask,) = masks
        assert len(mask) == 1
        assert mask <= everywhere


def test_a_service_that_fails_everything_is_given_up(run: Run) -> None:
    """Fifty failures are enough to know; the rest of a long window would only repeat it."""
    with answering(lambda _: (500, {"error": "no"})) as url:
        outcome, seen = run(targets=(wrong_target(url),), window_s=50.0, warmup_cycles=20)
    assert (outcome.failures, outcome.failed, outcome.asked) == (50, {"candidate": 50}, {"candidate": 50})
    assert outcome.first_failure == 'candidate: HTTP 500: {"error": "no"}'
    assert (len(seen), outcome.cycles) == (30, 30)
    assert {one.problem for one in seen} == {'HTTP 500: {"error": "no"}'}


def test_a_service_that_fails_its_warm_up_has_no_window(run: Run) -> None:
    """It is as hopeless before the window as in it."""
    with answering(lambda _: (500, {})) as url:
        outcome, seen = run(targets=(wrong_target(url),), window_s=50.0, warmup_cycles=500)
    assert (outcome.failures, outcome.cycles, outcome.elapsed_s, seen) == (50, 0, 0.0, [])


def test_a_service_that_fails_less_is_asked_to_the_end(run: Run) -> None:
    """Forty-nine failures are told one by one; the first is named, and whose it is."""
    with answering(lambda n: (200, RIGHT) if n == 0 or n >= 50 else (503, {"n": n})) as url:
        target = wrong_target(url, golden=(BODY,))
        outcome, seen = run(targets=(target,), min_cycles=60, window_s=1.0)
    assert (outcome.failures, outcome.first_failure) == (49, 'candidate: HTTP 503: {"n": 1}')
    assert outcome.cycles == len(seen) >= 60
    assert sum(bool(one.problem) for one in seen) == 47  # two were the warm-up's


def test_a_wrong_golden_row_fails_although_it_is_not_measured(run: Run) -> None:
    """The version behind the port is not the one of the manifest."""
    golden = msgspec.structs.replace(BODY, answers={"candidate": ((0.5, 0.5),)})
    with answering(lambda _: (200, RIGHT)) as url:
        outcome, seen = run(targets=(wrong_target(url, golden=(golden, BODY)),))
    assert (outcome.failures, outcome.asked["candidate"]) == (1, 2 + 2 + outcome.cycles)
    assert "the manifest 0.5" in outcome.first_failure
    assert {one.problem for one in seen} == {""}


def test_a_service_that_never_answers_is_not_waited_for(run: Run) -> None:
    """After its time a request has failed, in the plan's own seconds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        outcome, seen = run(
            targets=(wrong_target(url),), warmup_cycles=0, window_s=0.1, request_timeout_s=0.4
        )
    assert outcome.failures == len(seen) == 1
    assert "timed out" in outcome.first_failure.lower() or "timeout" in outcome.first_failure.lower()
    assert seen[0].latency_ms >= 400


def test_a_process_serves_plan_after_plan(run: Run) -> None:
    """All restarts have the same generator; nothing of one is counted in the next."""
    with answering(lambda _: (200, RIGHT)) as url:
        for number in range(3):
            outcome, seen = run(
                targets=(wrong_target(url),), warmup_cycles=number, window_s=0.05, min_cycles=5
            )
            assert outcome.asked == {"candidate": number + outcome.cycles}
            assert len(seen) == outcome.cycles


# Imported in a process of its own, as Locust patches whatever process it is in.
ENDS = """\
import json, time
from types import SimpleNamespace
from timberline.benchmarks.measure.locust_user import DuetUser
ends = []
for late, cycles, is_hopeless in json.loads(input()):
    recorder = SimpleNamespace(cycles=cycles, is_hopeless=is_hopeless)
    user = SimpleNamespace(
        recorder=recorder,
        plan=SimpleNamespace(window_s=1000.0, min_cycles=5),
        closes=time.perf_counter() - late,
    )
    ends.append(DuetUser._is_over(user))
print(json.dumps(ends))
"""


def test_a_window_ends_by_its_time_and_its_pairs() -> None:
    """Never before its time; at it when the pairs are there; at thrice of it in any case."""
    known = [
        ((-100, 50, False), False),
        ((500, 5, False), True),
        ((500, 4, False), False),
        ((1900, 4, False), False),
        ((2100, 4, False), True),
        ((-100, 0, True), True),
    ]
    asked = json.dumps([state for state, _ in known])
    done = subprocess.run(
        [sys.executable, "-c", ENDS], input=asked, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [is_over for _, is_over in known]
