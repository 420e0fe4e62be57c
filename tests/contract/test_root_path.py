"""A proxy with a path of its own in front: links and documents have it, requests may."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.service import RunningService, Serve, refuse_to_start, running_service

ROOT = "/models/x"


@pytest.fixture(scope="module", params=[ROOT, f"{ROOT}/"])
def service(request: pytest.FixtureRequest, serve: Serve) -> RunningService:
    """The service behind such a proxy, told with a slash at the end and without."""
    return serve("tiny", "--root-path", request.param, "--predict-route", "/score")


def test_documents_have_the_path(service: RunningService) -> None:
    """A client that is generated from the document would ask the wrong place otherwise."""
    document = service.get_json("/openapi.json")
    assert document["servers"] == [{"url": ROOT}]
    assert "/predict" in document["paths"]
    assert not [path for path in document["paths"] if path.startswith(ROOT)]
    probe = service.get_json("/")
    assert (probe["predict"], probe["metadata"]) == (f"{ROOT}/predict", f"{ROOT}/v2/models/tiny")
    assert probe["metrics"] == f"{ROOT}/metrics"


@pytest.mark.parametrize("before", ["", ROOT])
def test_requests_may_have_the_path_or_not(service: RunningService, before: str) -> None:
    """Some proxies take it off, some cannot."""
    for path in ("/predict", "/predict/tiny", "/score", "/invocations", "/v1/models/tiny:predict"):
        status, headers, _ = service.request("POST", before + path, {"instances": [{"rings": 40}]})
        assert (status, headers["x-model-version"]) == (200, "tiny@1")
    tensor = {"name": "rings", "shape": [1], "datatype": "INT64", "data": [40]}
    for path in ("/v2/models/tiny/infer", "/v2/models/tiny/versions/1/infer"):
        assert service.request("POST", before + path, {"inputs": [tensor]})[0] == 200
    for path in ("/", "/v2/health/ready", "/v2/models/tiny", "/metrics"):
        assert service.request("GET", before + path)[0] == 200
    assert service.request("GET", f"{before}/nothing")[0] == 404


def test_the_path_alone_is_the_probe(service: RunningService) -> None:
    """People leave the slash away."""
    assert service.get_json(ROOT)["status"] == "alive"


def test_requests_are_counted_by_their_routes(service: RunningService) -> None:
    """A dashboard knows the service's own routes, whatever stands in front of them."""
    service.request("GET", f"{ROOT}/v2/models/tiny")
    page = service.request("GET", "/metrics")[2].decode()
    assert 'route="/v2/models/{model}"' in page
    assert ROOT not in page


def test_a_header_does_not_move_the_service(published: Path) -> None:
    """Anybody can send one, and a cache would hand the document to others."""
    with running_service(published, "tiny") as service:
        sent = {"X-Forwarded-Prefix": "/evil", "X-Forwarded-Host": "evil.example", "X-Script-Name": "/evil"}
        for path, accept in (("/openapi.json", "*/*"), ("/", "*/*"), ("/", "text/html")):
            assert b"evil" not in service.request("GET", path, None, {**sent, "Accept": accept})[2]
        assert json.loads(service.request("GET", "/openapi.json")[2])["servers"] == [{"url": "/"}]


@pytest.mark.parametrize("value", ["models", "/a/{b}", "/a?b", "https://example.org/a"])
def test_what_is_no_path_is_refused_at_the_start(published: Path, value: str) -> None:
    """It would be found when the first link fails."""
    code, log = refuse_to_start(published, "tiny", "--root-path", value)
    assert code == 2, log
    assert "--root-path: found" in log
