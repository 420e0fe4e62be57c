"""profile.json: every figure against an independent calculation."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.tables import HEADER, SmallTable, rows
from timberline.registry.errors import StageError
from timberline.registry.runtime.documents import encode_document
from timberline.training.data.profile import Profile, load_profile
from timberline.training.errors import DatasetError


def seen(table: SmallTable, column: str) -> list[Any]:
    """A column's values over the training split, without NULL."""
    return [value for (value,) in table.query(column) if value is not None]


def awkward_rows(count: int) -> list[str]:
    """Rows whose weights are spread over many magnitudes, with NULL here and there."""
    source = random.Random(7)
    lines = rows(count)
    for i in range(count):
        parts = lines[i].split(",", 2)
        weight = "" if i % 17 == 0 else repr(source.gauss(1e6, 3.5))
        lines[i] = f"{parts[0]},{weight},{parts[2]}"
    return lines


@pytest.mark.parametrize("column", ["height", "weight"])
def test_moments_and_quantiles_agree_with_the_standard_library(tmp_path: Path, column: str) -> None:
    """Scaling and drift build on these figures; a mean far from zero must not cost the spread its digits."""
    table = SmallTable(tmp_path, awkward_rows(2000))
    table.etl()
    profile = table.profile().columns[column]
    values = sorted(seen(table, column))
    assert profile.minimum == values[0]
    assert profile.maximum == values[-1]
    assert profile.mean == pytest.approx(statistics.fmean(values), rel=1e-12)
    assert profile.std == pytest.approx(statistics.pstdev(values), rel=1e-9)
    assert profile.quantiles is not None
    for share, found in profile.quantiles.items():
        assert found == values[max(math.ceil(float(share) * len(values)) - 1, 0)]


@pytest.mark.parametrize("column", ["height", "weight", "red", "is_old"])
def test_histogram_bins_are_half_open_and_count_every_row(tmp_path: Path, column: str) -> None:
    """Drift compares served rows with these bins, so a value on an edge must fall the same way."""
    table = SmallTable(tmp_path, awkward_rows(2000))
    table.etl()
    profile = table.profile()
    histogram = profile.columns[column].histogram
    values = [float(value) for value in seen(table, column)]
    edges = histogram.edges
    assert edges is not None
    last = len(edges) - 2
    expected = tuple(
        sum(low <= value < high or (i == last and value == high) for value in values)
        for i, (low, high) in enumerate(itertools.pairwise(edges))
    )
    assert histogram.counts == expected
    assert sum(histogram.counts) + histogram.nulls == profile.rows["train"]


def test_a_column_of_two_values_has_a_bin_for_each(tmp_path: Path) -> None:
    """An indicator column is a share, not a distribution over twenty bins."""
    table = SmallTable(tmp_path, rows(100))
    table.etl()
    histogram = table.profile().columns["red"].histogram
    assert histogram.edges == (-0.5, 0.5, 1.5)
    assert histogram.counts[1] == sum(seen(table, "red"))


def test_text_has_categories_and_their_counts(tmp_path: Path) -> None:
    """The signature tells clients which values training saw."""
    table = SmallTable(tmp_path, rows(90))
    table.etl()
    profile = table.profile()
    place = profile.columns["place"]
    assert place.categories == place.histogram.categories == ("a, b", "north", "south")
    values = seen(table, "place")
    assert place.histogram.counts == tuple(values.count(name) for name in place.categories)
    columns = {column.name: column for column in profile.input_columns}
    assert columns["place"].categories == place.categories
    assert (columns["height"].minimum, columns["height"].maximum) == (
        profile.columns["height"].minimum,
        profile.columns["height"].maximum,
    )


def test_a_column_with_one_value_or_none_still_has_a_profile(tmp_path: Path) -> None:
    """Constant and empty columns occur in real tables and must not stop the run."""
    lines = [f"{line},4.25," for line in rows(80)]
    table = SmallTable(
        tmp_path,
        lines,
        header=f"{HEADER},same,none",
        columns='same = { type = "number" }\nnone = { type = "number", nullable = true }',
    )
    table.etl()
    profile = table.profile()
    same, none = profile.columns["same"], profile.columns["none"]
    assert (same.mean, same.std, same.histogram.counts) == (4.25, 0.0, (profile.rows["train"],))
    assert (none.nulls, none.mean, none.histogram.counts) == (profile.rows["train"], None, (0,))


def test_figures_are_over_the_training_split_only(tmp_path: Path) -> None:
    """Anything learned from validation or test rows makes their scores too good."""
    lines = rows(100)
    lines[99] = '100,5000,1,0,"nowhere",true,present'
    table = SmallTable(tmp_path, lines, split='kind = "head"\nrows = 90')
    table.etl()
    profile = table.profile()
    assert profile.columns["place"].categories == ("a, b", "north", "south")
    assert (profile.columns["weight"].maximum or 0) < 100


def test_rows_and_classes_are_counted_by_split(tmp_path: Path) -> None:
    """Class priors come from these counts."""
    table = SmallTable(tmp_path, rows(500))
    table.etl()
    profile = table.profile()
    for split in ("train", "validation", "test"):
        classes = [index for (index,) in table.query("__class__", split)]
        assert profile.rows[split] == len(classes)
        assert profile.class_counts[split] == (classes.count(0), classes.count(1))


def test_fingerprints_do_not_depend_on_the_order_of_rows_but_on_each_of_them(tmp_path: Path) -> None:
    """A source that is only sorted anew is the same data; one changed or doubled row is not."""
    lines = rows(200)
    found = []
    for variant in (lines, lines[::-1], [*lines[:-1], lines[0]], [*lines, lines[0]]):
        table = SmallTable(tmp_path, variant)
        table.etl()
        found.append(table.profile().fingerprint)
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_profile_survives_a_round_trip(tmp_path: Path) -> None:
    """Training reads exactly what ETL wrote."""
    table = SmallTable(tmp_path, rows(100))
    table.etl()
    profile = table.profile()
    assert msgspec.json.decode(encode_document(profile), type=Profile) == profile
    assert set(profile.histograms) == {"height", "weight", "red", "blue", "place", "is_old"}
    assert profile.feature_names == ("height", "weight_or_0", "red", "blue", "is_north", "twice")


def test_a_missing_damaged_or_newer_profile_is_told(tmp_path: Path) -> None:
    """Training must stop before it reads figures that it does not understand."""
    path = tmp_path / "profile.json"
    with pytest.raises(StageError, match="not prepared"):
        load_profile(path)
    path.write_bytes(b'{"schema_version": 1')
    with pytest.raises(DatasetError, match="not a profile"):
        load_profile(path)
    table = SmallTable(tmp_path, rows(100))
    table.etl()
    path.write_bytes(encode_document(msgspec.structs.replace(table.profile(), schema_version=99)))
    with pytest.raises(DatasetError, match="schema_version is 99"):
        load_profile(path)
