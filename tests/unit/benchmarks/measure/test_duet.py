"""Raw observations survive the trip through their file."""

from __future__ import annotations

import gzip
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.manifests import build_manifest
from timberline.benchmarks.errors import EvidenceError
from timberline.benchmarks.measure.duet import build_arm, build_target
from timberline.benchmarks.measure.records import Observation, read_observations, write_observations
from timberline.benchmarks.measure.services import Service


def observe(pair: int, arm: str, **changes: Any) -> Observation:
    """One request of a pair."""
    known = {
        "pair": pair,
        "position": 0,
        "arm": arm,
        "body": 3,
        "sent_s": 0.1,
        "latency_ms": 0.36,
        "handler_ms": 0.12,
        "cpu_ms": 0.1,
        "wait_ms": 0.01,
        "wake_ms": 0.02,
        "queue_ms": 0.0,
        "problem": "",
    }
    return Observation(**{**known, **changes})


SEEN = [observe(pair, arm) for pair in range(2) for arm in ("candidate", "champion")]


def test_observations_survive_their_file(tmp_path: Path) -> None:
    """The verdict is computed from the file, so that anybody can compute it again."""
    path = tmp_path / "restart-01.csv.gz"
    written = [*SEEN, observe(2, "champion", latency_ms=0.1 + 0.2, problem='HTTP 500: "a, b"\nc')]
    write_observations(path, written)
    read = read_observations(path)
    assert read[:-1] == SEEN
    assert read[-1].latency_ms == 0.1 + 0.2
    assert read[-1].problem == 'HTTP 500: "a, b" c'


def test_equal_observations_give_equal_bytes(tmp_path: Path) -> None:
    """Evidence can be compared by digest."""
    first, second = tmp_path / "1.csv.gz", tmp_path / "2.csv.gz"
    write_observations(first, SEEN)
    write_observations(second, SEEN)
    assert first.read_bytes() == second.read_bytes()


def test_cut_observations_are_refused(tmp_path: Path) -> None:
    """Half of the pairs is not a smaller sample but an unknown one."""
    path = tmp_path / "restart-01.csv.gz"
    write_observations(path, SEEN * 50)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(EvidenceError):
        read_observations(path)
    with pytest.raises(EvidenceError):
        read_observations(tmp_path / "absent.csv.gz")


def test_observations_are_csv_that_others_can_read(tmp_path: Path) -> None:
    """Evidence outlives the program: a line of names, and a request a line."""
    path = tmp_path / "restart-01.csv.gz"
    write_observations(path, [observe(7, "champion", problem="gone", body=2, position=1), SEEN[0]])
    assert gzip.decompress(path.read_bytes()).decode() == (
        "pair,position,arm,body,sent_s,latency_ms,handler_ms,cpu_ms,wait_ms,wake_ms,queue_ms,problem\n"
        "7,1,champion,2,0.1,0.36,0.12,0.1,0.01,0.02,0.0,gone\n"
        "0,0,candidate,3,0.1,0.36,0.12,0.1,0.01,0.02,0.0,\n"
    )


def test_net_times_are_what_is_left_without_waits() -> None:
    """In the service: handler less its wait. At the client: less the waits of both, and before it began."""
    seen = observe(
        0, "champion", latency_ms=1.0, handler_ms=0.5, wait_ms=0.125, wake_ms=0.25, queue_ms=0.0625
    )
    assert seen.net_ms == 0.375
    assert seen.client_net_ms == 0.5625
    unknown = observe(0, "champion", cpu_ms=0.3, wait_ms=math.nan)
    assert unknown.net_ms == 0.3
    assert math.isnan(unknown.client_net_ms)
    assert math.isnan(observe(0, "champion", wake_ms=math.nan).client_net_ms)


def test_an_arm_is_its_observations_in_the_order_sent() -> None:
    """Times, start and memory as they are judged, and the share of waiting, worked by hand."""
    seen = [observe(0, "champion", latency_ms=ms, handler_ms=ms / 2, cpu_ms=ms / 8) for ms in (4.0, 2.0)]
    run = build_arm(seen, 0.7, 123)
    assert (run.latencies_ms, run.ready_s, run.resident_bytes) == ((4.0, 2.0), 0.7, 123)
    assert run.net_ms == (2.0 - 0.01, 1.0 - 0.01)
    assert run.client_net_ms == (4.0 - 0.01 - 0.02, 2.0 - 0.01 - 0.02)
    assert run.lost_share == 1 - 0.75 / 3.0
    assert (run.request_count, run.failure_count) == (0, 0)


@pytest.mark.parametrize("changes", [{"wait_ms": math.nan, "cpu_ms": math.nan}, None], ids=["one", "none"])
def test_an_arm_whose_times_are_not_all_told_has_none(changes: dict[str, float] | None) -> None:
    """A p99 over those that are there would be that of the lucky ones."""
    seen = [] if changes is None else [observe(0, "champion"), observe(1, "champion", **changes)]
    run = build_arm(seen, 0.7, 123)
    assert (run.net_ms, run.client_net_ms, run.lost_share) == ((), (), 0.0)
    waits = build_arm([observe(0, "champion"), observe(1, "champion", queue_ms=math.nan)], 0.7, 123)
    assert (len(waits.net_ms), waits.client_net_ms) == (2, ())


def test_a_target_is_the_service_with_what_its_version_must_answer() -> None:
    """Where it is, who must answer, how exactly, and the rows to begin with."""
    manifest = build_manifest(version=4)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        target = build_target("champion", manifest, Service(process, "http://127.0.0.1:9", 0.5))
    assert (target.arm, target.pid, target.url) == ("champion", process.pid, "http://127.0.0.1:9")
    assert (target.model, target.version, target.classes) == ("tiny", 4, ("1", "2"))
    assert target.atol == manifest.golden.atol
    assert [body.answers for body in target.golden] == [
        {"champion": ((0.75, 0.25),)},
        {"champion": ((0.25, 0.75),)},
    ]


@pytest.mark.parametrize(
    "content", [b"", gzip.compress(b"", mtime=0), gzip.compress(b"\xff,\n", mtime=0), b"pair,arm\n"]
)
def test_a_file_of_nothing_is_no_observation(tmp_path: Path, content: bytes) -> None:
    """No line at all is not a restart of no pairs."""
    path = tmp_path / "restart-01.csv.gz"
    path.write_bytes(content)
    with pytest.raises(EvidenceError, match="raw observations cannot be read"):
        read_observations(path)
