"""One restart of a duet: what is started, what it leaves, and what is said of it."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.evaluations import publish_judged
from timberline.benchmarks.measure.duet import open_duet
from timberline.benchmarks.measure.records import Restart, read_observations
from timberline.benchmarks.measure.workload import Mix, Workload, draw_bodies, golden_bodies
from timberline.benchmarks.settings import DuetSettings, load_gate_settings
from timberline.registry.manifest import Manifest
from timberline.registry.store import open_store

# In so short a window one hiccup of the machine is much; what is found by it has tests of its own.
SHORT = {"window_s": 0.3, "min_pairs": 20, "warmup_pairs": 4, "max_standstill_share": 1.0}
SHORT |= {"max_outside_ratio": 100.0, "max_clock_jump_s": 30.0}


def settle(**changes: Any) -> DuetSettings:
    """The committed rules, with a short window."""
    return msgspec.structs.replace(load_gate_settings().duet, **{**SHORT, **changes})


@pytest.fixture
def versions(tmp_path: Path) -> dict[str, Manifest]:
    """Two equal versions, by arm."""
    store = open_store(tmp_path / "registry")
    for alias in ("production", "candidate"):
        publish_judged(store, alias=alias)
    return {
        "champion": store.open_version("tiny", 1).manifest,
        "candidate": store.open_version("tiny", 2).manifest,
    }


def restart(
    folder: Path, versions: Mapping[str, Manifest], *numbers: int, rows: int = 1, **changes: Any
) -> list[Restart]:
    """Restarts of these versions, of one duet: golden rows are asked, or bodies of this many of them."""
    bodies = golden_bodies(versions["candidate"], "candidate")
    if rows > 1:
        bodies = draw_bodies(Workload(seed=1, bodies=4, mix=(Mix(rows=rows),)), dict(versions))
    registry = str(folder / "registry")
    with open_duet(registry, versions, bodies, settle(**changes), folder, {}) as duet:
        return [duet.run_restart(number) for number in numbers]


def test_a_restart_holds_what_was_asked_and_seen(tmp_path: Path, versions: dict[str, Manifest]) -> None:
    """The arms' times are those of the file, and every request of each is counted, golden ones too."""
    first, second = restart(tmp_path, versions, 1, 12)
    assert (first.number, first.problem, second.number, second.problem) == (1, "", 12, "")
    golden = len(versions["candidate"].golden.rows)
    for found, name in ((first, "01"), (second, "12")):
        seen = read_observations(tmp_path / f"restart-{name}.csv.gz")
        assert found.pairs >= 20
        assert 0 < found.cpu_share < 1.5
        assert set(found.arms) == {"champion", "candidate"}
        for arm, run in found.arms.items():
            assert run.latencies_ms == tuple(one.latency_ms for one in seen if one.arm == arm)
            assert len(run.latencies_ms) == found.pairs
            assert run.net_ms == tuple(one.net_ms for one in seen if one.arm == arm)
            assert (run.request_count, run.failure_count) == (golden + 4 + found.pairs, 0)
            assert 0 < run.ready_s < 60
            assert 10e6 < run.resident_bytes < 2e9
            assert 0 <= run.lost_share < 1
            log = (tmp_path / f"restart-{name}-{arm}.log").read_text("utf-8")
            assert "Traceback" not in log
        if sys.platform == "linux":
            assert found.contrasts.client_p99 is not None
        assert math.isfinite(found.contrasts.client_p50)
    assert [one.body for one in read_observations(tmp_path / "restart-01.csv.gz")][:40] != [
        one.body for one in read_observations(tmp_path / "restart-12.csv.gz")
    ][:40]


def test_a_first_version_is_driven_alone(tmp_path: Path, versions: dict[str, Manifest]) -> None:
    """There is one arm, and nothing to compare it with."""
    (found,) = restart(tmp_path, {"candidate": versions["candidate"]}, 1, placement="free")
    assert (found.problem, list(found.arms)) == ("", ["candidate"])
    assert len(found.arms["candidate"].latencies_ms) == found.pairs >= 20


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"start_timeout_s": 0.001}, "not ready in 0.001 s"),
        ({"window_s": 1e-6}, "0 pairs, expected at least 20"),
        # A timeout is rounded up to a millisecond, in which one row may be answered and a thousand never.
        ({"request_timeout_s": 1e-4, "warmup_pairs": 0, "rows": 1000}, "failed requests, the first: "),
    ],
    ids=["no start", "no window", "no patience"],
)
def test_what_went_wrong_with_a_restart_is_its_problem(
    tmp_path: Path, versions: dict[str, Manifest], changes: dict[str, Any], problem: str
) -> None:
    """Evidence too: it is told, and the duet goes on to the next."""
    found = restart(tmp_path, versions, 1, **changes)[0]
    assert problem in found.problem
    if "start" in next(iter(changes)):
        assert (found.pairs, found.arms, found.cpu_share) == (0, {}, 0.0)


def test_failures_are_counted_on_the_arm_that_had_them(tmp_path: Path, versions: dict[str, Manifest]) -> None:
    """The champion's manifest is about another graph: every golden row of it is wrong, and no other's."""
    golden = versions["champion"].golden
    turned = tuple(tuple(reversed(row)) for row in golden.probabilities)
    wrong = msgspec.structs.replace(
        versions["champion"], golden=msgspec.structs.replace(golden, probabilities=turned)
    )
    (found,) = restart(tmp_path, {**versions, "champion": wrong}, 1)
    failures = {arm: run.failure_count for arm, run in found.arms.items()}
    assert failures == {"champion": len(golden.rows), "candidate": 0}
    assert found.problem.startswith(f"{len(golden.rows)} failed requests, the first: champion: row 0: ")
