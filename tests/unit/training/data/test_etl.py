"""The stage as a whole: what it writes, that it is reproducible, and when it does nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest

from tests.support.tables import SmallTable, rows
from timberline.registry.errors import ConfigError
from timberline.training.data.etl import run_etl
from timberline.training.errors import DatasetError, FeatureError


def test_prepared_files_hold_row_class_raw_columns_then_computed_features(tmp_path: Path) -> None:
    """Training, exporter and evaluation read these columns by this layout."""
    table = SmallTable(tmp_path, rows(200), columns='extra = { type = "string", role = "ignored" }')
    text = (tmp_path / "table.csv").read_text().splitlines()
    (tmp_path / "table.csv").write_text("\n".join(f"{line},extra" for line in text) + "\n")
    table.etl()
    with duckdb.connect() as connection:
        found = connection.execute(
            f"DESCRIBE SELECT * FROM read_parquet('{table.prepared}/train.parquet')"
        ).fetchall()
    assert [(name, type_) for name, type_, *_ in found] == [
        ("__row__", "BIGINT"),
        ("__class__", "SMALLINT"),
        ("height", "TINYINT"),
        ("weight", "DOUBLE"),
        ("red", "TINYINT"),
        ("blue", "TINYINT"),
        ("place", "VARCHAR"),
        ("is_old", "BOOLEAN"),
        ("answer", "VARCHAR"),
        ("weight_or_0", "FLOAT"),
        ("is_north", "FLOAT"),
        ("twice", "FLOAT"),
    ]


def test_every_source_row_is_in_one_split_with_its_own_values(tmp_path: Path) -> None:
    """Row numbers tie predictions to the source, so they must name the right line."""
    table = SmallTable(tmp_path, rows(500))
    table.etl()
    assert sorted(table.all_rows()) == list(range(500))
    for split in ("train", "validation", "test"):
        found = table.query("__row__, __class__, height, weight, place, is_north, twice", split)
        for row, index, height, weight, place, is_north, twice in found:
            assert (height, weight) == (row % 101, row / 8)
            assert index == (row % 5 == 0)
            assert place == ("north", "south", "a, b")[row % 3]
            assert (is_north, twice) == (place == "north", 2 * height)


def test_train_is_shuffled_and_the_other_splits_keep_source_order(tmp_path: Path) -> None:
    """A stream of training rows must mix well; evaluation must line up with the source."""
    table = SmallTable(tmp_path, rows(500))
    table.etl()
    order = {split: [row for (row,) in table.query("__row__", split)] for split in ("train", "test")}
    assert order["test"] == sorted(order["test"])
    assert order["train"] != sorted(order["train"])


def test_outputs_are_the_same_bytes_whatever_threads_and_memory(tmp_path: Path) -> None:
    """A result that depends on the machine cannot be checked by its digest."""
    lines = rows(200_000)
    split = 'kind = "random"\ntest = 0.45'  # several row groups, also in the test split
    digests = []
    for number, overrides in enumerate(
        [("etl.threads=1",), ("etl.threads=2",), ("etl.threads=4", "etl.memory_limit=300MB")]
    ):
        table = SmallTable(tmp_path, lines if number == 0 else None, split=split)
        shutil.rmtree(table.prepared, ignore_errors=True)
        table.etl(*overrides)
        digests.append(table.digests())
    assert digests[0] == digests[1] == digests[2]
    assert {"receipt.json", "train.parquet", "seen_rows.parquet", "profile.json", "checks.json"} <= digests[
        0
    ].keys()


def test_row_groups_are_full_and_bounded(tmp_path: Path) -> None:
    """The trainer holds whole row groups in memory and shuffles among them."""
    table = SmallTable(tmp_path, rows(200_000), split='kind = "random"\ntest = 0.45')
    table.etl()
    for split in ("train", "test"):
        with duckdb.connect() as connection:
            sizes = connection.execute(
                "SELECT row_group_num_rows FROM parquet_metadata(?) "
                "WHERE column_id = 0 ORDER BY row_group_id",
                [str(table.prepared / f"{split}.parquet")],
            ).fetchall()
        assert [size for (size,) in sizes[:-1]] == [65_536] * (len(sizes) - 1)
        assert len(sizes) > 1


def test_a_second_run_is_skipped_and_one_changed_line_of_sql_is_not(tmp_path: Path) -> None:
    """Only what depends on a change is done again."""
    table = SmallTable(tmp_path, rows(100))
    assert table.etl()["skipped"] is False
    before = table.digests()
    assert table.etl()["skipped"] is True
    assert table.etl("etl.threads=1")["skipped"] is True
    assert table.digests() == before
    sql = table.models / "small" / "features.sql"
    sql.write_text(sql.read_text().replace("height * 2", "height * 3"))
    assert table.etl()["skipped"] is False
    assert table.query("twice / height", "test")[1] == (3.0,)


def test_changed_source_bytes_and_changed_checks_run_it_again(tmp_path: Path) -> None:
    """A stale result would be trained on without anybody noticing."""
    table = SmallTable(tmp_path, rows(100))
    table.etl()
    assert table.etl("checks.max_violation_fraction=0.1")["skipped"] is False
    table = SmallTable(tmp_path, rows(101))
    assert table.etl()["skipped"] is False


def test_refused_features_stop_before_the_source_is_looked_at(tmp_path: Path) -> None:
    """A mistake in features.sql must not cost the reading of a large table."""
    table = SmallTable(tmp_path, None, features="SELECT avg(height) AS x FROM raw")
    with pytest.raises(FeatureError, match=r"features\.sql"):
        run_etl(table.config(), table.models, table.data)  # nothing is fetched: that is looked at later
    assert not table.data.exists()


def test_a_refused_slice_stops_before_the_source_is_looked_at(tmp_path: Path) -> None:
    """The gate needs it, and would find the mistake only after the training."""
    table = SmallTable(tmp_path, None)
    config = table.config('gate.slices.tall="hight > 3"')
    with pytest.raises(ConfigError, match=r"model\.toml: gate\.slices\.tall: .*no input column 'hight'"):
        run_etl(config, table.models, table.data)
    assert not table.data.exists()


def test_a_feature_that_is_null_names_feature_row_and_raw_value(tmp_path: Path) -> None:
    """A NULL that no column had is a slip of the statement, and the network would fill it all the same."""
    features = "SELECT height, CASE WHEN height <> 41 THEN weight + 1 END AS heavier FROM raw"
    table = SmallTable(tmp_path, rows(100), features=features)
    found = r"'heavier' is NULL in row 41 \(height = 41, weight = 5.125\).* in 1 rows"
    with pytest.raises(DatasetError, match=found):
        table.etl()
    assert not table.prepared.exists()


@pytest.mark.parametrize("feature", ["weight", "weight + 1 AS heavier"])
def test_a_feature_is_null_where_its_column_may_be(tmp_path: Path, feature: str) -> None:
    """The network fills it, and is told where; nobody has to write coalesce."""
    lines = rows(100)
    lines[3] = '7,,1,0,"north",true,present'
    table = SmallTable(tmp_path, lines, features=f"SELECT height, {feature} FROM raw")
    table.etl()
    name = feature.rsplit(maxsplit=1)[-1]
    splits = ("train", "validation", "test")
    found = {row: value for split in splits for row, value in table.query(f"__row__, {name}", split)}
    assert [row for row, value in found.items() if value is None] == [3]


def test_a_feature_of_a_column_that_may_not_be_null_is_not_null(tmp_path: Path) -> None:
    """A broken rule that is tolerated does not reach the network as a NULL, for which it has no filling."""
    lines = rows(100)
    lines[3] = ',1,1,0,"north",true,present'
    table = SmallTable(tmp_path, lines, features="SELECT height, weight FROM raw")
    with pytest.raises(DatasetError, match="'height' is NULL in row 3"):
        table.etl("checks.max_violation_fraction=0.5")


@pytest.mark.parametrize("value", ["1e300", "-1e300"])
def test_a_feature_beyond_32_bit_is_refused(tmp_path: Path, value: str) -> None:
    """The network sees 32-bit floats, in which such a number is infinite."""
    lines = rows(100)
    lines[3] = f'7,{value},1,0,"north",true,present'
    table = SmallTable(tmp_path, lines)
    with pytest.raises(DatasetError, match=r"'weight_or_0' is -?inf in row 3"):
        table.etl()


def test_classes_are_found_in_the_data_in_their_order(tmp_path: Path) -> None:
    """A model folder need not list its classes."""
    table = SmallTable(tmp_path, rows(100))
    table.etl()
    assert [(c.value, c.label) for c in table.profile().classes] == [
        ("absent", "absent"),
        ("present", "present"),
    ]


def test_a_target_of_one_value_is_refused(tmp_path: Path) -> None:
    """There is nothing to learn from one class."""
    lines = [line.rpartition(",")[0] + ",present" for line in rows(50)]
    with pytest.raises(DatasetError, match="has 1 different values"):
        SmallTable(tmp_path, lines).etl()


def quantity(values: list[str], kind: str, folder: Path) -> SmallTable:
    """The small table with these values, again and again, as its target of type ``kind``."""
    lines = [f"{line.rpartition(',')[0]},{values[i % len(values)]}" for i, line in enumerate(rows(600))]
    table = SmallTable(folder, lines)
    path = table.models / "small" / "model.toml"
    path.write_text(
        path.read_text().replace('answer = { type = "string" }', f'answer = {{ type = "{kind}" }}')
    )
    return table


@pytest.mark.parametrize(
    ("values", "kind", "why"),
    [
        (["18", "15.5"], "number", "is of type number"),
        ([str(number) for number in range(21)], "integer", "has more than 20 different whole numbers"),
        (
            ["1"] * 592 + [str(number) for number in range(2, 10)],
            "integer",
            "has fewer than 10 rows for 8 of its 9 different whole numbers",
        ),
    ],
)
def test_a_target_that_looks_like_a_quantity_is_refused(
    tmp_path: Path, values: list[str], kind: str, why: str
) -> None:
    """Miles a gallon became 127 classes and reached production right in 3.4 % of the rows."""
    with pytest.raises(DatasetError, match=why) as caught:
        quantity(values, kind, tmp_path).etl()
    assert "regression is not supported" in str(caught.value)
    assert '{ value = "' in str(caught.value)


@pytest.mark.parametrize(
    ("values", "kind"),
    [(["1.5", "2"], "number"), ([str(number) for number in range(21)], "integer")],
)
def test_a_target_whose_classes_are_listed_is_no_quantity(
    tmp_path: Path, values: list[str], kind: str
) -> None:
    """Whoever lists them has said that they are classes, in the spelling that the refusal shows."""
    table = quantity(values, kind, tmp_path)
    spelled = [str(float(value)) for value in values] if kind == "number" else values
    listed = ", ".join(f'{{ value = "{value}", label = "{value}" }}' for value in spelled)
    table.etl(f"target.classes=[{listed}]")
    assert [label.value for label in table.profile().classes] == spelled


def test_a_few_whole_numbers_are_classes(tmp_path: Path) -> None:
    """Cover types 1 to 7 need no list, nor do 20 grades of which a few are rare."""
    values = [str(number) for number in range(1, 14)] * 46 + ["14", "15"]
    table = quantity(values, "integer", tmp_path)
    table.etl()
    assert len(table.profile().classes) == 15


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    """Without a test row there is no evidence for a release."""
    table = SmallTable(tmp_path, rows(50), split='kind = "head"\nrows = 50')
    with pytest.raises(DatasetError, match="the test split has no row of 50"):
        table.etl()


def test_inputs_in_two_splits_are_counted(tmp_path: Path) -> None:
    """A test row that was trained on makes the measured quality too good."""
    same = '7,1.5,1,0,"north",true,'
    lines = [*rows(40), f"{same}present", *rows(40, start=40), f"{same}absent"]
    table = SmallTable(tmp_path, lines, split='kind = "head"\nrows = 41\nvalidation = 0.1')
    summary = table.etl()
    duplicates = table.profile().duplicates
    assert summary["inputs_in_two_splits"] == duplicates.distinct_inputs == 1
    assert sum(duplicates.rows.values()) == 2
    assert duplicates.rows["test"] == 1
