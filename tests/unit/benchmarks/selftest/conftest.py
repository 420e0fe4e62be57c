"""What several of these tests need."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.evaluations import publish_judged
from timberline.benchmarks.selftest.run import SelfTest
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.manifest import GateLimits
from timberline.registry.store import Store


@pytest.fixture
def test(store: Store, tmp_path: Path) -> SelfTest:
    """A self-test of a tiny version."""
    version = publish_judged(store, alias="production", gate=GateLimits(min_accuracy=0.5))
    return SelfTest(store, "tiny", version, tmp_path, load_gate_settings(), tmp_path / "gates.csv")
