"""Pages of other origins: what their browsers are told, and that nobody is told anything by default."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from tests.support.service import RunningService, Serve, refuse_to_start, running_service

ORIGIN, OTHER = "https://app.example", "https://other.example:8443"
TOKEN = "token-for-cors-0123456"
ROW = {"rings": 40}
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


@pytest.fixture(scope="module", params=["", "--request-log"])
def service(request: pytest.FixtureRequest, serve: Serve) -> RunningService:
    """Two origins may ask, with a token; answered by the short way, and by ASGI as the log wants it."""
    flags = [request.param] if request.param else []
    flags += ["--cors-origin", f"{ORIGIN}, {OTHER}"]
    return serve("tiny", *flags, environment={"TIMBERLINE_SERVE_TOKENS": TOKEN})


def allowed(headers: http.client.HTTPMessage) -> str | None:
    """The origin that may read the answer."""
    return headers["access-control-allow-origin"]


@pytest.mark.parametrize("origin", [ORIGIN, OTHER])
@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/predict", ROW, 200),
        ("POST", "/predict", {"instances": [ROW] * 200}, 200),
        ("POST", "/predict", {"ring": 1}, 400),
        ("POST", "/v2/models/tiny/infer", {}, 400),
        ("GET", "/", None, 200),
        ("GET", "/nothing", None, 404),
        ("GET", "/v2/health/ready", None, 200),
    ],
)
def test_a_page_of_a_known_origin_may_read_every_answer(
    service: RunningService, origin: str, method: str, path: str, body: object, status: int
) -> None:
    """Errors too: a page that cannot read why it was refused shows nothing."""
    sent = {"Origin": origin, "Authorization": f"Bearer {TOKEN}"}
    found, headers, _ = service.request(method, path, body, sent)
    assert (found, allowed(headers)) == (status, origin)
    assert "x-model-version" in headers["access-control-expose-headers"]
    assert headers["access-control-allow-credentials"] is None
    assert [part.strip() for part in ",".join(headers.get_all("vary", [])).split(",")].count("origin") == 1


def test_a_missing_token_is_told_to_the_page(service: RunningService) -> None:
    """401 without the header would look like a network that is down."""
    status, headers, _ = service.request("POST", "/predict", ROW, {"Origin": ORIGIN})
    assert (status, allowed(headers)) == (401, ORIGIN)


@pytest.mark.parametrize("path", ["/predict", "/v2/models/tiny/infer", "/v1/models/tiny:predict", "/nothing"])
def test_a_preflight_needs_no_token(service: RunningService, path: str) -> None:
    """Browsers send none with it; the request that follows is the one that is checked."""
    status, headers, body = service.request("OPTIONS", path, None, PREFLIGHT)
    assert (status, body, allowed(headers)) == (200, b"", ORIGIN)
    assert headers["access-control-allow-methods"] == "GET, HEAD, POST"
    names = set(headers["access-control-allow-headers"].split(", "))
    assert {"authorization", "content-type", "content-encoding", "inference-header-content-length"} <= names


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "https://app.example.evil", "http://app.example", ""]
)
def test_a_page_of_another_origin_is_told_nothing(service: RunningService, origin: str) -> None:
    """Its browser keeps the answer from it; caches must keep the two apart."""
    sent = {"Origin": origin, "Authorization": f"Bearer {TOKEN}"}
    status, headers, _ = service.request("POST", "/predict", ROW, sent)
    assert (status, allowed(headers), headers["vary"]) == (200, None, "origin")
    status, headers, _ = service.request("OPTIONS", "/predict", None, {**PREFLIGHT, "Origin": origin})
    assert allowed(headers) is headers["access-control-allow-methods"] is None


def test_options_that_are_no_preflight_are_refused_as_ever(service: RunningService) -> None:
    """Only the question that browsers ask has an answer of its own."""
    sent = {"Origin": ORIGIN, "Authorization": f"Bearer {TOKEN}"}
    status, headers, _ = service.request("OPTIONS", "/predict", None, sent)
    assert (status, headers["allow"]) == (405, "POST")


def test_any_origin_may_ask_if_that_is_set(published: Path) -> None:
    """For public models; then answers do not depend on who asks."""
    flags = ("--cors-origin", "*", "--canary", "candidate=0.1", "--canary-header", "X-Key")
    with running_service(published, "tiny", *flags) as service:
        status, headers, _ = service.request("POST", "/predict", ROW, {"Origin": ORIGIN})
        assert (status, allowed(headers), headers["vary"]) == (200, "*", None)
        assert allowed(service.request("POST", "/predict", ROW)[1]) is None
        headers = service.request("OPTIONS", "/predict", None, PREFLIGHT)[1]
        assert allowed(headers) == "*"
        assert "x-key" in headers["access-control-allow-headers"].split(", ")


def test_nobody_is_told_anything_by_default(published: Path) -> None:
    """Who has not asked for it must not find their service open to every page."""
    with running_service(published, "tiny") as service:
        for method, path, body in (("POST", "/predict", ROW), ("GET", "/", None), ("GET", "/x", None)):
            headers = service.request(method, path, body, {"Origin": ORIGIN})[1]
            assert not [name for name in headers if name.lower().startswith("access-control-")]
        status, headers, answer = service.request("OPTIONS", "/predict", None, PREFLIGHT)
        assert (status, headers["allow"], list(json.loads(answer))) == (405, "POST", ["error"])


@pytest.mark.parametrize(
    "value",
    ["app.example", "https://app.example/", "https://app.example, *", "*, *", "null", ",", "https://a b"],
)
def test_what_is_no_origin_is_refused_at_the_start(published: Path, value: str) -> None:
    """It would never match, and nobody would see why."""
    code, log = refuse_to_start(published, "tiny", "--cors-origin", value)
    assert code == 2, log
    assert "cors origin: found" in log
