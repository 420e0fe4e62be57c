"""The services that foreign clients ask; `make test-clients` runs these tests, `make test` does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.service import RunningService, running_service
from tests.support.tiny_model import publish_mixed, publish_numeric
from timberline.registry.store import open_store


@pytest.fixture(scope="module", params=["tiny", "tiny_text"])
def model(request: pytest.FixtureRequest) -> str:
    """Numbers alone, and numbers with text."""
    return str(request.param)


@pytest.fixture(scope="module")
def service(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The model's service."""
    registry = tmp_path_factory.mktemp("registry")
    (publish_numeric if model == "tiny" else publish_mixed)(open_store(registry))
    with running_service(registry, model) as running:
        yield running
