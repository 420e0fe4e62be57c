"""A small table with the columns that a model folder declares, for stages without a download."""

from __future__ import annotations

import csv
import datetime
import random
from pathlib import Path

from timberline.training.config import ColumnSection, ModelConfig

_DAY = datetime.datetime(2013, 1, 1)
_WORDS = ("north", "south", "east", "west", "isle")


def make_table(config: ModelConfig, path: Path, rows: int, seed: int = 0) -> None:
    """Write ``rows`` lines as the files of ``config`` are written; the classes come in turn."""
    chance = random.Random(seed)
    classes = config.target.classes
    assert classes is not None
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=config.etl.delimiter)
        if config.etl.header:
            writer.writerow(config.columns)
        for number in range(rows):
            writer.writerow(
                classes[number % len(classes)].value
                if name == config.target.column
                else _cell(config, column, chance, number)
                for name, column in config.columns.items()
            )


def _cell(config: ModelConfig, column: ColumnSection, chance: random.Random, number: int) -> str:
    etl = config.etl
    if column.nullable and chance.random() < 0.1:
        return etl.null_text[-1]
    if column.type == "boolean":
        return chance.choice((*etl.true_text[:1], *etl.false_text[:1]) or ("true", "false"))
    if column.type == "integer":
        low, high = column.range or (1, 2359)
        return str(chance.randint(int(low), int(high)))
    if column.type == "number":
        return f"{chance.uniform(1, 50):.1f}"
    if column.type == "string":
        return chance.choice(_WORDS)
    moment = _DAY + datetime.timedelta(hours=7 * number)
    way = column.format or ("%Y-%m-%d" if column.type == "date" else "%Y-%m-%dT%H:%M:%SZ")
    return moment.strftime(way)
