"""A table means the same whatever its columns are called: no name of a user's is taken for one of ours."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow.parquet as pq
import pytest

from timberline.exporter.parity.rows import read_chunks
from timberline.registry.errors import LifecycleError
from timberline.registry.runs import CLASS_COLUMN, ROW_COLUMN
from timberline.training.config import input_columns, load_model_config, read_features_sql
from timberline.training.data.etl import run_etl
from timberline.training.data.fetch import run_fetch
from timberline.training.data.ingest import KEY_COLUMN
from timberline.training.data.splits import SPLIT_NAMES
from timberline.training.features import parse_features

# Names that stand in our SQL, our files or DuckDB's own results, and what else is awkward.
RESERVED = (ROW_COLUMN, CLASS_COLUMN, KEY_COLUMN, "__split__", "__draw__")
NAMES = (
    *("rowid", "raw", "stored", "prepared", "rejects", "reject_errors", "twice", "c0", "c1", "n0", "key"),
    *("row", "rows", "rank", "total", "class", "draw", "split", "value", "line", "file", "column", "reason"),
    *(
        "filename",
        "file_row_number",
        "file_index",
        "bin",
        "size",
        "upto",
        "text",
        "numeric",
        "features",
        "label",
        "probabilities",
    ),
    *("class_index", "label_index", "p_0", "slice_x", "__i", "__time", "scan_id", "select", "count_star()"),
    *("a.b", "a", 'quo"te', "it's", "#1", "$x", "a b", "straße", "É", "hash", "*"),
)
ROLES = ("whole", "number", "text", "key", "target", "ignored", "feature")
CASES = (str.lower, str.upper, str.title, str.swapcase)
SPLITS = {
    "head": 'kind = "head"\nrows = 2000',
    "random": 'kind = "random"',
    "hash": 'kind = "hash"\nkey = [{key}]',
    "time": 'kind = "time"\ncolumn = {key}',
}
ROWS = 2600


@dataclass(frozen=True)
class Prepared:
    """What the ETL made of a table, without any of its names."""

    columns: dict[str, list[list[Any]]]
    features: list[Any]
    checks: list[Any]
    profile: list[Any]


def prepare(folder: Path, names: dict[str, str], split: str, *, is_parquet: bool) -> Prepared:
    """Fetch and prepare the table of `ROWS` rows whose columns, by role, have these names."""
    quoted = {role: '"' + name.replace('"', '""') + '"' for role, name in names.items()}
    keys = {role: msgspec.json.encode(name).decode() for role, name in names.items()}
    source = folder / ("table.parquet" if is_parquet else "table.csv")
    model = folder / "models" / "named"
    model.mkdir(parents=True)
    (model / "model.toml").write_text(
        f"""
[model]
name = "named"
[source]
kind = "csv"
path = {msgspec.json.encode(str(source)).decode()}
[columns]
{keys["ignored"]} = {{ type = "string", role = "ignored" }}
{keys["whole"]} = {{ type = "integer", range = [0, 2590] }}
{keys["number"]} = {{ type = "number" }}
{keys["text"]} = {{ type = "string" }}
{keys["key"]} = {{ type = "integer", role = "key" }}
{keys["target"]} = {{ type = "integer" }}
[target]
column = {keys["target"]}
[split]
{SPLITS[split].format(key=keys["key"])}
[checks]
unique_key = [{keys["key"]}, {keys["whole"]}]
max_violation_fraction = 0.1
""",
        "utf-8",
    )
    (model / "features.sql").write_text(
        f"""SELECT {quoted["whole"]}, {quoted["number"]}, {quoted["text"]} = 't1' AS is_one,
        {quoted["whole"]} * 2 + {quoted["number"]} AS {quoted["feature"]} FROM raw""",
        "utf-8",
    )
    with duckdb.connect() as connection:
        # Of some 1,500 texts in training a profile keeps the 1,000 most frequent: their order shows.
        connection.execute(
            f"""COPY (SELECT i * 7 % {ROWS} AS {quoted["whole"]}, i / 8 AS {quoted["number"]},
            'no ' || i AS {quoted["ignored"]}, 't' || i % 2203 AS {quoted["text"]},
            ({ROWS} - i) * 11 % 2573 AS {quoted["key"]}, (i % 3 = 0)::INTEGER AS {quoted["target"]}
            FROM range({ROWS}) AS t(i)) TO '{source}'"""
        )
    data = folder / "data"
    config = load_model_config(folder / "models", "named", use_environment=False)
    run_fetch(config, data)
    run_etl(config, folder / "models", data)
    program = parse_features(read_features_sql(config, folder / "models"), input_columns(config))
    prepared = data / "prepared" / "named"
    roles = {name: role for role, name in names.items()}
    profile = msgspec.json.decode((prepared / "profile.json").read_bytes())
    checks = msgspec.json.decode((prepared / "checks.json").read_bytes())["checks"]
    return Prepared(
        columns={
            name: [column.to_pylist() for column in pq.read_table(prepared / f"{name}.parquet").columns]
            for name in SPLIT_NAMES
        },
        features=[
            (chunk.rows.tolist(), chunk.features.tolist(), chunk.take(0))
            for chunk in read_chunks(prepared / "test.parquet", program)
        ],
        checks=[check | {"columns": [roles[name] for name in check["columns"]]} for check in checks],
        profile=[
            [profile[key] for key in ("class_counts", "classes", "duplicates", "fingerprints", "rows")],
            [(roles[name], profile["columns"][name]) for name in config.inputs],
        ],
    )


def turn(position: int) -> dict[str, str]:
    """Names by role: over as many positions as there are names, each stands in every role once."""
    spread = len(NAMES) // len(ROLES)
    chosen = [NAMES[(position + step * spread) % len(NAMES)] for step in range(len(ROLES))]
    return {
        role: CASES[(position + 2 * step) % len(CASES)](name)
        for step, (role, name) in enumerate(zip(ROLES, chosen, strict=True))
    }


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prepared]:
    """By kind of split, what the table gives under names that nobody else has."""
    names = {role: f"own_{role}" for role in ROLES}
    return {
        split: prepare(tmp_path_factory.mktemp(split), names, split, is_parquet=False) for split in SPLITS
    }


@pytest.mark.parametrize("start", range(len(SPLITS)))
def test_no_name_of_a_column_changes_what_is_prepared(
    tmp_path: Path, plain: dict[str, Prepared], start: int
) -> None:
    """A column called rowid once took the place of the row number, and the wrong rows trained."""
    turns = range(start, 2 * len(NAMES), len(SPLITS))  # each name in each role, under two kinds of split
    for position, split in zip(turns, itertools.cycle(SPLITS), strict=False):
        names = turn(position)
        found = prepare(tmp_path / str(position), names, split, is_parquet=bool(position % 2))
        assert found == plain[split], names


@pytest.mark.parametrize("split", SPLITS)
def test_a_column_with_a_name_of_ours_is_read_past(
    tmp_path: Path, plain: dict[str, Prepared], split: str
) -> None:
    """Whoever got the table from somebody else cannot rename its columns."""
    for position, name in enumerate(RESERVED):
        names = {role: f"own_{role}" for role in ROLES} | {"ignored": CASES[position % len(CASES)](name)}
        assert prepare(tmp_path / name, names, split, is_parquet=bool(position % 2)) == plain[split]


@pytest.mark.parametrize("name", RESERVED)
@pytest.mark.parametrize("role", [role for role in ROLES if role != "ignored"])
def test_a_column_that_is_kept_has_no_name_of_ours(tmp_path: Path, name: str, role: str) -> None:
    """The prepared files hold both, and SQL would take the one for the other."""
    for position, spelt in enumerate(case(name) for case in CASES):
        names = {role: f"own_{role}" for role in ROLES} | {role: spelt}
        with pytest.raises(LifecycleError) as caught:
            prepare(tmp_path / str(position), names, "hash", is_parquet=False)
        assert repr(spelt) in str(caught.value)
        assert ("features.sql" if role == "feature" else "model.toml") in str(caught.value)


def test_the_names_stand_in_every_role_and_every_case() -> None:
    """The test above proves only what it visits."""
    seen = [turn(position) for position in range(len(NAMES))]
    for role in ROLES:
        assert len({names[role].casefold() for names in seen}) == len({name.casefold() for name in NAMES})
    assert len({name for names in seen for name in names.values() if name.casefold() == "rowid"}) >= 3
    pairs = itertools.combinations(ROLES, 2)
    assert not any(names[a].casefold() == names[b].casefold() for names in seen for a, b in pairs)
