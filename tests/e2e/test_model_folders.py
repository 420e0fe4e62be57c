"""The folders that `init` proposed and somebody edited: each goes through to a published version.

Their own tables are downloads; here each has a small one of the same columns, written in the same way.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.made_tables import make_table
from tests.support.makefile import Workshop
from tests.support.training_file import post_training_file
from timberline.training.config import load_model_config

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"


def copy_folder(model: str, folder: Path, rows: int) -> Path:
    """The model folder with a made table in place of its source; the folder of models."""
    made = folder / "models" / model
    made.mkdir(parents=True)
    table = folder / f"{model}.csv"
    make_table(load_model_config(MODELS, model, use_environment=False), table, rows)
    text = (MODELS / model / "model.toml").read_text("utf-8")
    source = f'[source]\nkind = "csv"\npath = "{table}"\n\n'
    text, count = re.subn(r"^\[source\]\n.*?(?=^\[)", lambda _: source, text, flags=re.DOTALL | re.MULTILINE)
    assert count == 1
    (made / "model.toml").write_text(text, "utf-8")
    (made / "features.sql").write_bytes((MODELS / model / "features.sql").read_bytes())
    return made.parent


@pytest.mark.parametrize(("model", "rows"), [("penguins", 200), ("flights", 300), ("digits", 300)])
def test_the_folder_trains_and_its_tables_lines_get_the_answers_of_the_evaluation(
    model: str, rows: int, tmp_path: Path
) -> None:
    """Text with gaps, dates with many values, 784 columns: what others copy from has to work as it stands."""
    models = copy_folder(model, tmp_path, rows)
    workshop = Workshop(tmp_path, model, models)
    workshop.export_here(overrides="training.epochs=2")
    answered, worst = post_training_file(workshop.registry, model, (tmp_path / f"{model}.csv").read_bytes())
    assert answered == rows
    assert worst <= 1e-6
