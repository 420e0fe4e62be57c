"""Tables of many columns: work that grows with the columns and not with their square, and bounded memory."""

from __future__ import annotations

import contextlib
import io
import logging
import random
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from tests.support.tables import FEATURES_SQL, HEADER, SmallTable, rows
from timberline.registry.runtime.progress import Progress
from timberline.training.config import ColumnSection, EtlSection, ModelConfig, input_columns
from timberline.training.data.checks import build_checks, run_checks
from timberline.training.data.database import STATEMENT_COLUMNS, open_database, parse_bytes
from timberline.training.data.ingest import RAW, read_source
from timberline.training.data.prepare import check_features
from timberline.training.data.source_files import open_source_files
from timberline.training.data.statistics import profile_columns
from timberline.training.errors import DatasetError, TrainingError
from timberline.training.features import parse_features

LOGGER = logging.getLogger("tests.wide")
DEADLINE_S = 30.0


class Recording:
    """A connection that keeps the statements it is given."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self.statements: list[str] = []

    def execute(self, sql: str) -> Any:
        """Keep ``sql`` and pass it on."""
        self.statements.append(sql)
        return self._connection.execute(sql)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def mixed_table(root: Path, width: int) -> SmallTable:
    """The small table with ``width`` more columns, a fourth of each type; some values break rules."""
    kinds = ["number", "integer", "boolean", "string"]
    names = [f"x{index}" for index in range(width)]
    declared = []
    for index, name in enumerate(names):
        rule = ", range = [0, 900]" if index % 8 == 1 else ""
        declared.append(f'{name} = {{ type = "{kinds[index % 4]}", nullable = true{rule} }}')
    source = random.Random(3)
    lines = []
    for line in rows(300):
        values = []
        for index in range(width):
            kind = kinds[index % 4]
            value = {
                "number": repr(source.gauss(index, 10.0 ** (index % 30 - 15))),
                "integer": str(source.randrange(index % 5 + 2 if index % 3 else 1000)),
                "boolean": source.choice(["true", "false"]),
                "string": source.choice(["a", "b", f"c{source.randrange(50)}"]),
            }[kind]
            values.append("" if source.random() < 0.05 else value)
        lines.append(",".join([line, *values]))
    return SmallTable(
        root,
        lines,
        header=",".join([HEADER, *names]),
        columns="\n".join(declared),
        rest="[checks]\nmax_violation_fraction = 1.0",
    )


@contextlib.contextmanager
def reading(table: SmallTable) -> Iterator[tuple[duckdb.DuckDBPyConnection, ModelConfig]]:
    """A database with the table as ``raw``, and the table's configuration."""
    config = table.config()
    with open_database(config.etl, table.root / "spill") as connection:
        read_source(
            connection, config, open_source_files(config, [table.root / "table.csv"], table.root / "sources")
        )
        yield connection, config


def encoded(value: object) -> bytes:
    """What would stand in a file."""
    return msgspec.json.encode(value, order="sorted")


def test_profile_and_checks_are_the_same_bytes_for_any_slice_of_columns(tmp_path: Path) -> None:
    """How many columns a statement asks for decides how fast the result comes, not what it is."""
    with reading(mixed_table(tmp_path, 90)) as (connection, config):
        checks = build_checks(config, None)
        found = {
            (
                encoded(profile_columns(connection, config.inputs, RAW, statement_columns=size)),
                encoded(run_checks(connection, config, checks, 0, statement_columns=size)),
            )
            for size in (1, 3, 1000)
        }
        report = run_checks(connection, config, checks, 0)
    assert len(found) == 1
    assert sum(check.violations > 0 for check in report.checks) == 4


def test_profile_is_the_same_bytes_when_memory_holds_no_column(tmp_path: Path) -> None:
    """quantile_disc keeps every value and never spills; what replaces it must find the same values."""
    with reading(mixed_table(tmp_path, 90)) as (connection, config):
        found = {
            encoded(profile_columns(connection, config.inputs, RAW, held_values=held))
            for held in (1, 299, 300, 900, 10**9)
        }
    assert len(found) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10, 11, 99, 100, 101, 4000, 20_000])
@pytest.mark.parametrize(
    "value",
    [
        "i",
        "-i * i",
        "i % 7 + 0.1",
        "ln(i + 1)",
        "exp(i % 700) - 1e300",
        "CASE WHEN i = 1 THEN 1e308 ELSE i END",
        "CASE WHEN i % 3 = 0 THEN NULL ELSE hash(i) / 1e19 END",
        "i * 5e-324",
        "2.5",
    ],
)
def test_quantiles_in_two_passes_are_those_of_quantile_disc(count: int, value: str) -> None:
    """Ties, NULL, one outlier that pulls all others into one bin, and values too near to be told apart."""
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t AS SELECT CAST({value} AS DOUBLE) AS x FROM range({count}) r(i)")
        columns = {"x": ColumnSection(type="number", nullable=True)}
        small, large = (profile_columns(connection, columns, "t", held_values=held) for held in (1, 10**9))
    assert encoded(small) == encoded(large)


def _aggregates(statement: str) -> int:
    return len(re.findall(r"\b(?:count_if|histogram|min|max|sum|quantile_disc)\(", statement))


def test_no_statement_asks_for_more_than_a_slice_of_the_columns(tmp_path: Path) -> None:
    """DuckDB plans in time that grows with the square of a statement's aggregates; one slice bounds it."""
    found = []
    for width in (200, 400):
        with reading(mixed_table(tmp_path / str(width), width)) as (connection, config):
            recording: Any = Recording(connection)
            numbers = {name: column for name, column in config.inputs.items() if column.type != "string"}
            profile_columns(recording, numbers, RAW)
            run_checks(recording, config, [c for c in build_checks(config, None) if c.kind != "range"], 0)
        found.append(recording.statements)
    for statements in found:
        assert max(map(_aggregates, statements)) <= 4 * STATEMENT_COLUMNS
    narrow, wide = map(len, found)
    assert narrow < wide <= 2 * narrow


@pytest.mark.parametrize(
    ("columns", "off"),
    [(54, set()), (256, set()), (257, {"common_subexpressions", "projection_placement"})],
)
def test_optimisers_whose_time_grows_with_the_square_are_off_for_a_wide_table(
    tmp_path: Path, columns: int, off: set[str]
) -> None:
    """Of 4,000 features that use a part twice they take 27 seconds; of 54 columns they save some."""
    with open_database(EtlSection(), tmp_path / "spill", columns=columns) as connection:
        assert set(setting(connection, "disabled_optimizers").split(",")) - {""} == off


def test_a_one_hot_group_of_two_thousand_columns_is_checked(tmp_path: Path) -> None:
    """A chain of a thousand additions is refused by DuckDB; an encoded text column is soon as wide."""
    width = 2000
    names = [f"k{index}" for index in range(width)]
    lines = [
        ",".join(
            [line, *("1" if index == number or (number, index) == (5, 6) else "0" for index in range(width))]
        )
        for number, line in enumerate(rows(40))
    ]
    table = SmallTable(
        tmp_path,
        lines,
        header=",".join([HEADER, *names]),
        columns=f'"k{{0..{width - 1}}}" = {{ type = "integer", allowed = [0, 1] }}',
        rest=f'[checks.one_hot]\nkind = ["k{{0..{width - 1}}}"]',
    )
    with pytest.raises(DatasetError, match=r"rule one_hot .* is broken in 1 of 40 rows.*first row 5 "):
        table.etl()


def test_the_feature_that_is_named_does_not_depend_on_the_slice(tmp_path: Path) -> None:
    """The first of features.sql is reported, in whichever statement it is counted."""
    table = SmallTable(tmp_path, rows(100), features=FEATURES_SQL)
    table.etl()
    sql = "SELECT height, 1 / (height - 1) AS first, red, 1 / (height - 2) AS second FROM raw"
    bad = SmallTable(tmp_path, features=sql)
    program = parse_features(sql, input_columns(bad.config()), file="features.sql")
    for name in ("train", "validation", "test"):
        path = table.prepared / f"{name}.parquet"
        with duckdb.connect() as connection:
            connection.execute(
                f"COPY (SELECT *, 1e0 / (height - 1) AS first, 1e0 / (height - 2) AS second "
                f"FROM read_parquet('{path}')) TO '{path}.new' (FORMAT parquet)"
            )
        path.with_name(f"{name}.parquet.new").replace(path)
    messages = set()
    for size in (1, 3, 1000):
        with (
            open_database(bad.config().etl, tmp_path / "spill") as connection,
            pytest.raises(DatasetError, match="feature 'first' is inf") as caught,
        ):
            check_features(connection, bad.config(), program, table.prepared, statement_columns=size)
        messages.add(str(caught.value))
    assert len(messages) == 1


def limits(root: Path, **files: str) -> Path:
    """A machine whose container has these limits."""
    folder = root / "sys/fs/cgroup"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return root


def setting(connection: duckdb.DuckDBPyConnection, name: str) -> Any:
    return connection.execute(f"SELECT current_setting('{name}')").fetchall()[0][0]


def test_threads_follow_the_quota_of_the_container(tmp_path: Path) -> None:
    """As many threads as the host has processors throttle each other, and each holds memory."""
    root = limits(tmp_path, cpu_max="100000 100000\n")
    with open_database(EtlSection(), tmp_path / "spill", root=root) as connection:
        assert setting(connection, "threads") == 1
    with open_database(EtlSection(threads=3), tmp_path / "spill", root=root) as connection:
        assert setting(connection, "threads") == 3


@pytest.mark.parametrize(
    ("asked", "container", "used"),
    [
        ("1GB", "536870912\n", 336_870_912),
        ("1GB", "268435456\n", 134_217_728),
        ("1GB", "1610612736\n", 1_000_000_000),
        ("200MB", "536870912\n", 200_000_000),
        ("1GB", "max\n", 1_000_000_000),
    ],
)
def test_memory_is_lowered_to_what_the_container_leaves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, asked: str, container: str, used: int
) -> None:
    """The kernel kills without a word; DuckDB spills instead, or says that it cannot."""
    root = limits(tmp_path, memory_max=container)
    with (
        caplog.at_level("INFO", logger="training.data.etl"),
        open_database(EtlSection(memory_limit=asked), tmp_path / "spill", root=root) as connection,
    ):
        assert parse_bytes(setting(connection, "memory_limit")) == pytest.approx(used, rel=1e-3)
    assert len(caplog.records) == (used != parse_bytes(asked))


def test_too_little_memory_is_told_with_what_would_do(tmp_path: Path) -> None:
    """A wide table needs more for each column and thread; the message says how much, or what else."""
    with pytest.raises(TrainingError) as caught, exhausted(tmp_path, threads=4, columns=2000):
        pass
    told = re.search(
        r"needs more than etl\.memory_limit = 50MB.* Raise etl\.memory_limit to about ([\d.]+GB) "
        r"\(2,000 columns, threads = 4\), or set etl\.threads = 1, which needs about ([\d.]+)GB\.$",
        str(caught.value),
    )
    assert told
    assert parse_bytes(told[1]) > parse_bytes(f"{told[2]}GB") > parse_bytes("50MB")
    with (
        pytest.raises(TrainingError, match=r"to about \d+MB \(3 columns, threads = 1\)\.$"),
        exhausted(tmp_path, threads=1, columns=3),
    ):
        pass


def test_too_little_memory_of_the_container_is_told_as_that(tmp_path: Path) -> None:
    """Who raises the setting alone is killed by the kernel next."""
    root = limits(tmp_path, memory_max="100000000\n")
    etl = EtlSection(threads=1)
    with (
        pytest.raises(
            TrainingError, match=r"= 1GB, which the container lowers to 50MB: .*'s memory to \d+MB "
        ),
        open_database(etl, tmp_path / "spill", columns=3, root=root) as connection,
    ):
        connection.execute("SELECT quantile_disc(hash(i), 0.5) FROM range(20_000_000) t(i)").fetchall()


@contextlib.contextmanager
def exhausted(root: Path, *, threads: int, columns: int) -> Iterator[None]:
    """A database of 50 MB that is asked to hold every value of a column."""
    etl = EtlSection(memory_limit="50MB", threads=threads)
    with open_database(etl, root / "spill", columns=columns, root=root) as connection:
        connection.execute("SELECT quantile_disc(hash(i), 0.5) FROM range(20_000_000) t(i)").fetchall()
        yield


def test_a_statement_that_runs_long_is_reported_from_a_thread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The step's own code says nothing while DuckDB works; the share is DuckDB's."""
    ticks = iter(range(0, 10**9, 100))
    with (
        caplog.at_level("INFO", logger="tests.wide"),
        open_database(EtlSection(threads=1), tmp_path / "spill") as connection,
        Progress(
            "etl", 1, "steps", logger=LOGGER, clock=lambda: next(ticks), running=connection.query_progress
        ) as progress,
    ):
        progress.begin("read")
        deadline = time.monotonic() + DEADLINE_S
        while not caplog.records[1:]:
            assert time.monotonic() < deadline
            connection.execute("SELECT max(hash(i)) FROM range(5_000_000) t(i)").fetchall()
    assert vars(caplog.records[-1])["fields"]["note"] == "read"
    assert not any(thread.name == "progress" for thread in threading.enumerate())


def test_the_bar_of_an_etl_ends_at_all_of_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that is not counted, or twice, makes the bar stop short or stand at its end too early."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    SmallTable(tmp_path, rows(200)).etl()
    bars = re.findall(r"etl small \[[#.]*\] +(\d+)% \d+ s ([a-z.]+)", terminal.getvalue())
    assert bars[-1] == ("100", "features")
    assert all(int(share) < 100 for share, note in bars if note != "features")


def test_one_bad_value_among_many_columns_is_found_in_few_readings(tmp_path: Path) -> None:
    """A reading for every column that comes before it takes minutes, in which nothing is said."""
    names = [f"x{index}" for index in range(600)]
    lines = [",".join([line, *["7"] * 599, "7.5" if row == 40 else "7"]) for row, line in enumerate(rows(60))]
    table = SmallTable(
        tmp_path,
        lines,
        header=",".join([HEADER, *names]),
        columns="\n".join(f'{name} = {{ type = "integer" }}' for name in names),
    )
    config = table.config()
    with open_database(config.etl, tmp_path / "spill") as connection:
        recording = Recording(connection)
        sources = open_source_files(config, [tmp_path / "table.csv"], tmp_path / "sources")
        with pytest.raises(DatasetError, match=r"column 'x599' is declared integer, but row 40 holds 7\.5"):
            read_source(recording, config, sources)  # type: ignore[arg-type]  # in place of a connection
    readings = [statement for statement in recording.statements if "read_csv(" in statement]
    assert len(readings) <= 5
