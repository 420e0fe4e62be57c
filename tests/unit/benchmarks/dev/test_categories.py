"""The benchmark of text columns: its tables are what its bounds speak of, and its bounds count."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec
import pytest

from timberline.benchmarks.dev.categories import (
    TABLES,
    CategoryReport,
    GraphCost,
    format_categories,
    write_model,
    write_table,
)
from timberline.training.config import input_columns, load_model_config, read_features_sql
from timberline.training.features import parse_features

REPORT = CategoryReport(
    rounds=1,
    machine={},
    graphs={name: GraphCost(nodes=20, row_us=50.0) for name in TABLES},
    cpu_us={"numbers": 50.0, "texts": 60.0},
    text_ratio=1.2,
)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_columns_that_its_model_folder_declares(name: str, tmp_path: Path) -> None:
    """A folder that the strict reader refuses would end the benchmark after its first minute."""
    table = TABLES[name]
    source = tmp_path / "table.csv"
    write_table(table, source)
    write_model(name, table, tmp_path / "models" / name, source)
    config = load_model_config(tmp_path / "models", name, use_environment=False)
    with source.open(encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == list(config.columns)
    texts = [index for index, column in enumerate(header) if column.startswith("t")]
    assert len(texts) == table.texts
    for index in texts:
        assert len({row[index] for row in rows}) == 1000
    program = parse_features(read_features_sql(config, tmp_path / "models"), input_columns(config))
    assert len(program.features) == table.numbers + table.texts


def test_a_missed_bound_is_told() -> None:
    """With --check the command ends with 1; a bound that is never missed would be none."""
    assert REPORT.is_met
    assert not msgspec.structs.replace(REPORT, text_ratio=1.7).is_met
    slow = {**REPORT.graphs, "one_hots": GraphCost(nodes=20, row_us=101.0)}
    assert not msgspec.structs.replace(REPORT, graphs=slow).is_met
    assert "texts / numbers: 1.20 (at most 1.6)" in format_categories(REPORT)
