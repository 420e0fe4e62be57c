"""The Open Inference Protocol, as a client sees it: the real service against the protocol's promises.

Answers are compared with the tiny graph computed a second time in numpy. Every spelling of a wrong
request is in tests/unit/inference/formats/test_tensors.py; here is what only the whole service shows.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from tests.support.service import RunningService, Serve, running_service
from tests.support.tiny_model import (
    MIXED_COLUMNS,
    MIXED_ROWS,
    NUMERIC_COLUMNS,
    NUMERIC_ROWS,
    build_graph,
    expect_probabilities,
    publish_numeric,
)
from timberline.registry.store import open_store

# The tiny graph computes in float32, the expectation in float64: 2^-23 relative, some operations deep.
ATOL = 1e-6
MATRIX = np.array([[float("nan") if v is None else float(v) for v in row] for row in NUMERIC_ROWS])
NUMERIC = {"name": "numeric", "shape": [3, 4], "datatype": "FP64"}
IN_JSON = {**NUMERIC, "data": [[None if v is None else float(v) for v in row] for row in NUMERIC_ROWS]}
AS_BLOB = {**NUMERIC, "parameters": {"binary_data_size": MATRIX.nbytes}}
JSON_LENGTH = "Inference-Header-Content-Length"
OCTETS = "application/octet-stream"
MAX_ROWS = 100


@pytest.fixture(scope="module")
def service(serve: Serve) -> RunningService:
    """tiny@1 with small limits, so that they can be reached; more than two rows go to a thread."""
    limits = ("--max-rows", str(MAX_ROWS), "--max-body-bytes", "200000", "--inline-max-rows", "2")
    return serve("tiny", *limits)


def infer(
    service: RunningService,
    request: object,
    blobs: bytes = b"",
    path: str = "/v2/models/tiny/infer",
    **headers: str,
) -> tuple[int, dict[str, Any], bytes]:
    """Status, JSON and blobs of an answer; ``blobs`` make the request one with blobs."""
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    sent = {"Content-Type": "application/json"}
    if blobs:
        sent = {"Content-Type": OCTETS, JSON_LENGTH: str(len(body))}
    status, found, answer = service.request(
        "POST", path, body + blobs, sent | {name.replace("_", "-"): value for name, value in headers.items()}
    )
    length = int(found[JSON_LENGTH] or len(answer))
    assert found["content-type"] == (OCTETS if JSON_LENGTH in found else "application/json")
    return status, json.loads(answer[:length]), answer[length:]


def read_outputs(answer: Mapping[str, Any], blobs: bytes) -> dict[str, npt.NDArray[Any]]:
    """The answer's tensors by name, in their order, from JSON or from blobs."""
    outputs: dict[str, npt.NDArray[Any]] = {}
    offset = 0
    for output in answer["outputs"]:
        dtype = {"FP32": "<f4", "INT64": "<i8"}[output["datatype"]]
        if "data" in output:
            values = np.array(output["data"], dtype=dtype)
        else:
            size = output["parameters"]["binary_data_size"]
            values = np.frombuffer(blobs[offset : offset + size], dtype=dtype)
            offset += size
        outputs[output["name"]] = values.reshape(output["shape"])
    assert offset == len(blobs)
    return outputs


def assert_right(outputs: Mapping[str, npt.NDArray[Any]], expected: npt.NDArray[np.float64]) -> None:
    """The outputs are the model's: probabilities, and the label that belongs to them."""
    np.testing.assert_allclose(outputs["probabilities"], expected, rtol=0, atol=ATOL)
    assert outputs["label"].tolist() == expected.argmax(axis=1).tolist()


def test_the_server_says_what_it_is(service: RunningService) -> None:
    """A client asks for extensions before it uses one."""
    for path in ("/v2", "/v2/"):
        page = service.get_json(path)
        assert set(page) == {"name", "version", "extensions"}
        assert page["extensions"] == ["binary_tensor_data"]


@pytest.mark.parametrize("kind", ["live", "ready"])
def test_health_answers_with_both_names(service: RunningService, kind: str) -> None:
    """The protocol's text and KServe name the flag differently; clients look for either."""
    assert service.get_json(f"/v2/health/{kind}") == {"live": True, "ready": True}


@pytest.mark.parametrize("model", ["tiny", "tiny_text"])
def test_metadata_are_the_graphs_own(
    service: RunningService, text_service: RunningService, model: str
) -> None:
    """Clients build their tensors from this page; it must not be a second opinion about the graph."""
    page = (service if model == "tiny" else text_service).get_json(f"/v2/models/{model}")
    graph = onnx.load_from_string(build_graph(NUMERIC_COLUMNS if model == "tiny" else MIXED_COLUMNS)).graph
    names = {onnx.TensorProto.DOUBLE: "FP64", onnx.TensorProto.FLOAT: "FP32"}
    names |= {onnx.TensorProto.STRING: "BYTES", onnx.TensorProto.INT64: "INT64"}
    for side, values in (("inputs", graph.input), ("outputs", graph.output)):
        assert page[side] == [
            {
                "name": value.name,
                "datatype": names[value.type.tensor_type.elem_type],
                "shape": [axis.dim_value or -1 for axis in value.type.tensor_type.shape.dim],
            }
            for value in values
        ]
    assert (page["name"], page["versions"], page["platform"]) == (model, ["1"], "onnxruntime_onnx")


@pytest.mark.parametrize("path", ["/v2/models/tiny/ready", "/v2/models/tiny/versions/1/ready"])
def test_a_model_says_that_it_is_ready(service: RunningService, path: str) -> None:
    """Clients wait for this before they send work."""
    assert service.get_json(path) == {"name": "tiny", "ready": True}


@pytest.mark.parametrize(
    "path", ["/v2/models/other", "/v2/models/tiny/versions/9", "/v2/models/tiny/versions/x"]
)
@pytest.mark.parametrize("verb", ["", "/ready", "/infer"])
def test_what_is_not_served_is_not_found(service: RunningService, path: str, verb: str) -> None:
    """A typing error in a name must not be answered by another model."""
    method, body = ("POST", {"inputs": [IN_JSON]}) if verb == "/infer" else ("GET", None)
    status, _, answer = service.request(method, path + verb, body)
    assert status == 404
    assert list(json.loads(answer)) == ["error"]


def test_the_repository_lists_what_is_served(service: RunningService) -> None:
    """tritonclient asks for it with an empty body, other clients with a filter."""
    expected = [{"name": "tiny", "version": "1", "state": "READY", "reason": ""}]
    for body in (b"", {"ready": True}):
        status, _, answer = service.request("POST", "/v2/repository/index", body)
        assert (status, json.loads(answer)) == (200, expected)


@pytest.mark.parametrize("path", ["/v2/models/tiny/infer", "/v2/models/tiny/versions/1/infer"])
def test_both_paths_give_the_models_answer(service: RunningService, path: str) -> None:
    """Without a number the default version answers, and says which it is."""
    status, answer, blobs = infer(service, {"inputs": [IN_JSON]}, path=path)
    assert status == 200, answer
    assert list(answer) == ["model_name", "model_version", "outputs"]
    assert (answer["model_name"], answer["model_version"]) == ("tiny", "1")
    assert_right(read_outputs(answer, blobs), expect_probabilities(NUMERIC_COLUMNS, NUMERIC_ROWS))


def test_the_version_is_in_the_header_of_both_kinds_of_answers(service: RunningService) -> None:
    """A proxy counts versions without reading bodies."""
    for wanted in (False, True):
        body = {"inputs": [IN_JSON], "parameters": {"binary_data_output": wanted}}
        _, headers, _ = service.request("POST", "/v2/models/tiny/infer", body)
        assert headers["x-model-version"] == "tiny@1"


@pytest.mark.parametrize("in_blobs", [True, False], ids=["blob in", "JSON in"])
@pytest.mark.parametrize("out_blobs", [True, False], ids=["blob out", "JSON out"])
def test_json_and_blobs_go_with_each_other(service: RunningService, in_blobs: bool, out_blobs: bool) -> None:
    """The extension allows each side its own form, and the numbers are the same ones."""
    request = {
        "inputs": [AS_BLOB if in_blobs else IN_JSON],
        "outputs": [
            {"name": "label", "parameters": {"binary_data": out_blobs}},
            {"name": "probabilities", "parameters": {"binary_data": out_blobs}},
        ],
    }
    status, answer, blobs = infer(service, request, MATRIX.tobytes() if in_blobs else b"")
    assert status == 200, answer
    assert bool(blobs) == out_blobs
    outputs = read_outputs(answer, blobs)
    assert list(outputs) == ["label", "probabilities"]
    assert_right(outputs, expect_probabilities(NUMERIC_COLUMNS, NUMERIC_ROWS))


def test_json_and_blobs_agree_to_the_last_bit(service: RunningService) -> None:
    """A caller that changes the form of its requests must see no other number."""
    _, answer, _ = infer(service, {"inputs": [IN_JSON]})
    _, other, blobs = infer(
        service, {"inputs": [AS_BLOB], "parameters": {"binary_data_output": True}}, MATRIX.tobytes()
    )
    for name, values in read_outputs(answer, b"").items():
        np.testing.assert_array_equal(values, read_outputs(other, blobs)[name])


@pytest.mark.parametrize("name", ["label", "probabilities"])
def test_one_output_may_be_asked_for_alone(service: RunningService, name: str) -> None:
    """Who wants only the label should not pay for the rest."""
    _, answer, _ = infer(service, {"inputs": [IN_JSON], "outputs": [{"name": name}]})
    assert [output["name"] for output in answer["outputs"]] == [name]


@pytest.mark.parametrize("row_count", [1, 2, 3, MAX_ROWS])
def test_a_body_that_is_one_blob_is_answered_in_blobs(service: RunningService, row_count: int) -> None:
    """The shortest form: no JSON at all in the request."""
    rows = (NUMERIC_ROWS * MAX_ROWS)[:row_count]
    body = np.resize(MATRIX, (row_count, 4)).tobytes()
    status, headers, answer = service.request("POST", "/v2/models/tiny/infer", body, {JSON_LENGTH: "0"})
    assert status == 200, answer
    length = int(headers[JSON_LENGTH])
    outputs = read_outputs(json.loads(answer[:length]), answer[length:])
    assert_right(outputs, expect_probabilities(NUMERIC_COLUMNS, rows))


def test_single_columns_give_the_same_answer_as_the_matrix(service: RunningService) -> None:
    """Columns by name are for people and pandas; the model is the same."""
    columns = zip(NUMERIC_COLUMNS, zip(*NUMERIC_ROWS, strict=True), strict=True)
    inputs = [{"name": c.name, "shape": [3], "datatype": c.datatype, "data": values} for c, values in columns]
    _, answer, blobs = infer(service, {"inputs": inputs[::-1]})
    assert_right(read_outputs(answer, blobs), expect_probabilities(NUMERIC_COLUMNS, NUMERIC_ROWS))


@pytest.mark.parametrize("in_blobs", [True, False], ids=["blobs", "JSON"])
def test_text_reaches_the_graph(text_service: RunningService, in_blobs: bool) -> None:
    """Two tensors in one request, one of them of strings, one of which is NULL."""
    texts = [row[i] for row in MIXED_ROWS for i in (0, -1)]
    values = [b"\x00" if text is None else str(text).encode() for text in texts]
    blob = b"".join(len(value).to_bytes(4, "little") + value for value in values)
    text: dict[str, Any] = {"name": "text", "shape": [3, 2], "datatype": "BYTES"}
    inputs: list[object] = [{**text, "data": texts}, IN_JSON]
    if in_blobs:
        inputs = [{**text, "parameters": {"binary_data_size": len(blob)}}, AS_BLOB]
    path = "/v2/models/tiny_text/infer"
    sent = blob + MATRIX.tobytes() if in_blobs else b""
    status, answer, blobs = infer(text_service, {"inputs": inputs}, sent, path)
    assert status == 200, answer
    assert_right(read_outputs(answer, blobs), expect_probabilities(MIXED_COLUMNS, MIXED_ROWS))


def test_text_that_is_no_text_is_refused_with_its_place(text_service: RunningService) -> None:
    """The protocol's BYTES may be anything, the graph's strings are UTF-8."""
    blob = b"\x04\x00\x00\x00clay" + b"\x02\x00\x00\x00a\xff"
    inputs = [
        {"name": "soil", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(blob)}},
        {"name": "rings", "shape": [2], "datatype": "INT64", "data": [1, 2]},
    ]
    status, answer, _ = infer(text_service, {"inputs": inputs}, blob, "/v2/models/tiny_text/infer")
    assert status == 400
    assert answer == {"error": 'row 1, "soil": the string is not UTF-8: invalid start byte at byte 1'}


@pytest.mark.parametrize("request_id", ["42", "", 'quoted " and ü', "x" * 1000])
def test_the_id_comes_back(service: RunningService, request_id: str) -> None:
    """Clients match answers to requests by it."""
    _, answer, _ = infer(service, {"inputs": [IN_JSON], "id": request_id})
    assert answer["id"] == request_id


def test_no_id_comes_back_if_none_was_sent(service: RunningService) -> None:
    """An empty one would be taken for an id."""
    for request in ({"inputs": [IN_JSON]}, {"inputs": [IN_JSON], "id": None}):
        assert "id" not in infer(service, request)[1]


def test_concurrent_requests_keep_their_ids_and_values(service: RunningService) -> None:
    """A mix-up would be a wrong prediction that nobody notices; some of these go by threads."""

    def ask(number: int) -> None:
        rows = [(float(number), 1 + number, number % 2 == 0, None)] * (1 + number % 5)
        values = [float("nan") if v is None else float(v) for row in rows for v in row]
        tensor: dict[str, Any] = {"name": "numeric", "shape": [len(rows), 4], "datatype": "FP64"}
        blob = np.array(values).tobytes()
        tensor["parameters"] = {"binary_data_size": len(blob)}
        status, answer, blobs = infer(service, {"inputs": [tensor], "id": str(number)}, blob)
        assert (status, answer["id"]) == (200, str(number))
        expected = expect_probabilities(NUMERIC_COLUMNS, rows)
        found = read_outputs(answer, blobs)["probabilities"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(200)))


@pytest.mark.parametrize("path", ["/v2/models/tiny/infer", "/v2/models/tiny/versions/1/infer"])
@pytest.mark.parametrize("version", ["1", 1, "", None])
def test_a_body_may_repeat_what_the_path_names(service: RunningService, path: str, version: object) -> None:
    """KServe's InferenceRESTClient always sends the model's name, transcoding gateways both."""
    request = {"inputs": [IN_JSON], "model_name": "tiny", "model_version": version}
    status, answer, blobs = infer(service, request, path=path)
    assert status == 200, answer
    assert_right(read_outputs(answer, blobs), expect_probabilities(NUMERIC_COLUMNS, NUMERIC_ROWS))


@pytest.mark.parametrize("path", ["/v2/models/tiny/infer", "/v2/models/tiny/versions/1/infer"])
@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"model_name": "other"}, 'the body names the model "other", the path "tiny"'),
        ({"model_name": "tiny", "model_version": "9"}, 'the body names the version "9", tiny@1 answers here'),
    ],
)
def test_a_body_that_names_another_model_or_version_is_refused(
    service: RunningService, path: str, named: dict[str, str], message: str
) -> None:
    """Its sender would take the answer for the other one's."""
    status, answer, _ = infer(service, {"inputs": [IN_JSON], **named}, path=path)
    assert (status, answer) == (400, {"error": f"{list(named)[-1]}: {message}"})


def test_the_version_that_a_body_names_answers(tmp_path: Path) -> None:
    """Beside a canary the path alone means either; who names a version gets that one, every time."""
    store = open_store(tmp_path)
    publish_numeric(store)
    publish_numeric(store, alias="candidate", scale=-1.0)
    with running_service(tmp_path, "tiny", "--canary", "candidate=0.5") as service:
        for version in ("1", "2") * 10:
            status, answer, _ = infer(service, {"inputs": [IN_JSON], "model_version": version})
            assert (status, answer["model_version"]) == (200, version)
        path = "/v2/models/tiny/versions/1/infer"
        assert infer(service, {"inputs": [IN_JSON], "model_version": "2"}, path=path)[0] == 400


REFUSED: list[tuple[str, object, int, str]] = [
    ("not JSON", b"{", 400, "the body is not JSON"),
    ("empty", b"", 400, "the body is empty"),
    ("nested too deeply", b'{"inputs":[{"data":' + b"[" * 100_000, 400, "nested too deeply"),
    (
        "data nested too deeply",
        {"inputs": [{**IN_JSON, "data": [[[[1]]]]}]},
        400,
        'input "numeric": row 0 has',
    ),
    ("no inputs", {}, 400, "missing required field `inputs`"),
    (
        "unknown output",
        {"inputs": [IN_JSON], "outputs": [{"name": "x"}]},
        400,
        'output "x": the model has no',
    ),
    ("unknown input", {"inputs": [{**IN_JSON, "name": "x"}]}, 400, 'input "x": the model has no such input'),
    (
        "wrong datatype",
        {"inputs": [{**IN_JSON, "datatype": "BYTES"}]},
        400,
        "the datatype is BYTES, expected FP64",
    ),
    (
        "wrong shape",
        {"inputs": [{**IN_JSON, "shape": [4, 3]}]},
        400,
        "the shape is [4, 3], expected [rows, 4]",
    ),
    ("fewer values", {"inputs": [{**IN_JSON, "shape": [4, 4]}]}, 400, "has 12 values, shape [4, 4] takes 16"),
    ("no rows", {"inputs": [{**IN_JSON, "shape": [0, 4], "data": []}]}, 400, "has no rows"),
    (
        "string for a number",
        {"inputs": [{**IN_JSON, "shape": [1, 4], "data": [1, "2", 0, 1]}]},
        400,
        'row 0, "rings"',
    ),
    (
        "NaN",
        {"inputs": [{**IN_JSON, "shape": [1, 4], "data": [float("nan"), 2, 0, 1]}]},
        400,
        "JSON has no NaN",
    ),
    ("null", {"inputs": [{**IN_JSON, "shape": [1, 4], "data": [None, 2, 0, 1]}]}, 400, 'row 0, "height"'),
    (
        "too many rows",
        {"inputs": [{**IN_JSON, "shape": [101, 4]}]},
        413,
        "101 rows in one request, at most 100",
    ),
    ("too many bytes", b" " * 200_001, 413, "the body has more than 200,000 bytes"),
]


@pytest.mark.parametrize(
    ("request_body", "status", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_what_is_wrong_is_said(
    service: RunningService, request_body: object, status: int, message: str
) -> None:
    """One shape for every error, with the reason in it."""
    found, answer, _ = infer(service, request_body)
    assert found == status
    assert list(answer) == ["error"]
    assert message in answer["error"]


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (float("nan"), 'row 2, "rings": expected a number, found NaN'),
        (float("inf"), 'row 2, "rings"'),
        (1.5, 'row 2, "rings": expected an integer, found 1.5'),
        (2.0**53, 'row 2, "rings": the integer is not exact'),
    ],
)
def test_values_in_blobs_are_checked_too(service: RunningService, value: float, place: str) -> None:
    """What a network makes of NaN is a confident nonsense; the row is named so that it can be found."""
    matrix = MATRIX.copy()
    matrix[2, 1] = value
    status, answer, _ = infer(service, {"inputs": [AS_BLOB]}, matrix.tobytes())
    assert (status, answer["error"][: len(place)]) == (400, place)


@pytest.mark.parametrize("value", ["-1", "x", "1e2", "99999999999999999999", "1000000", " "])
def test_a_wrong_length_of_the_json_is_refused(service: RunningService, value: str) -> None:
    """Overflowing and negative lengths have been holes in other servers."""
    body = json.dumps({"inputs": [AS_BLOB]}).encode() + MATRIX.tobytes()
    status, _, answer = service.request("POST", "/v2/models/tiny/infer", body, {JSON_LENGTH: value})
    assert status == 400
    assert "Inference-Header-Content-Length" in json.loads(answer)["error"]


@pytest.mark.parametrize("cut", [-1, 1])
def test_a_length_that_cuts_elsewhere_is_refused(service: RunningService, cut: int) -> None:
    """Off by one must not shift every value by a byte."""
    head = json.dumps({"inputs": [AS_BLOB]}).encode()
    headers = {JSON_LENGTH: str(len(head) + cut)}
    status, _, _ = service.request("POST", "/v2/models/tiny/infer", head + MATRIX.tobytes(), headers)
    assert status == 400


def test_a_form_is_not_read(service: RunningService) -> None:
    """The protocol has JSON and octets; what is declared to be something else is not guessed at."""
    headers = {"Content-Type": "text/csv"}
    assert service.request("POST", "/v2/models/tiny/infer", b"1,2,3", headers)[0] == 415


@pytest.mark.parametrize("is_json", [True, False])
def test_octets_may_be_json_alone(service: RunningService, is_json: bool) -> None:
    """aiohttp, and with it tritonclient's asyncio half, declares every body to be octets."""
    headers = {"Content-Type": OCTETS}
    body = json.dumps({"inputs": [IN_JSON]}).encode()
    if is_json:
        headers[JSON_LENGTH] = str(len(body))
    assert service.request("POST", "/v2/models/tiny/infer", body, headers)[0] == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_body_is_measured_inflated(service: RunningService, encoding: str) -> None:
    """The length of the JSON is that of the text, not of what it was squeezed to; Triton's rule."""
    head = json.dumps({"inputs": [AS_BLOB]}).encode()
    compress = gzip.compress if encoding == "gzip" else zlib.compress
    headers = {JSON_LENGTH: str(len(head)), "Content-Encoding": encoding}
    body = compress(head + MATRIX.tobytes())
    status, _, answer = service.request("POST", "/v2/models/tiny/infer", body, headers)
    assert status == 200, answer
    expected = expect_probabilities(NUMERIC_COLUMNS, NUMERIC_ROWS)
    assert_right(read_outputs(json.loads(answer), b""), expected)


def test_get_is_not_allowed_where_work_is_posted(service: RunningService) -> None:
    """The error says which method is."""
    status, headers, _ = service.request("GET", "/v2/models/tiny/infer")
    assert (status, headers["allow"]) == (405, "POST")
