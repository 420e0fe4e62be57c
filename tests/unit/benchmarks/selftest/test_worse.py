"""A model that is worse by so much, and a churn that is worse by nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.evaluations import encode_evaluation, publish_judged
from tests.support.registry_tree import folder_of
from timberline.benchmarks.analysis.evidence import judge_static
from timberline.benchmarks.errors import EvidenceError
from timberline.benchmarks.selftest.worse import Answers, draw_worse, read_answers, stage_worse, weigh_flips
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.manifest import GateLimits
from timberline.registry.store import EVALUATION_FILE, MODEL_FILE, open_store

ROWS = 200_000


def draw_answers(rows: int = ROWS, seed: int = 0) -> Answers:
    """Answers of a calibrated model of four classes: the truth is drawn from what it says."""
    chance = np.random.default_rng(seed)
    logits = chance.normal([2.0, 1.0, 0.0, 0.0], 2, (rows, 4))
    chances = np.exp(logits)
    chances /= chances.sum(axis=1, keepdims=True)
    truth = (chances.cumsum(axis=1) < chance.random((rows, 1))).sum(axis=1)
    return Answers(truth, chances.argmax(axis=1), chances)


def measure(before: Answers, after: Answers) -> tuple[float, float, float]:
    """Drop of accuracy, rate of discordance, rise of the log-loss."""
    lost, gained = before.correct & ~after.correct, ~before.correct & after.correct
    each = np.arange(before.truth.size)
    losses = [-np.log(answers.chances[each, answers.truth]).mean() for answers in (before, after)]
    return (
        float(lost.mean() - gained.mean()),
        float(lost.mean() + gained.mean()),
        float(losses[1] - losses[0]),
    )


@pytest.mark.parametrize("drop", [0.0, 0.005, 0.01])
def test_the_drop_and_the_churn_are_those_that_were_asked_for(drop: float) -> None:
    """A block rate at 1 % is only that when it was 1 % that was taken away."""
    answers = draw_answers()
    worse = draw_worse(answers, weigh_flips(answers), drop=drop, churn=0.05, chance=np.random.default_rng(1))
    seen, churn, _ = measure(answers, worse)
    # Standard deviation of the drop: sqrt(psi / N) = 0.0005; of the churn hardly less. Four of them.
    assert seen == pytest.approx(drop, abs=0.002)
    assert churn == pytest.approx(0.05, abs=0.002)
    np.testing.assert_allclose(worse.chances.sum(axis=1), 1.0)
    changed = answers.label != worse.label
    np.testing.assert_array_equal(worse.chances[~changed], answers.chances[~changed])


def test_a_churn_that_is_no_drop_changes_neither_recall_nor_log_loss() -> None:
    """Otherwise the gate would be right to block what is counted as its mistake."""
    answers = draw_answers()
    same = draw_worse(answers, weigh_flips(answers), drop=0.0, churn=0.05, chance=np.random.default_rng(1))
    assert measure(answers, same)[2] == pytest.approx(0.0, abs=0.002)
    for label in range(4):
        chosen = answers.truth == label
        recalls = [float(a.correct[chosen].mean()) for a in (answers, same)]
        assert recalls[1] == pytest.approx(recalls[0], abs=0.01)


def test_a_seed_repeats_a_draw() -> None:
    """A gate that was blocked has to be looked into, with the very same candidate."""
    answers = draw_answers(5000)
    weights = weigh_flips(answers)
    first, again, other = (
        draw_worse(answers, weights, drop=0.01, churn=0.05, chance=np.random.default_rng(seed)).label
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_more_churn_than_there_is_doubt_is_refused() -> None:
    """Cut short in silence, the drop would not be the one that is written beside the rate."""
    answers = draw_answers(5000)
    with pytest.raises(EvidenceError, match=r"too few rows in doubt for a churn of 90\.0%"):
        draw_worse(answers, weigh_flips(answers), drop=0.0, churn=0.9, chance=np.random.default_rng(1))


def test_a_staged_candidate_is_the_same_graph_with_worse_answers(tmp_path: Path) -> None:
    """Only the answers may differ, or something else could be what blocks; the source stays untouched."""
    source = open_store(tmp_path / "source")
    answers = draw_answers(20_000)
    rows = encode_evaluation(answers.truth % 3, answers.label % 3)
    limits = GateLimits(min_accuracy=0.0)
    version = publish_judged(source, alias="production", evaluation_bytes=rows, gate=limits)
    staged = stage_worse(source, "tiny", version, tmp_path / "scratch", drop=0.03, seed=1, churn=0.05)
    champion, candidate = (
        staged.store.open_version("tiny", number) for number in (staged.champion, staged.candidate)
    )
    assert champion.manifest.files == source.open_version("tiny", version).manifest.files
    assert candidate.manifest.files[MODEL_FILE] == champion.manifest.files[MODEL_FILE]
    assert candidate.manifest.files[EVALUATION_FILE] != champion.manifest.files[EVALUATION_FILE]
    before, after = (
        read_answers(folder_of(version) / EVALUATION_FILE)[0] for version in (champion, candidate)
    )
    assert measure(before, after)[0] == pytest.approx(0.03, abs=0.007)
    static = judge_static(
        staged.store, {"champion": champion, "candidate": candidate}, load_gate_settings().accuracy
    )
    assert {line.name: line.outcome for line in static.lines}["accuracy"] == "BLOCK"
    assert source.versions("tiny") == [version]
