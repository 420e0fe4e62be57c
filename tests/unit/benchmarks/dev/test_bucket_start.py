"""The benchmark of a service of a bucket: that it does what it states, on a real server."""

from __future__ import annotations

from pathlib import Path

from tests.support.tiny_model import publish_numeric
from timberline.benchmarks.dev.bucket_start import BOUNDS, measure_starts
from timberline.benchmarks.dev.registry import format_figures
from timberline.registry.store import Store


def test_every_start_is_measured(store: Store, tmp_path: Path) -> None:
    """A bound without a figure looks met; a start without the bucket is one only if the bucket is gone."""
    version = store.open_version("tiny", publish_numeric(store))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    figures = measure_starts(version, 1, scratch)
    assert {name: figure.times for name, figure in figures.items()} == dict.fromkeys(BOUNDS, 1) | {"poll": 10}
    assert all(0 < figure.low_ms <= figure.median_ms <= figure.high_ms for figure in figures.values())
    table = format_figures("tiny@1", figures)
    assert all(bound.text in table for bound in BOUNDS.values())
