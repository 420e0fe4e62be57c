"""The protocol before the Open Inference Protocol, as TensorFlow Serving and KServe have it under ``/v1``."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.support.service import RunningService, Serve, running_service

ROWS = [{"rings": 40}, {"rings": 1, "height": 3}]


@pytest.fixture(scope="module")
def service(serve: Serve) -> RunningService:
    """tiny@1 and, behind it, tiny_text@1."""
    return serve("tiny,tiny_text")


@pytest.mark.parametrize("path", ["/v1/models/tiny:predict", "/v1/models/tiny/versions/1:predict"])
@pytest.mark.parametrize(
    "beside", [{}, {"signature_name": "serving_default"}, {"signature_name": ""}, {"signature_name": None}]
)
def test_instances_are_answered_in_order(
    service: RunningService, path: str, beside: dict[str, str | None]
) -> None:
    """The same answers as of /predict, under the name that both protocols have for the list."""
    status, headers, body = service.request("POST", path, {**beside, "instances": ROWS})
    assert status == 200, body
    assert headers["x-model-version"] == "tiny@1"
    assert json.loads(body) == service.predict({"instances": ROWS})[1]


def test_a_model_that_is_not_the_first_is_found_by_its_name(service: RunningService) -> None:
    """The path decides, not the default."""
    body = {"instances": [{"soil": "clay", "rings": 4}]}
    status, headers, _ = service.request("POST", "/v1/models/tiny_text:predict", body)
    assert (status, headers["x-model-version"]) == (200, "tiny_text@1")


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/models/other:predict", {"instances": ROWS}, 404, "model 'other' is not served here"),
        ("/v1/models/tiny/versions/9:predict", {"instances": ROWS}, 404, "version '9' is not served here"),
        ("/v1/models/tiny:classify", {"instances": ROWS}, 405, "POST is not allowed here"),
        (
            "/v1/models/tiny:predict",
            {"instances": ROWS, "signature_name": "other"},
            400,
            '"signature_name" is the string "other", expected "serving_default"',
        ),
        (
            "/v1/models/tiny:predict",
            {"instances": ROWS, "signature_name": ["serving_default"]},
            400,
            '"signature_name" is an array',
        ),
        ("/v1/models/tiny:predict", {"inputs": {"rings": [1]}}, 400, 'unknown name "inputs"'),
    ],
)
def test_what_is_not_there_is_refused(
    service: RunningService, path: str, body: object, status: int, message: str
) -> None:
    """A model has one signature; another one's name means that the client wants something else."""
    found, _, answer = service.request("POST", path, body)
    assert found == status
    assert message in json.loads(answer)["error"]


@pytest.mark.parametrize("path", ["/v1/models/tiny", "/v1/models/tiny/versions/1"])
def test_a_model_tells_both_protocols_that_it_is_ready(service: RunningService, path: str) -> None:
    """KServe reads name and ready, TensorFlow Serving's clients the list of versions."""
    assert service.get_json(path) == {
        "name": "tiny",
        "ready": True,
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ],
    }


@pytest.mark.parametrize("path", ["/v1/models/other", "/v1/models/tiny/versions/9"])
def test_a_model_that_is_not_served_is_not_found(service: RunningService, path: str) -> None:
    """Not ready would let a client wait for ever."""
    assert service.request("GET", path)[0] == 404


@pytest.mark.parametrize("path", ["/v1/models", "/v2/models"])
def test_models_are_listed(service: RunningService, path: str) -> None:
    """KServe has the list in both protocols."""
    assert service.get_json(path) == {"models": ["tiny", "tiny_text"]}


def test_the_probe_says_alive(service: RunningService) -> None:
    """KServe's v1 clients take any other word for dead."""
    assert service.get_json("/")["status"] == "alive"


def test_a_model_of_a_stopping_service_is_not_ready(registry: Path) -> None:
    """KServe's client reads 503 as false and raises at everything else."""
    with running_service(registry, "tiny", "--drain-s", "30") as service:
        service.process.send_signal(signal.SIGTERM)
        service.wait_for(lambda: service.request("GET", "/v2/health/ready")[0] == 503)
        status, headers, body = service.request("GET", "/v1/models/tiny")
        assert (status, headers["retry-after"]) == (503, "1")
        page = json.loads(body)
        assert (page["ready"], page["model_version_status"][0]["state"]) == (False, "UNLOADING")
        service.process.send_signal(signal.SIGTERM)


def test_routes_that_were_set_up_for_tensorflow_serving_stay_possible(registry: Path) -> None:
    """Vertex AI's variables often name them, for a model that is called otherwise here."""
    flags = ("--predict-route", "/v1/models/default:predict", "--health-route", "/v1/models/default")
    with running_service(registry, "tiny", *flags) as service:
        assert service.request("POST", "/v1/models/default:predict", {"instances": ROWS})[0] == 200
        assert service.request("GET", "/v1/models/default")[0] == 200
        assert service.request("POST", "/v1/models/tiny:predict", {"instances": ROWS})[0] == 200
