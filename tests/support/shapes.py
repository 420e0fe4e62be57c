"""Columns of the shapes that tables have, and their training histograms.

rows = draw_rows(seed=1, rows=1000)      # (1000, len(SHAPES))
histogram = profile(rows[:, 0])
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from timberline.registry.manifest import Histogram

# The shapes that tables have: bell, long tail, two peaks, flat, a few whole numbers, rare and common flags.
SHAPES: dict[str, Callable[[np.random.Generator, int], npt.NDArray[np.float64]]] = {
    "bell": lambda random, rows: random.normal(2800, 400, rows),
    "tail": lambda random, rows: random.exponential(300, rows),
    "heavy_tail": lambda random, rows: random.lognormal(0, 1.2, rows),
    "peaks": lambda random, rows: np.where(random.random(rows) < 0.6, random.normal(0, 1, rows), 8.0),
    "flat": lambda random, rows: random.uniform(0, 360, rows),
    "whole": lambda random, rows: random.poisson(3, rows).astype(np.float64),
    "rare": lambda random, rows: (random.random(rows) < 0.005).astype(np.float64),
    "common": lambda random, rows: (random.random(rows) < 0.4).astype(np.float64),
    "constant": lambda random, rows: np.zeros(rows),
}

FLAGS = {"rare": 0.005, "common": 0.4, "constant": 0.0}


def profile(values: npt.NDArray[np.float64]) -> Histogram:
    """The histogram that training writes into a manifest."""
    found = values[~np.isnan(values)]
    nulls = len(values) - len(found)
    if len(np.unique(found)) <= 20:
        edges = np.arange(found.min() - 0.5, found.max() + 1.5)
    else:
        edges = np.linspace(found.min(), found.max(), 21)
    counts = np.histogram(found, edges)[0]
    return Histogram(counts=tuple(counts.tolist()), edges=tuple(edges.tolist()), nulls=nulls)


def draw_rows(seed: int, rows: int) -> npt.NDArray[np.float64]:
    """Rows like those of training, (rows, shapes)."""
    random = np.random.default_rng(seed)
    return np.column_stack([draw(random, rows) for draw in SHAPES.values()])
