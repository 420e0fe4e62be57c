"""Runs of one recipe laid side by side: what is kept of a pair, and the rates that come of it."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.support.replayed import LABELS, write_runs
from timberline.benchmarks.__main__ import main
from timberline.benchmarks.analysis.predictions import (
    QualityComparison,
    compare_predictions,
    read_predictions,
)
from timberline.benchmarks.analysis.quality import (
    judge_calibration,
    judge_drop,
    judge_log_loss,
    judge_recalls,
    judge_slices,
)
from timberline.benchmarks.errors import EvidenceError
from timberline.benchmarks.selftest.replay_rates import Judge, bound_by_seeds, judge_pairs, measure_rates
from timberline.benchmarks.selftest.replays import (
    PairRow,
    Replays,
    RunRow,
    measure_replays,
    restore_comparison,
)
from timberline.benchmarks.selftest.scenarios import DRIP, DRIP_RETRAINED, DRIPS, RETRAINED, read_folders
from timberline.benchmarks.settings import load_gate_settings, read_limits
from timberline.registry.errors import ConfigError
from timberline.registry.manifest import GateLimits

SETTINGS = load_gate_settings().accuracy
LIMITS = GateLimits(slices={"left": "x < 0"})
CLASSES = [label.value for label in LABELS]
SEEDS = range(9)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine runs that are equal but for their seed, and three of a recipe that is 3 points worse."""
    place = tmp_path_factory.mktemp("replays")
    write_runs(place / "good", SEEDS, rows=60_000)
    write_runs(place / "half", range(3), rows=60_000, wrong=0.13)
    return place


@pytest.fixture(scope="module")
def replays(place: Path) -> Replays:
    """All their pairs, and nine drips of each kind."""
    found = Replays(place / "pairs.csv", {RETRAINED: place / "good", "half": place / "half"})
    measure_replays(found, slices=["left"], chains={DRIP: 9, DRIP_RETRAINED: 9})
    return found


@pytest.fixture(scope="module")
def judge(replays: Replays) -> Judge:
    return Judge(replays.read_runs(), LIMITS, SETTINGS)


def test_every_ordered_pair_is_there_once(replays: Replays) -> None:
    """A release of one run over another is not that of the other over the one."""
    pairs = [row.seeds for row in replays.read_pairs() if row.arm == RETRAINED]
    assert pairs == list(itertools.permutations(SEEDS, 2))
    worse = sorted(row.seeds for row in replays.read_pairs() if row.arm == "half")
    assert worse == [(one, other) for one in SEEDS for other in range(3)]


def test_measuring_goes_on_where_it_was(tmp_path: Path) -> None:
    """Five hundred pairs of half a million rows take minutes, and more runs come later."""
    write_runs(tmp_path / "good", range(3))
    replays = Replays(tmp_path / "pairs.csv", {RETRAINED: tmp_path / "good"})
    measure_replays(replays, slices=[], chains={})
    before = replays.path.read_bytes(), replays.runs_path.read_bytes()
    measure_replays(replays, slices=[], chains={})
    assert (replays.path.read_bytes(), replays.runs_path.read_bytes()) == before
    write_runs(tmp_path / "good", [3])
    measure_replays(replays, slices=[], chains={})
    after = replays.path.read_bytes(), replays.runs_path.read_bytes()
    assert all(new.startswith(old) for old, new in zip(before, after, strict=True))
    assert sorted(row.seeds for row in replays.read_pairs()) == list(itertools.permutations(range(4), 2))


def compare(place: Path, row: PairRow, arm: str) -> QualityComparison:
    sides = [
        read_predictions(place / folder / str(seed) / "evaluation.parquet", len(CLASSES), ["left"])
        for folder, seed in zip(("good", arm), row.seeds, strict=True)
    ]
    champion, candidate = sides
    return compare_predictions(champion, candidate, CLASSES)


@pytest.mark.parametrize(("arm", "folder"), [(RETRAINED, "good"), ("half", "half")])
def test_a_pair_that_is_read_back_is_judged_as_the_answers_are(
    place: Path, replays: Replays, judge: Judge, arm: str, folder: str
) -> None:
    """The committed rows stand for answers that nobody has any more."""
    row = next(row for row in replays.read_pairs() if row.arm == arm)
    real, kept = compare(place, row, folder), restore_comparison(row, replays.read_runs()[0])
    assert kept.pairs == real.pairs
    assert [part.pairs for part in kept.recalls] == [part.pairs for part in real.recalls]
    assert [part.pairs for part in kept.slices] == [part.pairs for part in real.slices]
    assert [part.label for part in kept.recalls] == CLASSES
    for line in (judge_drop, judge_recalls, judge_slices, judge_log_loss, judge_calibration):
        found, expected = line(kept, judge.stated, SETTINGS), line(real, judge.stated, SETTINGS)
        assert (found.outcome, found.mark) == (expected.outcome, expected.mark), expected
        # Six digits are kept, and the bounds of the calibration error are those of a normal distribution
        # through two of them: the bootstrap's own error is a twentieth of its deviation.
        tolerance = 0.1 * row.ece_sd if line is judge_calibration else 1e-6
        assert found.difference == pytest.approx(expected.difference, abs=10 * tolerance)
        assert found.low == pytest.approx(expected.low, abs=tolerance)


def test_a_release_of_a_drip_loses_what_it_is_said_to(replays: Replays) -> None:
    """0.3 % of the rows more with every release, on top of what the seed does."""
    rows = 60_000
    accuracy = {run.seed: run.accuracy for run in replays.read_runs() if run.arm == RETRAINED}
    for row in (row for row in replays.read_pairs() if row.arm in DRIPS):
        champion, candidate = row.seeds
        steps = int(row.candidate.split("+")[1]) - int(row.champion.split("+")[1])
        drop = (row.lost - row.gained) / rows
        by_seed = accuracy[champion] - accuracy[candidate]
        # Every row that changes sides is a draw of its own: five standard deviations of a binomial count.
        churn = 0.1 if row.arm == DRIP else 0.009
        assert drop - by_seed == pytest.approx(0.003 * steps, abs=5 * np.sqrt(churn / rows))


def test_equal_runs_pass_and_worse_ones_are_blocked(replays: Replays, judge: Judge) -> None:
    """The rates that docs/reference/gate.md states, on runs whose noise is known to be small."""
    pairs = judge_pairs(replays.read_pairs(), judge)
    rates = {(rate.arm, rate.limits): rate for rate in measure_rates(pairs, judge)}
    for limits in ("stated", "noise"):
        equal, worse = rates[RETRAINED, limits], rates["half", limits]
        assert (equal.count, equal.blocked, equal.passed, equal.high) == (72, 0, 72, 0.0)
        assert (equal.stated, equal.finding) == ("<= 2%", "kept")
        assert (worse.count, worse.blocked, worse.low, worse.finding) == (27, 27, 1.0, "kept")
        drip = [rates[f"drip, by release {release}", limits] for release in range(1, 6)]
        assert not {"accuracy", "accuracy_total"} & drip[0].by.keys()
        # 60,000 rows prove a drop beyond 0.6 % when it is 1.5 %; half a million do when it is 0.9 %.
        assert (drip[4].count, drip[4].blocked) == (9, 9)
        assert drip[4].by["accuracy_total"] >= 6  # where no other line came first


def test_the_noise_of_a_pair_is_never_that_of_its_candidate(replays: Replays) -> None:
    """A candidate whose own run widened the limits would be let through for being bad."""
    runs = [
        msgspec.structs.replace(run, accuracy=0.2, log_loss=9.0) if run.seed == 4 else run
        for run in replays.read_runs()
        if run.arm == RETRAINED
    ]
    judge = Judge(runs, LIMITS, SETTINGS)
    for seed in SEEDS:
        if seed != 4:
            assert judge.with_noise(seed, [4]).accuracy.noise < 0.1
    assert judge.with_noise(4, [0]).accuracy.noise > 0.1


def test_the_bounds_are_of_seeds_and_not_of_pairs() -> None:
    """One bad seed among ten makes a tenth of the pairs; ninety pairs would be far too sure of that."""
    blocked = {(one, other): other == 3 for one, other in itertools.permutations(range(10), 2)}
    low, high = bound_by_seeds(blocked, is_one_recipe=True)
    assert low == 0.0
    assert 0.2 < high < 0.5
    everything = dict.fromkeys(blocked, True)
    assert bound_by_seeds(everything, is_one_recipe=True) == (1.0, 1.0)
    assert bound_by_seeds(everything, is_one_recipe=False) == (1.0, 1.0)
    halves = {(one, other): other < 5 for one in range(3) for other in range(10)}
    low, high = bound_by_seeds(halves, is_one_recipe=False)
    assert low < 0.25
    assert high > 0.75


def build_chain_pairs(drop_of: int) -> tuple[list[PairRow], list[RunRow]]:
    """Pairs of 18 equal runs, one of which is right in 4 % fewer of 10,000 rows."""
    pairs = []
    for one, other in itertools.permutations(range(18), 2):
        worse = (other == drop_of) - (one == drop_of)
        pairs.append(
            PairRow(
                arm=RETRAINED,
                chain=0,
                champion=str(one),
                candidate=str(other),
                lost=300 + 200 * worse,
                gained=300 - 200 * worse,
                parts="",
                loss_change=0.0,
                loss_sd=0.1,
                ece_change=0.0,
                ece_sd=0.001,
            )
        )
    runs = [
        RunRow(arm=RETRAINED, seed=n, rows=10_000, accuracy=0.9, log_loss=0.3, ece=0.01, recalls="", parts="")
        for n in range(18)
    ]
    return pairs, runs


@pytest.mark.parametrize(("drop_of", "share"), [(-1, 0.0), (5, 12 / 18)])
def test_chains_of_equal_releases_are_followed(drop_of: int, share: float) -> None:
    """The line about earlier releases asks twelve times as often: it must not block twelve times as often."""
    pairs, runs = build_chain_pairs(drop_of)
    judge = Judge(runs, GateLimits(), SETTINGS)
    judged = [msgspec.structs.replace(row, stated="PASS", noise="PASS") for row in pairs]
    (chain,) = (
        rate
        for rate in measure_rates(judged, judge)
        if rate.arm == "12 equal releases" and rate.limits == "stated"
    )
    # A worse run is one of the twelve releases after the first in 12 of 18 chains; 5 SD of 200 chains.
    assert chain.rate == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / 200))


def test_the_command_writes_how_each_pair_ended(
    place: Path, replays: Replays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is what is committed; judging it again needs no run."""
    limits = tmp_path / "model.toml"
    # With the default of 0.6 % the drips are stated to be stopped, which so few rows cannot prove.
    text = '[gate]\nmax_accuracy_drop_total = 0.01\n[gate.slices]\nleft = "x < 0"\n'
    limits.write_text(text, "utf-8")
    path = tmp_path / "pairs.csv"
    path.write_bytes(replays.path.read_bytes())
    path.with_name("pairs-runs.csv").write_bytes(replays.runs_path.read_bytes())
    flags = ["selftest", "--replays", str(place / "good"), "--limits", str(limits), "--csv", str(path)]
    worse = ["--worse", f"half={place / 'half'}"]
    # 22 drips are wanted: 9 are there.
    assert main([*flags, *worse]) == 0
    first = msgspec.json.decode(capsys.readouterr().out)
    rows = Replays(path, {}).read_pairs()
    assert {row.stated for row in rows if row.arm == RETRAINED} == {"PASS"}
    assert {(row.stated, "accuracy" in row.stated_by) for row in rows if row.arm == "half"} == {
        ("BLOCK", True)
    }
    assert main([*flags, "--report"]) == 0
    assert msgspec.json.decode(capsys.readouterr().out) == first


def test_runs_on_other_rows_are_refused(tmp_path: Path) -> None:
    """Pairs of rows that are not the same would be compared by their numbers alone."""
    write_runs(tmp_path / "good", range(2), rows=6000)
    write_runs(tmp_path / "good", [2], rows=5000)
    replays = Replays(tmp_path / "pairs.csv", {RETRAINED: tmp_path / "good"})
    with pytest.raises(EvidenceError, match="answers other rows than the first run"):
        measure_replays(replays, slices=[], chains={})
    assert replays.read_pairs() == []
    with pytest.raises(EvidenceError, match="has no run"):
        measure_replays(Replays(tmp_path / "p.csv", {RETRAINED: tmp_path}), slices=[], chains={})


@pytest.mark.parametrize("worse", ["half", "half=", "Half=x", "retrained=x", "drip=x"])
def test_an_arm_that_is_none_is_refused(tmp_path: Path, worse: str) -> None:
    """A folder under a wrong name would be counted as something else."""
    with pytest.raises(ConfigError, match="--worse"):
        read_folders(tmp_path, [worse])


def test_limits_of_a_model_toml_without_gate_are_the_defaults(tmp_path: Path) -> None:
    """Models that state nothing are judged by what the gate would take, and a typing error is told."""
    path = tmp_path / "model.toml"
    path.write_text('[model]\nname = "x"\n', "utf-8")
    assert read_limits(path) == GateLimits()
    path.write_text("[gate]\nmax_acuracy_drop = 0.1\n", "utf-8")
    with pytest.raises(ConfigError, match="max_acuracy_drop"):
        read_limits(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_limits(tmp_path / "absent.toml")
