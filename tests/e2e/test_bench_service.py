"""``python -m benchmarks service``: the real service, short rounds, no timing asserts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 180.0
SHORT = ["--rounds", "2", "--window-s", "0.1", "--starts", "1", "--rivals", "none", "--connections", "4"]


def run(registry: Path, folder: Path, *flags: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, report and log of the command, whose data go to ``folder``."""
    command = [sys.executable, "-m", "benchmarks", "service", "--registry", str(registry)]
    command += ["--data", str(folder / "data"), *SHORT, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def test_the_figures_are_there_and_sane(published: Path, tmp_path: Path) -> None:
    """The command that backs the claims of speed must work on any version."""
    code, report, log = run(published, tmp_path, "--model", "tiny", "--beside", str(ROOT))
    assert code == 0, log
    rows = report["services"]
    assert {"noop", "starlette_noop", "timberline", "timberline_chunked"} <= set(rows)
    assert all(row["requests"] > 0 and row["cpu_us"]["low"] > 0 for row in rows.values())
    assert rows["noop"]["to_noop"] == {"median": 1.0, "low": 1.0, "high": 1.0, "least": 1.0}
    figures = report["figures"]
    assert figures["run_us"]["median"] < rows["timberline"]["cpu_us"]["median"]
    assert {"timberline_to_beside", "chunked_to_beside"} <= set(figures)
    assert {"timberline_to_noop", "not_run_to_noop", "ready_s", "resident_mb"} <= set(figures)
    assert set(report["left_out"]) >= {"fastapi", "mlserver"}
    assert "no-op (raw ASGI)" in log
    assert json.loads((tmp_path / "data" / "bench" / "service-tiny-1.json").read_bytes()) == report


def test_check_turns_a_missed_target_into_a_no(published: Path, tmp_path: Path) -> None:
    """A bound that nothing can keep must be missed, told, and end with 1 only when asked for."""
    targets = tmp_path / "targets.toml"
    targets.write_text('[timberline_to_noop]\ntext = "impossible"\nat_most = 0.0\n')
    flags = ("--targets", str(targets), "--check", "--rounds", "1")
    code, report, log = run(published, tmp_path, "--model", "tiny", *flags)
    assert (code, report["targets"][0]["is_met"]) == (1, False), log
    assert "NOT MET" in log


def test_a_model_with_text_is_measured_without_the_graph_alone(published: Path, tmp_path: Path) -> None:
    """What cannot be measured is named, and the rest still is."""
    code, report, log = run(published, tmp_path, "--model", "tiny_text")
    assert code == 0, log
    assert "text" in report["left_out"]["run"]
    assert report["services"]["timberline"]["requests"] > 0
    assert [target["value"] for target in report["targets"] if target["name"] == "not_run_to_noop"] == [None]
