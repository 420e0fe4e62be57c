"""The benchmark of the registry: that it does what it states, on a real server."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.support.manifests import publish_tiny
from timberline.benchmarks.dev.registry import (
    BOUNDS_MS,
    Figure,
    RegistryReport,
    Settings,
    fill_registry,
    format_registry,
    measure_registry,
)
from timberline.registry.checks import check_versions
from timberline.registry.show import summarise_versions
from timberline.registry.store import Store, open_store


def test_every_operation_is_measured(store: Store, tmp_path: Path) -> None:
    """A bound without a figure looks met."""
    version = store.open_version("tiny", publish_tiny(store))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    settings = Settings(rounds=2, versions=3, large_bytes=1000)
    report = measure_registry(version, settings, scratch)
    assert report.figures.keys() == BOUNDS_MS.keys()
    assert {name: figure.times for name, figure in report.figures.items()} == dict.fromkeys(BOUNDS_MS, 2) | {
        "resolve": 20,
        "poll": 20,
    }
    assert all(0 < figure.low_ms <= figure.median_ms <= figure.high_ms for figure in report.figures.values())


def test_a_long_registry_is_a_whole_one(store: Store, tmp_path: Path) -> None:
    """What lists of damage take is another figure."""
    version = store.open_version("tiny", publish_tiny(store, model_bytes=b"\0" * 8, evaluation_bytes=b"\0"))
    long = open_store(tmp_path / "long")
    fill_registry(long, version, 3)
    listed = summarise_versions(long)
    assert [(each.version, each.aliases) for each in listed] == [(1, ()), (2, ()), (3, ("production",))]
    assert all(each.verdict and each.verdict.is_bound for each in listed)
    assert all(check.is_whole for check in check_versions(long, None))


@pytest.mark.parametrize(("median_ms", "word"), [(99.9, "met"), (100.1, "MISSED")])
def test_a_figure_is_held_against_its_bound(median_ms: float, word: str) -> None:
    """Whoever reads the table looks at the last column only."""
    figure = Figure(text="promote", at_most_ms=100.0, median_ms=median_ms, low_ms=1.0, high_ms=200.0, times=3)
    report = RegistryReport(
        model="tiny", version=1, version_bytes=23_000_000, created_at="now", figures={"promote": figure}
    )
    assert format_registry(report).endswith(f"1.0 to 200.0    100  {word}")
    assert figure.is_met is (word == "met")
    assert msgspec.json.decode(msgspec.json.encode(report), type=RegistryReport) == report
