"""Functions that no standard defines to the last bit: the reference says how far the graph is off DuckDB."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.support import cosines
from tests.support.feature_forms import ROUNDED
from tests.support.markdown import ROOT
from tests.unit.exporter.compiler.test_compile import ask_in_double

FEATURES = (ROOT / "docs" / "reference" / "features.md").read_text("utf-8")
BOUNDS = dict(re.findall(r"^\| `([^`]+)` \| ([\d.e-]+(?: ulp)?) \|$", FEATURES, re.MULTILINE))


def draw_arguments(function: str) -> cosines.Doubles:
    """Numbers of every size that the function has a finite answer for."""
    generator = np.random.default_rng(8)
    if function in {"asin", "acos"}:
        sizes = 10.0 ** generator.uniform(-16, 0, 20_000)
        return np.concatenate([generator.uniform(-1, 1, 20_000), sizes, -sizes, 1 - sizes])
    if function in {"sin", "cos"}:
        return cosines.draw_near_angles()
    if function == "exp":
        return generator.uniform(-700, 700, 20_000)
    sizes = 10.0 ** generator.uniform(-300, 300, 20_000)
    positive = np.concatenate([sizes, generator.uniform(0, 1000, 20_000), np.arange(1.0, 2000.0)])
    return positive if function in {"ln", "log10", "log2", "pow"} else np.concatenate([positive, -positive])


@pytest.mark.parametrize("expression", sorted(BOUNDS))
def test_a_function_is_within_its_bound(expression: str) -> None:
    """A row near a split of the table may fall to the other side in service; how near, is said."""
    arguments = draw_arguments(expression.partition("(")[0])
    expected = cosines.compute_in_duckdb(expression, arguments)
    error = np.abs(ask_in_double(expression, arguments) - expected)
    bound, _, unit = BOUNDS[expression].partition(" ")
    assert np.isfinite(expected).all()
    assert (error <= float(bound) * (np.spacing(np.abs(expected)) if unit else 1.0)).all()


def test_every_function_that_is_rounded_has_a_bound() -> None:
    """Parity judges these with a tolerance; what it tolerates is in the reference."""
    named = {expression.partition("(")[0] for expression in BOUNDS}
    assert ROUNDED - {"tan"} <= named
