"""The public ``tritonclient[http]`` works against the service unchanged, synchronous and asyncio.

It runs in a process of its own, by default with this interpreter; ``TIMBERLINE_TRITON_PYTHON`` names
another one, so that other versions of the client can be tried.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.store import open_store
from tests.support.service import DEADLINE_S, running_service
from tests.support.tiny_model import (
    MIXED_COLUMNS,
    MIXED_ROWS,
    NUMERIC_COLUMNS,
    NUMERIC_ROWS,
    expect_probabilities,
    publish_mixed,
    publish_numeric,
)

CHILD = Path(__file__).parents[1] / "support" / "triton_child.py"
PYTHON = os.environ.get("TIMBERLINE_TRITON_PYTHON", sys.executable)
ATOL = 1e-6  # float32 against float64, some operations deep


@pytest.fixture(scope="module", params=["tiny", "tiny_text"])
def model(request: pytest.FixtureRequest) -> str:
    """Numbers alone, and numbers with text."""
    return str(request.param)


@pytest.fixture(scope="module", params=[False, True], ids=["sync", "asyncio"])
def seen(
    request: pytest.FixtureRequest, model: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """What one run of the client was told."""
    registry = tmp_path_factory.mktemp("registry")
    (publish_numeric if model == "tiny" else publish_mixed)(open_store(registry))
    with running_service(registry, model) as service:
        order = {"url": f"{service.host}:{service.port}", "model": model, "is_async": request.param}
        command = [PYTHON, str(CHILD), json.dumps(order)]
        child = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert child.returncode == 0, f"{child.stderr}\n{service.log}"
        yield json.loads(child.stdout)


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
