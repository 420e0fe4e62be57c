"""Which answers are right, in every form."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from tests.support.manifests import build_manifest
from timberline.benchmarks.measure.formats import check_reply
from timberline.benchmarks.measure.records import Body, Form, Target
from timberline.benchmarks.measure.workload import golden_bodies

NAMED = {"x-model-version": "tiny@1"}
RIGHT = ((0.75, 0.25), (0.25, 0.75))


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
    assert check_reply(200, reply(), target(), BODY, NAMED) == ""


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


def test_the_header_may_not_name_another_version_than_the_body() -> None:
    """A proxy that mixes answers up is found by whichever of the two it left alone."""
    assert "tiny@7 answered" in check_reply(200, reply(), target(), BODY, {"x-model-version": "tiny@7"})


def test_a_batch_is_checked_row_by_row() -> None:
    """One wrong row among many is still wrong."""
    right, wrong = {"probabilities": {"1": 0.75, "2": 0.25}}, {"probabilities": {"1": 0.25, "2": 0.75}}
    body = Body(payload=b"", rows=2, answers={"candidate": ((0.75, 0.25), (0.75, 0.25))})
    batch = {"predictions": [right, wrong], "model": "tiny", "version": 1}
    assert check_reply(200, msgspec.json.encode(batch), target(), body).startswith("row 1")


def asked(form: Form) -> Body:
    """A request for two rows whose answers are known."""
    return Body(payload=b"", rows=2, form=form, answers={"candidate": RIGHT})


def floats(*rows: tuple[float, ...]) -> bytes:
    """Probabilities as a reply in float32 has them."""
    return np.array(rows, "<f4").tobytes()


def tensors(**changes: Any) -> bytes:
    """A reply of the Open Inference Protocol, all JSON; ``changes`` are of the probabilities' tensor."""
    probabilities = {
        "name": "probabilities",
        "datatype": "FP32",
        "shape": [2, 2],
        "data": [0.75, 0.25, 0.25, 0.75],
    }
    label = {"name": "label", "datatype": "INT64", "shape": [2], "data": [0, 1]}
    outputs = [label, probabilities | changes.pop("output", {})]
    tree = {"model_name": "tiny", "model_version": "1", "outputs": outputs}
    return msgspec.json.encode(tree | changes)


def blobs(values: bytes) -> tuple[bytes, dict[str, str]]:
    """The same with its values behind the JSON, the label's first, and the headers."""
    label = {
        "name": "label",
        "datatype": "INT64",
        "shape": [2],
        "parameters": {"binary_data_size": 16},
    }
    probabilities = {
        "name": "probabilities",
        "datatype": "FP32",
        "shape": [2, 2],
        "parameters": {"binary_data_size": len(values)},
    }
    tree = {"model_name": "tiny", "model_version": "1", "outputs": [label, probabilities]}
    text = msgspec.json.encode(tree)
    labels = np.array([0, 1], "<i8").tobytes()
    return text + labels + values, NAMED | {"inference-header-content-length": str(len(text))}


def test_right_replies_of_every_form_are_accepted() -> None:
    """The control of the tests below."""
    lists = {"predictions": [{"probabilities": {"1": a, "2": b}} for a, b in RIGHT]}
    assert check_reply(200, reply(**lists), target(), asked("csv"), NAMED) == ""
    assert check_reply(200, floats(*RIGHT), target(), asked("float32"), NAMED) == ""
    assert check_reply(200, tensors(), target(), asked("oip"), NAMED) == ""
    content, headers = blobs(floats(*RIGHT))
    assert check_reply(200, content, target(), asked("oip_binary"), headers) == ""


@pytest.mark.parametrize(
    ("content", "headers", "message"),
    [
        (floats(*RIGHT), {}, "names no version, expected tiny@1"),
        (floats(*RIGHT), {"x-model-version": "tiny@2"}, "tiny@2 answered"),
        (floats(*RIGHT[:1]), NAMED, "1 predictions for 2 rows"),
        (floats(*RIGHT)[:-4], NAMED, "not a prediction"),
        (floats(*RIGHT)[:-1], NAMED, "not a prediction"),
        (floats(*reversed(RIGHT)), NAMED, "row 0: class 1 has 0.25, the manifest 0.75"),
        (floats(RIGHT[0], (float("nan"), 0.75)), NAMED, "row 1: class 1 has nan"),
        (b"", NAMED, "0 predictions for 2 rows"),
    ],
)
def test_a_wrong_reply_in_float32_is_told(content: bytes, headers: dict[str, str], message: str) -> None:
    """Bare numbers say nothing about themselves; shape, header and values are all there is to check."""
    assert message in check_reply(200, content, target(), asked("float32"), headers)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tensors(model_version="2"), "tiny@2 answered, expected tiny@1"),
        (tensors(model_name="other"), "other@1 answered"),
        (tensors(outputs=[]), "no output probabilities"),
        (tensors(output={"datatype": "FP64"}), "probabilities is FP64"),
        (tensors(output={"shape": [4]}), "of shape [4]"),
        (tensors(output={"shape": [2, 1], "data": [0.75, 0.25]}), "not those of classes"),
        (tensors(output={"shape": [1, 2], "data": [0.75, 0.25]}), "1 predictions for 2 rows"),
        (tensors(output={"data": [0.75, 0.25]}), "not a prediction"),
        (tensors(output={"data": None}), "not a prediction"),
        (tensors(output={"data": [0.25, 0.75, 0.25, 0.75]}), "the manifest 0.75"),
        (b'{"error": "no"}', "not a prediction"),
    ],
)
def test_a_wrong_reply_of_the_protocol_is_told(content: bytes, message: str) -> None:
    """The same promises hold in the protocol's words."""
    assert message in check_reply(200, content, target(), asked("oip"), NAMED)


def test_wrong_blobs_are_told() -> None:
    """The values of a binary reply are behind its JSON, after those of the outputs before it."""
    content, headers = blobs(floats(*reversed(RIGHT)))
    assert "the manifest 0.75" in check_reply(200, content, target(), asked("oip_binary"), headers)
    content, headers = blobs(floats(*RIGHT)[:-4])
    assert "not a prediction" in check_reply(200, content, target(), asked("oip_binary"), headers)
    content, headers = blobs(floats(*RIGHT))
    cut = check_reply(200, content[:-4], target(), asked("oip_binary"), headers)
    assert "not a prediction" in cut
    broken = headers | {"inference-header-content-length": "many"}
    assert "not a prediction" in check_reply(200, content, target(), asked("oip_binary"), broken)


def test_an_answer_that_nobody_knows_is_checked_for_its_shape_alone() -> None:
    """Rows that no form carries are sent all the same; their classes and their number still count."""
    other = msgspec.structs.replace(BODY, answers={"champion": ((0.1, 0.9),)})
    assert check_reply(200, reply(), target(), other) == ""
    assert check_reply(200, reply(probabilities={"1": 0.1, "2": 0.9}), target(), other) == ""
    assert "not those of classes 1, 2" in check_reply(200, reply(probabilities={"3": 1.0}), target(), other)
    assert "HTTP 404" in check_reply(404, reply(), target(), other)


@pytest.mark.parametrize("step", [1, -1])
def test_an_answer_may_be_off_by_the_versions_own_tolerance(step: int) -> None:
    """`atol` is the manifest's; what is exactly that far away is still right."""
    exact = target(atol=0.125)
    for distance, is_right in ((0.125, True), (0.126, False)):
        moved = reply(probabilities={"1": 0.75 + step * distance, "2": 0.25})
        assert (check_reply(200, moved, exact, BODY) == "") == is_right
    second = reply(probabilities={"1": 0.75, "2": 0.25 + step * 0.2})
    assert check_reply(200, second, exact, BODY).startswith("row 0: class 2 has ")


def test_classes_are_told_apart_by_name_and_not_by_place() -> None:
    """An object has no order; swapped names are a wrong answer, swapped places are none."""
    assert check_reply(200, reply(probabilities={"2": 0.25, "1": 0.75}), target(), BODY) == ""
    swapped = check_reply(200, reply(probabilities={"2": 0.75, "1": 0.25}), target(), BODY)
    assert swapped == "row 0: class 1 has 0.25, the manifest 0.75"
    more = reply(probabilities={"1": 0.75, "2": 0.25, "3": 0.0})
    assert "not those of classes" in check_reply(200, more, target(), BODY)


def test_every_row_of_a_batch_is_compared_with_its_own_answer() -> None:
    """In the order sent."""
    lists = {"predictions": [{"probabilities": {"1": a, "2": b}} for a, b in reversed(RIGHT)]}
    assert check_reply(200, reply(**lists), target(), asked("json")).startswith("row 0: class 1 has 0.25")
    three = {"predictions": [{"probabilities": {"1": 0.75, "2": 0.25}}] * 3}
    assert check_reply(200, reply(**three), target(), asked("json")) == "3 predictions for 2 rows"


def test_only_the_probabilities_of_a_mixed_reply_may_be_behind_it() -> None:
    """An output that stands in the JSON takes no bytes behind it."""
    label = {"name": "label", "datatype": "INT64", "shape": [2], "data": [0, 1]}
    values = floats(*RIGHT)
    probabilities = {"name": "probabilities", "datatype": "FP32", "shape": [2, 2]}
    sized = probabilities | {"parameters": {"binary_data_size": len(values)}}
    tree = {"model_name": "tiny", "model_version": "1", "outputs": [label, sized]}
    text = msgspec.json.encode(tree)
    headers = NAMED | {"inference-header-content-length": str(len(text))}
    assert check_reply(200, text + values, target(), asked("oip_binary"), headers) == ""
    assert check_reply(200, text + values + b"more", target(), asked("oip_binary"), headers) == ""


def test_a_short_refusal_is_repeated_and_a_long_one_cut() -> None:
    """A page of HTML in every failure would fill the report; bytes that are no text are none."""
    assert check_reply(503, b"busy \xff", target(), BODY) == "HTTP 503: busy \ufffd"
    assert check_reply(500, None, target(), BODY) == "HTTP 500: "
    assert len(check_reply(500, b"x" * 5000, target(), BODY)) < 200
