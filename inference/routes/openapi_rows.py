"""What goes into a version and what comes out, as JSON Schema made from its manifest."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from timberline.inference.formats.strict_json import LARGEST_INTEGER
from timberline.inference.routes.example import pick_example
from timberline.registry.manifest import Manifest
from timberline.registry.signature import Column

Schema = dict[str, Any]

# Networks compute with float32, and this is the largest double that becomes a finite one. A request whose
# answer is not finite is refused.
_LARGEST = math.nextafter((2 - 2**-24) * 2.0**127, 0)
_TYPES: dict[str, Schema] = {
    "FP64": {"type": "number", "format": "double", "minimum": -_LARGEST, "maximum": _LARGEST},
    # Beyond, a number in JSON is not exact; 3.0 is an integer, here as in JSON Schema.
    "INT64": {
        "type": "integer",
        "format": "int64",
        "minimum": -int(LARGEST_INTEGER),
        "maximum": int(LARGEST_INTEGER),
    },
    "BOOL": {"type": "boolean"},
    "BYTES": {"type": "string", "pattern": "^[^\\u0000]*$"},
}
# Golden rows in an example of several rows: enough to see that there may be many.
_FEW_ROWS = 2
_MAX_CATEGORIES = 100


def describe_rows(manifest: Manifest, max_rows: int) -> dict[str, Schema]:
    """The component schemas of what ``/predict`` takes and gives, by their names.

    What training saw (``x-minimum``, ``x-maximum``, the examples of a text column) is no bound: other
    values are answered too, and watched as drift.
    """
    columns = manifest.signature.columns
    values = {column.name: describe_column(column) for column in columns}
    named: Schema = {
        "type": "object",
        "description": _describe_row(manifest),
        "properties": values,
        "required": [c.name for c in columns if not c.may_be_absent],
        "additionalProperties": False,
        "minProperties": 1,
        "examples": [pick_example(manifest)],
    }
    positional: Schema = {
        "type": "array",
        "description": f"One row as all {len(columns)} values in the order of the columns.",
        # A default is for what is left out, and here nothing is. No more items than prefixItems: maxItems
        # says so as well as "items": false, which generators of clients do not read.
        "prefixItems": [{k: v for k, v in schema.items() if k != "default"} for schema in values.values()],
        "minItems": len(columns),
        "maxItems": len(columns),
        "examples": [list(manifest.golden.rows[0])],
    }
    return {
        "Row": named,
        "RowValues": positional,
        "Rows": _rows("Row", max_rows, pick_example(manifest)),
        "RowsOfValues": _rows("RowValues", max_rows, list(manifest.golden.rows[0])),
        **_describe_answers(manifest),
    }


def describe_column(column: Column) -> Schema:
    """One raw value: its type, default and unit, and what training saw of it."""
    schema = dict(_TYPES[column.datatype])
    if column.is_nullable:
        schema["type"] = [schema["type"], "null"]
    if column.may_be_absent:
        schema["default"] = column.default
    if text := _describe_column(column):
        schema["description"] = text
    if column.unit is not None:
        schema["x-unit"] = column.unit
    if column.minimum is not None:
        schema["x-minimum"] = column.minimum
    if column.maximum is not None:
        schema["x-maximum"] = column.maximum
    if column.categories:
        schema["examples"] = list(column.categories[:_MAX_CATEGORIES])
    return schema


def write_csv_example(manifest: Manifest) -> str:
    """The first golden rows as CSV, with a line of names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column.name for column in manifest.signature.columns)
    null = manifest.table.null_field
    for row in manifest.golden.rows[:_FEW_ROWS]:
        fields = (null if value is None else value for value in row)
        writer.writerow(str(field).lower() if isinstance(field, bool) else field for field in fields)
    return text.getvalue()


def write_tensors(manifest: Manifest) -> Schema:
    """The row of `pick_example` as a request of the Open Inference Protocol, a tensor a column."""
    columns = {column.name: column for column in manifest.signature.columns}
    return {
        "inputs": [
            {"name": name, "datatype": columns[name].datatype, "shape": [1], "data": [value]}
            for name, value in pick_example(manifest).items()
        ]
    }


def _describe_row(manifest: Manifest) -> str:
    text = f"One row of {manifest.model} by the names of its raw columns."
    more = " Other columns of the training table may be sent too, and are not read."
    return text + more if manifest.table.unread else text


def _describe_column(column: Column) -> str:
    parts = []
    if column.description:
        parts.append(column.description.rstrip(".") + ".")
    if column.unit:
        parts.append(f"Unit: {column.unit}.")
    if column.minimum is not None and column.maximum is not None:
        parts.append(f"Training saw {column.minimum:.15g} to {column.maximum:.15g}.")
    return " ".join(parts)


def _rows(row: str, max_rows: int, example: Any) -> Schema:
    items = {"type": "array", "minItems": 1, "maxItems": max_rows, "items": _refer(row)}
    return {
        "type": "object",
        "description": f"Up to {max_rows:,} rows; the answers come in the same order.",
        "properties": {
            "instances": items,
            "parameters": {
                "type": ["object", "null"],
                "properties": {"probabilities": {"type": "boolean", "default": True}},
                "additionalProperties": False,
            },
        },
        "required": ["instances"],
        "additionalProperties": False,
        "examples": [{"instances": [example]}],
    }


def _describe_answers(manifest: Manifest) -> dict[str, Schema]:
    classes = manifest.signature.classes
    values = [label.value for label in classes]
    answer: dict[str, Schema] = {
        "prediction": {
            "type": "string",
            "enum": values,
            "description": "The most probable class, as in the data.",
        },
        "label": {
            "type": "string",
            "enum": sorted({label.label for label in classes}),
            "description": "Its name for people.",
        },
        "probabilities": {
            "type": "object",
            "description": "By class; left out with probabilities=false.",
            "properties": {value: {"type": "number", "minimum": 0, "maximum": 1} for value in values},
            "required": values,
            "additionalProperties": False,
        },
    }
    version: dict[str, Schema] = {
        "model": {"type": "string", "description": "The model that answered."},
        "version": {"type": "integer", "minimum": 1, "description": "Its version."},
    }
    predictions = {"type": "array", "minItems": 1, "items": _refer("RowPrediction")}
    return {
        "RowPrediction": _closed(answer, ["prediction", "label"]),
        "Prediction": _closed({**answer, **version}, ["prediction", "label", *version]),
        "Predictions": _closed({"predictions": predictions, **version}, ["predictions", *version]),
    }


def _closed(properties: dict[str, Schema], required: list[str]) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _refer(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
