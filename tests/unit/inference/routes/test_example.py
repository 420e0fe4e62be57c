"""The line that a newcomer copies."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.support.manifests import build_manifest
from tests.support.service import running_service
from tests.support.tiny_model import CLASSES, publish_mixed
from timberline.inference.routes.example import pick_example, write_curl
from timberline.registry.manifest import Golden
from timberline.registry.signature import Column, build_signature
from timberline.registry.store import open_store


def test_the_example_is_answered(tmp_path: Path) -> None:
    """The first thing a person does with the service must work, quotes in a value and all."""
    publish_mixed(open_store(tmp_path))
    with running_service(tmp_path, "tiny_text") as service:
        ready = next(e for e in map(json.loads, service.log.splitlines()) if e["event"] == "ready")
        words = shlex.split(ready["example"])
        url = f"http://{service.host}:{service.port}/predict"
        assert words[:-1] == ["curl", "-s", url, "-H", "content-type: application/json", "-d"]
        status, answer = service.predict(json.loads(words[-1]))
        assert (status, answer["prediction"]) == (200, "1")


def test_required_columns_are_always_in_the_example() -> None:
    """Left out, the example would be an error message."""
    columns = tuple(Column(name=f"c{n}", datatype="FP64", default=None if n == 9 else 0.0) for n in range(10))
    golden = Golden(rows=((1.5,) * 10,), class_indexes=(0,), probabilities=((1.0, 0.0, 0.0),))
    manifest = build_manifest(signature=build_signature(columns, CLASSES), golden=golden)
    assert pick_example(manifest) == {"c0": 1.5, "c1": 1.5, "c2": 1.5, "c9": 1.5}


@pytest.mark.parametrize(
    ("host", "asked"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("10.0.0.7", "10.0.0.7")],
)
def test_the_address_in_the_example_can_be_asked(host: str, asked: str) -> None:
    """A service in a container listens on every address, which is none."""
    assert f"http://{asked}:8000/predict" in write_curl(build_manifest(), host, 8000)
