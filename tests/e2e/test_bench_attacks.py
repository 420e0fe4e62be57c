"""``python -m benchmarks attacks``: a real service, real attackers, no timing asserts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 180.0


def run(registry: Path, folder: Path, *flags: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, report and log of the command, whose data go to ``folder``."""
    command = [sys.executable, "-m", "benchmarks", "attacks", "--registry", str(registry)]
    command += ["--data", str(folder / "data"), "--model", "tiny", "--again-s", "0.1", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def test_each_attack_is_a_row_beside_honest_clients(published: Path, tmp_path: Path) -> None:
    """The command behind the figures of docs/explanation/attacks.md must work on any version."""
    path = tmp_path / "attacks.json"
    code, report, log = run(
        published, tmp_path, "--only", "^(300 requests|deep nesting|upgrade)", "--json", str(path)
    )
    assert code == 0, log
    rows = {row["attack"]: row for row in report["rows"]}
    names = ["none", "upgrade, body a request", "deep nesting", "300 requests in one packet"]
    assert (list(rows), report["left_out"]) == (names, {}), log
    for row in rows.values():
        honest, memory = row["honest"], row["memory"]
        assert honest["outcomes"].get("200", 0) > 0, log
        assert honest["p50_ms"] <= honest["p99_ms"] <= honest["worst_ms"]
        assert 0 < memory["before_bytes"] <= memory["peak_bytes"]
        assert row["server_cpu_s"] > 0
    assert rows["none"]["done"]["statuses"] == {}
    assert set(rows["deep nesting"]["done"]["statuses"]) <= {"400", "413"}
    packet = rows["300 requests in one packet"]
    asked, statuses = packet["done"]["requests"], packet["done"]["statuses"]
    assert sum(statuses.values()) == asked >= 300
    (unanswered,) = [each["value"] for each in packet["judged"] if each["name"] == "unanswered"]
    assert unanswered == asked - statuses["200"]
    assert json.loads(path.read_bytes()) == report
    assert "not 200" in log


def test_a_bound_that_is_not_kept_is_a_no_when_asked_for(published: Path, tmp_path: Path) -> None:
    """The table is for people; a build that shall stop says ``--check``."""
    bounds = tmp_path / "bounds.toml"
    kinds = "".join(f"[{kind}]\n" for kind in ("none", "upgrade", "head", "waiting", "packet", "turn"))
    bounds.write_text(f'{kinds}[body]\nworst_ms = {{ text = "impossible", at_most = 0 }}\n')
    code, report, log = run(published, tmp_path, "--only", "deep nesting", "--bounds", str(bounds), "--check")
    assert (code, report["rows"][1]["judged"][0]["is_met"]) == (1, False), log
    assert "OVER: worst" in log


def test_the_yardstick_is_the_same_application(published: Path, tmp_path: Path) -> None:
    """Who is fairer can only be said of services that answer the same."""
    code, report, log = run(published, tmp_path, "--only", "plain uvicorn")
    assert (code, report["left_out"]) == (0, {}), log
    row = report["rows"][1]
    assert set(row["done"]["statuses"]) == {"200"}, log
    assert row["honest"]["outcomes"].get("200", 0) > 0


def test_a_name_that_no_attack_has_is_a_wrong_use(published: Path, tmp_path: Path) -> None:
    """A typing error must not look like a service that bears everything."""
    code, _, log = run(published, tmp_path, "--only", "teapot")
    assert code == 2
    assert "no attack matches" in log
