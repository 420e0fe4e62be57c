"""What a refusal names as the setting that would have read the cells."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tables import SmallTable
from timberline.training.config import ModelConfig
from timberline.training.data.hints import NOT_UTF_8, hint_refused_cells

_COLUMNS = "\n".join(
    f'a_{kind} = {{ type = "{kind}" }}' for kind in ("integer", "number", "boolean", "date", "timestamp")
)


def configure(tmp_path: Path, *overrides: str) -> ModelConfig:
    """A model with a column of each type."""
    return SmallTable(tmp_path, columns=_COLUMNS).config(*overrides)


def hint(config: ModelConfig, kind: str, texts: list[str]) -> str:
    """What is said of these cells of one column."""
    return hint_refused_cells(config, [(f"a_{kind}", f'"{text}" is not of type {kind}') for text in texts])


@pytest.mark.parametrize(
    ("kind", "texts", "told"),
    [
        ("date", ["01/02/2013", "03/04/2013"], 'format = "%m/%d/%Y" or format = "%d/%m/%Y"'),
        ("date", ["01/02/2013", "25/04/2013"], 'format = "%d/%m/%Y" in'),
        ("date", ["31.12.13", "01.02.99"], 'format = "%d.%m.%y"'),
        ("date", ["31.12.2013 10:30"], 'type = "timestamp" and format = "%d.%m.%Y %H:%M"'),
        ("date", ["2013-05-01T10:30"], 'declare the column as type = "timestamp"'),
        ("timestamp", ["May 1, 2013 10:30:00 PM"], 'format = "%b %d, %Y %I:%M:%S %p"'),
        ("number", ["2,5", "1,234"], 'set [etl] decimal = ","'),
        ("number", ["0,125", "0,250"], 'set [etl] decimal = ","'),
        ("number", ["1,234", "99,125"], 'set [etl] thousands = ","'),
        ("integer", ["1'234"], 'set [etl] thousands = "\'"'),
        ("integer", ["N/A", "N/A"], 'null_text = ["", "N/A"]'),
        ("boolean", ["J"], 'found "J"'),
    ],
)
def test_a_setting_is_named_that_reads_the_cells(
    tmp_path: Path, kind: str, texts: list[str], told: str
) -> None:
    """A first-time user has the line that is wrong, and wants the line that is right."""
    assert told in hint(configure(tmp_path), kind, texts)


@pytest.mark.parametrize(
    ("kind", "texts"),
    [("date", ["soon", "late"]), ("number", ["tall", "1,2,3"]), ("integer", ["ten"]), ("timestamp", ["12"])],
)
def test_nothing_is_named_where_nothing_known_would_help(tmp_path: Path, kind: str, texts: list[str]) -> None:
    """A setting that does not help costs an hour."""
    assert hint(configure(tmp_path), kind, texts) == ""


def test_a_setting_does_not_contradict_another(tmp_path: Path) -> None:
    """What groups digits is no decimal point as well."""
    assert hint(configure(tmp_path, 'etl.thousands=","'), "number", ["12,5"]) == ""


def test_a_wrong_encoding_is_told_before_all_else(tmp_path: Path) -> None:
    """Other cells are refused for it, too."""
    refused = [("a_number", '"2,5" is not of type number'), ("", NOT_UTF_8)]
    assert hint_refused_cells(configure(tmp_path), refused).startswith("Set [etl] encoding")


def test_each_column_has_its_hint_once(tmp_path: Path) -> None:
    """Two columns of one mistake need it once, and two mistakes both."""
    refused = [
        ("a_number", '"2,5" is not of type number'),
        ("a_integer", '"3,0" is not of type integer'),
        ("a_date", '"31.12.2013" is not a date such as 2013-05-01'),
    ]
    told = hint_refused_cells(configure(tmp_path), refused)
    assert told.count("decimal") == told.count("format") == 1
