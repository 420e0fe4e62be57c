"""The feature language: features.sql read, checked, typed and written back as canonical SQL.

Free of TensorFlow and DuckDB: the ETL runs what `FeatureProgram.select_sql` writes, the exporter
translates the same tree into ONNX operators. There is no other definition of a feature.
"""

from timberline.training.errors import FeatureError
from timberline.training.features.expressions import (
    Call,
    ColumnRef,
    Expression,
    Feature,
    Literal,
    LookupTable,
    ValueType,
    may_be_negative_zero,
    may_be_zero,
    read_columns,
)
from timberline.training.features.language import OPERATORS
from timberline.training.features.parse import parse_features, parse_slices
from timberline.training.features.program import FeatureProgram

__all__ = [
    "OPERATORS",
    "Call",
    "ColumnRef",
    "Expression",
    "Feature",
    "FeatureError",
    "FeatureProgram",
    "Literal",
    "LookupTable",
    "ValueType",
    "may_be_negative_zero",
    "may_be_zero",
    "parse_features",
    "parse_slices",
    "read_columns",
]
