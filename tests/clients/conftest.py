"""The services that foreign clients ask; `make test-clients` runs these tests, `make test` does not."""

from __future__ import annotations

import pytest

from tests.support.service import RunningService, Serve


@pytest.fixture(scope="module", params=["tiny", "tiny_text"])
def model(request: pytest.FixtureRequest) -> str:
    """Numbers alone, and numbers with text."""
    return str(request.param)


@pytest.fixture(scope="module")
def service(model: str, serve: Serve) -> RunningService:
    """The model's service."""
    return serve(model)
