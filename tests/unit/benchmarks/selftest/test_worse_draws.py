"""Block rates of worse models by their answers alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support.evaluations import encode_evaluation, publish_judged
from timberline.benchmarks.analysis.statistics import rows_to_block
from timberline.benchmarks.selftest.scenarios import bound_rate
from timberline.benchmarks.selftest.worse import DrawRow, Draws, format_draws, measure_draws, run_draws
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.manifest import GateLimits
from timberline.registry.store import open_store

SETTINGS = load_gate_settings()


def build_row(**changes: Any) -> DrawRow:
    """One draw that passed; ``changes`` replaces fields."""
    given: dict[str, Any] = {
        "config_digest": "ab" * 32,
        "rows": 20_000,
        "drop": 0.01,
        "churn": 0.05,
        "seed": 0,
        "seen_rows": 20_000,
        "seen_drop": 0.009,
        "seen_churn": 0.05,
        "outcome": "PASS",
        "deciding": "",
    }
    return DrawRow(**(given | changes))


@pytest.fixture(scope="module")
def draws(tmp_path_factory: pytest.TempPathFactory) -> Draws:
    """Draws from a version with a fifth of its answers wrong."""
    folder = tmp_path_factory.mktemp("draws")
    store = open_store(folder / "registry")
    chance = np.random.default_rng(0)
    truth = chance.integers(0, 3, 4000)
    label = np.where(chance.random(4000) < 0.2, (truth + 1) % 3, truth)
    version = publish_judged(
        store,
        alias="production",
        evaluation_bytes=encode_evaluation(truth, label),
        gate=GateLimits(min_accuracy=0.5),
    )
    return Draws(store, "tiny", version, SETTINGS, folder / "draws.csv")


def test_draws_go_on_where_they_were_and_are_the_same_again(draws: Draws) -> None:
    """Interrupted draws must neither be lost nor be counted twice."""
    run_draws(draws, drops=[0.0, 0.04], sizes=[2000], count=1)
    before = draws.read_done()
    run_draws(draws, drops=[0.0, 0.04], sizes=[2000], count=2)
    after = draws.read_done()
    assert after[: len(before)] == before
    assert sorted((row.drop, row.seed) for row in after) == [(0.0, 0), (0.0, 1), (0.04, 0), (0.04, 1)]
    assert {row.seen_rows for row in after} == {2000}
    worst = [row for row in after if row.drop == 0.04]
    assert all("accuracy" in row.deciding and row.outcome == "BLOCK" for row in worst)
    draws.path.unlink()
    run_draws(draws, drops=[0.0, 0.04], sizes=[2000], count=1)
    assert draws.read_done() == before


def test_more_rows_than_there_are_held_out_are_not_drawn(draws: Draws) -> None:
    """A model with a small test split is tested with the rows that it has, instead of a traceback."""
    few = replace(draws, path=draws.path.with_name("few.csv"))
    run_draws(few, drops=[0.0], sizes=[2000, 4001, 0], count=1)
    assert [row.seen_rows for row in few.read_done()] == [2000, 4000]


def test_a_rate_is_counted_for_each_number_of_rows_and_drop() -> None:
    """What 20,000 rows can find, 5,000 cannot; a rate over both would promise too much."""
    rows = [build_row(seed=n, outcome="BLOCK", deciding="accuracy+log_loss") for n in range(9)]
    rows += [build_row(seed=9), build_row(rows=0, seen_rows=90_000), build_row(drop=0.0)]
    rates = measure_draws(rows, SETTINGS, 0.005)
    assert [(rate.rows, rate.drop, rate.draws) for rate in rates] == [
        (20_000, 0.0, 1),
        (20_000, 0.01, 10),
        (90_000, 0.01, 1),
    ]
    assert (rates[1].low, rates[1].high) == bound_rate(9, 10)
    assert rates[1].by == {"accuracy": 9, "log_loss": 9}


def test_a_rate_is_stated_only_where_there_are_rows_enough() -> None:
    """No rule finds what the rows do not show, and the table says how many it would take."""
    accuracy = SETTINGS.accuracy
    needed = rows_to_block(0.05, 0.01, 0.005, alpha=accuracy.alpha_block, power=accuracy.power)
    rows = [build_row(seen_rows=60_000), build_row(rows=5000, seen_rows=5000), build_row(drop=0.0)]
    few, same, enough = measure_draws(rows, SETTINGS, 0.005)
    assert 5000 < needed <= 60_000
    assert [rate.stated for rate in (few, same, enough)] == [f"needs {needed:,} rows", "<= 1%", ">= 95%"]
    assert format_draws((few, same, enough)).count("\n") == 4
    (allowed,) = measure_draws([build_row()], SETTINGS, 0.01)
    assert allowed.stated == "within the limit"
