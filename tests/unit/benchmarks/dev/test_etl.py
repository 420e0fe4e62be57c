"""The benchmark of the ETL: its sums on recorded costs, and that all three do run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.tables import NAME, SmallTable, rows
from timberline.benchmarks.dev.etl import ProcessCost, measure_etl, run_measured, summarise
from timberline.benchmarks.errors import BenchmarkError


def cost(wall_s: float, rss: int = 0) -> ProcessCost:
    """A run that kept both processors busy."""
    return ProcessCost(wall_s=wall_s, cpu_s=2 * wall_s, peak_rss_bytes=rss)


def test_ratios_are_of_medians_and_memory_is_the_worst() -> None:
    """One disturbed round must not decide, and one large round must not be hidden."""
    found = summarise(
        {
            "copy": [cost(1.0), cost(9.0), cost(1.2)],
            "etl": [cost(3.0, 500), cost(2.4, 10**10), cost(2.0, 400)],
            "pandas": [cost(12.0), cost(12.0), cost(1.0)],
        }
    )
    assert found["ratios"]["etl_to_copy_wall"] == pytest.approx(2.0)
    assert found["ratios"]["etl_to_pandas_cpu"] == pytest.approx(0.2)
    assert found["etl"]["peak_rss_bytes"] == 10**10
    assert list(found["targets"].values()) == [True, True, False]


def test_a_failing_process_is_told_with_its_log() -> None:
    """A process that fails at once must not count as a fast one."""
    with pytest.raises(BenchmarkError, match=r"ended with 3: .*no such table"):
        run_measured([sys.executable, "-c", "import sys; sys.stderr.write('no such table'); sys.exit(3)"])


def test_all_three_prepare_the_same_table(tmp_path: Path) -> None:
    """A yardstick that does less work would make the ETL look slow, one that does more look fast."""
    table = SmallTable(
        tmp_path,
        rows(300),
        split='kind = "head"\nrows = 200',
        rest='[checks]\none_hot = { colour = ["red", "blue"] }',
        features="SELECT height, sqrt(power(height, 2)) AS same, weight / (height + 1.0) AS light FROM raw",
    )
    (table.models / NAME / "model.toml").write_text(
        (table.models / NAME / "model.toml")
        .read_text()
        .replace('place = { type = "string" }\n', "")
        .replace('is_old = { type = "boolean" }\n', "")
    )
    lines = (tmp_path / "table.csv").read_text().splitlines()
    kept = ["height,weight,red,blue,answer"]
    kept += [",".join([*line.split(",")[:4], line.rpartition(",")[2]]) for line in lines[1:]]
    (tmp_path / "table.csv").write_text("\n".join(kept) + "\n")
    found = measure_etl(model=NAME, models=table.models, data=table.data, rounds=1)
    assert json.loads(json.dumps(found))["rounds"] == 1
    assert all(found[name]["cpu_s"] > 0 for name in ("copy", "etl", "pandas"))
    assert not list(table.data.glob(".partial-*"))
