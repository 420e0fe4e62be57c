"""Managed platforms: a container that gets nothing but their variables keeps their contracts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.isolated_service import run_isolated
from tests.support.service import RunningService, Serve, refuse_to_start, running_service

HEALTH = "/v1/endpoints/12/deployedModels/34"
PREDICT = f"{HEALTH}:predict"


@pytest.fixture(scope="module")
def sagemaker(serve: Serve) -> RunningService:
    """The service as SageMaker starts it, but for the port: any free one."""
    return serve("tiny", environment={"SAGEMAKER_BIND_TO_PORT": "0"}, is_bare=True)


@pytest.fixture(scope="module")
def vertex(serve: Serve) -> RunningService:
    """The service as Vertex AI starts it, but for the port: any free one."""
    environment = {"AIP_HTTP_PORT": "0", "AIP_HEALTH_ROUTE": HEALTH, "AIP_PREDICT_ROUTE": PREDICT}
    return serve("tiny", environment=environment, is_bare=True)


def test_a_platform_reaches_the_container_from_outside(
    sagemaker: RunningService, vertex: RunningService
) -> None:
    """Both ask from another network namespace, where loopback is somebody else."""
    assert sagemaker.host == vertex.host == "0.0.0.0"


def test_sagemaker_finds_its_routes(sagemaker: RunningService) -> None:
    """Its contract: an empty or small 200 for GET /ping, rows for POST /invocations."""
    assert sagemaker.request("GET", "/ping")[0] == 200
    status, _, answer = sagemaker.request("POST", "/invocations", {"rings": 40})
    assert (status, json.loads(answer)["prediction"]) == (200, "2")
    batch = {"instances": [{"rings": 40}]}
    assert sagemaker.request("POST", "/invocations", batch)[0] == 200


def test_sagemaker_needs_no_variable_where_its_folder_is(registry: Path, tmp_path: Path) -> None:
    """It runs ``docker run IMAGE serve`` and mounts the model; an endpoint that listens elsewhere, or reads
    another folder, never gets ready. Where the kernel allows no namespaces, test_platforms.py of the units
    holds the same of the settings."""
    scratch = tmp_path / "opt"
    scratch.mkdir()
    done = run_isolated("sagemaker_service.py", "-rmn", registry, scratch)
    answers = {"ping": 200, "invocations": [200, "2", "tiny"], "health": 0}
    assert done == {
        "bare": {"announced": ["0.0.0.0", 8080], **answers},
        "bound": {"announced": ["0.0.0.0", 8123], **answers},
    }


@pytest.mark.parametrize("content_type", ["text/csv", "text/csv; charset=utf-8", "text/csv; header=absent"])
def test_sagemaker_sends_csv_without_a_header(sagemaker: RunningService, content_type: str) -> None:
    """Its batch transform cuts files into lines; the first of a part is a row like any other."""
    body = b"12.5,40,false,\n0,400,1,12"
    status, _, answer = sagemaker.request("POST", "/invocations", body, {"Content-Type": content_type})
    assert status == 200, answer
    assert (
        json.loads(answer)["predictions"]
        == sagemaker.predict({"instances": [[12.5, 40, False, None], [0, 400, True, 12]]})[1]["predictions"]
    )


def test_vertex_finds_its_routes(vertex: RunningService) -> None:
    """Its contract: 200 on the health route, {"predictions"} in order for {"instances"}."""
    assert vertex.request("GET", HEALTH)[0] == 200
    body = {"instances": [{"rings": 40}, {"rings": 1}], "parameters": {"probabilities": False}}
    status, _, answer = vertex.request("POST", PREDICT, body)
    assert (status, json.loads(answer)) == (
        200,
        {
            "predictions": [{"prediction": "2", "label": '50 % "Pine"'}] * 2,
            "model": "tiny",
            "version": 1,
        },
    )
    assert vertex.request("POST", PREDICT, {"instances": [{"rings": 40}], "parameters": None})[0] == 200


@pytest.mark.parametrize("route", ["/ping", HEALTH])
def test_a_platforms_errors_look_like_all_others(vertex: RunningService, route: str) -> None:
    """The wrong method on a configured route must not fall through to another shape."""
    status, headers, answer = vertex.request("POST", route, {})
    assert (status, headers["allow"], list(json.loads(answer))) == (405, "GET, HEAD", ["error"])


def test_routes_that_do_their_work_already_may_be_named_again(published: Path) -> None:
    """Deployments often set the platform's variables to the service's own paths."""
    environment = {"AIP_HTTP_PORT": "0", "AIP_HEALTH_ROUTE": "/ping", "AIP_PREDICT_ROUTE": "/predict"}
    with running_service(published, "tiny", environment=environment, is_bare=True) as service:
        assert service.request("GET", "/ping")[0] == 200
        assert service.predict({"rings": 40})[0] == 200


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--predict-route", "score"), "--predict-route: found 'score', expected a path"),
        (("--predict-route", "/score/{row}"), "--predict-route: found '/score/{row}'"),
        (("--predict-route", "/score?x=1"), "--predict-route: found '/score?x=1'"),
        (("--predict-route", "/metrics"), "predict route: /metrics is taken by the service's own /metrics"),
        (("--predict-route", "/v2/models/tiny"), "is taken by the service's own /v2/models/{model}"),
        (("--health-route", "/predict"), "health route: /predict is taken by the service's own /predict"),
        (("--health-route", "/score", "--predict-route", "/score"), "health route: /score is taken"),
    ],
)
def test_a_route_that_cannot_be_is_refused_at_the_start(
    published: Path, flags: tuple[str, ...], message: str
) -> None:
    """Otherwise it would be found when the platform's first request goes somewhere else."""
    code, log = refuse_to_start(published, "tiny", *flags)
    assert code == 2, log
    assert message in log
