"""The service is what its own OpenAPI document says, for whatever may be sent.

``TIMBERLINE_FUZZ_EXAMPLES`` is the number of bodies for each operation; CI takes the default.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

from tests.support.service import DEADLINE_S, ROOT, RunningService, Serve, running_service
from tests.support.tiny_model import publish_mixed, publish_numeric
from timberline.registry.store import open_store

EXAMPLES = os.environ.get("TIMBERLINE_FUZZ_EXAMPLES", "6")
SEED = "20"
SETTINGS = Path(__file__).with_name("schemathesis.toml")


@pytest.fixture(scope="module", params=["tiny", "tiny_text"])
def service(request: pytest.FixtureRequest, serve: Serve) -> RunningService:
    """A model of numbers only, and one with text: they take different ways through the service."""
    # Few rows at most, so that bodies with more of them than that are small.
    return serve(request.param, "--max-rows", "20")


def test_the_document_is_openapi(service: RunningService) -> None:
    """Generators of clients refuse a document that breaks the specification."""
    document = service.get_json("/openapi.json")
    assert document["openapi"].startswith("3.1.")
    validate(document)


def test_every_example_in_the_document_is_answered(service: RunningService) -> None:
    """An example is what people copy first."""
    document = service.get_json("/openapi.json")
    sent = 0
    for path, method, media, value in list_examples(document):
        body = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        named = path.format(model=service.announced["model"], version=service.announced["version"])
        status, _, answer = service.request(method, named, body, {"Content-Type": media})
        assert status == 200, (path, media, answer)
        sent += 1
    assert sent >= 2


def list_examples(document: dict[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """Path, method, media type and value of each example of a request."""
    for path, item in document["paths"].items():
        operation = item.get("post", {})
        for media, content in operation.get("requestBody", {}).get("content", {}).items():
            if "example" in content:
                yield path, "POST", media, content["example"]
            for example in content.get("examples", {}).values():
                name = example.get("$ref", "").rpartition("/")[2]
                whole = document["components"]["examples"][name] if name else example
                yield path, "POST", media, whole["value"]


def test_whatever_is_sent_the_answer_is_one_that_is_documented(
    service: RunningService, tmp_path: Path
) -> None:
    """Valid data is answered, invalid data refused, nothing fails, and every answer has its schema.

    Examples have a test of their own: schemathesis sends none where bodies come from a strategy.
    """
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(SETTINGS), "run"]
    flags = ["--seed", SEED, "--max-examples", EXAMPLES, "--phases", "coverage,fuzzing"]
    hooks = {"SCHEMATHESIS_HOOKS": "tests.support.schema_checks", "PYTHONPATH": str(ROOT)}
    hooks["TIMBERLINE_TINY"] = service.announced["model"]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{service.port}/openapi.json", *flags, "--generation-database", "none"],
        cwd=tmp_path,  # where it leaves what a failed case was
        env={**os.environ, **hooks, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in service.log


def test_a_swap_shows_in_the_document(tmp_path: Path) -> None:
    """Clients are generated from it: it must be of the version that answers, not of the first one."""
    store = open_store(tmp_path)
    publish_numeric(store)
    with running_service(tmp_path, "tiny", "--watch-s", "0.05") as service:
        assert "note" not in service.get_json("/openapi.json")["components"]["schemas"]["Row"]["properties"]
        publish_mixed(store, "tiny")
        deadline = time.monotonic() + DEADLINE_S
        while service.get_json("/")["version"] == 1:
            assert time.monotonic() < deadline, service.log
        _, headers, body = service.request("GET", "/openapi.json")
        assert headers["x-model-version"] == "tiny@2"
        assert "note" in json.loads(body)["components"]["schemas"]["Row"]["properties"]


@pytest.mark.parametrize("guarded", [False, True])
def test_a_client_learns_whether_it_needs_a_token(registry: Path, guarded: bool) -> None:
    """A generated client has a place for the token only if the document asks for one."""
    token = "token-for-openapi-0123"
    environment = {"TIMBERLINE_SERVE_TOKENS": token} if guarded else {}
    with running_service(registry, "tiny", environment=environment) as service:
        headers = {"Authorization": f"Bearer {token}"}
        document = json.loads(service.request("GET", "/openapi.json", None, headers)[2])
    predict = document["paths"]["/predict"]["post"]
    assert ("security" in document) == guarded
    assert ("401" in predict["responses"]) == guarded
    assert document["paths"]["/v2/health/ready"]["get"]["security"] == []
