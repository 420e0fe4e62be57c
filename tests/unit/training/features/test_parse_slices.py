"""Slices of [gate]: conditions that are checked before anything is read."""

from __future__ import annotations

import duckdb
import msgspec
import pytest

from timberline.registry.errors import ConfigError
from timberline.registry.manifest import GateLimits
from timberline.registry.signature import Column
from timberline.training.features import parse_slices

COLUMNS = (
    Column(name="height", datatype="FP64", is_nullable=True),
    Column(name="colour", datatype="BYTES"),
    Column(name="is_wet", datatype="BOOL"),
)


def test_conditions_hold_where_duckdb_says_so() -> None:
    """A slice that means something else to the gate than to its author judges the wrong rows."""
    program = parse_slices(
        {"tall": "height >= 3 -- a note", "red": "colour IN ('red')", "wet": "is_wet"}, COLUMNS
    )
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE raw AS SELECT * FROM "
            "(VALUES (3.0, 'red', true), (NULL, 'blue', false)) AS t(height, colour, is_wet)"
        )
        found = connection.execute(program.select_sql("raw")).fetchall()
    assert program.names == ("slice_tall", "slice_red", "slice_wet")
    assert found == [(1.0, 1.0, 1.0), (None, 0.0, 0.0)]


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("hieght >= 3", "no input column 'hieght'.*Did you mean 'height'"),
        ("height +", "not valid SQL"),
        ("height", "is not one condition"),
        ("height * 2", "is not one condition"),
        ("colour", "is not one condition"),
        ("true", "is a constant"),
        ("", "gate.slices.odd"),
        ("is_wet AS other, height > 3", "is not one condition"),
        ("is_wet FROM raw; SELECT height > 3", "expected one SELECT"),
        ("height > (SELECT 3)", "a subquery is not supported"),
        ("height > avg(height)", r"the aggregate avg\(\) is not supported"),
        ("random() < 0.5", "is not supported"),
    ],
)
def test_what_is_no_condition_on_a_row_is_refused_with_its_key(condition: str, told: str) -> None:
    """Found out at the gate, a slip of the pen would have cost a training."""
    with pytest.raises(ConfigError, match=f"(?s)gate.slices.odd.*{told}|{told}"):
        parse_slices({"odd": condition}, COLUMNS)


@pytest.mark.parametrize("name", ["Two words", "0", "a-b", ""])
def test_a_name_that_is_no_column_is_refused(name: str) -> None:
    """It becomes a column of evaluation.parquet and a word in the report."""
    assert msgspec.convert({"slices": {"low_2": "height > 3"}}, GateLimits).slices
    with pytest.raises(msgspec.ValidationError, match="slices"):
        msgspec.convert({"slices": {name: "height > 3"}}, GateLimits)
