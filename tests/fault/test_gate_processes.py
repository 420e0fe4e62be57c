"""A process of the gate fails, lies, starves or stands still while it measures: never a PASS.

All of these run the whole gate on real processes, with two versions that are alike.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from tests.support.disturbance import disturbing, pulse
from tests.support.evaluations import publish_judged
from tests.support.verdicts import find_line
from timberline.benchmarks.gate.run import run_gate
from timberline.benchmarks.settings import GateSettings, load_gate_settings
from timberline.registry.store import open_store
from timberline.registry.verdict import Verdict

ARMS = {"champion": "tiny@1", "candidate": "tiny@2"}
BROKEN = "tests.support.broken_service"
AUTOGROUP = Path("/proc/self/autogroup")


def one_restart(**changes: Any) -> GateSettings:
    """The committed rules, with one short restart."""
    settings = load_gate_settings()
    short = {"looks": (1,), "window_s": 1.0, "min_pairs": 5, "warmup_pairs": 2}
    return msgspec.structs.replace(
        settings, duet=msgspec.structs.replace(settings.duet, **{**short, **changes})
    )


def judge(
    folder: Path, settings: GateSettings | None = None, programs: Mapping[str, Sequence[str]] | None = None
) -> Verdict:
    """What the gate says of two equal versions."""
    store = open_store(folder / "registry")
    publish_judged(store, alias="production")
    publish_judged(store, alias="candidate")
    result = run_gate(store, "tiny", folder / "data", settings or one_restart(), programs=programs)
    assert result.verdict is not None
    return result.verdict


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (["--exit-at", "1"], "failed requests"),
        (["--exit-at", "40"], "failed requests"),
        (["--fail-every", "2"], "HTTP 500"),
        (["--serve", "tiny@1"], "tiny@1 answered, expected tiny@2"),
    ],
    ids=["down", "dies in the window", "half fail", "another version behind the port"],
)
def test_a_candidate_that_fails_beside_a_sound_champion_is_blocked(
    tmp_path: Path, fault: list[str], message: str
) -> None:
    """Its failures are its own, and refused connections are quick."""
    verdict = judge(tmp_path, programs={"candidate": [BROKEN, *fault]})
    assert verdict.outcome == "BLOCK"
    assert find_line(verdict, "error_rate").outcome == "BLOCK"
    answers = find_line(verdict, "answers")
    assert answers.outcome == "INVALID"
    assert message in answers.reason


@pytest.mark.parametrize(
    "fault",
    [["--exit-at", "1"], ["--exit-at", "40"], ["--fail-every", "2"], ["--serve", "tiny@2"]],
    ids=["down", "dies in the window", "half fail", "another version behind the port"],
)
def test_a_champion_that_fails_proves_nothing_about_the_candidate(tmp_path: Path, fault: list[str]) -> None:
    """A candidate must not pass because the one that it is compared with is broken."""
    verdict = judge(tmp_path, programs={"champion": [BROKEN, *fault]})
    assert verdict.outcome == "INVALID"
    assert find_line(verdict, "error_rate").outcome == "INVALID"
    assert "restart 1" in find_line(verdict, "answers").reason


def test_failures_of_both_are_nobodys(tmp_path: Path) -> None:
    """What breaks for both is the machine's, the workload's or the gate's own."""
    programs = {arm: [BROKEN, "--fail-every", "2"] for arm in ARMS}
    verdict = judge(tmp_path, programs=programs)
    assert verdict.outcome == "INVALID"
    assert find_line(verdict, "error_rate").outcome == "INVALID"


@pytest.mark.parametrize("starved", list(ARMS))
def test_a_process_that_is_stopped_again_and_again_is_found(tmp_path: Path, starved: str) -> None:
    """A slow candidate beside a starved champion looks equal to it."""

    def starve(processes: Mapping[str, psutil.Process], is_over: threading.Event) -> None:
        pulse(processes[starved], 0.03, 0.01, is_over)

    with disturbing(starve, ARMS):
        # On a busy machine a request of a few that meets two stops in a row is a standstill already.
        verdict = judge(tmp_path, one_restart(max_standstill_share=1.0))
    assert verdict.outcome == "INVALID"
    assert f"the {starved} was starved" in find_line(verdict, "answers").reason


@pytest.mark.parametrize("starved", list(ARMS))
def test_a_process_that_is_stopped_now_and_then_is_found(tmp_path: Path, starved: str) -> None:
    """It loses a fifteenth of the time, and its p99 becomes one that no slow tail stands out beside."""

    def starve(processes: Mapping[str, psutil.Process], is_over: threading.Event) -> None:
        pulse(processes[starved], 0.002, 0.03, is_over)

    with disturbing(starve, ARMS):
        verdict = judge(tmp_path, one_restart(looks=(2,), max_standstill_share=1.0))
    assert verdict.outcome == "INVALID"
    assert any(f"the {starved} was starved" in line.reason for line in verdict.lines)


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="the kernel does not weigh sessions")
@pytest.mark.parametrize("starved", list(ARMS))
def test_a_process_that_others_keep_from_its_processor_is_found(tmp_path: Path, starved: str) -> None:
    """Its own time is judged without that wait, and would never show it."""

    def starve(processes: Mapping[str, psutil.Process], is_over: threading.Event) -> None:
        Path(f"/proc/{processes[starved].pid}/autogroup").write_text("19", "ascii")

    with busy_processor(), disturbing(starve, ARMS):
        # A request of a few that waits for a tenth of a second is a standstill already.
        verdict = judge(tmp_path, one_restart(min_pairs=1, max_standstill_share=1.0))
    assert verdict.outcome == "INVALID"
    assert f"the {starved} was starved" in find_line(verdict, "answers").reason


@contextlib.contextmanager
def busy_processor() -> Iterator[None]:
    """Keep this process and its children on one processor, beside a loop that never rests."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) as loop:
            try:
                yield
            finally:
                loop.kill()
    finally:
        os.sched_setaffinity(0, before)


def test_a_load_generator_that_stands_still_is_not_believed(tmp_path: Path) -> None:
    """What it should have asked meanwhile was never asked."""

    def stall(processes: Mapping[str, psutil.Process], is_over: threading.Event) -> None:
        pulse(processes["driver"], 0.5, 0.2, is_over)

    with disturbing(stall, ARMS):
        verdict = judge(tmp_path)
    assert verdict.outcome == "INVALID"
    assert "nothing came or went" in find_line(verdict, "answers").reason


def test_a_load_generator_that_ends_is_not_believed(tmp_path: Path) -> None:
    """It says nothing at all, and that is no good news."""

    def end(processes: Mapping[str, psutil.Process], is_over: threading.Event) -> None:
        processes["driver"].kill()

    with disturbing(end, ARMS):
        verdict = judge(tmp_path)
    assert verdict.outcome == "INVALID"
    assert "no outcome" in find_line(verdict, "answers").reason


def test_a_load_generator_that_asked_nothing_is_not_believed(tmp_path: Path) -> None:
    """A stalled machine once ended a Locust run without a request, and with exit code 0."""
    verdict = judge(tmp_path, one_restart(window_s=1e-6))
    assert verdict.outcome == "INVALID"
    assert "0 pairs" in find_line(verdict, "answers").reason


def test_a_clock_that_is_set_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slept, or whose clock was set, measured something else than the services."""
    (tmp_path / "sitecustomize.py").write_text(FAST_CLOCK, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    verdict = judge(tmp_path)
    assert verdict.outcome == "INVALID"
    assert "a clock jumped by" in find_line(verdict, "answers").reason


# Imported by every interpreter of the gate; the wall clock of the load generator gains a minute a second.
FAST_CLOCK = """\
import sys, time
if "timberline.benchmarks.measure.locust_user" in sys.orig_argv:
    wall, began = time.time, time.monotonic()
    time.time = lambda: wall() + 60 * (time.monotonic() - began)
"""
