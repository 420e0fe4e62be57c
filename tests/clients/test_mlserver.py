"""MLServer's types, codecs and command work against the service unchanged."""

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
        "mlserver", "mlserver_child.py", url=f"127.0.0.1:{service.port}", model=model
    )
    return found


def expect(model: str) -> np.ndarray[Any, Any]:
    """The probabilities of the rows that the script sends; its codec for strings has no NULL."""
    if model == "tiny":
        return expect_probabilities(NUMERIC_COLUMNS, NUMERIC_ROWS)
    return expect_probabilities(MIXED_COLUMNS, [(*MIXED_ROWS[0][:-1], "a"), *MIXED_ROWS[1:]])


@pytest.mark.parametrize("way", ["tensors", "columns"])
def test_what_its_codecs_encode_is_answered(seen: dict[str, Any], model: str, way: str) -> None:
    """They put ``content_type`` into parameters, headers as an object, and null where nothing is said."""
    expected = expect(model)
    answer = seen[way]
    np.testing.assert_allclose(answer["values"]["probabilities"], expected, rtol=0, atol=ATOL)
    assert np.ravel(answer["values"]["label"]).tolist() == expected.argmax(axis=1).tolist()
    assert (answer["model"], answer["version"]) == (model, "1")
    assert answer["id"] == ("7" if way == "tensors" else None)


def test_outputs_with_hints_are_chosen(seen: dict[str, Any], model: str) -> None:
    """Hints stand at the outputs too."""
    assert list(seen["label"]["values"]) == ["label"]


def test_the_command_gets_a_line_for_each_of_its_lines(seen: dict[str, Any], model: str) -> None:
    """``mlserver infer`` merges requests of one row into batches and takes the answers apart again."""
    expected = expect(model)[1:]
    ways = [way for way in seen if way.startswith("command")]
    assert len(ways) == (3 if model == "tiny" else 2)
    for way in ways:
        lines = sorted(seen[way], key=lambda line: line["parameters"]["batch_index"])
        assert [line["id"] for line in lines] == ["1", "2"]
        found = [line["outputs"][0]["data"] for line in lines]
        np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)


def test_the_client_itself_cannot_encode_text_of_pandas_3(seen: dict[str, Any]) -> None:
    """The one thing that it refuses by itself: its codec for tables knows no column of strings there."""
    assert seen["pandas text"] == "KeyError('O')"
