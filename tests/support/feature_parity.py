"""Both sides of a feature: what DuckDB computes over a table, and what the graph computes over its rows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import duckdb
import numpy as np
import numpy.typing as npt
import onnx
import pyarrow as pa

from timberline.registry.runtime.logs import NO_TELEMETRY

os.environ.update(NO_TELEMETRY)

import onnxruntime

from timberline.exporter.compiler.compile import build_feature_graph
from timberline.registry.signature import NULL_TEXT, Column
from timberline.training.features import FeatureProgram, parse_features

FloatArray = npt.NDArray[np.float32]
Rows = Mapping[str, Sequence[object]]

_ORDER = "__row__"
_DAY_US = 86_400_000_000
_ARROW = {"FP64": pa.float64(), "INT64": pa.int64(), "BOOL": pa.bool_(), "BYTES": pa.string()}

COLUMNS = (
    Column(name="i", datatype="INT64"),
    Column(name="j", datatype="INT64"),
    Column(name="n", datatype="INT64", is_nullable=True),
    Column(name="x", datatype="FP64"),
    Column(name="y", datatype="FP64", is_nullable=True),
    Column(name="b", datatype="BOOL"),
    Column(name="c", datatype="BOOL", is_nullable=True),
    Column(name="t", datatype="BYTES"),
    Column(name="u", datatype="BYTES", is_nullable=True),
    Column(name="d", datatype="INT64", moment="date"),
    Column(name="e", datatype="INT64", moment="date", is_nullable=True),
    Column(name="p", datatype="INT64", moment="timestamp"),
    Column(name="q", datatype="INT64", moment="timestamp", is_nullable=True),
)


def make_rows(count: int, seed: int) -> dict[str, list[object]]:
    """Random rows of `COLUMNS`, with NULLs, zeros, halves, small, large and negative values in them."""
    generator = np.random.default_rng(seed)
    whole = [0, 1, -1, 2, 3, -3, 7, 10, -12, 100, 255, 1000, -4096, 1_000_000]
    real = [0.0, 0.5, -0.5, 1.0, -1.0, 1.5, 2.5, -2.5, 0.1, 0.49999999999999994, -0.75, 3.25, 12.7, -99.99]
    real += [1e-8, 1e-3, 1234.5678, -65536.0, 1e10, -1e10, 1e150, -1e200, 1.7e308, 5e-324]
    # Around New Year, leap days of centuries, 1970, the week 53, and the ends of the types.
    days = [
        0,
        1,
        -1,
        59,
        60,
        364,
        365,
        10_956,
        10_957,
        11_015,
        11_016,
        11_017,
        11_322,
        14_609,
        14_612,
        18_260,
    ]
    days += [18_628, 18_629, -25_509, -25_508, -25_567, -25_568, 19_723, 19_782, -719_162, -719_163 + 366]
    days += [2_932_896, 2_932_532, *generator.integers(-30_000, 30_000, 40).tolist()]
    times = [day * _DAY_US for day in days if abs(day) < 100_000] + [2**53 - 1, -(2**53) + 1, 1, -1]
    times += [time - 1 for time in times[:-2]] + generator.integers(-(2**53) + 1, 2**53, 60).tolist()
    text = ["red", "green", "blue", "", "Red", "ö", "it's"]

    def pick(values: Sequence[object], nullable: bool) -> list[object]:
        options = [*values, *([None] * (1 + len(values) // 4) if nullable else [])]
        return [options[k] for k in generator.integers(0, len(options), count)]

    pools: dict[str, Sequence[object]] = {
        "FP64": real,
        "INT64": whole,
        "BOOL": [False, True],
        "BYTES": text,
        "date": days,
        "timestamp": times,
    }
    return {c.name: pick(pools[c.moment or c.datatype], c.is_nullable) for c in COLUMNS}


def compute_in_duckdb(program: FeatureProgram, rows: Rows) -> FloatArray:
    """The canonical SQL over the rows; float32, (rows, features), NULL as NaN."""
    with connect(rows, program.columns) as connection:
        for statement in program.prepare_sql:
            connection.execute(statement)
        return _fetch(connection, program.select_sql("raw", order=_ORDER))


def compute_as_written(expression: str, rows: Rows, columns: Sequence[Column] = COLUMNS) -> FloatArray:
    """What DuckDB itself makes of an author's expression, as FLOAT: float32, (rows, 1), NULL as NaN."""
    with connect(rows, columns) as connection:
        return _fetch(connection, f"SELECT CAST(({expression}) AS FLOAT) AS f FROM raw ORDER BY {_ORDER}")


def connect(rows: Rows, columns: Sequence[Column]) -> duckdb.DuckDBPyConnection:
    """A database in which ``raw`` has the rows, numbered by a column of its own."""
    fields = [(c.name, _ARROW[c.datatype]) for c in columns]
    table = pa.table([pa.array(rows[name], type=kind) for name, kind in fields], names=[n for n, _ in fields])
    table = table.append_column(_ORDER, pa.array(range(len(table))))
    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    connection.register("raw", table)
    return connection


def _fetch(connection: duckdb.DuckDBPyConnection, sql: str) -> FloatArray:
    result = connection.execute(sql).fetchnumpy()
    for values in result.values():
        assert values.dtype == np.float32
    return np.stack([np.ma.filled(values, np.nan) for values in result.values()], axis=1)


def compute_in_graph(model: onnx.ModelProto, program: FeatureProgram, rows: Rows) -> FloatArray:
    """The graph over the rows; float32, (rows, features). One thread: order of summation is then fixed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    inputs = make_inputs(program, rows)
    return np.asarray(session.run(["features"], {i.name: inputs[i.name] for i in session.get_inputs()})[0])


def make_inputs(program: FeatureProgram, rows: Rows) -> dict[str, npt.NDArray[np.generic]]:
    """The rows as the two tensors of the signature."""
    numeric = [
        [np.nan if v is None else v for v in rows[c.name]] for c in program.columns if c.datatype != "BYTES"
    ]
    text = [
        [NULL_TEXT if v is None else v for v in rows[c.name]]
        for c in program.columns
        if c.datatype == "BYTES"
    ]
    return {
        "numeric": np.array(numeric, dtype=np.float64).T,
        "text": np.array(text, dtype=object).T,
    }


def compute_both(
    sql: str, rows: Rows, columns: Sequence[Column] = COLUMNS, opset: int = 18
) -> tuple[FloatArray, FloatArray]:
    """DuckDB's features and the graph's."""
    program = parse_features(sql, columns)
    model = build_feature_graph(program, opset)
    return compute_in_duckdb(program, rows), compute_in_graph(model, program, rows)
