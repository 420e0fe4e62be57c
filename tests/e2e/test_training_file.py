"""The file that a model was trained from, sent to the service as it is: the whole way around."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.makefile import Workshop
from tests.support.training_file import post_training_file

MODEL_TOML = """
[model]
name = "odd"
[source]
kind = "csv"
path = {path}
[target]
column = "answer"
[split]
kind = "random"
[network]
kind = "mlp"
widths = [8]
[training]
epochs = 2
[etl]
delimiter = ";"
decimal = ","
{rest}"""
HEADED = """\
null_text = ["NA", "?"]
[columns]
Id = { type = "integer", role = "ignored" }
owner = { type = "string", role = "key" }
height = { type = "number", nullable = true, default = 3 }
count = { type = "integer" }
is_wet = { type = "boolean", nullable = true }
colour = { type = "string", nullable = true }
spare = { type = "number" }
answer = { type = "string" }
"""
HEADED_SQL = """
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


BARE = """\
thousands = "."
escape = "\\\\"
header = false
skip_lines = 2
comment = "#"
null_text = ["NA"]
true_text = ["Ja"]
false_text = ["Nein"]
[columns]
owner = { type = "string", role = "key" }
born = { type = "date", format = "%d.%m.%Y" }
answer = { type = "string" }
seen = { type = "timestamp", nullable = true }
count = { type = "integer" }
is_wet = { type = "boolean", nullable = true }
colour = { type = "string", nullable = true }
"""
BARE_SQL = "SELECT year(born) AS year, hour(seen) AS hour, count, is_wet, colour FROM raw"


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
    ("rest", "features", "write"),
    [(HEADED, HEADED_SQL, write_table), (BARE, BARE_SQL, write_bare_table)],
    ids=["headed", "bare"],
)
def test_the_training_file_gets_the_answers_that_its_evaluation_has(
    tmp_path: Path, rest: str, features: str, write: Callable[[Path, int], bytes]
) -> None:
    """NULLs, flags, numbers, order of columns, delimiter: one row is one row, in training and in service."""
    folder = tmp_path / "models" / "odd"
    folder.mkdir(parents=True)
    body = write(tmp_path / "odd.csv", 400)
    text = MODEL_TOML.format(path=json.dumps(str(tmp_path / "odd.csv")), rest=rest)
    (folder / "model.toml").write_text(text, "utf-8")
    (folder / "features.sql").write_text(features, "utf-8")
    workshop = Workshop(tmp_path, "odd", folder.parent)
    workshop.export_here()
    answered, worst = post_training_file(workshop.registry, "odd", body)
    assert answered == 400
    assert worst <= 1e-6
