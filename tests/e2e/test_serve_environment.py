"""The serve requirements and the wheel alone run the service; the wall is physical."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.service import ROOT, running_service
from tests.support.wheels import install_project


def test_the_service_runs_on_the_serve_lock_file_alone(registry: Path, tmp_path: Path) -> None:
    """What is shipped is this environment, not the one that the other tests run in."""
    python = tmp_path / "venv" / "bin" / "python"
    lock = ROOT / "requirements" / "serve.txt"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", lock]
    subprocess.run(install, check=True)
    install_project(python, tmp_path)

    program = python.with_name("timberline")
    with running_service(registry, "tiny", program=program) as service:
        status, answer = service.predict({"rings": 40})
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True
    )

    assert (status, answer["model"], answer["version"]) == (200, "tiny", 1)
    names = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert names & {"tensorflow", "keras", "duckdb", "pyarrow", "onnx", "tf2onnx"} == set()
    assert "onnxruntime" in names
