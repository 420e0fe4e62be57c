"""How often a version's manifest is read and its graph hashed: on a network file system each counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.evaluations import publish_judged
from tests.support.forked import count_opens
from tests.support.manifests import give_verdict
from tests.support.quick import quick_settings
from timberline.benchmarks.gate.run import run_gate
from timberline.inference.config import ServiceConfig
from timberline.inference.metrics.counters import ServiceMetrics
from timberline.inference.models.loaded import LoadedModels
from timberline.registry.aliases import open_reference
from timberline.registry.checks import check_versions
from timberline.registry.names import ModelRef
from timberline.registry.promotion import promote
from timberline.registry.show import read_details
from timberline.registry.store import MODEL_FILE, Store
from timberline.registry.version import MANIFEST_FILE


@pytest.fixture
def store(store: Store) -> Store:
    """Version 1 in production; version 2 is the candidate, with a verdict that passes."""
    for alias in ("production", "candidate"):
        version = publish_judged(store, alias=alias)
    give_verdict(store, "tiny", version)
    return store


def _show(store: Store) -> None:
    read_details(store, open_reference(store, ModelRef("tiny", alias="candidate")))


def _serve(store: Store) -> None:
    LoadedModels(lambda: store, ServiceConfig(model="tiny@1"), ServiceMetrics()).load()


def _gate(store: Store) -> None:
    run_gate(store, "tiny", Path(store.location).parent / "data", quick_settings(), again=True)


@pytest.mark.parametrize(
    ("action", "manifests", "graphs"),
    [
        pytest.param(_show, 1, 0, id="show"),
        pytest.param(_serve, 1, 1, id="serve"),
        pytest.param(lambda store: check_versions(store, ModelRef("tiny"), 1), 1, 1, id="verify"),
        # The candidate as it is verified and as it is moved to, and the champion.
        pytest.param(lambda store: promote(store, "tiny", 2), 3, 1, id="promote"),
        # Both as their aliases are resolved, as they are compared and in the history of releases, and the
        # candidate before documents are written beside it.
        pytest.param(_gate, 7, 2, id="gate"),
    ],
)
def test_a_command_opens_a_version_once(
    store: Store, action: Callable[[Store], object], manifests: int, graphs: int
) -> None:
    """Each part that opens a version for itself reads and parses its manifest again."""
    counted = count_opens(lambda: action(store), [MANIFEST_FILE, MODEL_FILE])
    assert counted == {MANIFEST_FILE: manifests, MODEL_FILE: graphs}
