"""The container's health check says what the service says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from registry.store import open_store
from tests.support.service import ROOT, running_service
from tests.support.tiny_model import publish_numeric


def check(port: int) -> int:
    """Exit code of ``python -m inference health``."""
    command = [sys.executable, "-m", "inference", "health", "--port", str(port)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def test_a_ready_service_is_healthy_and_a_stopped_one_is_not(tmp_path: Path) -> None:
    """An orchestrator restarts on this answer; it has to be right both ways."""
    publish_numeric(open_store(tmp_path))
    with running_service(tmp_path, "tiny") as service:
        port = service.port
        assert check(port) == 0
    assert check(port) == 1
