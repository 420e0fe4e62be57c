"""Files and lines that are not what was written: every reader says so by name."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from timberline.benchmarks.dev.service.report import decode_targets
from timberline.benchmarks.measure.records import read_rows as read_observations
from timberline.benchmarks.selftest import ledger
from timberline.benchmarks.selftest.ledger import read_restarts
from timberline.inference.config import read_worker_config
from timberline.inference.metrics.shared_memory import open_memory
from timberline.inference.models.proven import run_trial
from timberline.inference.models.trial import Ledger, Outcome, Trial
from timberline.inference.server.supervisor import Worker
from timberline.registry.errors import ConfigError, LifecycleError, StageError
from timberline.registry.runs import find_run, read_run
from timberline.registry.runtime.receipts import RECEIPT
from timberline.registry.runtime.settings import LoggingSection, apply_overrides, load_settings
from timberline.registry.runtime.stages import Stage, read_receipt
from timberline.training.data.profile import load_profile
from timberline.training.sources.kaggle import find_credentials
from timberline.training.sources.local import REFERENCES, read_references

# What a disk, a broken copy or an editor makes of a file; each is another error of the parsers.
DAMAGES = {
    "Latin-1": b'{"model": "B\xe4ume"}',
    "UTF-16": '{"model": "x"}'.encode("utf-16"),
    "zeros": bytes(4096),
    "cut": b'{"model": "x',
    "deep": b"[" * 100_000,
    "deep where something else is expected": b'{"x": ' * 100_000,
    "empty": b"",
}


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str = ""
    logging: LoggingSection = LoggingSection()


class _Row(msgspec.Struct):
    count: int


def _credentials(path: Path) -> object:
    return find_credentials({"KAGGLE_CONFIG_DIR": str(path.parent), "HOME": str(path.parent)})


# Where the file is, and who reads it.
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "settings": ("model.toml", lambda path: load_settings(path, _Settings)),
    "targets": ("targets.toml", lambda path: decode_targets(path, dict[str, _Row])),
    "run": ("run.json", lambda path: read_run(path.parent)),
    "profile": ("profile.json", load_profile),
    "references": (REFERENCES, lambda path: read_references(path.parent)),
    "kaggle.json": ("kaggle.json", _credentials),
    "token": ("access_token", _credentials),
    "restarts": ("report.json", lambda path: read_restarts(path.parent)),
    "observations": ("raw.csv.gz", lambda path: read_observations(path, _Row)),
    "observations in gzip": ("raw.csv", lambda path: read_observations(_pack(path), _Row)),
}


def _pack(path: Path) -> Path:
    packed = path.with_suffix(".csv.gz")
    packed.write_bytes(gzip.compress(b"count\n" + path.read_bytes() + b"\n"))
    return packed


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("reader", READERS)
def test_damaged_file_is_an_error_that_names_it(reader: str, damage: str, tmp_path: Path) -> None:
    """A traceback says where the program stood; a person has to know which file to restore."""
    name, read = READERS[reader]
    path = tmp_path / name
    path.write_bytes(DAMAGES[damage])
    if (reader, damage) in HARMLESS:
        read(path)
        return
    with pytest.raises(LifecycleError) as caught:
        read(path)
    if damage != "empty":  # no credentials at all
        assert str(tmp_path) in str(caught.value)


# An empty TOML file sets nothing; a token may be any text; a table with a head and no more has no rows.
HARMLESS = {("settings", "empty"), ("targets", "empty"), ("observations in gzip", "empty")} | {
    ("token", damage) for damage in DAMAGES if damage not in ("Latin-1", "UTF-16", "empty")
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_receipt_is_none(damage: str, tmp_path: Path) -> None:
    """A stage whose receipt proves nothing runs again; it must not stop for good."""
    (tmp_path / RECEIPT).write_bytes(DAMAGES[damage])
    assert read_receipt(tmp_path) is None
    assert Stage("etl", tmp_path, {}).find_receipt() is None


def test_receipt_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path) -> None:
    """What a stage made in hours is not made again because a disk failed for a moment."""
    (tmp_path / RECEIPT).symlink_to("/proc/self/mem")  # opens, and fails when it is read: EIO
    with pytest.raises(OSError, match="Input/output error"):
        read_receipt(tmp_path)


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "empty"])
def test_damaged_name_of_the_latest_run_is_no_finished_run(damage: str, tmp_path: Path) -> None:
    """The stage after it says which command to run."""
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    (tmp_path / "runs" / "tiny" / "latest").write_bytes(DAMAGES[damage][:100])
    with pytest.raises(StageError, match="no finished run"):
        find_run(tmp_path, "tiny")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("read", [read_worker_config, lambda source: run_trial(source, io.BytesIO())])
def test_process_that_gets_no_order_says_so(read: Callable[[io.BytesIO], object], damage: str) -> None:
    """Whoever starts a worker by hand hears what it waits for."""
    with pytest.raises(ConfigError, match="standard input"):
        read(io.BytesIO(DAMAGES[damage]))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_outcomes_of_trials_are_forgotten(damage: str) -> None:
    """Their last writer may have been killed; a worker that died of it would take the next with it."""
    fd = open_memory("timberline-trials")
    os.pwrite(fd, DAMAGES[damage], 0)
    trial = Trial(
        registry="/", model="tiny", version=1, manifest_sha256="0" * 64, sequence=1,
        max_rows=1, parent_pid=1, timeout_s=1.0, memory_bytes=1,
    )  # fmt: skip
    shared = Ledger(fd)
    assert shared.find(trial) is None
    shared.add(trial, Outcome())
    assert shared.find(trial) == Outcome()


@pytest.mark.parametrize("value", ["[" * 5_000, "9" * 5_000, "{a=" * 5_000])
def test_override_that_no_parser_takes_is_text(value: str) -> None:
    """The setting says what it expects; a RecursionError would not."""
    tree: dict[str, Any] = {}
    apply_overrides(tree, [f"model={value}"])
    assert tree == {"model": value}


def test_row_that_is_not_utf8_is_named_by_its_line(tmp_path: Path) -> None:
    """The ledger of gates is a CSV file that people open, and save in the encoding of their program."""
    path = tmp_path / "rows.csv"
    path.write_bytes(b"count\n1\n\xe4\n")
    with pytest.raises(LifecycleError, match="line 3 is no row"):
        ledger.read_rows(path, _Row)


async def _announce(lines: bytes) -> tuple[bool, object]:
    code = f"import os; os.write(1, {lines!r})"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    worker = Worker(0, process)
    is_ready = await worker.get_ready()
    await worker.wait()
    return is_ready, worker.announced


def test_line_of_a_worker_that_is_no_announcement_is_passed_over() -> None:
    """A library that prints in one worker ended the supervisor, and with it the service."""
    good = b'{"port": 1}\n'
    for line in (b"warning: caf\xe9\n", b"[" * 30_000 + b"\n", b"[1, 2]\n", b"\n"):
        assert asyncio.run(_announce(line + good)) == (True, {"port": 1})
        assert asyncio.run(_announce(line)) == (False, None)
