"""The oldest ONNX Runtime that manifests promise computes every kind of graph that we publish."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from tests.support import cosines
from tests.support.clients import ask_as
from tests.support.feature_forms import BY_THE_DOZEN, CASES, DOZEN_COLUMNS, ONE_HOTS, ROUNDED
from tests.support.feature_parity import COLUMNS, Rows, compute_in_duckdb, make_inputs, make_rows
from tests.support.networks import NETWORKS, save_network
from tests.support.text_forms import COLUMNS as TEXTS
from tests.support.text_forms import TextForms, is_in_the_language
from timberline.exporter.compiler.compile import build_feature_graph
from timberline.exporter.graph.compose import compose_graph, quantise_graph, serialise
from timberline.exporter.graph.runtime import find_minimum_runtime, open_session
from timberline.exporter.parity.compare import TOLERANCES, load_tolerances
from timberline.registry.manifest import Precision
from timberline.registry.signature import PROBABILITIES_OUTPUT, Column
from timberline.training.config import MlpNetwork, Network
from timberline.training.features import FeatureProgram, parse_features

ROWS = make_rows(200, seed=11)
# As tests/unit/exporter/compiler/test_compile.py has them, where the reasons stand.
ROUNDING, NEAR_ZERO = 2**-23, 4e-16
# The logarithm of that runtime takes anything below the smallest normal double for that double.
SMALLEST_NORMAL = 2.2250738585072014e-308
# What a network of six inputs is asked: text, angles, a choice, and NULL where it has learned to fill it.
NETWORK_FEATURES = (
    "abs(i % 300)",
    "cos(radians(i)) * 100",
    "CASE u WHEN 'red' THEN 100 WHEN 'blue' THEN 80 ELSE 60 END",
    "CAST(n % 200 AS DOUBLE)",
    "atan2(i, j) * 30",
    "CAST(coalesce(u IN ('red', 'green', 'blue'), false) AS INTEGER) * 100 + 50",
)

# A graph, and the inputs of each question.
Asked = tuple[onnx.ModelProto, Sequence[Mapping[str, npt.NDArray[Any]]]]


def ask_oldest(folder: Path, graphs: Mapping[str, Asked]) -> dict[str, Any]:
    """What the oldest runtime answers, by name; it is the one that manifests promise."""
    for name, (model, questions) in graphs.items():
        (folder / f"{name}.onnx").write_bytes(serialise(model))
        asked = [{key: feed.tolist() for key, feed in question.items()} for question in questions]
        (folder / f"{name}.json").write_text(json.dumps(asked), "utf-8")
    seen = ask_as("onnxruntime-oldest", "onnxruntime_child.py", folder=str(folder))
    assert seen["version"].startswith(f"{find_minimum_runtime(17)}.")
    answers: dict[str, Any] = seen["answers"]
    return answers


def parse(features: Sequence[str], columns: Sequence[Column]) -> FeatureProgram:
    """A program of features f0, f1, ..."""
    named = ", ".join(f"{feature} AS f{index}" for index, feature in enumerate(features))
    return parse_features(f"SELECT {named} FROM raw", columns)


def make_feeds(program: FeatureProgram, model: onnx.ModelProto, rows: Rows) -> dict[str, npt.NDArray[Any]]:
    """The rows as the inputs that the graph has."""
    inputs = make_inputs(program, rows)
    return {entry.name: inputs[entry.name] for entry in model.graph.input}


@pytest.mark.parametrize("opset", [17, 18, 20])
def test_every_operator_is_equal_in_duckdb_and_in_the_oldest_runtime(opset: int, tmp_path: Path) -> None:
    """A kernel that it lacks would refuse a version on the day of its release, in somebody else's service."""
    rows = {**ROWS, "x": [0.0 if abs(float(str(v))) < SMALLEST_NORMAL else v for v in ROWS["x"]]}
    rows["y"] = [None if v is None or abs(float(str(v))) < SMALLEST_NORMAL else v for v in ROWS["y"]]
    programs = {operator: parse(features, COLUMNS) for operator, features in CASES.items()}
    graphs: dict[str, Asked] = {}
    for operator, program in programs.items():
        model = build_feature_graph(program, opset)
        graphs[operator] = model, [make_feeds(program, model, rows)]
    answers = ask_oldest(tmp_path, graphs)
    for operator, program in programs.items():
        assert isinstance(answers[operator], list), answers[operator]
        found = np.array(answers[operator][0]["features"])
        expected = compute_in_duckdb(program, rows)
        rtol, atol = (ROUNDING, NEAR_ZERO) if operator in ROUNDED else (0.0, 0.0)
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, err_msg=operator)


def test_functions_of_text_are_what_duckdb_makes_of_them_in_the_oldest_runtime(tmp_path: Path) -> None:
    """Its regular expressions are a library of their own, of another year than DuckDB's."""
    forms = TextForms(7)
    rows = forms.rows(200)
    rows["t"] += ["s", "S", "ſ", "k", "K", "K", "as", "aſ"]  # cases that versions of it take for one another
    rows["u"] += [None] * 8
    features = ["lower(t) IN ('s', 'x', 'as', 'ab', 'k')", "upper(t) IN ('S', 'X', 'K', 'B', 'C', 'D')"]
    while len(features) < 40:
        features += [form for form in [forms.expression()] if is_in_the_language(form)]
    program = parse(features, TEXTS)
    model = build_feature_graph(program, 18)
    answers = ask_oldest(tmp_path, {"text": (model, [make_feeds(program, model, rows)])})
    assert isinstance(answers["text"], list), answers["text"]
    found, expected = np.array(answers["text"][0]["features"]), compute_in_duckdb(program, rows)
    for index, feature in enumerate(features):
        np.testing.assert_array_equal(found[:, index], expected[:, index], err_msg=feature)


def test_forms_of_choices_are_equal_in_duckdb_and_in_the_oldest_runtime(tmp_path: Path) -> None:
    """Reductions, look-ups and logic over blocks of columns, as tables with many categories have them."""
    features = [form.replace("{i}", str(i)) for form in ONE_HOTS + BY_THE_DOZEN for i in range(3)]
    program = parse(features, DOZEN_COLUMNS)
    generator = np.random.default_rng(3)
    pools: dict[str, list[Any]] = {
        "INT64": [0, 1, 2, 5],
        "FP64": [None, 0.5, 2.0, 3.0, 3.5, 40.0],
        "BOOL": [None, False, True],
        "BYTES": ["", "w0", "w1", "v0", "v1", "x2", "a0", "e1", "no"],
    }
    rows = {
        column.name: [
            pools[column.datatype][k] for k in generator.integers(0, len(pools[column.datatype]), 60)
        ]
        for column in DOZEN_COLUMNS
    }
    rows["u"][:10] = rows["v"][5:15] = [None] * 10
    model = build_feature_graph(program, 18)
    answers = ask_oldest(tmp_path, {"forms": (model, [make_feeds(program, model, rows)])})
    assert isinstance(answers["forms"], list), answers["forms"]
    found = np.array(answers["forms"][0]["features"])
    # The only rounded feature among them is a cosine.
    np.testing.assert_allclose(found, compute_in_duckdb(program, rows), rtol=ROUNDING, atol=NEAR_ZERO)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_every_network_answers_in_the_oldest_runtime_as_in_this_one(
    precision: Precision, tmp_path: Path
) -> None:
    """Periodic and piecewise embeddings, quantiles, calibration, corrected priors, layers in integers."""
    program = parse(NETWORK_FEATURES, COLUMNS)
    bound = load_tolerances(TOLERANCES).choose(precision)
    atol = bound.int8.golden_atol if precision == "int8" else bound.by_tensor()[PROBABILITIES_OUTPUT].atol
    networks: tuple[Network, ...] = (*NETWORKS, MlpNetwork(widths=(8,), scaling="standard"))
    graphs: dict[str, Asked] = {}
    for index, config in enumerate(networks):
        folder = tmp_path / f"network_{index}"
        folder.mkdir()
        network = save_network(config, folder).convert(18)
        model = compose_graph(build_feature_graph(program, 18), network, class_count=4, precision=precision)
        model = quantise_graph(model) if precision == "int8" else model
        feeds = make_feeds(program, model, ROWS)
        # One row at a time, as the service asks.
        graphs[f"{index}"] = model, [{k: feed[i : i + 1] for k, feed in feeds.items()} for i in range(50)]
    answers = ask_oldest(tmp_path, graphs)
    for name, (model, questions) in graphs.items():
        assert isinstance(answers[name], list), f"{networks[int(name)]}: {answers[name]}"
        session = open_session(serialise(model), threads=1)
        expected = [session.run([PROBABILITIES_OUTPUT], question)[0] for question in questions]
        found = [answer[PROBABILITIES_OUTPUT] for answer in answers[name]]
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol, err_msg=str(networks[int(name)]))


def test_a_cosine_of_any_angle_is_within_an_ulp_of_duckdb_s(tmp_path: Path) -> None:
    """That runtime has no cosine of doubles; ours is made of its sine, whose every bit is right."""
    angles = {"near": cosines.draw_near_angles(), "far": cosines.draw_far_angles()}
    model = cosines.build_double_graph("cos(x)")
    answers = ask_oldest(
        tmp_path, {name: (model, [{"numeric": values[:, None]}]) for name, values in angles.items()}
    )
    for name, values in angles.items():
        (answer,) = answers[name][0].values()
        truth = cosines.compute_in_duckdb("cos(x)", values)
        error = np.abs(np.array(answer)[:, 0] - truth)
        # Beside a zero of the cosine the sum of two sines is left, each of them rounded: 2**-53 of 2**-27.
        allowed = np.spacing(np.abs(truth)) + 2.0**-79 if name == "near" else 4e-16
        assert (error <= allowed).all(), (values[error > allowed][:5], error.max())


def test_a_newer_operator_set_is_promised_to_a_newer_runtime_only(tmp_path: Path) -> None:
    """What the manifest says follows what the runtime refuses."""
    program = parse(("x + i",), COLUMNS)
    graphs: dict[str, Asked] = {}
    for opset in range(17, 24):
        model = build_feature_graph(program, opset)
        graphs[f"{opset}"] = model, [make_feeds(program, model, ROWS)]
    answers = ask_oldest(tmp_path, graphs)
    is_promised = {name: find_minimum_runtime(int(name)) == find_minimum_runtime(17) for name in graphs}
    assert {name: isinstance(answer, list) for name, answer in answers.items()} == is_promised
