"""The baselines are honest: as good as they can be, on the same rows and prior as the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from registry.runs import CLASS_COLUMN
from training.baselines import score_baselines
from training.dataset import PreparedSplit


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


def test_logistic_regression_reaches_the_best_linear_rule(tmp_path: Path) -> None:
    """Two unit normals two apart are told apart in 84.13 % of even cases; a weak fit would flatter us."""
    train = write_split(tmp_path / "train.parquet", 6000, 0.5, seed=1)
    test = write_split(tmp_path / "test.parquet", 20_000, 0.5, seed=2)
    even = np.array([0.5, 0.5])
    scores = score_baselines(train, test, training_prior=even, deployment_prior=even, seed=0)
    assert abs(scores["logistic_regression"] - 0.8413) < 0.01
    assert abs(scores["majority_class"] - 0.5) < 0.02


def test_the_baseline_gets_the_same_prior_correction_as_the_network(tmp_path: Path) -> None:
    """Without it the network's lead would be the correction's, not its own."""
    train = write_split(tmp_path / "train.parquet", 6000, 0.5, seed=1)
    test = write_split(tmp_path / "test.parquet", 20_000, 0.9, seed=2)
    even, field = np.array([0.5, 0.5]), np.array([0.1, 0.9])
    plain = score_baselines(train, test, training_prior=even, deployment_prior=even, seed=0)
    corrected = score_baselines(train, test, training_prior=even, deployment_prior=field, seed=0)
    # The Bayes rule for a 9 : 1 prior moves the threshold from 0 to −ln(9)/2, worth about 9 points here.
    assert corrected["logistic_regression"] > plain["logistic_regression"] + 0.05
