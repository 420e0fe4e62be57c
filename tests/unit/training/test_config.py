"""model.toml is strict: whatever is wrong in it is named before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from timberline.registry.errors import ConfigError
from timberline.registry.moments import parse_moment
from timberline.registry.signature import SourceTable
from timberline.training.config import (
    MlpPleNetwork,
    expand_braces,
    input_columns,
    load_model_config,
    read_features_sql,
    source_table,
)

MODELS = Path(__file__).resolve().parents[3] / "models"

SMALL = """
[model]
name = "loans"
[source]
kind = "csv"
path = "loans.csv"
[columns]
id = { type = "integer", role = "key" }
note = { type = "string", role = "ignored" }
income = { type = "number", range = [0, 1e9] }
"flag{1..3}" = { type = "boolean", default = false }
outcome = { type = "string" }
[target]
column = "outcome"
[split]
kind = "hash"
key = ["id"]
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of model folders with one small model in it."""
    (tmp_path / "loans").mkdir()
    (tmp_path / "loans" / "model.toml").write_text(SMALL)
    return tmp_path


def rewrite(models: Path, old: str, new: str) -> None:
    """Replace ``old`` in the small model's model.toml."""
    assert old in SMALL
    (models / "loans" / "model.toml").write_text(SMALL.replace(old, new))


@pytest.mark.parametrize("model", sorted(path.parent.name for path in MODELS.glob("*/model.toml")))
def test_every_model_folder_of_ours_is_valid(model: str) -> None:
    """A shipped example that does not load is worse than none."""
    config = load_model_config(MODELS, model, use_environment=False)
    assert config.model.attribution
    assert (MODELS / model / config.features.file).is_file()


def test_a_network_without_a_kind_is_of_the_default_kind(models: Path) -> None:
    """Who only wants it narrower need not know what kinds there are; the other kinds' keys stay unknown."""
    rewrite(models, "[split]", "[network]\nwidths = [8]\n[split]")
    assert load_model_config(models, "loans", use_environment=False).network == MlpPleNetwork(widths=(8,))
    rewrite(models, "[split]", "[network]\nsigma = 2.0\n[split]")
    with pytest.raises(ConfigError, match="unknown key 'sigma'"):
        load_model_config(models, "loans", use_environment=False)


def test_inputs_are_what_a_client_sends(models: Path) -> None:
    """Keys, ignored columns and the target are no inputs; braces stand for several columns."""
    columns = input_columns(load_model_config(models, "loans", use_environment=False))
    assert [(column.name, column.datatype) for column in columns] == [
        ("income", "FP64"),
        ("flag1", "BOOL"),
        ("flag2", "BOOL"),
        ("flag3", "BOOL"),
    ]
    assert columns[1].default is False


def test_the_source_table_names_what_is_no_input_and_what_null_looks_like(models: Path) -> None:
    """The service is given this, and reads a line of the training file as training did."""
    changes = ['etl.null_text=["NA", "?"]', "etl.delimiter=;"]
    config = load_model_config(models, "loans", overrides=changes, use_environment=False)
    assert source_table(config) == SourceTable(
        delimiter=";",
        null_text=("NA", "?"),
        unread={"id": "key", "note": "ignored", "outcome": "target"},
    )


def test_an_override_wins_over_the_environment_and_that_over_the_file(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order that docs/reference/model.md promises: flag, environment, file, default."""
    assert load_model_config(models, "loans").training.epochs == 30
    monkeypatch.setenv("TIMBERLINE_TRAINING_EPOCHS", "7")
    assert load_model_config(models, "loans").training.epochs == 7
    assert load_model_config(models, "loans", overrides=["training.epochs=3"]).training.epochs == 3


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('column = "outcome"', 'column = "outcom"', ["target.column", "'outcom'"]),
        ('key = ["id"]', 'key = ["idd"]', ["split", "'idd'"]),
        ('name = "loans"', 'name = "loan"', ["model.name", "'loan'"]),
        ('kind = "hash"', 'kind = "hsh"', ["split.kind", "'hsh'"]),
        ("range = [0, 1e9]", "rage = [0, 1e9]", ["columns", "'rage'", "did you mean 'range'"]),
        ("[target]", "[prior]\nmethod = 'given'\n[target]", ["prior", "values"]),
        ("[target]", "[training]\nepochs = 0\n[target]", ["training.epochs", "0"]),
        ("[target]", "[trainin]\nepochs = 1\n[target]", ["'trainin'", "did you mean 'training'"]),
        ('key = ["id"]', "key = []", ["split.key", "names no column"]),
        ("[target]", "[checks]\nunique_key = []\n[target]", ["checks.unique_key", "names no column"]),
        ("[target]", "[checks.one_hot]\nflags = []\n[target]", ["checks.one_hot.flags", "names no column"]),
        (
            "[target]",
            "[checks.one_hot]\nx = ['outcome']\n[target]",
            ["one_hot.x", "'outcome', which is text"],
        ),
        ('"string" }\n[target]', '"string", range = [0, 1] }\n[target]', ["outcome.range", "with numbers"]),
        ('"string" }\n[target]', '"string", allowed = [7] }\n[target]', ["outcome.allowed", "holds 7"]),
        ("range = [0, 1e9]", 'allowed = ["1", "high"]', ["income.allowed", "holds 'high'"]),
        ('key = ["id"]', 'key = ["id"]\nvalidation = 0.6\ntest = 0.4', ["split", "nothing to train on"]),
    ],
)
def test_a_mistake_is_told_with_its_place(models: Path, old: str, new: str, told: list[str]) -> None:
    """Whoever wrote the folder must be able to mend it from the message alone."""
    rewrite(models, old, new)
    with pytest.raises(ConfigError) as caught:
        load_model_config(models, "loans", use_environment=False)
    assert [word for word in told if word not in str(caught.value)] == [], str(caught.value)


def test_an_unknown_model_is_answered_with_the_known_ones(models: Path) -> None:
    """A typing mistake in MODEL= is the most common one."""
    with pytest.raises(ConfigError, match=r"no model 'loan'.*There are: loans"):
        load_model_config(models, "loan")


def test_another_folder_is_not_taken_for_one_without_models(tmp_path: Path) -> None:
    """Whoever has changed the folder would look for a lost model."""
    with pytest.raises(ConfigError, match=r"/models: no such folder\. Run this in the folder .*--models"):
        load_model_config(tmp_path / "models", "loans")


def test_a_folder_without_features_is_told_what_to_write(models: Path) -> None:
    """The second of the two files is forgotten at first, and what belongs into it is one line."""
    config = load_model_config(models, "loans", use_environment=False)
    with pytest.raises(
        ConfigError, match=r"loans/features\.sql: no such file\. Write one SELECT \.\.\. FROM raw"
    ):
        read_features_sql(config, models)


def test_braces_expand_to_numbered_names() -> None:
    """Forty one-hot columns are one line of model.toml."""
    assert expand_braces("Soil{9..11}_x") == ("Soil9_x", "Soil10_x", "Soil11_x")
    assert expand_braces("plain") == ("plain",)


@pytest.mark.parametrize(
    ("etl", "message"),
    [
        ('thousands = "."', r"`thousands` is '\.', which is the `decimal` too"),
        ('thousands = ","\ndecimal = ","', "`thousands` is ',', which is the `decimal` too"),
        ('escape = "\\\\"\ndelimiter = "\\\\"', "`delimiter` is .* which has the `escape` in it"),
        ('comment = ","', "`comment` is ',', expected a character that begins no row"),
        ('comment = " "', "`comment` is ' ', expected a character that begins no row"),
        ('true_text = ["Yes"]', "`false_text` is empty, and goes with `true_text`"),
        ('false_text = ["No"]', "`true_text` is empty, and goes with `false_text`"),
        ('true_text = ["Y", "x"]\nfalse_text = ["x"]', "`true_text` holds 'x', which is in `false_text` too"),
        ('true_text = ["Y"]\nfalse_text = [""]', "`false_text` holds '', which is in `null_text` too"),
        ("skip_lines = -1", "skip_lines"),
        ('thousands = ";"', "thousands"),
        ('comment = "//"', "comment"),
    ],
)
def test_settings_of_a_file_that_contradict_each_other_are_refused(
    models: Path, etl: str, message: str
) -> None:
    """A character with two meanings would be read as either, cell by cell."""
    rewrite(models, "[split]", f"[etl]\n{etl}\n[split]")
    with pytest.raises(ConfigError, match=message):
        load_model_config(models, "loans", use_environment=False)


@pytest.mark.parametrize(
    ("column", "key", "message"),
    [
        ('type = "integer", format = "%Y-%m-%d"', "format", "goes with dates and timestamps"),
        ('type = "date", format = "%d.%m"', "format", "'%d.%m' names no day"),
        ('type = "timestamp", format = "%Y-%m-%d %Z"', "format", "a time zone by name is not converted"),
        ('type = "date", range = [0, 1]', "range", 'is 0, and the column is a date. Write it as text: "1970'),
        (
            'type = "date", range = ["2013-01-01", "2013-02-30"]',
            "range",
            "'2013-02-30' names a day that does",
        ),
        ('type = "date", allowed = ["1.2.2013"]', "allowed", "'1.2.2013' is not a date such as"),
        ('type = "timestamp", default = 5', "default", "is 5, and the column is a timestamp"),
        ('type = "number", range = ["a", 1]', "range", "holds 'a', and the column is number"),
    ],
)
def test_values_that_are_no_moment_of_the_column_are_refused(
    models: Path, column: str, key: str, message: str
) -> None:
    """Before the table is read, with key and reason."""
    rewrite(models, 'type = "number", range = [0, 1e9]', column)
    with pytest.raises(ConfigError, match=rf"columns\.income\.{key}: .*{message}"):
        load_model_config(models, "loans", use_environment=False)


def test_values_of_a_date_are_whole_numbers_once_they_are_read(models: Path) -> None:
    """Checks, defaults and the signature compare them with what the table holds."""
    rewrite(
        models,
        'type = "number", range = [0, 1e9]',
        'type = "date", range = ["2013-01-01", "2013-12-31"], default = "2013-05-01", format = "%d.%m.%Y"',
    )
    config = load_model_config(models, "loans", use_environment=False)
    first = parse_moment("2013-01-01", "date")
    assert config.columns["income"].bounds == (first, first + 364)
    column = next(column for column in input_columns(config) if column.name == "income")
    assert (column.datatype, column.moment, column.time_format) == ("INT64", "date", "%d.%m.%Y")
    assert column.default == parse_moment("2013-05-01", "date")


@pytest.mark.parametrize("kind", ["date", "timestamp"])
def test_a_moment_is_no_class(models: Path, kind: str) -> None:
    """A day is a quantity, and each would be a class of its own."""
    rewrite(models, 'outcome = { type = "string" }', f'outcome = {{ type = "{kind}" }}')
    with pytest.raises(ConfigError, match=rf"target\.column: names column 'outcome', which is a {kind}"):
        load_model_config(models, "loans", use_environment=False)
