"""The committed pairs of runs: the rule of now, applied to them, ends each as it is written down."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from timberline.benchmarks.selftest.replay_rates import Judge, judge_pairs
from timberline.benchmarks.selftest.replays import Replays
from timberline.benchmarks.selftest.scenarios import DRIPS, RETRAINED
from timberline.benchmarks.settings import load_gate_settings, read_limits

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = ROOT / "docs" / "evidence"
RESULTS = (ROOT / "docs" / "results.md").read_text("utf-8")
MODELS = sorted(
    path.stem.removeprefix("replays-")
    for path in EVIDENCE.glob("replays-*.csv")
    if not path.stem.endswith("-runs")
)
# Every pair takes milliseconds, its calibration error a tenth of a second where it is looked at.
_EVERY = 9


def read(model: str) -> Replays:
    return Replays(EVIDENCE / f"replays-{model}.csv", {})


def test_three_models_are_kept_with_at_least_twenty_runs() -> None:
    """A stated rate without runs behind it is a wish."""
    assert {"electricity", "forest_cover", "forest_cover_full"} <= set(MODELS)
    for model in MODELS:
        seeds = {run.seed for run in read(model).read_runs() if run.arm == RETRAINED}
        pairs = {row.seeds for row in read(model).read_pairs() if row.arm == RETRAINED}
        assert len(seeds) >= 20
        assert pairs == {(one, other) for one in seeds for other in seeds if one != other}


@pytest.mark.parametrize("model", MODELS)
def test_the_rule_of_now_ends_each_pair_as_it_is_written_down(model: str) -> None:
    """Who changes a limit, a level or a test sees here what it does to real retrainings."""
    replays = read(model)
    limits = read_limits(ROOT / "models" / model / "model.toml")
    judge = Judge(replays.read_runs(), limits, load_gate_settings().accuracy)
    kept = replays.read_pairs()[::_EVERY]
    assert judge_pairs(kept, judge) == kept


@pytest.mark.parametrize("model", MODELS)
def test_the_page_tells_how_many_pairs_were_blocked(model: str) -> None:
    """Figures in a page outlive the files they came from."""
    rows = [row for row in read(model).read_pairs() if row.arm not in DRIPS]
    for arm in dict.fromkeys(row.arm for row in rows):
        mine = [row for row in rows if row.arm == arm]
        stated, noise = (sum(getattr(row, kind) == "BLOCK" for row in mine) for kind in ("stated", "noise"))
        found = re.search(
            rf"^\| {model} \| `{arm}` \|[^|]*\| (\d+) of (\d+)[^|]*\| (\d+) \| (\d+) \|$",
            RESULTS,
            re.MULTILINE,
        )
        assert found, (model, arm)
        passed = sum(row.stated == "PASS" for row in mine)
        assert [int(number) for number in found.groups()] == [stated, len(mine), noise, passed]


def test_the_page_tells_how_many_retrained_pairs_were_blocked_in_all() -> None:
    """The one figure that is quoted."""
    mine = [row for model in MODELS for row in read(model).read_pairs() if row.arm == RETRAINED]
    blocked = sum(row.stated == "BLOCK" for row in mine)
    assert (
        f"{blocked} of {len(mine):,} retrained pairs, {blocked / len(mine):.1%}".replace("%", " %") in RESULTS
    )
    assert not [row for row in mine if row.noise == "BLOCK"], "and none with the noise of five runs"
