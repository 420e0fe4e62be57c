"""The public ``tritonclient[http]`` works against the service unchanged, blocking and asyncio."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.clients import ask_as
from tests.support.service import RunningService
from tests.support.tiny_model import (
    MIXED_COLUMNS,
    MIXED_ROWS,
    NUMERIC_COLUMNS,
    NUMERIC_ROWS,
    expect_probabilities,
)

ATOL = 1e-6  # float32 against float64, some operations deep


@pytest.fixture(scope="module", params=[False, True], ids=["blocking", "asyncio"])
def seen(request: pytest.FixtureRequest, service: RunningService, model: str) -> dict[str, Any]:
    """What one run of the client was told."""
    order = {"url": f"127.0.0.1:{service.port}", "model": model, "is_async": request.param}
    found: dict[str, Any] = ask_as("triton", "triton_child.py", **order)
    return found


def test_health_is_understood(seen: dict[str, Any]) -> None:
    """Deployments wait for these before they send traffic."""
    assert [seen["live"], seen["ready"], *seen["model ready"]] == [True] * 4
    assert seen["other ready"] is False


def test_metadata_are_understood(seen: dict[str, Any], model: str) -> None:
    """Generic clients build their inputs from this."""
    assert "binary_tensor_data" in seen["server"]["extensions"]
    assert (seen["model"]["name"], seen["model"]["versions"]) == (model, ["1"])
    names = [tensor["name"] for tensor in seen["model"]["inputs"]]
    assert names == (["numeric"] if model == "tiny" else ["numeric", "text"])
    assert seen["index"] == [{"name": model, "version": "1", "state": "READY", "reason": ""}]


@pytest.mark.parametrize("way", ["blobs None", "blobs gzip", "blobs deflate", "float32", "blobs to JSON"])
def test_answers_are_the_models(seen: dict[str, Any], model: str, way: str) -> None:
    """Blobs in, by float64, float32 and compressed; NULL is NaN, and U+0000 in text."""
    columns, rows = (NUMERIC_COLUMNS, NUMERIC_ROWS) if model == "tiny" else (MIXED_COLUMNS, MIXED_ROWS)
    expected = expect_probabilities(columns, rows)
    np.testing.assert_allclose(seen[way]["values"]["probabilities"], expected, rtol=0, atol=ATOL)
    assert seen[way]["values"]["label"] == expected.argmax(axis=1).tolist()
    assert seen[way]["version"] == "1"
    assert seen[way]["id"] == ("7" if way.startswith("blobs ") and way != "blobs to JSON" else None)


@pytest.mark.parametrize("way", ["JSON", "JSON to blobs"])
def test_json_is_answered_too(seen: dict[str, Any], model: str, way: str) -> None:
    """The client declares its JSON to be octets, or nothing at all."""
    numbers = (1.0, 2, False, 3.0)
    row = numbers if model == "tiny" else ("clay", *numbers, "ü")
    expected = expect_probabilities(NUMERIC_COLUMNS if model == "tiny" else MIXED_COLUMNS, [row])
    np.testing.assert_allclose(seen[way]["values"]["probabilities"], expected, rtol=0, atol=ATOL)


def test_errors_arrive_with_our_words(seen: dict[str, Any]) -> None:
    """InferenceServerException shows the status and the sentence that says what to change."""
    assert seen["unknown model"][0] == "404"
    assert "model 'other' is not served here" in seen["unknown model"][1]
    assert seen["wrong shape"][0] == "400"
    assert 'input "' in seen["wrong shape"][1]
    assert seen["unknown output"][0] == "400"
    assert 'output "x": the model has no such output' in seen["unknown output"][1]
    assert seen["config"][0] == "404"
