"""The rules of model.toml: each is counted, tolerated up to the limit, and told with its first rows."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tests.support.tables import HEADER, SmallTable, rows
from timberline.training.data.checks import print_checks
from timberline.training.errors import DatasetError

GOOD = '7,1.5,1,0,"north",true,present'
ONE_HOT = '[checks]\none_hot = { colour = ["red", "blue"] }'


@pytest.mark.parametrize(
    ("line", "kind", "shown"),
    [
        (GOOD.replace("7", "101", 1), "range", r"height: rule range \(0 to 100\).*row 40 \(101\)"),
        (GOOD.replace("7", "", 1), "not_null", r"height: rule not_null .*row 40 \(NULL\)"),
        (GOOD.replace("1,0", "2,0"), "allowed", r"red: rule allowed \(one of 0, 1\).*row 40 \(2\)"),
        (GOOD.replace("1.5", "-inf"), "finite", r"weight: rule finite .*row 40 \(-inf\)"),
        (GOOD.replace("1.5", "1e999"), "finite", r"weight: rule finite .*row 40 \(inf\)"),
        (GOOD.replace("1,0", "1,1"), "one_hot", r"colour sums to 1.*row 40 \(set: red, blue\)"),
        (GOOD.replace("1,0", "0,0"), "one_hot", r"colour sums to 1.*row 40 \(set: none\)"),
        (GOOD.replace("north", "no\0rth"), "text", r"place: rule text \(no U\+0000\)"),
        (GOOD.replace("present", ""), "not_null", r"answer: rule not_null"),
    ],
)
def test_a_broken_rule_stops_the_run_and_names_the_first_row(
    tmp_path: Path, line: str, kind: str, shown: str
) -> None:
    """The owner of the data must see what is wrong, where, and how often."""
    lines = rows(60)
    lines[40] = line
    table = SmallTable(tmp_path, lines, rest=ONE_HOT)
    with pytest.raises(DatasetError, match=shown) as caught:
        table.etl()
    assert "in 1 of 60 rows" in str(caught.value)
    assert caught.value.exit_code == 1
    assert not table.prepared.exists()
    assert kind in [check.kind for check in table.report(table.failed).failed]


def test_violations_up_to_the_limit_are_counted_and_the_run_goes_on(tmp_path: Path) -> None:
    """A few known bad rows in a large table need not stop everything."""
    lines = rows(100)
    lines[40] = GOOD.replace("7", "101", 1)
    table = SmallTable(tmp_path, lines)
    table.etl("checks.max_violation_fraction=0.01")
    (check,) = [check for check in table.report().checks if check.violations]
    assert (check.kind, check.violations, check.passed) == ("range", 1, True)
    assert [(bad.row, bad.values) for bad in check.first_rows] == [(40, ("101",))]
    lines[41] = lines[40]
    table = SmallTable(tmp_path, lines)
    with pytest.raises(DatasetError, match="in 2 of 100 rows"):
        table.etl("checks.max_violation_fraction=0.01")


@pytest.mark.parametrize("answer", ["maybe", ""])
def test_a_row_without_a_known_class_is_never_tolerated(tmp_path: Path, answer: str) -> None:
    """Such a row can be neither trained on nor scored."""
    lines = rows(60)
    lines[3] = GOOD.replace("present", answer)
    table = SmallTable(tmp_path, lines)
    classes = 'target.classes=[{ value = "absent", label = "a" }, { value = "present", label = "p" }]'
    with pytest.raises(DatasetError, match=r"answer: rule (class|not_null)"):
        table.etl("checks.max_violation_fraction=1.0", classes)


@pytest.mark.parametrize("value", ["7", ""])
def test_a_key_that_stands_twice_is_found_even_when_it_is_null(tmp_path: Path, value: str) -> None:
    """A table joined wrongly repeats its rows; NULL keys are repeated keys too."""
    lines = [f"{line},{1000 + i}" for i, line in enumerate(rows(60))]
    for i in (11, 22, 33):
        lines[i] = lines[i].rpartition(",")[0] + f",{value}"
    table = SmallTable(
        tmp_path,
        lines,
        header=f"{HEADER},id",
        columns='id = { type = "integer", role = "key", nullable = true }',
        rest='[checks]\nunique_key = ["id"]',
    )
    with pytest.raises(
        DatasetError, match=r"id: rule unique_key .*in 2 of 60 rows.*row 11 .*row 22 .*row 33"
    ):
        table.etl()


def test_the_table_for_people_has_one_line_a_kept_kind_and_one_a_broken_rule(tmp_path: Path) -> None:
    """A hundred lines of "ok" would hide the one that matters."""
    lines = rows(100)
    lines[40] = GOOD.replace("7", "101", 1)
    table = SmallTable(tmp_path, lines)
    table.etl("checks.max_violation_fraction=0.5")
    shown = io.StringIO()
    print_checks(table.report(), shown)
    text = shown.getvalue().splitlines()
    assert [line.split()[0] for line in text] == [
        "rule",
        "not_null",
        "exact",
        "finite",
        "allowed",
        "text",
        "range",
    ]
    assert text[-1].split() == ["range", "height", "0", "to", "100", "1", "rows", "ok"]


def test_a_corrected_source_prepares_after_a_failure(tmp_path: Path) -> None:
    """What a failed run left must not stand in the way of the next one."""
    lines = rows(60)
    lines[3] = GOOD.replace("7", "101", 1)
    table = SmallTable(tmp_path, lines)
    with pytest.raises(DatasetError):
        table.etl()
    assert table.failed.exists()
    table = SmallTable(tmp_path, rows(60))
    assert table.etl()["rows"]["train"] > 0
    assert not table.failed.exists()
