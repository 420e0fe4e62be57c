"""A version with every kind of number that the page has a control for, and a title that attacks it.

store = open_store(tmp_path)
version = publish_wood(store)      # wood@1 and wood@production
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.support.manifests import build_metrics, publish_tiny
from timberline.registry.aliases import move_alias, read_alias
from timberline.registry.manifest import Golden, Histogram
from timberline.registry.names import PRODUCTION
from timberline.registry.signature import (
    LABEL_OUTPUT,
    NUMERIC_INPUT,
    PROBABILITIES_OUTPUT,
    ClassLabel,
    Column,
    build_signature,
)
from timberline.registry.store import Store

CLASSES = (ClassLabel(value="1", label="Spruce/Fir"), ClassLabel(value="2", label="Krummholz"))
COLUMNS = (
    Column(name="Elevation", datatype="INT64", default=0, unit="m", minimum=2000.0, maximum=4000.0),
    Column(name="Shade", datatype="FP64", default=0.0, minimum=0.0, maximum=1.0),
    Column(name="Slope", datatype="FP64", is_nullable=True, unit="degrees"),
    Column(name="Is_Wet", datatype="BOOL", default=False),
    *(
        Column(name=f"Soil_Type{n}", datatype="INT64", default=0, minimum=0.0, maximum=1.0)
        for n in (1, 2, 10)
    ),
    *(Column(name=f"Area_{n}", datatype="BOOL", default=False) for n in (1, 2)),
)
GOLDEN_ROWS = (
    (2500, 0.25, None, False, 1, 0, 0, True, False),
    (3500, 0.75, 12.5, True, 0, 1, 0, False, True),
    (3100, 0.5, 3.0, False, 0, 0, 1, True, False),
)
ATTACK = '</title><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">"&$$title'
# One weight a column towards Krummholz: it begins at about 3,000 m.
_WEIGHTS = np.array([0.01, 1.0, 0.01, 0.5, -0.5, 0.5, 0.25, -0.25, 0.25])
_BIAS = -30.0


def expect_krummholz(row: tuple[float | bool | None, ...]) -> float:
    """The probability of the second class, computed without the graph."""
    logit = float(np.array([float(value or 0) for value in row]) @ _WEIGHTS) + _BIAS
    return float(1 / (1 + np.exp(-logit)))


def publish_wood(store: Store, model: str = "wood") -> int:
    """Publish the next version and point production at it."""
    shares = [expect_krummholz(row) for row in GOLDEN_ROWS]
    golden = Golden(
        rows=GOLDEN_ROWS,
        class_indexes=(0, 1, 0),  # the last one's is not what the graph says
        probabilities=tuple((1 - share, share) for share in shares),
    )
    version = publish_tiny(
        store,
        model,
        model_bytes=_build_graph(),
        title=ATTACK,
        description="</script><script>window.hacked = 3</script>",
        signature=build_signature(COLUMNS, CLASSES),
        golden=golden,
        metrics=build_metrics(),
        histograms={"Elevation": Histogram(counts=(1, 8, 2), edges=(2000.0, 2500.0, 3000.0, 4000.0))},
    )
    seen = read_alias(store, model, PRODUCTION)
    move_alias(store, model, PRODUCTION, version, expected=seen.sequence if seen else None, reason="a test")
    return version


def _build_graph() -> bytes:
    nodes = [
        helper.make_node("IsNaN", [NUMERIC_INPUT], ["is_null"]),
        helper.make_node("Where", ["is_null", "zero", NUMERIC_INPUT], ["filled"]),
        helper.make_node("MatMul", ["filled", "weights"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["logits"]),
        helper.make_node("Cast", ["logits"], ["narrow"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["narrow"], [PROBABILITIES_OUTPUT], axis=1),
        helper.make_node("ArgMax", [PROBABILITIES_OUTPUT], [LABEL_OUTPUT], axis=1, keepdims=0),
    ]
    weights = np.stack([np.zeros_like(_WEIGHTS), _WEIGHTS], axis=1)  # (columns, classes)
    values = {"zero": np.zeros(()), "weights": weights, "bias": np.array([0.0, _BIAS])}
    graph = helper.make_graph(
        nodes,
        "wood",
        [helper.make_tensor_value_info(NUMERIC_INPUT, TensorProto.DOUBLE, [None, len(COLUMNS)])],
        [
            helper.make_tensor_value_info(PROBABILITIES_OUTPUT, TensorProto.FLOAT, [None, len(CLASSES)]),
            helper.make_tensor_value_info(LABEL_OUTPUT, TensorProto.INT64, [None]),
        ],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())
