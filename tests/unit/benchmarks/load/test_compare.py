"""From rounds to figures with intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_rel

from timberline.benchmarks.errors import EvidenceError
from timberline.benchmarks.load.compare import compare_rounds
from timberline.benchmarks.load.settings import load_load_settings

RULES = load_load_settings().compare
CHAMPION = (4.1, 3.8, 5.0, 4.4, 3.9)
CANDIDATE = (4.6, 4.1, 5.1, 5.0, 4.5)


def test_the_ratio_is_paired_within_rounds() -> None:
    """A busy round falls on both arms; unpaired, its spread would drown the difference."""
    figure = compare_rounds("p50", "ms", {"champion": CHAMPION, "candidate": CANDIDATE}, RULES)
    paired = ttest_rel(np.log(CANDIDATE), np.log(CHAMPION))
    expected = paired.confidence_interval(1 - 2 * RULES.alpha)
    assert figure.ratio is not None
    assert math.log(figure.ratio.mean) == pytest.approx(np.mean(np.log(CANDIDATE) - np.log(CHAMPION)))
    assert (math.log(figure.ratio.low), math.log(figure.ratio.high)) == pytest.approx(tuple(expected))


def test_one_version_alone_has_no_ratio() -> None:
    """Its interval is Student's, of the logarithms."""
    figure = compare_rounds("p99", "ms", {"candidate": CANDIDATE}, RULES)
    logs = np.log(CANDIDATE)
    error = student.isf(RULES.alpha, 4) * logs.std(ddof=1) / math.sqrt(5)
    assert figure.ratio is None
    assert figure.arms["candidate"].high == pytest.approx(math.exp(logs.mean() + error))


def test_equal_steps_are_not_certainty() -> None:
    """A sweep that ends on the same step in every round has found a step, not a number."""
    rounds = {"champion": (800.0, 810.0), "candidate": (800.0, 810.0)}
    figure = compare_rounds("rate", "1/s", rounds, RULES, is_stepped=True)
    assert figure.ratio is not None
    assert figure.ratio.low < 0.97
    assert figure.ratio.high > 1.03


def test_a_rate_of_zero_is_no_figure() -> None:
    """Its logarithm would make everything infinite; nothing held is told by whoever measured it."""
    with pytest.raises(EvidenceError):
        compare_rounds("rate", "1/s", {"candidate": (0.0, 10.0)}, RULES)
