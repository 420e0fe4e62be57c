"""The serve requirements and the wheel alone run the service; the wall is physical."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.service import ROOT, running_service
from tests.support.tiny_model import publish_numeric
from tests.support.wheels import install_project
from timberline.registry.store import open_store


def test_the_service_runs_on_the_serve_lock_file_alone(tmp_path: Path) -> None:
    """What is shipped is this environment, not the one that the other tests run in."""
    python = tmp_path / "venv" / "bin" / "python"
    lock = ROOT / "requirements" / "serve.txt"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", lock]
    subprocess.run(install, check=True)
    install_project(python, tmp_path)
    publish_numeric(open_store(tmp_path / "registry"))

    program = python.with_name("timberline")
    with running_service(tmp_path / "registry", "tiny", program=program) as service:
        status, answer = service.predict({"rings": 40})
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True
    )

    assert (status, answer["model"], answer["version"]) == (200, "tiny", 1)
    names = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert names & {"tensorflow", "keras", "duckdb", "pyarrow", "onnx", "tf2onnx"} == set()
    assert "onnxruntime" in names
