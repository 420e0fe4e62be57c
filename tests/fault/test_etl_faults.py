"""ETL when the world breaks: killed, out of memory, files that are no CSV, no network."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.ended import starting
from tests.support.tables import HEADER, NAME, SmallTable, rows
from timberline.training.config import EtlSection
from timberline.training.data.database import open_database
from timberline.training.data.fetch import run_fetch
from timberline.training.errors import DatasetError, TrainingError

DEADLINE_S = 60.0


def test_a_killed_run_leaves_no_result_and_the_next_one_recovers(tmp_path: Path) -> None:
    """kill -9 at any point must leave the old state or the new one, and no spilled gigabytes for ever."""
    lines = rows(400_000)
    table = SmallTable(tmp_path, lines)
    run_fetch(table.config(), table.data)
    command = [sys.executable, "-m", "training", "etl", "--model", NAME, "--models", str(table.models)]
    process = subprocess.Popen(
        [*command, "--data", str(table.data)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + DEADLINE_S
    while not list(table.prepared.parent.glob(f".partial-{NAME}-*")) and process.poll() is None:
        assert time.monotonic() < deadline
        os.sched_yield()
    process.send_signal(signal.SIGKILL)
    _, log = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == -signal.SIGKILL, log.decode()
    assert not table.prepared.exists()
    assert table.etl()["skipped"] is False
    assert sorted(path.name for path in table.prepared.parent.iterdir()) == [NAME]
    assert not (table.prepared / "spill").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_end_is_run_again_to_the_same_bytes(
    tmp_path: Path, number: signal.Signals
) -> None:
    """As the first process of a container, in the middle of a query."""
    table = SmallTable(tmp_path, rows(400_000))
    table.etl()
    expected = table.digests()
    shutil.rmtree(table.prepared)
    command = ["-m", "training", "etl", "--model", NAME, "--models", str(table.models)]
    command += ["--data", str(table.data)]
    with starting(command, tmp_path / "log") as run:
        run.await_fact(lambda: any(table.prepared.parent.glob(f".partial-{NAME}-*")))
        run.end(number)
    assert not table.prepared.exists()
    again = subprocess.run([sys.executable, *command], capture_output=True, check=False, timeout=DEADLINE_S)
    assert again.returncode == 0, again.stderr.decode()
    assert table.digests() == expected
    assert [path.name for path in table.prepared.parent.iterdir()] == [NAME]


def test_too_little_memory_is_one_clear_error_and_leaves_the_old_result(tmp_path: Path) -> None:
    """The way out (more memory, fewer threads) must stand in the message."""
    table = SmallTable(tmp_path, rows(1000))
    table.etl()
    before = table.digests()
    table = SmallTable(tmp_path, rows(200_000))
    with pytest.raises(TrainingError, match=r"etl\.memory_limit = 1MB.*Raise etl\.memory_limit"):
        table.etl("etl.memory_limit=1MB")
    assert table.digests() == before
    assert not list(table.prepared.parent.glob(".partial-*"))


def test_a_table_larger_than_memory_spills_and_gives_the_same_bytes(tmp_path: Path) -> None:
    """Memory is a bound on the run, not on the table."""
    table = SmallTable(tmp_path, rows(400_000))
    table.etl()
    expected = table.digests()
    shutil.rmtree(table.prepared)
    table.etl("etl.memory_limit=80MB", "etl.threads=1")
    assert table.digests() == expected


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b'"unclosed\n', "line 102: .*never closed"),
        (b"7,1,1,0,\xff\xfe,true,present\n", "lines are refused"),
        (b"7,1,1,0,north\r,true,present\n", "lines are refused"),
        (b"\x00\x01\x02\x03\n", "lines are refused"),
    ],
)
def test_bytes_that_are_no_csv_are_told_with_the_file(tmp_path: Path, broken: bytes, message: str) -> None:
    """A damaged source must not be half read."""
    table = SmallTable(tmp_path, rows(100))
    with (tmp_path / "table.csv").open("ab") as file:
        file.write(broken)
    with pytest.raises(DatasetError, match=message) as caught:
        table.etl()
    assert "table.csv" in str(caught.value)
    assert not table.prepared.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f'{HEADER}\n7,1,1,0,"north,true,present\n'.encode(), "line 2: the quote"),
        (HEADER.replace("height", "h\xf6he").encode("latin-1"), "line 1 is not UTF-8 text"),
        (HEADER.encode("utf-16"), "is UTF-16 text"),
        (b"PAR1\x15\x04\x15" + bytes(range(256)) + b"PAR1", "cannot be read"),
        (bytes(range(256)) * 100, "line 1 holds control characters"),
    ],
)
def test_the_command_ends_with_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    """A traceback says that the program is broken, where the file is."""
    (tmp_path / "table.csv").write_bytes(content)
    table = SmallTable(tmp_path)
    run_fetch(table.config(), table.data)
    command = [sys.executable, "-m", "training", "etl", "--model", NAME, "--models", str(table.models)]
    ended = subprocess.run(
        [*command, "--data", str(table.data)], capture_output=True, check=False, timeout=DEADLINE_S, text=True
    )
    assert ended.returncode == DatasetError.exit_code
    assert f"table.csv: {message}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not table.prepared.exists()


def test_a_truncated_gzip_is_refused(tmp_path: Path) -> None:
    """A download that broke off must not become a shorter table."""
    table = SmallTable(tmp_path, rows(5000), path="table.csv")
    packed = gzip.compress((tmp_path / "table.csv").read_bytes())
    (tmp_path / "table.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DatasetError):
        SmallTable(tmp_path, path="table.csv.gz").etl()
    assert not table.prepared.exists()


def test_the_database_fetches_no_extension(tmp_path: Path) -> None:
    """ETL runs where there is no network, and installs nothing behind anybody's back."""
    with open_database(EtlSection(), tmp_path / "spill") as connection:
        found = dict(
            connection.execute(
                "SELECT name, value FROM duckdb_settings() WHERE name IN "
                "('autoinstall_known_extensions', 'autoload_known_extensions', 'allow_community_extensions')"
            ).fetchall()
        )
    assert set(found.values()) == {"false"}
    assert len(found) == 3
