"""The release story by ``make``, each call on a machine of its own, with registry and data in a bucket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.makefile import DEADLINE_S, QUICK_GATE, ROOT, Made
from tests.support.s3_server import S3Server, serve_s3
from tests.support.service import running_service
from tests.support.tables import NAME, SmallTable, rows

DATA, REGISTRY = "s3://models/data", "s3://models/registry"
# A network that trains in seconds, and limits that no busy machine and no other network breaks.
SET = (
    "network.widths=[8] gate.min_accuracy=0 gate.baseline=warn gate.max_p50_increase=20 "
    "gate.max_p99_increase=20 gate.max_service_p50_increase=20 gate.max_cpu_increase=20 "
    "gate.max_memory_increase=20 gate.max_start_up_increase=20 gate.max_accuracy_drop=0.9 "
    "gate.max_recall_drop=0.9 gate.max_slice_drop=0.9 gate.max_log_loss_increase=9 gate.max_ece_increase=0.9"
)
ROW = {"height": 5, "weight": 1.5, "red": 1, "blue": 0, "place": "north", "is_old": True}


def make(server: S3Server, table: SmallTable, machine: Path, target: str, epochs: int = 3) -> Made:
    """``make TARGET`` where nothing is but the checkout and the model folder."""
    given = {"MODEL": NAME, "MODELS": table.models, "DATA": DATA, "REGISTRY": REGISTRY}
    given["SET"] = f"{SET} training.epochs={epochs}"
    words = [f"{name}={value}" for name, value in given.items()]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--no-print-directory", target, *words, f"PY={sys.executable}"],
        cwd=ROOT,
        env=environment | QUICK_GATE | server.environment | {"TIMBERLINE_CACHE": str(machine)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, f"make {target}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return Made(done.returncode, done.stdout, done.stderr)


def test_a_release_a_second_one_and_the_way_back_share_nothing_but_the_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a team does in a week, from laptops, a builder and a server that never see each other's disks."""
    (tmp_path / "s3").mkdir()
    with serve_s3(tmp_path / "s3", secret_key="made-by-make") as server:
        server.make_bucket("models")
        table = SmallTable(tmp_path / "table", rows(300))
        first = make(server, table, tmp_path / "laptop", "release")
        assert first.stages == dict.fromkeys(("fetch", "etl", "train", "evaluate"), False)
        assert first.results[-1]["version"] == 1
        second = make(server, table, tmp_path / "builder", "release", epochs=4)
        assert second.stages == {"fetch": True, "etl": True, "train": False, "evaluate": False}
        assert second.results[-1]["version"] == 2
        monkeypatch.setenv("TIMBERLINE_SERVE_WATCH_S", "1")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with running_service(REGISTRY, NAME) as service:
            assert service.predict(ROW)[1]["version"] == 2
        back = make(server, table, tmp_path / "operator", "rollback")
        assert (back.results[-1]["version"], back.results[-1]["action"]) == (1, "rollback")
        with running_service(REGISTRY, NAME) as service:
            assert service.predict(ROW)[1]["version"] == 1
        told = make(server, table, tmp_path / "operator", "history")
        assert json.loads(told.output)["model"] == NAME
    assert sorted(path.name for path in ROOT.glob("s3*")) == []
