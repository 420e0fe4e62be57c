"""``timberline features``: what a features.sql becomes, from the model folder alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from timberline.registry.runs import Fitted
from timberline.registry.runtime.documents import encode_document

_MODEL = """
[model]
name = "pets"
[source]
kind = "csv"
path = "pets.csv"
[columns]
breed = { type = "string", nullable = true }
weight = { type = "number", nullable = true }
age = { type = "integer" }
born = { type = "date" }
kind = { type = "string" }
[target]
column = "kind"
[split]
kind = "random"
"""
_PLAIN = """
SELECT age, age + 1 AS next, age + 2 AS later, breed LIKE 'a%' AS is_a, coalesce(weight, 0) AS kg
FROM raw
"""
_LEARNED = "SELECT breed, lower(breed) AS small, weight - fitted.mean(weight) AS over FROM raw"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with the model ``pets``, whose table has never been read."""
    folder = tmp_path / "models" / "pets"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(_MODEL, "utf-8")
    return folder.parent


def _run(models: Path, sql: str, *flags: str) -> subprocess.CompletedProcess[str]:
    (models / "pets" / "features.sql").write_text(sql, "utf-8")
    words = [sys.executable, "-m", "timberline", "features", "pets", "--models", str(models)]
    words += ["--data", str(models.parent / "data"), *flags]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def _read(models: Path, sql: str, *flags: str) -> dict[str, Any]:
    done = _run(models, sql, *flags)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_every_feature_has_its_text_its_operators_and_its_part_of_the_nodes(models: Path) -> None:
    """Nothing has been fetched: an author asks while writing."""
    answer = _read(models, _PLAIN)
    assert [feature["name"] for feature in answer["features"]] == ["age", "next", "later", "is_a", "kg"]
    assert answer["features"][3]["sql"] == "breed LIKE 'a%'"
    assert "RegexFullMatch" in answer["features"][3]["operators"]
    assert sum(feature["nodes"] for feature in answer["features"]) == pytest.approx(answer["nodes"], abs=0.05)
    spent = sum(feature["microseconds"] for feature in answer["features"])
    assert spent == pytest.approx(answer["microseconds"], abs=0.05)
    assert (answer["opset"], answer["minimum_onnxruntime"], answer["is_fitted"]) == (20, "1.17", True)


def test_table_has_one_line_for_what_differs_in_constants_only(models: Path) -> None:
    """A hundred one-hots are one thing to look at."""
    done = _run(models, _PLAIN, "--no-json")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["feature", "age", "next", "is_a", "kg"]
    assert "next (and 1 like it)" in lines[2]
    assert lines[5].startswith("5 features, ")
    assert "ONNX Runtime 1.17 or later" in lines[5]


def test_what_is_not_learned_yet_is_stood_in_for_and_said(models: Path) -> None:
    """A vocabulary comes from the table; the shape of the graph does not wait for it."""
    done = _run(models, _LEARNED)
    answer = json.loads(done.stdout)
    assert "nothing is learned yet" in done.stderr
    assert answer["is_fitted"] is False
    assert [feature["type"] for feature in answer["features"]] == ["category", "category", "DOUBLE"]


def test_what_etl_has_learned_is_used_while_the_text_is_the_same(models: Path) -> None:
    """Ten words cost other nodes than none; and another text has learned nothing yet."""
    prepared = models.parent / "data" / "prepared" / "pets"
    prepared.mkdir(parents=True)
    words = tuple("abcdefghij")
    fitted = Fitted(vocabularies={"breed": words, "small": words}, constants={"mean(weight)": 3.0})
    (prepared / "fitted.json").write_bytes(encode_document(fitted))
    answer = _read(models, _LEARNED)
    assert answer["is_fitted"] is True
    assert "RegexFullMatch" in answer["features"][1]["operators"]
    assert _read(models, _LEARNED.replace("mean", "median"))["is_fitted"] is False


def test_picture_is_written_where_it_is_asked_for(models: Path) -> None:
    """It opens in any browser."""
    path = models.parent / "graph.svg"
    answer = _read(models, _PLAIN, "--graph", str(path))
    texts = [element.text for element in ElementTree.parse(path).iter() if element.tag.endswith("text")]
    assert texts.count("RegexFullMatch") == 1
    assert f"{answer['nodes']} nodes" in (texts[0] or "")


@pytest.mark.parametrize("form", ["human", "json"])
def test_refusal_shows_the_place_in_a_terminal_and_is_one_line_of_json(models: Path, form: str) -> None:
    """The caret stands under the word where lines are lines, and a collector of logs gets one event."""
    done = _run(models, "SELECT\n  age,\n  sqt(age) AS n\nFROM raw", "--log-format", form)
    assert done.returncode == 2
    text = done.stderr if form == "human" else json.loads(done.stderr)["event"]
    lines = text.splitlines()
    assert "features.sql:3:3: the function sqt() is not supported. Did you mean 'sqrt'?" in lines[0]
    assert lines[1:3] == ["  3 |   sqt(age) AS n", "        ^"]
    if form == "json":
        assert len(done.stderr.splitlines()) == 1
