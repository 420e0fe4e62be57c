"""`timberline init` from its words to its two files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.found_tables import MODEL, init, pets, write
from timberline.registry.errors import ConfigError
from timberline.training.config import CsvSource, KaggleSource
from timberline.training.init.origin import find_source
from timberline.training.init.run import run_init

ROOT = Path(__file__).resolve().parents[4]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """The verb as a process."""
    command = [sys.executable, "-m", "timberline", "init", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_mixed_table_becomes_a_folder_that_the_strict_reader_takes(tmp_path: Path) -> None:
    """Text, gaps, dates, words and marks in one file: what people have, with nothing written by hand."""
    result, config, sql = init(write(tmp_path, pets(), encoding="cp1252"), "Kind")
    types = {name: column.type for name, column in config.columns.items() if column.role == "input"}
    assert types == {
        "Breed": "string",
        "Weight (kg)": "number",
        "Chipped": "boolean",
        "Born": "date",
        "Kind": "string",
    }
    assert config.columns["Weight (kg)"].nullable
    assert config.columns["Born"].format == "%d.%m.%Y"
    assert (config.etl.delimiter, config.etl.decimal, config.etl.null_text) == (";", ",", ("", "NA"))
    assert '"Weight (kg)"' in sql
    assert "year(Born) AS born_year" in sql
    assert result["ignored"] == ["Licence", "Town", "Remark"]
    assert result["classes"] == ["cat", "dog"]


def test_files_that_are_there_are_kept_without_force(tmp_path: Path) -> None:
    """What somebody has edited is worth more than a proposal."""
    path = write(tmp_path, pets())
    init(path, "Kind")
    edited = tmp_path / "models" / MODEL / "model.toml"
    edited.write_text("# edited\n")
    with pytest.raises(ConfigError, match="already, which are kept"):
        init(path, "Kind")
    assert edited.read_text() == "# edited\n"
    init(path, "Kind", force=True)
    assert edited.read_text() != "# edited\n"


def test_the_same_table_gives_the_same_files(tmp_path: Path) -> None:
    """A proposal that depends on threads or luck could not be reviewed."""
    path = write(tmp_path, pets())
    first = init(path, "Kind")[1:]
    assert init(path, "Kind", force=True)[1:] == first


@pytest.mark.parametrize("name", ["My-Table", "1st", "", "a b"])
def test_a_name_that_no_model_may_have_is_refused_first(tmp_path: Path, name: str) -> None:
    """The folder's name is in every URL and path; it is refused before a gigabyte is read."""
    with pytest.raises(ConfigError, match="name"):
        run_init(name, str(tmp_path / "none.csv"), "c", tmp_path / "models", tmp_path / "data")


def test_a_wrong_path_is_answered_with_what_is_there(tmp_path: Path) -> None:
    """A misspelt file is found by its neighbour, a folder lists its tables."""
    write(tmp_path, pets(), name="pets.csv")
    with pytest.raises(ConfigError, match=r"Did you mean .*pets\.csv"):
        find_source(str(tmp_path / "pet.csv"), tmp_path)
    with pytest.raises(ConfigError, match=r"is a folder.* It holds pets\.csv"):
        find_source(str(tmp_path), tmp_path)


def test_kaggle_and_urls_are_the_sources_that_fetch_reads(tmp_path: Path) -> None:
    """The words of the command line become [source]; nothing else has to know of them."""
    assert find_source("https://example.org/t.csv", tmp_path) == CsvSource(path="https://example.org/t.csv")
    assert find_source("kaggle:titanic/train.csv", tmp_path) == KaggleSource(
        competition="titanic", files=("train.csv",)
    )
    assert find_source("kaggle:owner/set/data/t.csv", tmp_path) == KaggleSource(
        dataset="owner/set", files=("data/t.csv",)
    )
    for wrong in ("kaggle:titanic", "kaggle:", "package:", "package:/x.csv"):
        with pytest.raises(ConfigError):
            find_source(wrong, tmp_path)


def test_the_verb_says_what_comes_next_and_ends_with_the_usual_codes(tmp_path: Path) -> None:
    """Scripts read the JSON, people the last line; a second call is wrong use."""
    path = write(tmp_path, pets())
    words = [MODEL, "--from", str(path), "--target", "Kind", "--models", str(tmp_path / "models")]
    words += ["--data", str(tmp_path / "data")]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["next"] == f"timberline release {MODEL} --models {tmp_path / 'models'}"
    assert "read the whole table" in done.stderr
    assert run(*words).returncode == 2
    assert run(MODEL, "--from", str(path), "--target", "Weight (kg)", "--force", *words[5:]).returncode == 1
