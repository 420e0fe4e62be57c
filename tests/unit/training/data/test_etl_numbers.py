"""Whole numbers beyond 2^53, where DOUBLE does not hold every one: kept to the digit, or refused."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.tables import FEATURES_SQL, HEADER, SmallTable, arrow_rows, rows
from timberline.registry.errors import ConfigError, LifecycleError
from timberline.training.errors import DatasetError, FeatureError

BEYOND = 2**53 + 1  # the first whole number that DOUBLE does not hold
KEY = 'more = { type = "integer", role = "key" }'


def add_column(tmp_path: Path, values: list[str], column: str, **options: str) -> SmallTable:
    """The small table with the column ``more``, which holds these values and then 7."""
    texts = values + ["7"] * (60 - len(values))
    lines = [f"{line},{text}" for line, text in zip(rows(60), texts, strict=True)]
    return SmallTable(tmp_path, lines, columns=column, header=f"{HEADER},more", **options)


def add_parquet_column(tmp_path: Path, values: pa.Array, column: str) -> SmallTable:
    """The same as two Parquet files; ``values`` are the first of the second file."""
    plain = arrow_rows(60)
    fill = pa.array([7] * 60, values.type)
    pq.write_table(plain.append_column("more", fill), tmp_path / "a.parquet")
    both = pa.concat_arrays([values, fill[len(values) :]])
    pq.write_table(plain.append_column("more", both), tmp_path / "b.parquet")
    return SmallTable(tmp_path, columns=column, path="*.parquet")


@pytest.mark.parametrize("declared", ["", ", range = [0, 9007199254740993]", ", nullable = true"])
def test_a_large_key_keeps_every_digit(tmp_path: Path, declared: str) -> None:
    """Two orders whose numbers differ in the last digit are two orders."""
    values = [str(BEYOND), str(BEYOND - 1), str(BEYOND - 2)]
    table = add_column(
        tmp_path,
        values,
        KEY.replace('"key"', f'"key"{declared}'),
    )
    table.etl()
    found = [table.query("more", split) for split in ("train", "validation", "test")]
    assert sorted(value for part in found for (value,) in part)[-3:] == [BEYOND - 2, BEYOND - 1, BEYOND]


@pytest.mark.parametrize("value", [BEYOND, -BEYOND, 2**63 - 1])
def test_a_tolerated_value_out_of_its_range_keeps_every_digit(tmp_path: Path, value: int) -> None:
    """A small column was read as DOUBLE throughout, and so was the one large value in it."""
    column = 'more = { type = "integer", role = "key", range = [0, 100] }'
    table = add_column(tmp_path, [str(value)], column)
    table.etl("checks.max_violation_fraction=0.5")
    extreme = "max(more)" if value > 0 else "min(more)"
    assert table.query(extreme, table.all_rows()[0]) == [(value,)]
    (broken,) = [check for check in table.report().checks if check.kind == "range" and check.violations]
    assert broken.first_rows[0].values == (str(value),)


@pytest.mark.parametrize(("value", "passes"), [(BEYOND - 1, True), (BEYOND, False), (BEYOND - 2, True)])
def test_a_large_range_is_compared_to_the_digit(tmp_path: Path, value: int, passes: bool) -> None:
    """The bound was a DOUBLE, and so another number than the one in model.toml."""
    column = f'more = {{ type = "integer", role = "key", range = [0, {BEYOND - 1}] }}'
    table = add_column(tmp_path, [str(value)], column)
    if passes:
        table.etl()
        return
    with pytest.raises(DatasetError, match=rf"0 to {BEYOND - 1}\) is broken in 1 .*row 0 \({BEYOND}\)"):
        table.etl()


def test_a_range_may_be_open(tmp_path: Path) -> None:
    """TOML has `inf`, which SQL does not."""
    table = add_column(tmp_path, ["12"], 'more = { type = "number", range = [-inf, inf] }')
    assert table.etl()["rows"]


def test_large_values_are_allowed_to_the_digit(tmp_path: Path) -> None:
    """Rounded, an identifier would be taken for its neighbour."""
    column = f'more = {{ type = "integer", role = "key", allowed = [7, {BEYOND}] }}'
    add_column(tmp_path, [str(BEYOND)], column).etl()
    table = add_column(tmp_path, [str(BEYOND), str(BEYOND - 1)], column)
    with pytest.raises(DatasetError, match=rf"allowed .*row 1 \({BEYOND - 1}\)"):
        table.etl()


def test_classes_may_be_identifiers_of_many_digits(tmp_path: Path) -> None:
    """Neighbours as DOUBLE are two classes all the same."""
    values = [str(BEYOND - i % 2) for i in range(60)]
    table = add_column(tmp_path, values, 'more = { type = "integer" }')
    path = table.models / "small" / "model.toml"
    path.write_text(path.read_text().replace('column = "answer"', 'column = "more"'))
    table.etl()
    assert [label.value for label in table.profile().classes] == [str(BEYOND - 1), str(BEYOND)]


def test_rows_of_neighbouring_keys_are_split_by_their_own_digits(tmp_path: Path) -> None:
    """Sixty keys that are one DOUBLE would all land in one split."""
    values = [str(2**62 + i) for i in range(60)]
    table = add_column(tmp_path, values, KEY, split='kind = "hash"\nkey = ["more"]')
    summary = table.etl()
    assert all(summary["rows"].values())
    for split in ("train", "validation", "test"):
        assert table.query(f"count_if(more <> {2**62} + __row__)", split) == [(0,)]


@pytest.mark.parametrize("value", [2**53, -(2**53), 2**60])
@pytest.mark.parametrize("tolerated", [0.0, 0.5])
def test_an_input_that_a_feature_cannot_hold_is_refused_with_row_and_value(
    tmp_path: Path, value: int, tolerated: float
) -> None:
    """Features are DOUBLE; the network would see another number than the table holds."""
    table = add_column(tmp_path, ["5", str(value)], 'more = { type = "integer" }')
    with pytest.raises(DatasetError, match=rf"more: rule exact \(at most ±.*first row 1 \({value}\)"):
        table.etl(f"checks.max_violation_fraction={tolerated}")


@pytest.mark.parametrize("value", [2**53 - 1, 1 - 2**53])
def test_the_largest_input_that_the_service_takes_is_read(tmp_path: Path, value: int) -> None:
    """2^53 itself is exact, but a DOUBLE of that value may have been 2^53 + 1; both sides stop below it."""
    table = add_column(tmp_path, [str(value)], 'more = { type = "integer" }')
    table.etl()
    assert table.query("count(*)", table.all_rows()[0]) != [(0,)]


@pytest.mark.parametrize(
    "value", ["18446744073709551615", "1e30", "-1e30", "9223372036854775808", "nan", "inf"]
)
@pytest.mark.parametrize("declared", ["", ", range = [0, 100]"])
def test_a_value_beyond_64_bits_is_refused_with_file_place_and_digits(
    tmp_path: Path, value: str, declared: str
) -> None:
    """Nobody finds the value 1.8446744073709552e+19 in a file that does not hold it."""
    table = add_column(tmp_path, ["7"] * 30 + [value], KEY.replace('"key"', f'"key"{declared}'))
    with pytest.raises(DatasetError) as caught:
        table.etl()
    told = str(caught.value)
    assert "table.csv" in told
    assert "'more'" in told
    assert value in told
    assert "line 32" in told or "row 30" in told


def test_an_unsigned_value_of_a_parquet_file_is_refused_with_its_own_file_and_digits(tmp_path: Path) -> None:
    """Of a thousand files, one holds it."""
    table = add_parquet_column(tmp_path, pa.array([1, 2**64 - 1], pa.uint64()), KEY)
    with pytest.raises(
        DatasetError, match=r"b\.parquet: .*'more' .*row 1 holds 18446744073709551615, .* 64 bits"
    ):
        table.etl()


def test_large_integers_of_a_parquet_file_keep_every_digit(tmp_path: Path) -> None:
    """UINT64 has room for more than we keep, and what fits is kept."""
    table = add_parquet_column(tmp_path, pa.array([BEYOND], pa.uint64()), KEY)
    table.etl()
    assert table.query("max(more)", table.all_rows()[60]) == [(BEYOND,)]


@pytest.mark.parametrize("value", ["3000000000", "1e300"])
def test_a_large_value_in_a_one_hot_group_breaks_its_rule(tmp_path: Path, value: str) -> None:
    """It does not fit the type that the group was summed in, which ended the run with a traceback."""
    table = add_column(
        tmp_path, [value], 'more = { type = "number" }', rest='[checks.one_hot]\npair = ["more"]'
    )
    with pytest.raises(DatasetError, match="rule one_hot"):
        table.etl()


@pytest.mark.parametrize("number", [str(BEYOND), "1" * 400, "1" * 5000])
def test_a_constant_that_a_feature_cannot_hold_is_refused(tmp_path: Path, number: str) -> None:
    """`more = 9007199254740993` would be true of its neighbour."""
    table = SmallTable(tmp_path, rows(60), features=FEATURES_SQL.replace("height * 2", f"height - {number}"))
    with pytest.raises(FeatureError, match=r"features\.sql:2:.*(2\^53|range of DOUBLE)"):
        table.etl()


def test_a_default_that_a_feature_cannot_hold_is_refused(tmp_path: Path) -> None:
    """The service would fill in another number."""
    table = add_column(tmp_path, ["7"], f'more = {{ type = "integer", default = {BEYOND} }}')
    with pytest.raises(ConfigError, match=rf"columns\.more\.default: is {BEYOND}, beyond ±"):
        table.config()


@pytest.mark.parametrize("digits", [20, 40, 400])
def test_a_number_of_any_length_in_model_toml_is_no_traceback(tmp_path: Path, digits: int) -> None:
    """TOML has no largest whole number."""
    table = add_column(
        tmp_path, ["7"], f'more = {{ type = "integer", role = "key", range = [0, {"9" * digits}] }}'
    )
    try:
        assert table.etl()["rows"]
    except LifecycleError as error:
        assert "more" in str(error)  # noqa: PT017  (either is right, and nothing else)
