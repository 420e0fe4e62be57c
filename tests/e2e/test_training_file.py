"""The file that a model was trained from, sent to the service as it is: the whole way around."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.registry_tree import folder_of
from tests.support.service import running_service
from timberline.registry.store import open_store

ROOT = Path(__file__).resolve().parents[2]
MODEL_TOML = """
[model]
name = "odd"
[source]
kind = "csv"
path = {path}
[columns]
Id = {{ type = "integer", role = "ignored" }}
owner = {{ type = "string", role = "key" }}
height = {{ type = "number", nullable = true, default = 3 }}
count = {{ type = "integer" }}
is_wet = {{ type = "boolean", nullable = true }}
colour = {{ type = "string", nullable = true }}
spare = {{ type = "number" }}
answer = {{ type = "string" }}
[target]
column = "answer"
[split]
kind = "random"
[etl]
delimiter = ";"
decimal = ","
null_text = ["NA", "?"]
[network]
kind = "mlp"
widths = [8]
[training]
epochs = 2
"""
FEATURES_SQL = """
SELECT coalesce(height, -1) AS height_or_less, count, coalesce(is_wet, false) AS wet,
  is_wet IS NULL AS wet_unknown, coalesce(colour = '', false) AS no_colour,
  coalesce(colour = 'red', false) AS red
FROM raw
"""


def write_table(path: Path, rows: int) -> bytes:
    """A table with everything in it that two readers may read in two ways; its bytes."""
    chance = random.Random(0)
    lines = ["Id;answer;owner;spare;count;is_wet;height;colour"]
    for index in range(rows):
        count = chance.randrange(1000, 9999)
        written = chance.choice(
            [f"{count // 1000}_{count % 1000:03}", f" {count}", f"+{count},0", f"{count}e0"]
        )
        wet = chance.choice(["yes", "NO", "t", "F", "1", "0", "True", "NA"])
        height = chance.choice(["NA", "?", "nan", "1,", ",5", " 2,5", "1e1"])
        colour = chance.choice(["red", "", '"re;d"', ' "red" ', "NA", '"?"'])
        answer = "big" if count > 5500 else "small"
        spare = f"{chance.random()}".replace(".", ",")
        lines.append(f"{index};{answer};owner {index};{spare};{written};{wet};{height};{colour}")
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path.read_bytes()


BARE_TOML = """
[model]
name = "odd"
[source]
kind = "csv"
path = {path}
[columns]
owner = {{ type = "string", role = "key" }}
born = {{ type = "date", format = "%d.%m.%Y" }}
answer = {{ type = "string" }}
seen = {{ type = "timestamp", nullable = true }}
count = {{ type = "integer" }}
is_wet = {{ type = "boolean", nullable = true }}
colour = {{ type = "string", nullable = true }}
[target]
column = "answer"
[split]
kind = "random"
[etl]
delimiter = ";"
decimal = ","
thousands = "."
escape = "\\\\"
header = false
skip_lines = 2
comment = "#"
null_text = ["NA"]
true_text = ["Ja"]
false_text = ["Nein"]
[network]
kind = "mlp"
widths = [8]
[training]
epochs = 2
"""
BARE_FEATURES_SQL = "SELECT year(born) AS year, hour(seen) AS hour, count, is_wet, colour FROM raw"


def write_bare_table(path: Path, rows: int) -> bytes:
    """A table without a line of names, written as no other reader expects it; its bytes."""
    chance = random.Random(0)
    lines = ["made by hand; in a hurry", ""]
    for index in range(rows):
        count = chance.randrange(1000, 9999)
        born = f"{chance.randrange(1, 29):02}.{chance.randrange(1, 13):02}.{chance.randrange(1950, 2020)}"
        seen = chance.choice(["NA", "2013-05-01", "2013-05-01 12:30:15.25", "2013-05-01T23:30:00+02:00"])
        colour = chance.choice(["red", "green", r'"half; \"blue\""', r'"a \\ b"', "NA", f"once {index}"])
        answer = "big" if count > 5500 else "small"
        lines += ["# a comment"] if index % 50 == 0 else []
        written = f"{count // 1000}.{count % 1000:03}"
        lines.append(
            f"owner {index};{born};{answer};{seen};{written};{chance.choice(['Ja', 'Nein', 'NA'])};{colour}"
        )
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("toml", "features", "write"),
    [(MODEL_TOML, FEATURES_SQL, write_table), (BARE_TOML, BARE_FEATURES_SQL, write_bare_table)],
    ids=["headed", "bare"],
)
def test_the_training_file_gets_the_answers_that_its_evaluation_has(
    tmp_path: Path, toml: str, features: str, write: Callable[[Path, int], bytes]
) -> None:
    """NULLs, flags, numbers, order of columns, delimiter: one row is one row, in training and in service."""
    folder = tmp_path / "models" / "odd"
    folder.mkdir(parents=True)
    body = write(tmp_path / "odd.csv", 400)
    text = toml.format(path=json.dumps(str(tmp_path / "odd.csv")))
    (folder / "model.toml").write_text(text, "utf-8")
    (folder / "features.sql").write_text(features, "utf-8")
    places = ["--model", "odd", "--models", str(folder.parent), "--data", str(tmp_path / "data")]
    registry = tmp_path / "registry"
    verbs = [["training", verb, *places] for verb in ("fetch", "etl", "train", "evaluate")]
    for command in (*verbs, ["exporter", "export", *places, "--registry", str(registry)]):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    manifest = open_store(registry).open_version("odd", 1).manifest
    evaluation = pq.read_table(
        folder_of(open_store(registry).open_version("odd", 1)) / "evaluation.parquet"
    ).to_pydict()
    with running_service(registry, "odd@1") as service:
        status, _, answer = service.request("POST", "/predict", body, {"Content-Type": "text/csv"})
    assert status == 200, answer
    found = json.loads(answer)["predictions"]
    assert len(found) == 400
    assert len(evaluation["row"]) == 80
    for at, row in enumerate(evaluation["row"]):
        expected = {
            label.value: evaluation[f"p_{i}"][at] for i, label in enumerate(manifest.signature.classes)
        }
        assert found[row]["probabilities"] == pytest.approx(expected, abs=1e-5), row
