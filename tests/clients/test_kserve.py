"""KServe's ``InferenceRESTClient`` works against the service unchanged, in both of its protocols."""

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


@pytest.fixture(scope="module")
def seen(service: RunningService, model: str) -> dict[str, Any]:
    """What one run of the client was told."""
    found: dict[str, Any] = ask_as(
        "kserve", "kserve_child.py", url=f"http://127.0.0.1:{service.port}", model=model
    )
    return found


def test_health_is_understood(seen: dict[str, Any]) -> None:
    """KServe's controllers wait for these before they send traffic."""
    told = {key: seen["v2"][key] for key in ("live", "ready", "model ready", "other ready")}
    assert told == {"live": True, "ready": True, "model ready": True, "other ready": False}
    assert (seen["v1"]["live"], seen["v1"]["model ready"]) == (True, True)
    assert seen["v1"]["other ready"][0] == 404


@pytest.mark.parametrize("way", ["JSON", "binary", "binary to binary", "chosen outputs"])
def test_tensors_are_answered(seen: dict[str, Any], model: str, way: str) -> None:
    """It repeats the model's name in the body of every request, JSON and binary."""
    columns, rows = (NUMERIC_COLUMNS, NUMERIC_ROWS) if model == "tiny" else (MIXED_COLUMNS, MIXED_ROWS)
    expected = expect_probabilities(columns, rows[1:] if way == "JSON" else rows)
    answer = seen["v2"][way]
    np.testing.assert_allclose(answer["values"]["probabilities"], expected, rtol=0, atol=ATOL)
    assert answer["values"]["label"] == expected.argmax(axis=1).tolist()
    assert answer["model"] == model
    assert way not in {"JSON", "binary"} or answer["id"] == "7"  # it makes one up where none is given
    assert next(iter(answer["values"])) == ("label" if way == "chosen outputs" else "probabilities")


def test_instances_are_answered(seen: dict[str, Any], model: str) -> None:
    """v1 is what most of KServe's examples use."""
    rows: list[tuple[Any, ...]] = [(0.0, 40, False, None), (0.0, 400, True, 12.0)]
    if model == "tiny_text":
        rows = [(soil, *row, None) for soil, row in zip(("clay", "sand"), rows, strict=True)]
    expected = expect_probabilities(NUMERIC_COLUMNS if model == "tiny" else MIXED_COLUMNS, rows)
    answers = seen["v1"]["predictions"]["predictions"]
    found = [list(answer["probabilities"].values()) for answer in answers]
    np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)


def test_errors_arrive_with_our_words(seen: dict[str, Any], model: str) -> None:
    """Another name in the body than in the path is a mistake that somebody should hear of."""
    status, message = seen["v2"]["other name"]
    assert status == 400
    assert f'the body names the model "other", the path "{model}"' in message
    assert seen["v1"]["explain"][0] == 405


def test_the_client_itself_has_no_server_readiness_in_v1(seen: dict[str, Any]) -> None:
    """The one thing that it refuses by itself, whatever the server is; it sends no request."""
    assert seen["v1"]["server ready"] == ["UnsupportedProtocol", "Unsupported protocol v1."]
