"""What several of these tests need."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `build_registry`'s registry, tiny@1 to 3 and other@1, which no test changes."""
    from tests.support.registry_commands import build_registry

    root: Path = tmp_path_factory.mktemp("base") / "registry"
    build_registry(root)
    return root


@pytest.fixture
def root(base: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return shutil.copytree(base, tmp_path / "registry")
