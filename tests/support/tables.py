"""A model folder around a small table, and its way through fetch and ETL."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

from timberline.registry.rows import quote
from timberline.training.config import ModelConfig, load_model_config
from timberline.training.data.checks import CheckReport, collect_rejects
from timberline.training.data.database import open_database
from timberline.training.data.etl import run_etl
from timberline.training.data.fetch import fetched_files, run_fetch
from timberline.training.data.ingest import RAW, read_source, stored_columns
from timberline.training.data.profile import Profile, load_profile
from timberline.training.data.source_files import open_source_files

NAME = "small"
CLASSES = ("absent", "present")

MODEL_TOML = """
[model]
name = "small"

[source]
kind = "csv"
path = {path}

[columns]
height = {{ type = "integer", range = [0, 100] }}
weight = {{ type = "number", nullable = true }}
red = {{ type = "integer", allowed = [0, 1] }}
blue = {{ type = "integer", allowed = [0, 1] }}
place = {{ type = "string" }}
is_old = {{ type = "boolean" }}
answer = {{ type = "string" }}
{columns}
[target]
column = "answer"

[split]
{split}

{rest}
"""
FEATURES_SQL = """
SELECT height, coalesce(weight, 0) AS weight_or_0, red, blue, place = 'north' AS is_north, height * 2 AS twice
FROM raw
"""
HEADER = "height,weight,red,blue,place,is_old,answer"


def rows(count: int, start: int = 0) -> list[str]:
    """CSV lines of the small table that keep every rule; row i differs from row j."""
    return [
        f"{i % 101},{i / 8},{i % 2},{1 - i % 2},{('north', 'south', 'a, b')[i % 3]!r},"
        f"{'true' if i % 4 else 'false'},{CLASSES[i % 5 == 0]}".replace("'", '"')
        for i in range(start, start + count)
    ]


def arrow_rows(count: int) -> pa.Table:
    """Rows of the small table that keep every rule, as a Parquet file may hold them."""
    return pa.table(
        {
            "height": [i % 101 for i in range(count)],
            "weight": [i / 8 for i in range(count)],
            "red": [i % 2 for i in range(count)],
            "blue": [1 - i % 2 for i in range(count)],
            "place": ["north"] * count,
            "is_old": [bool(i % 4) for i in range(count)],
            "answer": [CLASSES[i % 5 == 0] for i in range(count)],
        }
    )


def read_files(
    config: ModelConfig, files: Sequence[Path], scratch: Path
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """The rows as the ETL reads them, in the order of the files, and what it refused.

    A refused row is file, line, lines, column and reason. Nothing is judged, and nothing stays.
    """
    try:
        with open_database(config.etl, scratch / "spill") as connection:
            sources = open_source_files(config, files, scratch / "sources")
            read_source(connection, config, sources)
            collect_rejects(connection, config, sources)
            names = ", ".join(map(quote, stored_columns(config)))
            refused = 'SELECT file, line, lines, "column", reason FROM rejects ORDER BY ALL'
            return (
                connection.execute(f"SELECT {names} FROM {RAW}").fetchall(),
                connection.execute(refused).fetchall(),
            )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class SmallTable:
    """One model folder and one DATA folder under ``root``."""

    def __init__(
        self,
        root: Path,
        lines: list[str] | None = None,
        *,
        split: str = 'kind = "random"',
        columns: str = "",
        rest: str = "",
        features: str = FEATURES_SQL,
        path: str = "table.csv",
        header: str = HEADER,
    ) -> None:
        self.root = root
        self.models = root / "models"
        self.data = root / "data"
        self.prepared = self.data / "prepared" / NAME
        self.failed = self.data / "prepared" / f"{NAME}.failed"
        folder = self.models / NAME
        folder.mkdir(parents=True, exist_ok=True)
        source = msgspec.json.encode(str(root / path)).decode()
        text = MODEL_TOML.format(path=source, columns=columns, split=split, rest=rest)
        (folder / "model.toml").write_text(text, "utf-8")
        (folder / "features.sql").write_text(features, "utf-8")
        if lines is not None:
            (root / path).write_text("\n".join([header, *lines]) + "\n", "utf-8")

    def config(self, *overrides: str) -> ModelConfig:
        """The model's configuration with ``section.key=value`` overrides."""
        return load_model_config(self.models, NAME, overrides=overrides, use_environment=False)

    def etl(self, *overrides: str) -> dict[str, Any]:
        """Fetch, then prepare; return the summary."""
        config = self.config(*overrides)
        run_fetch(config, self.data)
        return run_etl(config, self.models, self.data)

    def read(self, *overrides: str) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """The rows and the refused ones of the fetched files, see `read_files`."""
        config = self.config(*overrides)
        run_fetch(config, self.data)
        return read_files(config, fetched_files(config, self.data), self.root / "scratch")

    def profile(self) -> Profile:
        """The profile that the last run left."""
        return load_profile(self.prepared / "profile.json")

    def report(self, folder: Path | None = None) -> CheckReport:
        """The checks that the last run left."""
        return msgspec.json.decode(((folder or self.prepared) / "checks.json").read_bytes(), type=CheckReport)

    def query(self, what: str, file: str = "train") -> list[tuple[Any, ...]]:
        """``SELECT what`` over one prepared file."""
        path = file if file.startswith("/") else str(self.prepared / f"{file}.parquet")
        with duckdb.connect() as connection:
            return connection.execute(f"SELECT {what} FROM read_parquet('{path}')").fetchall()

    def all_rows(self) -> dict[int, str]:
        """The split of every source row number."""
        return {
            row: split for split in ("train", "validation", "test") for (row,) in self.query("__row__", split)
        }

    def digests(self) -> dict[str, str]:
        """SHA-256 of every file that the last run left, its receipt too."""
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.prepared.iterdir())
        }
