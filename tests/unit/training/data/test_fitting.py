"""What features.sql learns from the training split: vocabularies and the constants of ``fitted.*``."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.tables import SmallTable, rows
from timberline.registry.runs import Fitted
from timberline.registry.signature import FIRST_CODE, NULL_CODE, UNKNOWN_CODE, Column
from timberline.training.data.fitting import FOLDS, load_fitted
from timberline.training.errors import DatasetError, FeatureError
from timberline.training.features import ValueType, parse_features

_COLUMNS = """
breed = { type = "string", nullable = true }
key = { type = "integer" }
age = { type = "integer", nullable = true }
"""
_HEADER = "height,weight,red,blue,place,is_old,answer,breed,key,age"


def _lines(count: int) -> list[str]:
    """The small table with a breed of many values, NULL among them, and a column by the name of a table's."""
    pick = random.Random(5)
    breeds = ["lab", "lab", "poodle", "", *(f"b{number}" for number in range(30))]
    return [
        f"{line},{pick.choice(breeds)},{number % 7},{'' if number % 3 else number % 11}"
        for number, line in enumerate(rows(count))
    ]


def _table(root: Path, features: str, rest: str = "", count: int = 1000) -> SmallTable:
    table = SmallTable(root, _lines(count), columns=_COLUMNS, features=features, rest=rest, header=_HEADER)
    table.etl()
    return table


def _read(table: SmallTable, columns: str, split: str = "train") -> list[tuple[Any, ...]]:
    return table.query(columns, split)


def test_a_vocabulary_is_the_training_values_by_count_then_text(tmp_path: Path) -> None:
    """The order is part of every code, so it may depend on nothing but the training rows."""
    table = _table(tmp_path, "SELECT breed, height FROM raw", "[features]\nmin_count = 12")
    counts = Counter(breed for (breed,) in _read(table, "breed") if breed is not None)
    wanted = sorted((-count, breed) for breed, count in counts.items() if count >= 12)
    fitted = load_fitted(table.prepared)
    assert fitted.vocabularies == {"breed": tuple(breed for _, breed in wanted)}
    assert 3 < len(wanted) < len(counts)


def test_codes_are_unknown_null_then_the_vocabulary_in_every_split(tmp_path: Path) -> None:
    """A rare value has the code that a value nobody has seen gets later."""
    table = _table(tmp_path, "SELECT breed, height FROM raw", "[features]\nmin_count = 12")
    (words,) = load_fitted(table.prepared).vocabularies.values()
    for split in ("train", "validation", "test"):
        found = _read(table, 'breed, "__code_breed__"', split)
        codes = {word: FIRST_CODE + index for index, word in enumerate(words)} | {None: NULL_CODE}
        assert found == [(breed, codes.get(breed, UNKNOWN_CODE)) for breed, _ in found]
        assert {UNKNOWN_CODE, NULL_CODE} < {code for _, code in found}


def test_a_single_feature_has_limits_of_its_own(tmp_path: Path) -> None:
    """One column of names should not decide about the others."""
    rest = "[features]\nmin_count = 1\nvocabulary = { other = { max_size = 2, min_count = 3 } }"
    table = _table(tmp_path, "SELECT breed, coalesce(breed, 'none') AS other FROM raw", rest)
    fitted = load_fitted(table.prepared)
    assert len(fitted.vocabularies["breed"]) > 20
    assert len(fitted.vocabularies["other"]) == 2


def test_limits_of_a_feature_that_is_no_text_are_refused(tmp_path: Path) -> None:
    """A misspelt name would otherwise do nothing, in silence."""
    with pytest.raises(DatasetError, match="'height', which is no feature that is text"):
        _table(
            tmp_path,
            "SELECT breed, height FROM raw",
            "[features]\nvocabulary = { height = { max_size = 2 } }",
        )


def test_constants_are_those_of_the_training_rows(tmp_path: Path) -> None:
    """What validation and test hold must not reach a constant."""
    calls: dict[str, Callable[[list[int]], float]] = {
        "mean(age)": statistics.fmean,
        "median(age)": statistics.median,
        "std(age)": statistics.stdev,
        "min(age)": min,
        "max(age)": max,
    }
    features = ", ".join(f"coalesce(age, 0) - fitted.{call} AS f{index}" for index, call in enumerate(calls))
    table = _table(tmp_path, f"SELECT {features}, fitted.quantile(age, 0.25) * height AS q FROM raw")
    ages = [age for (age,) in _read(table, "age") if age is not None]
    constants = load_fitted(table.prepared).constants
    for call, compute in calls.items():
        assert constants[call] == pytest.approx(compute(ages), rel=1e-12)
    low, _, _ = statistics.quantiles(ages, n=4, method="inclusive")
    assert constants["quantile(age, 0.25)"] == pytest.approx(low, rel=1e-12)


def test_the_commonest_value_may_be_text(tmp_path: Path) -> None:
    """The usual filling of a gap in a category."""
    table = _table(tmp_path, "SELECT coalesce(breed, fitted.mode(breed)) AS breed_or_mode, height FROM raw")
    fitted = load_fitted(table.prepared)
    assert fitted.constants["mode(breed)"] == fitted.vocabularies["breed_or_mode"][0] == "lab"


def test_a_frequency_is_the_share_of_training_rows_and_0_for_a_new_value(tmp_path: Path) -> None:
    """Also by whole numbers, and with NULL as a value."""
    table = _table(tmp_path, "SELECT fitted.frequency(breed) AS f, fitted.frequency(key) AS k FROM raw")
    train = _read(table, "breed, key")
    breeds, keys = Counter(breed for breed, _ in train), Counter(key for _, key in train)
    for split in ("train", "test"):
        for breed, key, f, k in _read(table, "breed, key, f, k", split):
            assert (f, k) == pytest.approx((breeds[breed] / len(train), keys[key] / len(train)), rel=1e-6)


def test_a_target_mean_is_out_of_fold_in_training_rows_only(tmp_path: Path) -> None:
    """A row that helps to compute its own feature tells the network its class."""
    table = _table(tmp_path, "SELECT fitted.target_mean(breed, 10) AS rate FROM raw")
    train = _read(table, "breed, answer, rate")
    share = sum(answer == "present" for _, answer, _ in train) / len(train)
    for breed, rate in _read(table, "breed, rate", "test"):
        hits = [answer == "present" for other, answer, _ in train if other == breed]
        assert rate == pytest.approx((sum(hits) + 10 * share) / (len(hits) + 10), rel=1e-6)
    labs = {rate for breed, _, rate in train if breed == "lab"}
    assert 1 < len(labs) <= FOLDS


def test_a_target_mean_of_a_class_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Its name stands in the data, so it can be misspelt."""
    with pytest.raises(FeatureError, match=r"no class 'maybe'.*absent, present"):
        _table(tmp_path, "SELECT fitted.target_mean(breed, 10, 'maybe') AS rate FROM raw")


def test_a_constant_without_a_value_is_refused(tmp_path: Path) -> None:
    """The spread of nothing is no number."""
    lines = [f"{line},lab,1," for line in rows(200)]
    table = SmallTable(
        tmp_path,
        lines,
        columns=_COLUMNS,
        header=_HEADER,
        features="SELECT height / fitted.std(age) AS f FROM raw",
    )
    with pytest.raises(DatasetError, match=r"fitted\.std\(age\).*NULL in every training row"):
        table.etl()


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_learned_does_not_depend_on_threads(tmp_path: Path, threads: int) -> None:
    """Two machines make the same version from the same table."""
    features = (
        "SELECT breed, weight - fitted.mean(weight) AS w, fitted.target_mean(breed, 5) AS rate FROM raw"
    )
    one, other = tmp_path / "one", tmp_path / "other"
    table = SmallTable(one, _lines(20_000), columns=_COLUMNS, features=features, header=_HEADER)
    table.etl("etl.threads=2")
    again = SmallTable(other, _lines(20_000), columns=_COLUMNS, features=features, header=_HEADER)
    again.etl(f"etl.threads={threads}")
    for name in ("fitted.json", "train.parquet", "test.parquet"):
        assert (table.prepared / name).read_bytes() == (again.prepared / name).read_bytes()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("fitted.average(height)", "there is no fitted.average"),
        ("fitted.mean(breed)", "takes numbers, and got VARCHAR"),
        ("fitted.mean(height, 2)", "is written fitted.mean"),
        ("fitted.frequency(weight)", "takes text or whole numbers"),
        ("fitted.quantile(height, 2)", "got 2"),
        ("fitted.quantile(height, weight)", "takes a constant"),
        ("fitted.mean(height - fitted.mean(height))", "cannot be inside of another"),
        ("fitted.target_mean(breed, 1, 2)", "is a text"),
        ("1 AS g, fitted.mean(height)", "is a constant, which carries no information"),
    ],
)
def test_a_call_that_means_nothing_is_refused_before_anything_is_read(
    tmp_path: Path, call: str, message: str
) -> None:
    """As every other part of the language."""
    table = SmallTable(tmp_path, rows(50), columns=_COLUMNS, features=f"SELECT height * {call} AS f FROM raw")
    with pytest.raises(FeatureError, match=message.replace(".", r"\.")):
        table.etl()


def test_features_are_the_same_program_before_and_after_they_learn() -> None:
    """Names and order are known without the data."""
    sql = "SELECT breed, fitted.mode(breed) = 'lab' OR age > fitted.mean(age) AS f, age FROM raw"
    columns = (Column(name="breed", datatype="BYTES"), Column(name="age", datatype="INT64"))
    before = parse_features(sql, columns)
    fitted = Fitted(vocabularies={"breed": ("lab",)}, constants={"mode(breed)": "lab", "mean(age)": 3.5})
    after = parse_features(sql, columns, fitted=fitted)
    assert before.names == after.names
    assert [learned.key for learned in before.learned] == ["mode(breed)", "mean(age)"]
    assert after.category_sizes == (3, None, None)


@pytest.mark.parametrize(
    "expression",
    [
        "lower(breed) = fitted.mode(lower(breed))",
        "nullif(lower(breed), fitted.mode(breed)) IS NULL",
        "starts_with(breed, fitted.mode(breed))",
        "(age & fitted.mode(age)) > 1",
    ],
)
def test_a_learned_constant_stands_wherever_a_constant_may(expression: str) -> None:
    """What is refused before it is fitted is never fitted."""
    columns = (Column(name="breed", datatype="BYTES"), Column(name="age", datatype="INT64"))
    program = parse_features(f"SELECT {expression} AS f FROM raw", columns)
    (call,) = program.learned
    fitted = Fitted(constants={call.key: "lab" if call.result_type is ValueType.VARCHAR else 3})
    assert parse_features(f"SELECT {expression} AS f FROM raw", columns, fitted=fitted).names == ("f",)


def test_a_learned_text_inside_of_another_call_is_seen() -> None:
    """It stands in as a constant, which must not hide it."""
    sql = "SELECT fitted.frequency(nullif(breed, fitted.mode(breed))) AS f FROM raw"
    with pytest.raises(FeatureError, match="cannot be inside of another"):
        parse_features(sql, (Column(name="breed", datatype="BYTES"),))
