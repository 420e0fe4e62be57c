"""The features of a model as a graph of stock ONNX operators: raw rows in, features out.

`lowering` and `formulas` say what each operator of the language becomes; `batching` lays the
values out as blocks of columns, so that a single row costs few nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from timberline.exporter.compiler.batching import build_model, share_out
from timberline.exporter.compiler.lowering import Lowering
from timberline.exporter.compiler.scalars import NAN, Scalar
from timberline.registry.signature import NULL_TEXT
from timberline.training.features import FeatureProgram


def build_feature_graph(program: FeatureProgram, opset: int) -> onnx.ModelProto:
    """Compile the features into ONNX.

    Args:
        program: the checked features.sql.
        opset: version of the ONNX operator set, 17 or later.

    Returns:
        A model with the inputs ``numeric`` (DOUBLE, (rows, numeric columns); NULL is NaN) and ``text``
        (STRING, (rows, text columns); NULL is ``NULL_TEXT``), each left out if there is no such
        column, and the output ``features`` (FLOAT, (rows, features)) in the order of the SELECT; NULL
        is NaN. Computed in double, cast to float last. The row axis is free. Text costs one
        LabelEncoder of ai.onnx.ml: ONNX cannot compare strings before opset 19.
    """
    return _build(program, opset)[0]


def trace_feature_graph(
    program: FeatureProgram, opset: int
) -> tuple[onnx.ModelProto, dict[str, dict[int, float]]]:
    """As `build_feature_graph`, and by node the share of it that each feature (by index) accounts for."""
    model, outputs, purposes = _build(program, opset)
    return model, share_out(outputs, purposes)


def _build(
    program: FeatureProgram, opset: int
) -> tuple[onnx.ModelProto, Sequence[Scalar], Mapping[str, Sequence[Scalar]]]:
    lowering = Lowering(program)
    outputs = [lowering.feature(feature.expression) for feature in program.features]
    model, purposes = build_model(
        outputs,
        numeric_is_whole=[
            c.datatype != "FP64" and not c.is_nullable for c in program.columns if c.datatype != "BYTES"
        ],
        text_count=sum(c.datatype == "BYTES" for c in program.columns),
        vocabulary={NULL_TEXT: NAN, **lowering.vocabulary},
        opset=opset,
    )
    return model, outputs, purposes
