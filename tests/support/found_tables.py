"""Tables as people have them, written as files, and what `timberline init` makes of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from timberline.training.config import EtlSection, ModelConfig, load_model_config
from timberline.training.data.database import open_database
from timberline.training.init.columns import ColumnLook, TableLook, look_at_table
from timberline.training.init.form import Form, find_form
from timberline.training.init.run import run_init

MODEL = "found"


def write(folder: Path, text: str, *, name: str = "table.csv", encoding: str = "utf-8") -> Path:
    """The text as a file."""
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def lines(header: str, row: str, count: int = 40) -> str:
    """``count`` rows; ``{i}`` in ``row`` is the number, ``{c}`` one of two classes."""
    rows = [row.format(i=i, c="yes" if i % 3 else "no") for i in range(1, count + 1)]
    return "\n".join([header, *rows]) + "\n"


def pets(count: int = 400, seed: int = 0) -> str:
    """Text, gaps, dates, truth values in words, an id, a constant and free text; the class can be learned."""
    chance = random.Random(seed)
    found = ["Licence;Breed;Weight (kg);Chipped;Born;Town;Remark;Kind"]
    for number in range(1, count + 1):
        is_cat = chance.random() < 0.5
        breed = chance.choice(["Siamese", "Manx", "Mix"] if is_cat else ["Boxer", "Poodle", "Mix"])
        weight = f"{chance.gauss(4 if is_cat else 20, 1):.1f}".replace(".", ",")
        weight = weight if chance.random() > 0.1 else "NA"
        chipped = chance.choice(["yes", "no"])
        born = f"{chance.randint(1, 28):02}.{chance.randint(1, 12):02}.{chance.randint(2005, 2015)}"
        kind = "cat" if is_cat else "dog"
        found.append(f"{number};{breed};{weight};{chipped};{born};Bern;written by hand {number};{kind}")
    return "\n".join(found) + "\n"


def find(path: Path, scratch: Path) -> Form:
    """How the file is written."""
    scratch.mkdir(exist_ok=True)
    return find_form(path, scratch)


def look(path: Path, target: str = "") -> TableLook:
    """What the columns of the file hold."""
    scratch = path.parent / "scratch"
    form = find(path, scratch)
    with open_database(EtlSection(), scratch / "spill") as connection:
        return look_at_table(connection, form, target, path, scratch)


def column(table: TableLook, name: str) -> ColumnLook:
    """The column of that name, which must be there."""
    found = table.find(name)
    assert found is not None, [column.name for column in table.columns]
    return found


def init(path: Path, target: str, **options: Any) -> tuple[dict[str, Any], ModelConfig, str]:
    """Call `timberline init` on a file: its result, model.toml as the reader has it, features.sql."""
    folder = path.parent
    models = folder / "models"
    result = run_init(MODEL, str(path), target, models, folder / "data", **options)
    config = load_model_config(models, MODEL, use_environment=False)
    return result, config, (models / MODEL / "features.sql").read_text("utf-8")


def toml(folder: Path) -> str:
    """The text of model.toml that `init` has written beside a table in ``folder``."""
    return (folder / "models" / MODEL / "model.toml").read_text("utf-8")
