"""Strict settings: every mistake names place, key, what was found and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from timberline.registry.errors import ConfigError
from timberline.registry.runtime.settings import apply_overrides, convert_settings, load_settings


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _FileSource(_Section, frozen=True, tag="file", tag_field="kind"):
    path: str


class _WebSource(_Section, frozen=True, tag="web", tag_field="kind"):
    url: str
    retries: int = 3

    def __post_init__(self) -> None:
        if not self.url.startswith("http"):
            raise ValueError("url must start with http")


class _Column(_Section, frozen=True):
    type: Literal["integer", "string"]
    range: tuple[float, float] | None = None


class _Training(_Section, frozen=True):
    epochs: Annotated[int, msgspec.Meta(ge=1)] = 30
    batch_rows: int = 1024
    note: str = ""


class _Settings(_Section, frozen=True):
    source: _FileSource | _WebSource
    columns: dict[str, _Column] = {}
    groups: dict[str, tuple[str, ...]] = {}
    training: _Training = _Training()


GOOD = """
[source]
kind = "file"
path = "table.csv"
[columns]
height = { type = "integer", range = [0, 9] }
"Soil.Type 1" = { type = "string" }
"""


def load(
    folder: Path, text: str = GOOD, *overrides: str, environment: Mapping[str, str] | None = None
) -> _Settings:
    path = folder / "model.toml"
    path.write_text(text)
    return load_settings(path, _Settings, overrides=overrides, environment=environment)


def fail(folder: Path, text: str = GOOD, *overrides: str, **environment: str) -> str:
    """The one line of the error, without the folder."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *overrides, environment=environment)
    return str(caught.value).replace(f"{folder}/", "")


def test_file_becomes_typed_values_with_defaults(tmp_path: Path) -> None:
    """The good case: what is not set has its default."""
    settings = load(tmp_path)
    assert settings.source == _FileSource(path="table.csv")
    assert settings.columns["height"].range == (0, 9)
    assert settings.training.epochs == 30


@pytest.mark.parametrize(
    ("old", "new", "reported"),
    [
        (
            "[columns]",
            "[colums]",
            "colums: unknown key 'colums', did you mean 'columns'? Allowed here: source, "
            "columns, groups, training.",
        ),
        (
            'path = "table.csv"',
            'path = "t"\nurl = "x"',
            "source.url: unknown key 'url'. Allowed here: kind, path.",
        ),
        (
            '{ type = "string" }',
            '{ typ = "string" }',
            "columns.\"Soil.Type 1\".typ: unknown key 'typ', did you mean 'type'? Allowed here: type, range.",
        ),
        ('"string"', '"text"', "columns.\"Soil.Type 1\".type: found 'text'. Allowed: 'integer', 'string'."),
        (
            '"string"',
            '"strng"',
            "columns.\"Soil.Type 1\".type: found 'strng', did you mean 'string'? "
            "Allowed: 'integer', 'string'.",
        ),
        ("[0, 9]", '[0, "x"]', "columns.height.range[1]: found 'x', expected number"),
        ("[0, 9]", "[0]", "columns.height.range: found [0], expected array of length 2"),
        ("[0, 9]", "7", "columns.height.range: found 7, expected array or nothing"),
        ('{ type = "string" }', "5", 'columns."Soil.Type 1": found 5, expected table'),
        ('"file"', '"fil"', "source.kind: found 'fil', did you mean 'file'? Allowed: 'file', 'web'."),
        ('kind = "file"', "", "source: required key 'kind' is missing. Allowed: 'file', 'web'."),
        ('path = "table.csv"', "", "source: required key 'path' is missing"),
        ("[columns]", "[training]\nepochs = 0\n[columns]", "training.epochs: found 0, expected integer >= 1"),
        (
            "[columns]",
            "[training]\nepochs = true\n[columns]",
            "training.epochs: found True, expected integer",
        ),
        ("[columns]", '[groups]\na = ["b", 1]\n[columns]', "groups.a[1]: found 1, expected string"),
    ],
)
def test_mistake_in_the_file_is_told_with_its_key_and_what_is_right(
    tmp_path: Path, old: str, new: str, reported: str
) -> None:
    """Whoever brings a table has this line and not our source."""
    assert old in GOOD
    assert fail(tmp_path, GOOD.replace(old, new)) == f"model.toml: {reported}"


def test_rule_of_a_section_is_told_in_its_own_words(tmp_path: Path) -> None:
    """Some rules are between keys; the section words them."""
    text = '[source]\nkind = "web"\nurl = "ftp://x"\n'
    assert fail(tmp_path, text) == "model.toml: source: url must start with http"


def test_huge_value_is_cut(tmp_path: Path) -> None:
    """An error is one line, whatever was pasted into the file."""
    text = f"{GOOD}\n[training]\nepochs = '{'9' * 5_000}'\n"
    assert len(fail(tmp_path, text)) < 200


def test_missing_file_and_bad_toml_are_reported(tmp_path: Path) -> None:
    """Before any key there is the file."""
    with pytest.raises(ConfigError, match="no such file"):
        load_settings(tmp_path / "absent.toml", _Settings)
    assert "model.toml: not valid TOML" in fail(tmp_path, "[source")


def test_flag_goes_before_environment_before_file(tmp_path: Path) -> None:
    """One order for every setting of every part."""
    text = GOOD + "[training]\nepochs = 1\nbatch_rows = 1\n"
    environment = {"TIMBERLINE_TRAINING_EPOCHS": "2", "TIMBERLINE_TRAINING_BATCH_ROWS": "2"}
    training = load(tmp_path, text, "training.epochs=3", environment=environment).training
    assert (training.epochs, training.batch_rows) == (3, 2)


def test_flag_value_is_toml_or_a_bare_word(tmp_path: Path) -> None:
    """Nobody should have to quote a path twice for the shell and for TOML."""
    settings = load(tmp_path, GOOD, "source.path=a b.csv", "columns.height.range=[1, 2]", 'training.note="7"')
    assert settings.source == _FileSource(path="a b.csv")
    assert settings.columns["height"].range == (1, 2)
    assert settings.training.note == "7"
    assert load(tmp_path, GOOD, "training.note=a\nb = 1").training.note == "a\nb = 1"


def test_flag_reaches_a_key_with_a_dot_in_it(tmp_path: Path) -> None:
    """Column names belong to the table's owner, dots and all; TOML's quotes hold them together."""
    settings = load(tmp_path, GOOD, 'columns."Soil.Type 1".type=integer')
    assert settings.columns["Soil.Type 1"].type == "integer"


@pytest.mark.parametrize(
    ("override", "reported"),
    [
        (
            "training.epocs=3",
            "--set training.epocs: unknown key 'epocs', did you mean 'epochs'? "
            "Allowed here: epochs, batch_rows, note.",
        ),
        ("training.epochs=0", "--set training.epochs: found 0, expected integer >= 1"),
        ("source.kind=web", "--set source.kind: source: required key 'url' is missing"),
        ("source.path.x=1", "--set source.path.x: source.path is a value, not a section"),
        ("training.epochs", "--set: found 'training.epochs', expected section.key=value"),
        ("=3", "--set: found '=3', expected section.key=value"),
        ("a..b=3", "--set: found 'a..b=3', expected section.key=value"),
    ],
)
def test_mistake_in_a_flag_names_the_flag_and_not_the_file(
    tmp_path: Path, override: str, reported: str
) -> None:
    """The file is fine; sending the reader there costs him an hour."""
    text = GOOD if override != "source.kind=web" else '[source]\nkind = "file"\n'
    assert fail(tmp_path, text, override) == reported


def test_mistake_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    """A variable set long ago, in another file, is the hardest place to find."""
    reported = fail(tmp_path, GOOD, TIMBERLINE_TRAINING_EPOCHS="many")
    assert (
        reported == "environment TIMBERLINE_TRAINING_EPOCHS: training.epochs: found 'many', expected integer"
    )


def test_environment_reaches_every_kind_of_a_section(tmp_path: Path) -> None:
    """The keys of the second kind and the kind itself are settings like all others."""
    text = '[source]\nkind = "file"\n'
    environment = {"TIMBERLINE_SOURCE_KIND": "web", "TIMBERLINE_SOURCE_URL": "http://x"}
    assert load(tmp_path, text, environment=environment).source == _WebSource(url="http://x")


def test_environment_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    """Only names that match a key count; a machine has many variables."""
    environment = {"TIMBERLINE_HOME": "/x", "TRAINING_EPOCHS": "5", "TIMBERLINE_TRAINING_EPOC": "5"}
    assert load(tmp_path, GOOD, environment=environment).training.epochs == 30


def test_settings_without_a_file_are_told_by_their_own_name() -> None:
    """The exporter takes settings from a run record; its mistakes are found in the same way."""
    tree: dict[str, object] = {"source": {"kind": "file", "path": "x"}}
    changed = apply_overrides(tree, ["training.epochs=5"])
    assert convert_settings(tree, _Settings, where="run.json", changed=changed).training.epochs == 5
    tree["training"] = {"epochs": 5, "x": 1}
    with pytest.raises(ConfigError, match=r"run\.json: training\.x: unknown key 'x'"):
        convert_settings(tree, _Settings, where="run.json", changed=changed)
