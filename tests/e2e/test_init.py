"""From a file to a gated service with nothing written by hand, and the file's own lines posted to it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.found_tables import pets, write
from tests.support.training_file import post_training_file

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """A verb as a process, which must end with 0."""
    command = [sys.executable, "-m", "timberline", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_a_table_with_text_gaps_and_dates_is_released_as_init_proposes_it(tmp_path: Path) -> None:
    """The promise of init is that nothing has to be edited first; and that a line is one row everywhere."""
    path = write(tmp_path, pets(500), encoding="cp1252")
    places = ["--models", str(tmp_path / "models"), "--data", str(tmp_path / "data")]
    proposed = json.loads(run("init", "pets", "--from", str(path), "--target", "Kind", *places).stdout)
    assert proposed["classes"] == ["cat", "dog"]
    registry = tmp_path / "registry"
    released = run("release", "pets", *places, "--registry", str(registry), "--set", "training.epochs=10")
    assert "PASS" in released.stdout + released.stderr
    rows, worst = post_training_file(registry, "pets", pets(500).encode())
    assert rows == 500
    # Both are the same graph's float32; the file's text became numbers twice, by DuckDB and by the service.
    assert worst <= 1e-6
