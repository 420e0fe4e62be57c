"""Cosines in double precision: angles of every size, DuckDB's answers, the graph's before it rounds them."""

from __future__ import annotations

import duckdb
import numpy as np
import numpy.typing as npt
import onnx
import pyarrow as pa
from onnx import TensorProto, helper

from timberline.exporter.compiler.compile import build_feature_graph
from timberline.registry.signature import Column
from timberline.training.features import parse_features

Doubles = npt.NDArray[np.float64]

# Where the shifted sine ends and the half angle begins (exporter/compiler/formulas.py).
BORDER = 2.0**26
_COUNT = 4000


def draw_near_angles() -> Doubles:
    """Angles below `BORDER`: of every size, whole degrees, zeros of the cosine and their neighbours."""
    generator = np.random.default_rng(5)
    sizes = [generator.uniform(-size, size, _COUNT) for size in (1e-8, 0.1, 1.0, 4.0, 100.0, 1e5, BORDER)]
    zeros = (np.arange(-_COUNT, _COUNT) * 4999 + 0.5) * np.pi
    neighbours = [np.nextafter(zeros, sign * np.inf) for sign in (-1, 1)]
    ends = np.array([0.0, -0.0, 5e-324, np.pi / 2, -np.pi / 2, np.nextafter(BORDER, 0)])
    return np.concatenate([*sizes, np.radians(np.arange(-_COUNT, _COUNT)), zeros, *neighbours, ends])


def draw_far_angles() -> Doubles:
    """Angles from `BORDER` on, to the largest double."""
    generator = np.random.default_rng(6)
    sizes = np.exp2(generator.uniform(26, 1023.9, _COUNT)) * generator.choice([-1, 1], _COUNT)
    return np.concatenate([sizes, np.exp2(np.arange(26, 1024)), [1.7976931348623157e308]])


def build_double_graph(expression: str) -> onnx.ModelProto:
    """The graph of one feature of column ``x`` without the last cast: ``features`` is DOUBLE (rows, 1)."""
    columns = (Column(name="x", datatype="FP64"),)
    model = build_feature_graph(parse_features(f"SELECT {expression} AS f FROM raw", columns), 18)
    cast = model.graph.node.pop()
    assert cast.op_type == "Cast"
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(cast.input[0], TensorProto.DOUBLE, ["rows", 1]))
    return model


def compute_in_duckdb(expression: str, angles: Doubles) -> Doubles:
    """DuckDB's own answer in double precision."""
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        connection.register("raw", pa.table({"x": pa.array(angles)}))
        return np.asarray(connection.execute(f"SELECT {expression} AS f FROM raw").fetchnumpy()["f"])
