"""Which bodies are sent, and which answers are right."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from benchmarks.drive.answers import check_reply
from benchmarks.drive.plan import Body, Target
from benchmarks.drive.workload import Mix, Workload, draw_bodies, golden_bodies, load_workload
from benchmarks.errors import WorkloadError
from registry.errors import ConfigError
from registry.manifest import Golden, Manifest
from registry.signature import Column, build_signature
from tests.support.manifests import TINY_CLASSES, TINY_COLUMNS, build_manifest

SINGLE = Workload(seed=1, bodies=40, mix=(Mix(rows=1),))


def target(**changes: Any) -> Target:
    """Version 1 of the tiny model behind a port."""
    known = {"arm": "candidate", "url": "http://127.0.0.1:1", "model": "tiny", "version": 1}
    given = {**known, "classes": ("1", "2"), "atol": 1e-5, "golden": (), **changes}
    return Target(**given)


def reply(**changes: Any) -> bytes:
    """The right reply to the first golden row."""
    probabilities = {"1": 0.75, "2": 0.25}
    right = {
        "prediction": "1",
        "label": "Spruce",
        "probabilities": probabilities,
        "model": "tiny",
        "version": 1,
    }
    return msgspec.json.encode(right | changes)


BODY = golden_bodies(build_manifest(), "candidate")[0]


def test_the_right_reply_is_accepted() -> None:
    """Otherwise every gate would be INVALID."""
    assert check_reply(200, reply(), target(), BODY) == ""


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (500, b'{"error": "no"}', "HTTP 500"),
        (200, None, "not a prediction"),
        (200, b"<html>", "not a prediction"),
        (200, reply(version=2), "tiny@2 answered, expected tiny@1"),
        (200, reply(model="other"), "other@1 answered"),
        (200, reply(probabilities={"1": 0.7499, "2": 0.2501}), "the manifest 0.75"),
        (200, reply(probabilities={"1": None, "2": 0.25}), "not a prediction"),
        (200, reply(probabilities={"1": 0.75}), "not those of classes"),
        (200, reply(probabilities=None), "not those of classes"),
        (200, reply(predictions=[]), "0 predictions for 1 rows"),
    ],
)
def test_a_wrong_reply_is_told(status: int, content: bytes | None, message: str) -> None:
    """A fast wrong answer, or the right one of another version, must not count as a good one."""
    assert message in check_reply(status, content, target(), BODY)


def test_a_batch_is_checked_row_by_row() -> None:
    """One wrong row among many is still wrong."""
    right, wrong = {"probabilities": {"1": 0.75, "2": 0.25}}, {"probabilities": {"1": 0.25, "2": 0.75}}
    body = Body(payload=b"", rows=2, answers={"candidate": ((0.75, 0.25), (0.75, 0.25))})
    batch = {"predictions": [right, wrong], "model": "tiny", "version": 1}
    assert check_reply(200, msgspec.json.encode(batch), target(), body).startswith("row 1")


def test_bodies_are_named_rows_and_repeatable() -> None:
    """A run can be repeated with the very same requests."""
    drawn = draw_bodies(SINGLE, {"candidate": build_manifest()})
    assert drawn == draw_bodies(SINGLE, {"candidate": build_manifest()})
    assert {body.payload for body in drawn} == {'{"height":10.0,"rings":20}', '{"height":90.0,"rings":200}'}


def test_both_versions_answers_are_known_for_shared_rows() -> None:
    """Every arm is held to its own manifest, on the same body."""
    other = Golden(rows=((10.0, 20),), class_indexes=(0,), probabilities=((0.6, 0.4),))
    versions = {"champion": build_manifest(), "candidate": build_manifest(version=2, golden=other)}
    known = {body.payload: body.answers for body in draw_bodies(SINGLE, versions)}
    assert known['{"height":10.0,"rings":20}'] == {"champion": ((0.75, 0.25),), "candidate": ((0.6, 0.4),)}
    assert set(known['{"height":90.0,"rings":200}']) == {"champion"}


def test_a_candidate_with_a_new_column_gets_the_champions_bodies_only() -> None:
    """The champion would refuse a column that it does not know."""
    columns = (*TINY_COLUMNS, Column(name="bark", datatype="FP64", default=0.0))
    golden = Golden(rows=((1.0, 2, 3.0),), class_indexes=(0,), probabilities=((0.5, 0.5),))
    candidate = build_manifest(version=2, signature=build_signature(columns, TINY_CLASSES), golden=golden)
    drawn = draw_bodies(SINGLE, {"champion": build_manifest(), "candidate": candidate})
    assert all("bark" not in body.payload for body in drawn)


@pytest.mark.parametrize("versions", [{}, {"candidate": Golden(rows=(), class_indexes=(), probabilities=())}])
def test_an_empty_workload_is_refused(versions: dict[str, Golden]) -> None:
    """Nothing sent is nothing measured."""
    manifests: dict[str, Manifest] = {arm: build_manifest(golden=golden) for arm, golden in versions.items()}
    with pytest.raises(WorkloadError):
        draw_bodies(SINGLE, manifests)


def test_batches_come_as_instances() -> None:
    """Batches take the service's other road, with their answers in order."""
    drawn = draw_bodies(Workload(seed=1, bodies=3, mix=(Mix(rows=4),)), {"candidate": build_manifest()})
    sent = msgspec.json.decode(drawn[0].payload)
    assert len(sent["instances"]) == drawn[0].rows == len(drawn[0].answers["candidate"]) == 4


@pytest.mark.parametrize("name", ["single_rows", "mixed_batches"])
def test_committed_workloads_can_be_drawn(name: str) -> None:
    """A typo in a workload must not wait for a release to be found."""
    assert draw_bodies(load_workload(name), {"candidate": build_manifest()})


def test_an_unknown_workload_is_refused() -> None:
    """A misspelt name is wrong use, not an empty run."""
    with pytest.raises(ConfigError):
        load_workload("no_such_workload")
