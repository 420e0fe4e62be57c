"""Names of columns that DuckDB does not tell apart, or that stand in the path of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.tables import FEATURES_SQL, HEADER, SmallTable, arrow_rows, rows
from timberline.exporter.parity.rows import read_chunks
from timberline.registry.errors import ConfigError
from timberline.training.config import input_columns
from timberline.training.errors import DatasetError, FeatureError
from timberline.training.features import parse_features, parse_slices

# Column → its values; each pair is one name for somebody who folds case, if not for DuckDB.
TWINS = [("Id", "ID"), ("id", "ID"), ("Straße", "STRASSE"), ("É", "é")]
IGNORED = 'type = "string", role = "ignored"'
KEPT = 'type = "integer", role = "key"'


def add_columns(tmp_path: Path, names: list[str], kinds: list[str], *, is_parquet: bool) -> SmallTable:
    """The small table with these columns behind; row i of the n-th of them holds 100 n + i."""
    columns = "\n".join(f'"{name}" = {{ {kind} }}' for name, kind in zip(names, kinds, strict=True))
    lines = [
        ",".join([line, *(str(100 * n + i) for n in range(len(names)))]) for i, line in enumerate(rows(60))
    ]
    table = SmallTable(
        tmp_path,
        lines,
        columns=columns,
        header=",".join([HEADER, *names]),
        path="table.csv",
        split='kind = "time"',
    )
    if is_parquet:
        plain = arrow_rows(60)
        for n, name in enumerate(names):
            plain = plain.append_column(name, pa.array([100 * n + i for i in range(60)]))
        for part, start in (("a", 0), ("b", 30)):  # two files, whose columns are matched by name
            pq.write_table(plain.slice(start, 30), tmp_path / f"{part}.parquet")
        table = SmallTable(tmp_path, columns=columns, path="*.parquet", split='kind = "time"')
    return table


@pytest.mark.parametrize("is_parquet", [False, True])
@pytest.mark.parametrize("names", TWINS)
@pytest.mark.parametrize("kept", [0, 1])
def test_of_two_names_that_differ_by_case_the_one_that_is_kept_is_read(
    tmp_path: Path, names: tuple[str, str], kept: int, is_parquet: bool
) -> None:
    """Nobody can rename the columns of a table that others write."""
    kinds = [IGNORED, KEPT] if kept else [KEPT, IGNORED]
    # What DuckDB calls the second of two twins is a name of its own here.
    table = add_columns(
        tmp_path,
        [*names, f"{names[1]}_1"],
        [part.replace("string", "integer") for part in [*kinds, IGNORED]],
        is_parquet=is_parquet,
    )
    table.etl()
    for split in ("train", "validation", "test"):
        quoted = f'"{names[kept]}"'
        assert table.query(f"count_if({quoted} <> {100 * kept} + __row__), min({quoted}) >= 0", split) == [
            (0, True)
        ]


@pytest.mark.parametrize("is_parquet", [False, True])
def test_two_names_that_differ_by_case_are_read_past_together(tmp_path: Path, is_parquet: bool) -> None:
    """DuckDB refuses the statement that names them both, with a traceback."""
    table = add_columns(tmp_path, ["Id", "ID"], [IGNORED, IGNORED], is_parquet=is_parquet)
    assert table.etl()["rows"] == {"train": 38, "validation": 10, "test": 12}


@pytest.mark.parametrize("names", TWINS)
def test_two_kept_names_that_differ_by_case_are_refused_with_both(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    """SQL would read one of them for the other."""
    table = add_columns(tmp_path, list(names), [KEPT, KEPT], is_parquet=False)
    with pytest.raises(ConfigError) as caught:
        table.config()
    assert all(repr(name) in str(caught.value) for name in names)
    assert "model.toml" in str(caught.value)


def test_a_short_line_beside_an_ignored_twin_is_told_by_its_place(tmp_path: Path) -> None:
    """The twin's name among ours must not end the telling of what is wrong with a line."""
    table = add_columns(tmp_path, ["Id", "ID"], [KEPT, IGNORED], is_parquet=False)
    path = tmp_path / "table.csv"
    lines = path.read_text().splitlines()
    lines[5] = lines[5].rpartition(",")[0]
    path.write_text("\n".join(lines))
    with pytest.raises(DatasetError, match=r"1 of 60 lines .*table\.csv line 6"):
        table.etl()


@pytest.mark.parametrize("is_parquet", [False, True])
def test_a_folder_in_the_path_is_no_column(tmp_path: Path, is_parquet: bool) -> None:
    """DuckDB takes year=2020 in a path for a column, and puts it in the place of the file's own."""
    folder = tmp_path / "height=none" / "red=5" / "line=6"
    folder.mkdir(parents=True)
    table = add_columns(folder, [], [], is_parquet=is_parquet)
    table.etl()
    heights = [
        height
        for split in ("train", "validation", "test")
        for height in pq.read_table(table.prepared / f"{split}.parquet", partitioning=None)[
            "height"
        ].to_pylist()
    ]
    assert sorted(heights) == list(range(60))


@pytest.mark.parametrize("name", ["answer", "ANSWER", "Number", "number"])
def test_a_feature_does_not_take_the_name_of_the_target_or_a_key(tmp_path: Path, name: str) -> None:
    """The prepared file would hold two columns of one name, and the network could train on the answer."""
    features = FEATURES_SQL.replace("AS twice", f'AS "{name}"')
    table = SmallTable(
        tmp_path,
        [f"{line},{i}" for i, line in enumerate(rows(60))],
        header=f"{HEADER},number",
        columns='number = { type = "integer", role = "key" }',
        features=features,
    )
    with pytest.raises(FeatureError, match=rf"feature '{name}' has the name of column '{name.lower()}'"):
        table.etl()


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("target.column", {"rest": '[columns.extra]\ntype = "string"\nrole = "ignored"'}),
        ("split.key", {"split": 'kind = "hash"\nkey = ["extra"]'}),
        ("split.column", {"split": 'kind = "time"\ncolumn = "extra"'}),
        ("checks.unique_key", {"rest": '[checks]\nunique_key = ["extra"]'}),
        ("checks.one_hot.pair", {"rest": '[checks.one_hot]\npair = ["extra"]'}),
    ],
)
def test_an_ignored_column_serves_nothing(tmp_path: Path, where: str, change: dict[str, Any]) -> None:
    """It is not read, so that whatever names it would fail in the middle of a run."""
    if where == "target.column":
        table = SmallTable(tmp_path, columns="", **change)
        path = table.models / "small" / "model.toml"
        path.write_text(path.read_text().replace('column = "answer"', 'column = "extra"'))
    else:
        table = SmallTable(tmp_path, columns=f"extra = {{ {IGNORED} }}", **change)
    with pytest.raises(ConfigError, match=rf"{where}: names column 'extra', which is read past"):
        table.config()


def test_a_column_declared_twice_is_refused(tmp_path: Path) -> None:
    """Braces stand for names that may be written out as well, and the later one won."""
    table = SmallTable(tmp_path, columns='"c{1..3}" = { type = "number" }\nc2 = { type = "integer" }')
    with pytest.raises(ConfigError, match=r"model\.toml: columns: declares column 'c2' twice"):
        table.config()


@pytest.mark.parametrize("name", ["slice_old", "SLICE_OLD", "slice_old_"])
def test_a_column_may_be_called_like_a_slice(tmp_path: Path, name: str) -> None:
    """The name of a slice's own column is ours, and was refused as if it were the user's."""
    table = SmallTable(
        tmp_path,
        [f"{line},{i}" for i, line in enumerate(rows(60))],
        header=f"{HEADER},{name}",
        columns=f'{name} = {{ type = "integer" }}',
        rest=f"[gate.slices]\nold = '\"{name}\" > 30'",
    )
    table.etl()
    config = table.config()
    slices = parse_slices(config.gate.slices, input_columns(config))
    program = parse_features(FEATURES_SQL, input_columns(config))
    for chunk in read_chunks(table.prepared / "test.parquet", program, slices=slices):
        assert chunk.slices["slice_old"].tolist() == [row > 30 for row in chunk.rows]
