"""Versions that learned from different tables, for tests of the gate: rows, graphs that answer them, hashes.

    table = draw_table(1200)                            # the rows of one table, half of them to be tested on
    version = publish_on(store, table, alias="production")
    lay_out(table, data)                                # DATA/prepared/tiny/test.parquet

The class of a row is where a weighted sum of its values lies. A version's graph computes that sum, ``offset``
beside the truth, so that it errs in more rows the greater the offset; its evaluation.parquet is what it
really answers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

from tests.support.evaluations import ANY_SPEED
from tests.support.manifests import build_manifest
from tests.support.tiny_model import point_alias
from timberline.exporter.graph.runtime import open_session
from timberline.registry.manifest import GateLimits, Golden, Manifest
from timberline.registry.rows import (
    SEEN_FILE,
    SEEN_KEY,
    SEEN_SCHEMA_VERSION,
    TEST_ROWS_FILE,
    SeenRows,
    StoredColumn,
    count_and_sum,
    fingerprint,
    hash_row,
)
from timberline.registry.signature import NULL_TEXT, ClassLabel, Column, SourceTable, build_signature
from timberline.registry.store import EVALUATION_FILE, MODEL_FILE, Store

TARGET = "answer"
CLASSES = tuple(ClassLabel(value=value, label=value.title()) for value in ("low", "middle", "high"))
COLUMNS = (
    Column(name="height", datatype="FP64", is_nullable=True),
    Column(name="rings", datatype="INT64", is_nullable=True),
    Column(name="is_wet", datatype="BOOL", is_nullable=True),
    Column(name="soil", datatype="BYTES", is_nullable=True),
)
WEIGHTS = {"height": 1.0, "rings": 0.02, "is_wet": 0.5, "soil": 1.0}
SOILS = {"clay": 0.3, "sand": -0.3, NULL_TEXT: 0.0}
# The limits of these versions, whatever the defaults are.
LIMITS = msgspec.structs.replace(ANY_SPEED, max_accuracy_drop=0.005)
_ARROW = {"FP64": pa.float64(), "INT64": pa.int64(), "BOOL": pa.bool_(), "BYTES": pa.string()}


@dataclass(frozen=True)
class Table:
    """A table and its split: values by column, the target (class values) among them; None is NULL.

    ``columns`` are the stored ones, ``keys`` those that are no inputs; ``is_test`` has shape (rows,).
    """

    values: dict[str, list[Any]]
    columns: tuple[StoredColumn, ...]
    classes: tuple[ClassLabel, ...]
    is_test: npt.NDArray[np.bool_]
    keys: tuple[str, ...] = ()

    def take(self, chosen: npt.NDArray[np.bool_]) -> Table:
        """The chosen rows alone; the others were removed from the source."""
        values = {
            name: [x for x, is_in in zip(column, chosen, strict=True) if is_in]
            for name, column in self.values.items()
        }
        return replace(self, values=values, is_test=self.is_test[chosen])

    def change(self, **values: list[Any]) -> Table:
        """With other values in some columns."""
        return replace(self, values=self.values | values)

    def add(self, name: str, datatype: Any, values: list[Any], *, is_key: bool = False) -> Table:
        """With one more column, which is an input or a key."""
        columns = (*self.columns, StoredColumn(name=name, datatype=datatype))
        keys = (*self.keys, name) if is_key else self.keys
        return replace(self, values=self.values | {name: values}, columns=columns, keys=keys)

    def drop(self, name: str) -> Table:
        """Without a column: the source has it no more, or model.toml ignores it."""
        columns = tuple(column for column in self.columns if column.name != name)
        return replace(self, columns=columns)

    def read(self, chosen: npt.NDArray[np.bool_]) -> pa.Table:
        """The chosen rows as prepared: ``__row__``, ``__class__`` and the stored columns."""
        places = {label.value: index for index, label in enumerate(self.classes)}
        classes = [places[value] for value in self.values[TARGET]]
        whole = pa.table(
            {
                "__row__": pa.array(range(len(classes)), pa.int64()),
                "__class__": pa.array(classes, pa.int16()),
                **{c.name: pa.array(self.values[c.name], _ARROW[c.datatype]) for c in self.columns},
            }
        )
        return whole.filter(pa.array(chosen))

    @property
    def test(self) -> pa.Table:
        """The rows that are tested on."""
        return self.read(self.is_test)


def draw_table(rows: int = 1200, *, seed: int = 0, classes: Sequence[ClassLabel] = CLASSES) -> Table:
    """Rows drawn by ``seed``, every second to be tested on. A longer table begins with a shorter one."""
    drawn = np.random.default_rng(seed).random((rows, 4))
    values: dict[str, list[Any]] = {
        "height": np.round(4 * drawn[:, 0] - 2, 6).tolist(),
        "rings": np.floor(100 * drawn[:, 1] - 50).astype(int).tolist(),
        "is_wet": (drawn[:, 2] < 0.5).tolist(),
        "soil": np.array(["clay", "sand", "peat"])[(3 * drawn[:, 3]).astype(int)].tolist(),
    }
    for name, column in list(values.items())[1:]:  # a tenth of each is NULL
        values[name] = [None if index % 10 == len(name) % 10 else x for index, x in enumerate(column)]
    declared = [StoredColumn(name=column.name, datatype=column.datatype) for column in COLUMNS]
    places = np.digitize(_sum(values), _cuts(len(classes)))
    values[TARGET] = [classes[place].value for place in places]
    columns = (*declared, StoredColumn(name=TARGET, datatype="BYTES"))
    return Table(values, columns, tuple(classes), np.arange(rows) % 2 == 1)


def _sum(values: dict[str, list[Any]]) -> npt.NDArray[np.float64]:
    soil = [SOILS.get(x, 0.0) if x is not None else 0.0 for x in values["soil"]]
    columns = {**values, "soil": soil}
    result: npt.NDArray[np.float64] = np.sum(
        [w * np.array([x or 0 for x in columns[name]]) for name, w in WEIGHTS.items()], axis=0
    )
    return result


def _cuts(classes: int) -> npt.NDArray[np.float64]:
    """Where one class ends and the next begins: a third one and further ones divide what is above 0.8."""
    return np.array([-0.5, 0.8, 1.5, 2.0][: classes - 1])


def build_graph(
    columns: Sequence[Column], classes: int, *, offset: float = 0.0, is_batch_bound: bool = False
) -> bytes:
    """The graph over these columns, of which those without a weight count for nothing.

    ``is_batch_bound``: as a graph that quantises by the batch, it answers a row otherwise beside others.
    """
    numeric = [column.name for column in columns if column.datatype != "BYTES"]
    text = [column.name for column in columns if column.datatype == "BYTES"]
    # Logit k is k s less the cuts below k: the greatest is that of the class in which s lies.
    steep = 8.0
    slopes = steep * np.arange(classes, dtype=np.float32)
    bias = -steep * np.concatenate([[0.0], np.cumsum(_cuts(classes) - offset)])
    constants = {
        "zero": np.zeros((), np.float32),
        "bias": bias.astype(np.float32),
        "numeric_weights": np.outer([WEIGHTS.get(name, 0.0) for name in numeric], slopes).astype(np.float32),
        "text_weights": np.outer([WEIGHTS.get(name, 0.0) for name in text], slopes).astype(np.float32),
    }
    nodes, inputs, sums = [], [], ["bias"]
    if numeric:
        inputs.append(helper.make_tensor_value_info("numeric", TensorProto.DOUBLE, [None, len(numeric)]))
        nodes += [
            helper.make_node("Cast", ["numeric"], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node("IsNaN", ["numbers"], ["is_null"]),
            helper.make_node("Where", ["is_null", "zero", "numbers"], ["filled"]),
            helper.make_node("MatMul", ["filled", "numeric_weights"], ["numeric_logits"]),
        ]
        sums.append("numeric_logits")
    if text:
        inputs.append(helper.make_tensor_value_info("text", TensorProto.STRING, [None, len(text)]))
        encoder: Any = {"keys_strings": [*SOILS], "values_floats": [*SOILS.values()], "default_float": 0.0}
        nodes += [
            helper.make_node("LabelEncoder", ["text"], ["texts"], domain="ai.onnx.ml", **encoder),
            helper.make_node("MatMul", ["texts", "text_weights"], ["text_logits"]),
        ]
        sums.append("text_logits")
    if is_batch_bound:
        constants |= {"one": np.ones(1, np.float32), "slopes": slopes}
        nodes += [
            helper.make_node("Shape", [inputs[0].name], ["count"], start=0, end=1),
            helper.make_node("Cast", ["count"], ["rows"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["rows", "one"], ["others"]),
            helper.make_node("Mul", ["others", "slopes"], ["more"]),
        ]
        sums.append("more")
    nodes += [
        helper.make_node("Sum", sums, ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    outputs = [
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, classes]),
        helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
    ]
    used = [numpy_helper.from_array(value, name) for name, value in constants.items() if value.size]
    graph = helper.make_graph(nodes, "fresh", inputs, outputs, used)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 2)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def publish_on(
    store: Store,
    table: Table,
    *,
    alias: str | None = None,
    columns: Sequence[Column] = COLUMNS,
    offset: float = 0.0,
    is_batch_bound: bool = False,
    has_seen: bool = True,
    span: int = 2**48,
    brings_rows: bool = False,
    gate: GateLimits = LIMITS,
    classes: Sequence[ClassLabel] | None = None,
    lineage: dict[str, Any] | None = None,
    extra: dict[str, bytes] | None = None,
    **changes: Any,
) -> int:
    """Publish a version of ``tiny`` that learned from ``table`` and point ``alias`` at it.

    Args:
        store: where to.
        table: its rows that are not tested on were learned from.
        alias: "production", say.
        columns: what its graph takes.
        offset: by how much its sums are off.
        is_batch_bound: see `build_graph`.
        has_seen: whether it says which rows it learned from; versions of earlier releases do not.
        span: of the hashes of those rows.
        brings_rows: whether its test rows are published with it.
        gate: its limits.
        classes: of its signature, when they are not the table's.
        lineage: fields that are replaced.
        extra: other bytes for some of its files.
        changes: fields of the manifest that are replaced.
    """
    classes = table.classes if classes is None else classes
    graph = build_graph(columns, len(classes), offset=offset, is_batch_bound=is_batch_bound)
    test = table.test
    probabilities, labels = answer(graph, test, columns)
    with tempfile.TemporaryDirectory() as scratch:
        files = {name: Path(scratch, name) for name in (MODEL_FILE, EVALUATION_FILE)}
        files[MODEL_FILE].write_bytes(graph)
        _write_evaluation(test, probabilities, labels, gate, files[EVALUATION_FILE])
        if has_seen:
            files[SEEN_FILE] = Path(scratch, SEEN_FILE)
            write_seen(table, files[SEEN_FILE], span=span)
        if brings_rows:
            files[TEST_ROWS_FILE] = Path(scratch, TEST_ROWS_FILE)
            pq.write_table(test, files[TEST_ROWS_FILE])
        for name, content in (extra or {}).items():
            files[name] = Path(scratch, name)
            files[name].write_bytes(content)
        given = {
            "signature": build_signature(tuple(columns), tuple(classes)),
            "golden": _pick_golden(test, probabilities, columns),
            "histograms": {},
            "gate": gate,
            "lineage": _lineage(table, **(lineage or {})),
            "table": SourceTable(unread=_unread(table, columns)),
            **changes,
        }

        def describe(version: int, digests: Any) -> Manifest:
            return build_manifest("tiny", version, digests, **given)

        version = store.publish("tiny", files, describe)
    if alias is not None:
        point_alias(store, "tiny", alias, version)
    return version


def _unread(table: Table, columns: Sequence[Column]) -> dict[str, Any]:
    """A column of the source that is not stored is ignored; one that no feature reads is an input still."""
    names = {column.name for column in columns}
    stored = {column.name for column in table.columns}
    roles = {name: "input" if name in stored else "ignored" for name in table.values if name not in names}
    return roles | dict.fromkeys(table.keys, "key") | {TARGET: "target"}


def answer(
    graph: bytes, rows: pa.Table, columns: Sequence[Column]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """What the graph says about prepared rows, row by row."""
    session = open_session(graph, threads=1)
    found = []
    for row in rows.to_pylist():
        numeric = [row[c.name] for c in columns if c.datatype != "BYTES"]
        text = [row[c.name] for c in columns if c.datatype == "BYTES"]
        feeds = {
            "numeric": np.array([[np.nan if x is None else float(x) for x in numeric]]),
            "text": np.array([[NULL_TEXT if x is None else x for x in text]], object),
        }
        feeds = {name: feed for name, feed in feeds.items() if feed.size}
        found.append(session.run(["probabilities", "label"], feeds))
    return np.concatenate([p for p, _ in found]), np.concatenate([label for _, label in found])


def _write_evaluation(
    test: pa.Table,
    probabilities: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    gate: GateLimits,
    path: Path,
) -> None:
    wet = test["is_wet"].fill_null(False).to_numpy() if "is_wet" in test.column_names else labels > 0
    columns: dict[str, Any] = {
        "row": test["__row__"],
        "class_index": test["__class__"],
        "label_index": labels.astype(np.int16),
        **{f"p_{index}": chances for index, chances in enumerate(probabilities.T)},
        **{f"slice_{name}": wet for name in gate.slices},
        "baseline_majority_class": np.zeros(labels.size, np.int16),
    }
    pq.write_table(pa.table(columns), path)


def _pick_golden(test: pa.Table, probabilities: npt.NDArray[np.float32], columns: Sequence[Column]) -> Golden:
    rows = test.to_pylist()[:8]
    return Golden(
        rows=tuple(tuple(row[column.name] for column in columns) for row in rows),
        class_indexes=tuple(row["__class__"] for row in rows),
        probabilities=tuple(tuple(row) for row in probabilities[: len(rows)].tolist()),
    )


def _lineage(table: Table, **changes: Any) -> Any:
    names = [column.name for column in table.columns]
    whole = table.read(np.ones(table.is_test.size, bool))
    made = {
        "data_fingerprint": _take_fingerprint(whole, names),
        "test_fingerprint": _take_fingerprint(table.test, names),
    }
    return msgspec.structs.replace(build_manifest().lineage, **(made | changes))


def _take_fingerprint(rows: pa.Table, names: Sequence[str]) -> str:
    with duckdb.connect() as connection:
        connection.register("chosen", rows)
        ((rows_found, total),) = connection.execute(f"SELECT {count_and_sum(names)} FROM chosen").fetchall()
    return fingerprint(rows_found, int(total or 0))


def write_seen(table: Table, path: Path, *, span: int = 2**48) -> None:
    """seen_rows.parquet of the rows that are not tested on; in so wide a span none is taken for another."""
    learned = table.read(~table.is_test)
    known_by = [column for column in table.columns if column.name != TARGET]
    with duckdb.connect() as connection:
        connection.register("chosen", learned)
        hashes = connection.sql(
            f"SELECT DISTINCT {hash_row(known_by, span)} AS hash FROM chosen ORDER BY hash"
        ).to_arrow_table()
    seen = SeenRows(
        schema_version=SEEN_SCHEMA_VERSION,
        columns=table.columns,
        target=TARGET,
        rows=max(learned.num_rows, 1),
        span=span,
        false_positive_rate=hashes.num_rows / span,
    )
    metadata = {SEEN_KEY: msgspec.json.encode(seen)}
    pq.write_table(hashes.cast(pa.schema([("hash", pa.int64())])).replace_schema_metadata(metadata), path)


def lay_out(table: Table, data: Path) -> Path:
    """Put the test rows where the ETL would leave them; returns the file."""
    folder = data / "prepared" / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.test, folder / "test.parquet")
    return folder / "test.parquet"
