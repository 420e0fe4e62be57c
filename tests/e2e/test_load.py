"""`timberline load` with real services: figures, files, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_model import publish_numeric
from timberline.benchmarks.load.window import read_arrivals
from timberline.registry.store import open_store

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 180.0
# In little, and with bounds that no busy machine breaks: this is about the way, not about speed.
LITTLE = (
    *("--rounds", "2", "--window-s", "0.2", "--objective-ms", "5000", "--workload", "mixed_protocols"),
    *("--set", "window.min_requests=5", "--set", "window.warmup_requests=3"),
    *("--set", "objective.max_lag_share=1.0", "--set", "objective.max_cpu_share=1.0"),
    *("--set", "sweep.start_rps=40", "--set", "sweep.max_windows=2", "--set", "sweep.growth=2.0"),
)


def run(folder: Path, *flags: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON of stdout (empty if there is none), stderr."""
    command = [sys.executable, "-m", "benchmarks", "load", "--model", "tiny", *LITTLE, *flags]
    command += ["--registry", str(folder / "registry"), "--data", str(folder / "data")]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=DEADLINE_S, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr.decode()


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """A folder with a registry of two equal versions, the first in production."""
    store = open_store(tmp_path / "registry")
    publish_numeric(store)
    publish_numeric(store, alias="candidate")
    return tmp_path


def test_two_versions_are_loaded_side_by_side(registry: Path) -> None:
    """The same arrivals for both, every request kept, a figure and its ratio for each load."""
    code, said, log = run(registry, "--rate", "40,80", "--candidate", "tiny@candidate")
    assert code == 0, log
    assert said["versions"] == {"champion": "tiny@1", "candidate": "tiny@2"}
    assert [load["name"] for load in said["loads"]] == ["40rps", "80rps"]
    assert all(figure["ratio"]["low"] > 0 for load in said["loads"] for figure in load["figures"])
    folder = registry / "data" / "load" / "tiny" / "2-vs-1-40rps-80rps"
    assert json.loads((folder / "load.json").read_bytes()) == said
    assert "| 80rps | p99, ms |" in (folder / "load.md").read_text("utf-8")
    dues: dict[tuple[int, float], set[tuple[int, ...]]] = {}
    for window in said["windows"]:
        arrivals = read_arrivals(folder / window["observations"])
        assert len(arrivals) == window["scheduled"] == window["right"]
        bodies = tuple(one.body for one in arrivals)
        dues.setdefault((window["round"], window["rate_rps"]), set()).add(bodies)
    assert len(said["windows"]) == 8
    assert {len(bodies) for bodies in dues.values()} == {1}


def test_one_version_alone_is_swept(registry: Path) -> None:
    """Without a candidate named, it is what is in production."""
    code, said, log = run(registry, "--sweep")
    assert code == 0, log
    assert said["versions"] == {"candidate": "tiny@1"}
    assert {sweep["round"] for sweep in said["sweeps"]} == {1, 2}
    assert all(sweep["held_rps"] >= 40 for sweep in said["sweeps"])
    assert said["is_below"] is None
    assert "highest rate, 1/s" in log


def test_a_version_that_cannot_be_served_ends_with_3(registry: Path) -> None:
    """INVALID is not done; and the report says why."""
    publish_numeric(open_store(registry / "registry"), alias="candidate", model_bytes=b"not ONNX")
    code, said, log = run(registry, "--users", "1", "--candidate", "tiny@candidate")
    assert code == 3, log
    assert said["loads"] == []
    assert "tiny@3: ended with exit code" in said["problem"]
    assert "INVALID" in log


@pytest.mark.parametrize("flags", [("--sweep", "--check"), ("--rate", "fast"), ()])
def test_wrong_use_ends_with_2(registry: Path, flags: tuple[str, ...]) -> None:
    """Before any service is started."""
    code, _, log = run(registry, *flags)
    assert code == 2, log
