"""What each column is for, and what is said where that is a guess."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.found_tables import init, lines, pets, toml, write
from timberline.registry.errors import ConfigError
from timberline.training.config import HashSplit, RandomSplit, TimeSplit
from timberline.training.errors import DatasetError


def roles(tmp_path: Path, text: str, target: str = "c", **options: Any) -> dict[str, str]:
    """The role of each column that `init` proposes."""
    _, config, _ = init(write(tmp_path, text), target, **options)
    return {name: column.role for name, column in config.columns.items()}


def test_columns_that_describe_nothing_are_ignored_and_the_reason_stands_beside(tmp_path: Path) -> None:
    """An id learned by heart is right in training and wrong ever after."""
    text = lines("Id,name,same,empty,size,c", "{i},Ann {i},x,,{i}.5,{c}")
    assert roles(tmp_path, text) == {
        "Id": "ignored",
        "name": "ignored",
        "same": "ignored",
        "empty": "ignored",
        "size": "input",
        "c": "input",
    }
    for reason in (
        "numbers the rows",
        "tells the rows apart",
        "same value in every row",
        "empty in every row",
    ):
        assert reason in toml(tmp_path)


def test_different_whole_numbers_that_are_no_count_of_rows_are_kept(tmp_path: Path) -> None:
    """Incomes of a small table differ too; only a name or a run without gaps makes an id of them."""
    chosen = roles(tmp_path, lines("income,OrderId,c", "{i}000,{i}7,{c}"))
    assert (chosen["income"], chosen["OrderId"]) == ("input", "ignored")


def test_columns_that_duckdb_would_confuse_are_read_past(tmp_path: Path) -> None:
    """The strict reader refuses them otherwise, and init's file has to pass."""
    text = lines("size,SIZE,__row__,,twice,twice,c", "{i}.5,{i}.25,{i}.5,{i}.5,{i}.5,{i}.5,{c}")
    result, config, _ = init(write(tmp_path, text), "c")
    kept = [name for name, column in config.columns.items() if column.role == "input"]
    assert kept == ["size", "c"]
    assert len(result["warnings"]) >= 3


@pytest.mark.parametrize("value", ["{c}!", "{n}"])
def test_a_column_that_alone_tells_the_answer_is_warned_of_by_name(tmp_path: Path, value: str) -> None:
    """An accuracy of 100 % that comes from the answer itself is found out only in production otherwise."""
    row = f"{value},{{noise}}.5,{{c}}"
    classes = ["yes" if i * 13 % 29 > 14 else "no" for i in range(600)]
    rows = [
        row.format(c=c, n=(i % 50) + 100.5 * (c == "yes"), noise=i * 7 % 11) for i, c in enumerate(classes)
    ]
    result, _, _ = init(write(tmp_path, "\n".join(["leak,noise,c", *rows]) + "\n"), "c")
    assert [warning for warning in result["warnings"] if "leaks the answer" in warning]
    assert all(warning.startswith("leak:") for warning in result["warnings"])
    assert "leaks the answer" in toml(tmp_path)


def test_a_column_that_is_often_right_is_no_leak(tmp_path: Path) -> None:
    """A good feature would be thrown away if every correlation was called a leak."""
    result, _, _ = init(write(tmp_path, pets()), "Kind")
    assert result["warnings"] == []


def test_whole_numbers_as_target_are_classes_in_their_order(tmp_path: Path) -> None:
    """10 comes behind 9, and the order of the probabilities is for good."""
    text = "a,b,c\n" + "".join(f"{i}.5,x{i % 3},{(9, 10, 8)[i % 3]}\n" for i in range(60))
    _, config, _ = init(write(tmp_path, text), "c")
    assert config.target.classes is not None
    assert [label.value for label in config.target.classes] == ["8", "9", "10"]
    assert config.columns["c"].type == "integer"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("{i}.5", "quantity"),
        ("{i}", "quantity"),
        ("word {i}", "too many for classes"),
        ("2013-05-01", "holds a date"),
        ("same", "has the one value"),
        ('""', "is NULL in 40 of 40 rows"),
    ],
)
def test_what_cannot_be_classified_is_refused_and_nothing_is_written(
    tmp_path: Path, target: str, words: str
) -> None:
    """Regression is not supported; a folder that trains nonsense for ten minutes says so too late."""
    with pytest.raises(DatasetError, match=words):
        init(write(tmp_path, lines("a,b,c", f"{{i}}.5,x{{c}},{target}")), "c")
    assert not (tmp_path / "models").exists()


def test_rare_classes_are_warned_of(tmp_path: Path) -> None:
    """A class of two rows may have none to test, and nobody would see it in an accuracy."""
    text = lines("a,b,c", "{i}.5,x{c},{c}", 60) + "1.5,xyes,maybe\n2.5,xno,maybe\n"
    result, _, _ = init(write(tmp_path, text), "c")
    assert any("'maybe' (2)" in warning for warning in result["warnings"])


def test_time_splits_by_time_and_a_group_stays_together(tmp_path: Path) -> None:
    """Rows of tomorrow, or of the same patient, in training make every figure too good."""
    text = lines("when,patient,size,c", "2013-05-0{i},p{i},{i}.5,{c}", 9) * 1
    path = write(tmp_path, text)
    _, config, sql = init(path, "c", time="when")
    assert config.split == TimeSplit(column="when")
    assert 'year("when")' not in sql
    _, config, sql = init(path, "c", groups=["patient"], force=True)
    assert config.split == HashSplit(key=("patient",))
    assert config.columns["patient"].role == "key"
    assert "patient" not in sql
    _, config, _ = init(path, "c", force=True)
    assert config.split == RandomSplit()


def test_a_time_that_is_none_is_refused(tmp_path: Path) -> None:
    """Text in the order of its letters is no time, and a row without one has no place."""
    path = write(tmp_path, lines("a,b,c", "{i}.5,Monday {i},{c}") + ",x,yes\n")
    for time, words in (("b", "is text"), ("a", "NULL in 1 of 41 rows")):
        with pytest.raises(DatasetError, match=words):
            init(path, "c", time=time)
    with pytest.raises(ConfigError, match="by one of them"):
        init(path, "c", time="a", groups=["b"])


@pytest.mark.parametrize("option", [{"target": "Knd"}, {"target": "Kind", "time": "knd"}])
def test_a_misspelt_column_is_answered_with_the_nearest(tmp_path: Path, option: dict[str, str]) -> None:
    """Names are long and full of brackets; the message saves a look into the file."""
    with pytest.raises(ConfigError, match="Did you mean 'Kind'"):
        init(write(tmp_path, pets()), **option)


def test_numbered_columns_are_one_line(tmp_path: Path) -> None:
    """Seven hundred lines of the same would hide the one that matters."""
    header = ",".join([*(f"wave_{i}" for i in range(1, 81)), "c"])
    text = lines(header, ",".join([*("{i}." + str(i) for i in range(1, 81)), "{c}"]))
    _, config, sql = init(write(tmp_path, text), "c")
    assert '"wave_{1..80}" = { type = "number" }' in toml(tmp_path)
    assert len(config.columns) == 81
    assert "  *\nFROM raw" in sql


def test_a_few_bad_lines_are_tolerated_and_said_many_are_refused(tmp_path: Path) -> None:
    """One torn line must not stop a release, and half a table lost must."""
    text = lines("a,b,c", "{i}.5,x{c},{c}", 200)
    result, config, _ = init(write(tmp_path, text + "1,2,3,4\n"), "c")
    assert 0 < config.etl.max_reject_fraction < 0.01
    assert any("1 lines cannot be read" in warning for warning in result["warnings"])
    with pytest.raises(DatasetError, match="20 lines that cannot be read"):
        init(write(tmp_path, text + "1,2,3,4\n" * 20), "c", force=True)
