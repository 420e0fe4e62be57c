"""Every stage as a process on a machine of its own, with nothing shared but a bucket, on a real server."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.makefile import DEADLINE_S, QUICK_GATE, Made
from tests.support.s3_proxy import Asked, serve_proxy
from tests.support.s3_server import S3Server, serve_s3
from tests.support.tables import NAME, SmallTable, rows
from timberline.registry.runtime.documents import decode_json
from timberline.registry.runtime.receipts import SharedReceipt

SECRET = "only-a-test-4f1c"
# A network that trains in seconds; the gate's limits are not what these tests are about.
SET = (
    *("training.epochs=3", "network.widths=[8]", "gate.min_accuracy=0", "gate.baseline=warn"),
    *("gate.max_p50_increase=20", "gate.max_p99_increase=20", "gate.max_service_p50_increase=20"),
    *("gate.max_cpu_increase=20", "gate.max_memory_increase=20", "gate.max_start_up_increase=20"),
)
DATA, REGISTRY = "s3://models/data", "s3://models/registry"
_NEEDS = {
    **dict.fromkeys(("fetch", "etl", "train", "evaluate"), ("models", "data")),
    **dict.fromkeys(("export", "release", "calibrate-training"), ("models", "data", "registry")),
    **dict.fromkeys(("gate", "history", "selftest", "calibrate"), ("data", "registry")),
}


@dataclass
class Done:
    """How a command ended, and what is left on its machine."""

    code: int
    output: str
    log: str
    files: list[Path]

    @property
    def result(self) -> dict[str, Any]:
        """The JSON on stdout."""
        found: dict[str, Any] = json.loads(self.output)
        return found

    @property
    def fetched_bytes(self) -> int:
        """The bytes of files that were fetched; documents that stand alone are not counted."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return sum(line["bytes"] for line in lines if line["event"] == "fetched from the bucket")


@dataclass
class Fleet:
    """Machines without anything in common but a bucket and the model folder."""

    root: Path
    server: S3Server
    table: SmallTable
    logs: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def start(
        self, verb: str, *flags: str, cache: Path, model: str = NAME, **more: str
    ) -> subprocess.Popen[str]:
        """Start a verb on a machine with this cache."""
        places = {"models": str(self.table.models), "data": DATA, "registry": REGISTRY}
        words = [word for name in _NEEDS[verb] for word in (f"--{name}", places[name])]
        if "models" in _NEEDS[verb]:
            words += [word for override in SET for word in ("--set", override)]
        environment = {**QUICK_GATE, **self.server.environment, "TIMBERLINE_CACHE": str(cache), **more}
        return subprocess.Popen(
            [sys.executable, "-m", "timberline", verb, model, *words, *flags],
            cwd=self.root,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, verb: str, *flags: str, **more: str) -> Done:
        """Run a verb on a new machine."""
        cache = self.root / f"machine-{next(self.numbers)}"
        process = self.start(verb, *flags, cache=cache, **more)
        try:
            output, log = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
        self.logs += [output, log]
        return Done(process.returncode, output, log, [path for path in cache.rglob("*") if path.is_file()])

    def ran(self, verb: str, *flags: str, **more: str) -> Done:
        """Like `run`, and it must succeed."""
        done = self.run(verb, *flags, **more)
        assert done.code == 0, f"{verb} ended with {done.code}\n{done.output}\n{done.log}"
        return done

    def read(self, key: str) -> bytes | None:
        """An object of the data."""
        from timberline.registry.data_bucket import DataBucket

        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.server.environment.items():
                patch.setenv(name, value)
            return DataBucket(DATA).read(key)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Machines, and a bucket in which the model has been released once, a stage a machine."""
    root = tmp_path_factory.mktemp("fleet")
    (root / "s3").mkdir()
    with serve_s3(root / "s3", secret_key=SECRET) as server:
        yield Fleet(root, server, SmallTable(root / "table", rows(300)))


@pytest.fixture(scope="module")
def story(fleet: Fleet) -> dict[str, Done]:
    """What each stage of the first release did, each on a machine of its own."""
    return {
        verb: fleet.ran(verb) for verb in ("fetch", "etl", "train", "evaluate", "export", "gate", "history")
    }


def test_every_stage_finds_in_the_bucket_what_the_one_before_left(story: dict[str, Done]) -> None:
    """Four containers, a team's shared bucket, a spot machine for the training: none sees another's disk."""
    assert [story[verb].result["skipped"] for verb in ("fetch", "etl", "train", "evaluate")] == [False] * 4
    assert story["export"].result["outcome"] == "published"
    assert story["gate"].result["outcome"] == "PASS"
    assert sum(story["etl"].result["rows"].values()) == 300


def test_a_stage_says_where_in_the_bucket_its_files_are(fleet: Fleet, story: dict[str, Done]) -> None:
    """They are for notebooks and other programs, too."""
    places = [story["etl"].result["folder"] + "/test.parquet", story["evaluate"].result["metrics"]]
    places += [story["evaluate"].result["plots"] + "/confusion.png", story["gate"].result["report"]]
    places += [story["fetch"].result["files"][0], story["train"].result["folder"] + "/model.keras"]
    places += re.findall(r"^page: (.*)$", story["history"].log, re.MULTILINE)
    assert len(places) == 7
    for place in places:
        assert fleet.read(place.removeprefix(f"{DATA}/")), place
    receipt = decode_json(fleet.read(f"prepared/{NAME}/receipt.json") or b"", SharedReceipt)
    assert story["etl"].result["folder"] == f"{DATA}/prepared/{NAME}/{receipt.folder}"


def test_a_stage_fetches_what_it_reads_and_nothing_else(story: dict[str, Done]) -> None:
    """A gate on a small machine needs the test rows, not the table."""
    names = {verb: {path.name for path in done.files} for verb, done in story.items()}
    assert "seen_rows.parquet" not in names["train"] | names["evaluate"]
    assert "validation.parquet" not in names["evaluate"] | names["export"]
    assert "train.parquet" not in names["export"] | names["gate"]
    assert "model.keras" not in names["evaluate"] | names["export"]
    assert "table.csv" not in names["train"] | names["gate"]


def test_a_release_that_is_done_is_skipped_without_its_files(fleet: Fleet, story: dict[str, Done]) -> None:
    """Every night the pipeline finds that nothing has changed; it need not download the table for that.

    `timberline release` on any machine goes on where the others were, up to production.
    """
    done = fleet.ran("release")
    again = Made(done.code, done.output, done.log).results
    assert len(again) == 7
    for result, verb in zip(again, story, strict=True):
        if verb in ("fetch", "etl", "train", "evaluate"):
            assert result == {**story[verb].result, "skipped": True}
    assert again[4]["outcome"] == "skipped"
    assert again[5]["skipped"]
    assert again[6]["alias"] == "production"
    assert {path.suffix for path in done.files} <= {".json", ""}


def test_a_changed_statement_prepares_again_what_another_machine_fetched(
    fleet: Fleet, story: dict[str, Done], tmp_path: Path
) -> None:
    """What a change costs is what follows from it."""
    sql = fleet.table.models / NAME / "features.sql"
    text = sql.read_text("utf-8")
    try:
        sql.write_text(text.replace("height * 2 AS twice", "height * 3 AS thrice"), "utf-8")
        changed = fleet.ran("etl").result
    finally:
        sql.write_text(text, "utf-8")
    assert not changed["skipped"]
    assert changed["folder"] != story["etl"].result["folder"]
    rows_file = tmp_path / "train.parquet"
    rows_file.write_bytes(fleet.read(changed["folder"].removeprefix(f"{DATA}/") + "/train.parquet") or b"")
    assert "thrice" in pq.read_schema(rows_file).names
    # Back to where it was: the rows before are prepared anew, and are the same ones.
    again = fleet.ran("etl").result
    assert (again["skipped"], again["digest"]) == (False, story["etl"].result["digest"])


def test_a_training_that_was_killed_goes_on_on_another_machine(fleet: Fleet, story: dict[str, Done]) -> None:
    """A spot machine goes; the next one needs the last epoch, which is in the bucket."""
    assert story
    flags = ("--set", "training.seed=5")
    cache = fleet.root / "spot"
    running: list[subprocess.Popen[str]] = []
    with serve_proxy(fleet.server.endpoint) as proxy:

        def kill_after_checkpoint(asked: Asked, status: int) -> None:
            if asked.method == "PUT" and asked.path.endswith("checkpoint.npz") and status == 200:
                running[0].send_signal(signal.SIGKILL)

        proxy.after = kill_after_checkpoint
        running.append(fleet.start("train", *flags, cache=cache, AWS_ENDPOINT_URL=proxy.endpoint))
        _, log = running[0].communicate(timeout=DEADLINE_S)
        assert running[0].returncode == -signal.SIGKILL, log
    resumed = fleet.ran("train", "--resume", *flags).result
    assert (resumed["resumed_from"], resumed["epochs"]) == (1, 3)
    assert fleet.read(f"checkpoints/{NAME}/{resumed['run_id']}/checkpoint.npz") is None


def test_calibrate_training_leaves_its_runs_in_the_bucket(fleet: Fleet, story: dict[str, Done]) -> None:
    """Each run is a training: nobody wants to do one twice because another machine asks."""
    assert story
    done = fleet.ran("calibrate-training", "--seeds", "2", model=f"{NAME}@1").result
    assert done["trained"] == [1]
    place = f"{done['folder']}/1".removeprefix(f"{DATA}/")
    receipt = decode_json(fleet.read(f"{place}/receipt.json") or b"", SharedReceipt)
    assert fleet.read(f"{place}/{receipt.folder}/metrics.json")


@pytest.mark.parametrize(
    ("verb", "flags", "hint"),
    [("selftest", (), "Give --data a folder"), ("calibrate", (), "on this machine with --csv")],
)
def test_what_a_bucket_cannot_do_is_refused_in_one_line(
    fleet: Fleet, verb: str, flags: tuple[str, ...], hint: str
) -> None:
    """Two machines that append to one object would lose each other's rows."""
    done = fleet.run(verb, *flags)
    assert done.code == 2
    (line,) = done.log.splitlines()
    assert hint in line


def test_no_output_has_the_secret(fleet: Fleet, story: dict[str, Done]) -> None:
    """Logs of pipelines are read by many."""
    assert story
    assert fleet.logs
    assert [text for text in fleet.logs if SECRET in text] == []
