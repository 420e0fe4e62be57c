"""KServe's objects: right by KServe's own classes, and served by the real service as KServe runs it.

No KServe runs in the tests: what its controller makes of the objects is not seen here.
"""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.support.clients import find_client_python
from tests.support.helm import Document
from tests.support.service import ROOT, RunningService, running_service
from tests.support.tiny_model import NUMERIC_COLUMNS, NUMERIC_ROWS, expect_probabilities, publish_numeric
from timberline.registry.promotion import promote
from timberline.registry.store import open_store

KSERVE = ROOT / "deploy" / "kserve"
CHILD = Path(__file__).with_name("kserve_child.py")
ATOL = 1e-6  # float32 against float64, some operations deep
RUNTIME: Document = yaml.safe_load((KSERVE / "servingruntime.yaml").read_text("utf-8"))
SERVICE: Document = yaml.safe_load((KSERVE / "inferenceservice.yaml").read_text("utf-8"))


def ask_kserve(*documents: Document) -> list[list[str]]:
    """What KServe's classes find wrong with each object."""
    done = subprocess.run(
        [find_client_python("kserve"), CHILD],
        input=json.dumps(documents),
        capture_output=True,
        text=True,
        timeout=120.0,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.offline("kserve")
def test_objects_are_what_kserve_s_classes_say() -> None:
    """A field that a CRD does not know is dropped without a word."""
    assert ask_kserve(RUNTIME, SERVICE) == [[], []]


PLANTED: dict[str, tuple[Document, Callable[[Document], Any]]] = {
    "an unknown field": (SERVICE, lambda one: one["spec"]["predictor"]["model"].update(storageURI="pvc://x")),
    "an unknown field of a container": (
        RUNTIME,
        lambda one: one["spec"]["containers"][0]["readinessProbe"].update(period=2),
    ),
    "a wrong type": (
        RUNTIME,
        lambda one: one["spec"]["containers"][0]["ports"][0].update(containerPort="8080"),
    ),
    "a number as a variable": (
        RUNTIME,
        lambda one: one["spec"]["containers"][0]["env"][2].update(value=8080),
    ),
    "a missing field": (SERVICE, lambda one: one["spec"].pop("predictor")),
    "no list": (RUNTIME, lambda one: one["spec"].update(protocolVersions="v2")),
}


@pytest.mark.offline("kserve")
def test_planted_errors_are_found() -> None:
    """Else the classes say nothing, whatever they are given."""
    documents = []
    for source, plant in PLANTED.values():
        documents.append(copy.deepcopy(source))
        plant(documents[-1])
    for name, faults in zip(PLANTED, ask_kserve(*documents), strict=True):
        assert faults, name


@pytest.mark.offline
def test_the_model_is_for_the_runtime() -> None:
    """KServe takes a runtime for a format and a protocol; a model that has none is never ready."""
    (container,) = RUNTIME["spec"]["containers"]
    model = SERVICE["spec"]["predictor"]["model"]
    assert model["runtime"] == RUNTIME["metadata"]["name"]
    formats = {one["name"] for one in RUNTIME["spec"]["supportedModelFormats"]}
    assert model["modelFormat"]["name"] in formats
    assert model["protocolVersion"] in RUNTIME["spec"]["protocolVersions"]
    assert container["name"] == "kserve-container"  # KServe mounts the model into it by this name


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where KServe mounts a registry of two versions: through a link, as its copies of a claim are."""
    folder: Path = tmp_path_factory.mktemp("mnt")
    store = open_store(folder / "claim" / "registry")
    publish_numeric(store)
    publish_numeric(store, alias="candidate")
    (folder / "models").symlink_to(folder / "claim" / "registry")
    return folder / "models"


@pytest.fixture(scope="module")
def running(mounted: Path) -> Iterator[RunningService]:
    """The service with the runtime's and the model's variables alone; a free port in place of theirs."""
    (container,) = RUNTIME["spec"]["containers"]
    variables = {one["name"]: one["value"] for one in container["env"]}
    variables |= {one["name"]: one["value"] for one in SERVICE["spec"]["predictor"]["model"]["env"]}
    assert (variables["REGISTRY"], variables["MODEL"]) == ("/mnt/models", "forest_cover")
    assert int(variables["PORT"]) == container["ports"][0]["containerPort"]
    given = variables | {"REGISTRY": str(mounted), "MODEL": "tiny", "PORT": "0", "HOST": "127.0.0.1"}
    with running_service(mounted, "tiny", environment=given, is_bare=True) as service:
        yield service


@pytest.mark.real
def test_the_probes_of_the_runtime_are_answered(running: RunningService) -> None:
    """A probe of a path that is not there ends every pod."""
    (container,) = RUNTIME["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == container["ports"][0]["containerPort"]
        assert running.request("GET", container[probe]["httpGet"]["path"])[0] == 200
    annotations = RUNTIME["spec"]["annotations"]
    assert annotations["prometheus.kserve.io/port"] == str(container["ports"][0]["containerPort"])
    status, _, page = running.request("GET", annotations["prometheus.kserve.io/path"])
    assert status == 200
    assert b"requests_in_flight" in page


@pytest.mark.real
def test_every_path_that_kserve_asks_is_there(running: RunningService) -> None:
    """Its v2 protocol: the server, the model, and an answer to the tensors of a request."""
    assert running.request("GET", "/v2")[0] == 200
    assert running.request("GET", "/v2/models/tiny/ready")[0] == 200
    status, _, body = running.request("GET", "/v2/models/tiny")
    assert (status, json.loads(body)["name"]) == (200, "tiny")
    matrix = [[None if cell is None else float(cell) for cell in row] for row in NUMERIC_ROWS]
    tensor = {"name": "numeric", "shape": [3, 4], "datatype": "FP64", "data": matrix}
    status, _, body = running.request("POST", "/v2/models/tiny/infer", {"inputs": [tensor]})
    assert status == 200, body
    outputs = {one["name"]: one for one in json.loads(body)["outputs"]}
    answered = np.reshape(outputs["probabilities"]["data"], outputs["probabilities"]["shape"])
    expected = expect_probabilities(NUMERIC_COLUMNS, NUMERIC_ROWS)
    np.testing.assert_allclose(answered, expected, rtol=0, atol=ATOL)


@pytest.mark.real
def test_the_alias_of_a_mounted_claim_is_followed(running: RunningService, mounted: Path) -> None:
    """The pods of an InferenceService take a release over as all others do."""

    def version() -> str:
        return str(json.loads(running.request("GET", "/v2/models/tiny")[2])["versions"])

    before = version()
    promote(open_store(mounted.resolve()), "tiny", 2, force=True, reason="a rehearsal")
    running.wait_for(lambda: version() != before)
