"""A volume of another user: one line names what refuses whom, and the way out; exit code 3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.ended import ROOT
from tests.support.evaluations import publish_judged
from tests.support.prepared import MODEL, prepare, write_model
from tests.support.registry_tree import folder_of
from tests.support.tables import NAME, SmallTable, rows
from timberline.registry.store import Store

DEADLINE_S = 60.0


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """A command that modes apply to, also when the tests run as root."""
    launcher = ["-c", _HEEDING_MODES] if os.geteuid() == 0 else []
    return subprocess.run(
        [sys.executable, *launcher, "-m", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=3 * DEADLINE_S,  # imports TensorFlow, on a machine that has other work
    )


# Without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH root reads and writes only what modes let it.
# 24 is PR_CAPBSET_DROP; <linux/prctl.h>, <linux/capability.h>.
_HEEDING_MODES = """\
import ctypes, os, sys
for capability in (1, 2):
    assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.fixture
def refuse(tmp_path: Path) -> Iterator[Callable[[Path, int], Path]]:
    """Sets the mode of a path until the end of the test."""
    before: dict[Path, int] = {}

    def change(path: Path, mode: int) -> Path:
        before[path] = path.stat().st_mode
        path.chmod(mode)
        return path

    yield change
    for path, mode in before.items():
        path.chmod(mode)


@pytest.fixture
def store(store: Store) -> Store:
    """A registry with tiny@1, which is candidate and production."""
    publish_judged(store, alias="candidate")
    publish_judged(store, alias="production")
    return store


def assert_explained(done: subprocess.CompletedProcess[str], path: Path, mode: int) -> None:
    """It ended with 3, and its last line says all that is needed to let it in."""
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert "Traceback" not in done.stderr
    message = json.loads(done.stderr.splitlines()[-1])["event"]
    owner = path.stat()
    uid, gid = os.geteuid(), os.getegid()
    assert f"{path} belongs to {owner.st_uid}:{owner.st_gid} with mode {mode:04o}" in message
    assert f"refuses uid {uid}, gid {gid}." in message
    assert f"`chown -R {uid} {path}`" in message
    assert "`--user $(id -u):0`" in message
    assert f"chmod -R g+rwX {path}" in message


@pytest.mark.parametrize("mode", [0o000, 0o555])
def test_a_data_folder_that_cannot_be_written_is_explained(
    tmp_path: Path, refuse: Callable[[Path, int], Path], mode: int
) -> None:
    """The first command that is run on a fresh volume."""
    table = SmallTable(tmp_path, rows(10))
    volume = tmp_path / "volume"
    volume.mkdir()
    refuse(volume, mode)
    words = ("--model", NAME, "--models", str(table.models), "--data", str(volume / "data"))
    assert_explained(run("training", "fetch", *words), volume, mode)


@pytest.mark.parametrize("stage", ["etl", "fetch"])
def test_a_data_folder_that_cannot_be_read_is_not_an_empty_one(
    tmp_path: Path, refuse: Callable[[Path, int], Path], stage: str
) -> None:
    """What may not be read was taken for what is not there: "run `timberline fetch`" is no help."""
    table = SmallTable(tmp_path, rows(10))
    table.etl()
    (raw,) = (path for path in (table.data / "raw").iterdir() if not path.name.startswith("."))
    refuse(raw, 0)
    words = ("--model", NAME, "--models", str(table.models), "--data", str(table.data))
    assert_explained(run("training", stage, *words), raw, 0)


@pytest.mark.parametrize("name", ["receipt.json", "train.parquet", ""])
def test_prepared_data_that_cannot_be_read_are_explained(
    tmp_path: Path, refuse: Callable[[Path, int], Path], name: str
) -> None:
    """Arrow says it in words of its own, without the error's number or the file's name in its fields."""
    config = write_model(tmp_path / "models")
    prepare(config, tmp_path / "data")
    path = refuse(tmp_path / "data" / "prepared" / MODEL / name, 0)
    words = ("--model", MODEL, "--models", str(tmp_path / "models"), "--data", str(tmp_path / "data"))
    assert_explained(run("training", "train", *words), path, 0)


def test_a_model_folder_that_cannot_be_read_is_explained(
    tmp_path: Path, refuse: Callable[[Path, int], Path]
) -> None:
    """A checkout under umask 077, mounted into a container."""
    write_model(tmp_path / "models")
    path = refuse(tmp_path / "models" / MODEL / "model.toml", 0)
    assert_explained(run("training", "etl", "--model", MODEL, "--models", str(tmp_path / "models")), path, 0)


@pytest.mark.parametrize(
    "words",
    [
        ("registry", "promote", "tiny@1", "--force", "--reason", "x"),
        ("benchmarks", "gate", "--model", "tiny", "--champion", "tiny@1"),
    ],
    ids=["registry", "benchmarks"],
)
def test_a_registry_that_cannot_be_read_is_explained(
    store: Store, tmp_path: Path, refuse: Callable[[Path, int], Path], words: tuple[str, ...]
) -> None:
    """Any command on it, of any part."""
    path = refuse(folder_of(store.open_version("tiny", 1)) / "manifest.json", 0)
    places = ("--data", str(tmp_path / "data")) if words[0] == "benchmarks" else ()
    assert_explained(run(*words, "--registry", store.location, *places), path, 0)


def test_a_registry_that_cannot_be_written_is_explained(
    store: Store, refuse: Callable[[Path, int], Path]
) -> None:
    """A volume that is mounted for readers."""
    staging = refuse(Path(store.location) / ".staging", 0o555)
    words = ("registry", "alias", "set", "tiny@other", "1", "--registry", store.location)
    assert_explained(run(*words), staging, 0o555)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_a_service_that_cannot_read_its_version_explains_it_at_its_start(
    store: Store, refuse: Callable[[Path, int], Path], name: str, workers: str
) -> None:
    """In the log of a container that does not come up, where one cannot look around."""
    path = refuse(folder_of(store.open_version("tiny", 2)) / name, 0)
    serve = ("inference", "serve", "--model", "tiny@2", "--registry", store.location, "--port", "0")
    done = run(*serve, "--workers", workers)
    message = [line for line in done.stderr.splitlines() if "belongs to" in line]
    assert message, done.stderr
    done.stderr = message[0]
    assert_explained(done, path, 0)
