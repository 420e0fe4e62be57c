"""The real service answers what a workload sends, in every form, and the answers are checked."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.support.service import RunningService, running_service
from tests.support.tiny_model import publish_lean, publish_mixed, publish_numeric
from timberline.benchmarks.measure.formats import check_reply
from timberline.benchmarks.measure.records import Body, Form, Target
from timberline.benchmarks.measure.workload import Mix, Workload, draw_bodies
from timberline.registry.manifest import Manifest
from timberline.registry.store import open_store

FORMS: tuple[Form, ...] = ("json", "csv", "float32", "oip", "oip_binary")


def ask(service: RunningService, target: Target, body: Body) -> str:
    """What is wrong with the service's reply."""
    path = body.path.replace("{model}", target.model)
    status, headers, content = service.request("POST", path, body.payload, body.headers)
    return check_reply(
        status, content, target, body, {name.lower(): value for name, value in headers.items()}
    )


def draw(manifest: Manifest, forms: tuple[Form, ...], rows: int) -> tuple[Body, ...]:
    """A few bodies of each form."""
    mix = tuple(Mix(rows=rows, form=form) for form in forms)
    return draw_bodies(Workload(seed=1, bodies=40, mix=mix), {"candidate": manifest})


def address(manifest: Manifest, service: RunningService) -> Target:
    """The service as the load generator sees it."""
    classes = tuple(label.value for label in manifest.signature.classes)
    return Target(
        arm="candidate",
        url=f"http://{service.host}:{service.port}",
        model=manifest.model,
        version=manifest.version,
        classes=classes,
        atol=manifest.golden.atol,
        golden=(),
    )


@pytest.mark.parametrize("rows", [1, 5])
def test_every_form_is_answered_rightly(tmp_path: Path, rows: int) -> None:
    """A form that one side has misread would end every gate that mixes it as INVALID."""
    store = open_store(tmp_path)
    manifest = store.open_version("tiny", publish_numeric(store)).manifest
    bodies = draw(manifest, FORMS, rows)
    assert {body.form for body in bodies} == set(FORMS)
    assert all("candidate" in body.answers for body in bodies)
    with running_service(tmp_path, "tiny") as service:
        target = address(manifest, service)
        assert [ask(service, target, body) for body in bodies] == [""] * len(bodies)
        # And the answers of a version that was not asked are noticed in each form.
        other = msgspec.structs.replace(target, version=target.version + 1)
        assert all("answered, expected tiny@2" in ask(service, other, body) for body in bodies)


def test_text_columns_are_answered_rightly_in_every_form_that_has_text(tmp_path: Path) -> None:
    """Quotes, NULLs and umlauts go through CSV and blobs unharmed."""
    store = open_store(tmp_path)
    manifest = store.open_version("tiny_text", publish_mixed(store)).manifest
    bodies = draw(manifest, ("json", "csv", "oip", "oip_binary"), 2)
    with running_service(tmp_path, "tiny_text") as service:
        target = address(manifest, service)
        assert [ask(service, target, body) for body in bodies] == [""] * len(bodies)


@pytest.mark.parametrize("rows", [1, 5])
def test_a_version_that_reads_fewer_columns_answers_the_other_ones_bodies(tmp_path: Path, rows: int) -> None:
    """The gate asks both the same; a candidate with a leaner features.sql would fail on every request."""
    store = open_store(tmp_path)
    versions = {
        "champion": store.open_version("tiny", publish_numeric(store)).manifest,
        "candidate": store.open_version("tiny", publish_lean(store)).manifest,
    }
    forms: tuple[Form, ...] = ("json", "csv", "oip", "oip_binary")
    mix = tuple(Mix(rows=rows, form=form) for form in forms)
    bodies = draw_bodies(Workload(seed=1, bodies=40, mix=mix), versions)
    assert {body.form for body in bodies} == set(forms)
    assert all(b"slope" in body.payload for body in bodies)
    with running_service(tmp_path, "tiny@2") as service:
        target = address(versions["candidate"], service)
        assert [ask(service, target, body) for body in bodies] == [""] * len(bodies)
