"""From a file to a served version with nothing written by hand, and the file's own lines posted to it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.found_tables import pets, write
from tests.support.makefile import Workshop
from tests.support.training_file import post_training_file


def test_a_table_with_text_gaps_and_dates_goes_through_as_init_proposes_it(tmp_path: Path) -> None:
    """The promise of init is that nothing has to be edited first; and that a line is one row everywhere."""
    path = write(tmp_path, pets(500), encoding="cp1252")
    workshop = Workshop(tmp_path, "pets", tmp_path / "models")
    command = [sys.executable, "-m", "timberline", "init", "pets", "--from", str(path), "--target", "Kind"]
    command += ["--models", str(workshop.models), "--data", str(workshop.data)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["classes"] == ["cat", "dog"]
    workshop.export_here(overrides="training.epochs=2")
    rows, worst = post_training_file(workshop.registry, "pets", pets(500).encode())
    assert rows == 500
    # Both are the same graph's float32; the file's text became numbers twice, by DuckDB and by the service.
    assert worst <= 1e-6
