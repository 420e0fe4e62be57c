"""One cluster for all of `make cluster-test`, and the figures that its tests leave, told at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster, running_cluster, save_images
from tests.support.engine import running_engine
from tests.support.installed import Note
from timberline import __version__

FIGURES: list[str] = []


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster with the images that the chart names, ready for pods."""
    with running_engine() as engine:
        engine.build("Dockerfile.serve", f"timberline-serve:{__version__}")
        engine.build("Dockerfile.train", f"timberline-tools:{__version__}", "--target", "tools")
        names = [f"timberline-{name}:{__version__}" for name in ("serve", "tools")]
        archive = save_images(engine, *names)
    with running_cluster(archive) as running:
        yield running


@pytest.fixture(scope="session")
def note() -> Note:
    """Keeps a line for the end."""
    return FIGURES.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell the figures."""
    if FIGURES:
        terminalreporter.section("figures of this cluster")
        for line in FIGURES:
            terminalreporter.write_line(line)
