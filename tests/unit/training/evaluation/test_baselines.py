"""The baselines are honest: as good as they can be, on the same rows and prior as the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from timberline.registry.runs import CLASS_COLUMN
from timberline.training.evaluation import baselines
from timberline.training.evaluation.baselines import LogisticRegression, predict_baselines
from timberline.training.model.dataset import PreparedSplit


def write_split(path: Path, rows: int, share_of_second: float, seed: int) -> PreparedSplit:
    """Rows of two classes at −1 and +1 on one axis, with a constant and a noise column beside it."""
    generator = np.random.default_rng(seed)
    truth = (generator.random(rows) < share_of_second).astype(np.int16)
    columns = {
        CLASS_COLUMN: truth,
        "axis": (generator.normal(truth * 2.0 - 1.0) * 1000 + 5000).astype(np.float32),
        "noise": generator.normal(size=rows).astype(np.float32),
        "constant": np.full(rows, 7, np.float32),
    }
    pq.write_table(pa.table(columns), path, row_group_size=1000)
    return PreparedSplit(path, ("axis", "noise", "constant"))


def accuracies(train: PreparedSplit, test: PreparedSplit, deployment: list[float]) -> dict[str, float]:
    """Share of the test rows that each baseline gets right; the training prior is even."""
    answers = predict_baselines(
        train, test, training_prior=np.array([0.5, 0.5]), deployment_prior=np.array(deployment)
    )
    truth = np.concatenate([truth for _, truth in test.read_batches()])
    return {name: float((labels == truth).mean()) for name, labels in answers.items()}


def test_logistic_regression_reaches_the_best_linear_rule(tmp_path: Path) -> None:
    """Two unit normals two apart are told apart in 84.13 % of even cases; a weak fit would flatter us."""
    train = write_split(tmp_path / "train.parquet", 6000, 0.5, seed=1)
    test = write_split(tmp_path / "test.parquet", 20_000, 0.5, seed=2)
    scores = accuracies(train, test, [0.5, 0.5])
    assert abs(scores["logistic_regression"] - 0.8413) < 0.01
    assert abs(scores["majority_class"] - 0.5) < 0.02


def test_the_baseline_gets_the_same_prior_correction_as_the_network(tmp_path: Path) -> None:
    """Without it the network's lead would be the correction's, not its own."""
    train = write_split(tmp_path / "train.parquet", 6000, 0.5, seed=1)
    test = write_split(tmp_path / "test.parquet", 20_000, 0.9, seed=2)
    plain, corrected = accuracies(train, test, [0.5, 0.5]), accuracies(train, test, [0.1, 0.9])
    # The Bayes rule for a 9 : 1 prior moves the threshold from 0 to −ln(9)/2, worth about 9 points here.
    assert corrected["logistic_regression"] > plain["logistic_regression"] + 0.05


@pytest.mark.parametrize("rows", [30, 900, 5000])
def test_the_fit_is_at_the_minimum_however_few_rows_there_are(tmp_path: Path, rows: int) -> None:
    """Four epochs of large batches are four steps on a small table: .684 was printed where .847 is right.

    At the minimum of mean log-loss + ‖W‖²/(2 rows) every derivative is 0; it is taken here by the formula of
    one row and class at a time, not by the code that fitted.
    """
    split = write_split(tmp_path / "train.parquet", rows, 0.3, seed=rows)
    fitted = LogisticRegression(split, 2)
    features, truth = next(split.read_batches(rows))
    spread = features.std(axis=0, dtype=np.float64)
    scaled = (features - features.mean(axis=0, dtype=np.float64)) / np.where(spread > 0, spread, np.inf)
    weights, biases = fitted._weights[:-1], fitted._weights[-1]
    odds = np.exp(scaled @ weights + biases)
    missing = odds / odds.sum(axis=1, keepdims=True) - np.eye(2)[truth]
    slopes = np.array([[(scaled[:, f] * missing[:, c]).mean() for c in range(2)] for f in range(3)])
    assert np.abs(slopes + weights / rows).max() < 2e-4
    assert np.abs(missing.mean(axis=0)).max() < 2e-4


def test_classes_that_a_line_parts_are_fitted_too(tmp_path: Path) -> None:
    """Without the penalty the weights of iris or of penguins grow for ever."""
    axis = np.concatenate([np.linspace(-2, -1, 50), np.linspace(1, 2, 50)]).astype(np.float32)
    truth = (axis > 0).astype(np.int16)
    pq.write_table(pa.table({CLASS_COLUMN: truth, "axis": axis}), tmp_path / "a.parquet")
    split = PreparedSplit(tmp_path / "a.parquet", ("axis",))
    assert set(accuracies(split, split, [0.5, 0.5]).values()) == {0.5, 1.0}


def test_a_long_table_is_fitted_on_a_bounded_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory must not grow with the rows; the rows are shuffled, so the first ones are a fair sample."""
    monkeypatch.setattr(baselines, "_FIT_ROWS", 500)
    split = write_split(tmp_path / "train.parquet", 6000, 0.5, seed=1)
    first = write_split(tmp_path / "first.parquet", 6000, 0.5, seed=1)
    pq.write_table(pq.read_table(tmp_path / "first.parquet").slice(0, 500), tmp_path / "first.parquet")
    first = PreparedSplit(tmp_path / "first.parquet", split.features)
    np.testing.assert_array_equal(
        LogisticRegression(split, 2)._weights, LogisticRegression(first, 2)._weights
    )


def test_a_fit_that_does_not_converge_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A baseline that stopped half-way is too easy to beat."""
    monkeypatch.setattr(baselines, "_MAX_ITERATIONS", 1)
    LogisticRegression(write_split(tmp_path / "train.parquet", 900, 0.5, seed=1), 2)
    assert "the baseline's fit has not converged" in caplog.text


def write_categories(path: Path, rows: int, seed: int) -> PreparedSplit:
    """Two classes by a category of 30 values, in 9 of 10 rows, beside a number that says nothing."""
    generator = np.random.default_rng(seed)
    codes = generator.integers(2, 32, rows)
    truth = ((codes % 2 == 0) ^ (generator.random(rows) < 0.1)).astype(np.int16)
    columns = {CLASS_COLUMN: truth, "town": codes.astype(np.float32), "noise": generator.normal(size=rows)}
    pq.write_table(pa.table(columns), path)
    return PreparedSplit(path, ("town", "noise"), (32, None))


def test_the_baseline_knows_categories_as_one_hots(tmp_path: Path) -> None:
    """As one number a code would say nothing, and a network would easily beat that."""
    train = write_categories(tmp_path / "train.parquet", 3000, seed=1)
    test = write_categories(tmp_path / "test.parquet", 3000, seed=2)
    assert accuracies(train, test, [0.5, 0.5])["logistic_regression"] > 0.85


def test_a_fit_to_categories_is_at_the_minimum_too(tmp_path: Path) -> None:
    """The weights are searched in units of their own; the minimum does not depend on them."""
    split = write_categories(tmp_path / "train.parquet", 2000, seed=1)
    fitted = LogisticRegression(split, 2)
    features, truth = next(split.read_batches(2000))
    number = features[:, 1].astype(np.float64)
    one_hots = np.eye(32)[features[:, 0].astype(int)]
    ones = np.ones(len(truth))
    design = np.column_stack([(number - number.mean()) / number.std(), ones, one_hots])
    odds = np.exp(design @ fitted._weights)
    missing = odds / odds.sum(axis=1, keepdims=True) - np.eye(2)[truth]
    kept = fitted._weights.copy()
    kept[1] = 0.0  # the bias is not held small
    assert np.abs((design.T @ missing + kept) / len(truth)).max() < 2e-4


def test_only_the_commonest_values_have_a_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory must not grow with the values: 100,000 of them in ten classes are a million weights."""
    monkeypatch.setattr(baselines, "_MOST_VALUES", 4)
    split = write_categories(tmp_path / "train.parquet", 900, seed=1)
    fitted = LogisticRegression(split, 2)
    # The number, the bias, the codes of unknown values and of NULL, and four values.
    assert fitted._weights.shape == (1 + 1 + 2 + 4, 2)
    assert len(fitted.predict(next(split.read_batches())[0], np.zeros(2))) == 900


def test_null_is_filled_with_the_mean_and_has_a_flag(tmp_path: Path) -> None:
    """NaN in one product would make every answer of the baseline the first class."""
    generator = np.random.default_rng(0)
    truth = (generator.random(2000) < 0.5).astype(np.int16)
    values = np.where((truth == 1) & (generator.random(2000) < 0.8), np.nan, generator.normal(size=2000))
    pq.write_table(pa.table({CLASS_COLUMN: truth, "x": values.astype(np.float32)}), tmp_path / "a.parquet")
    split = PreparedSplit(tmp_path / "a.parquet", ("x",))
    assert accuracies(split, split, [0.5, 0.5])["logistic_regression"] > 0.85
