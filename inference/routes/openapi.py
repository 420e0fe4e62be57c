"""``GET /openapi.json``: what this service takes and gives, made from the versions that it serves.

What is the same for every version stands in ``static/openapi.json``: the document without its paths, the
operation of each kind of path, and the errors that each operation may end in. A text ``$name`` in it is
replaced by a value of the version.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

import msgspec

from timberline.inference.config import ServiceConfig
from timberline.inference.formats.csv import lacks_float32
from timberline.inference.formats.request import Answer, Request, answer_bytes
from timberline.inference.formats.tensors import NUMBERS, TEXT
from timberline.inference.formats.validate import LARGEST_INTEGER
from timberline.inference.models.routing import ServiceState
from timberline.inference.models.versions import LiveVersion
from timberline.inference.routes.page import find_categories, pick_example
from timberline.registry.fields import write_field
from timberline.registry.manifest import Histogram, Manifest
from timberline.registry.moments import FIRST_DAY, LARGEST_MOMENT, LAST_DAY, write_row
from timberline.registry.runtime.documents import decode_json
from timberline.registry.signature import Column, Moment

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
# What a date-time of RFC 3339 has is read here, but not every text that is read here is one.
_MOMENTS: dict[Moment, Schema] = {
    "date": {"type": ["string", "integer"], "format": "date", "minimum": FIRST_DAY, "maximum": LAST_DAY},
    "timestamp": {
        "type": ["string", "number"],
        "format": "date-time",
        "minimum": -LARGEST_MOMENT / 1e6,
        "maximum": LARGEST_MOMENT / 1e6,
    },
}
_WARNINGS: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "string"},
    "description": "Which features had a category that training did not know.",
}
# Golden rows in an example of several rows: enough to see that there may be many.
_FEW_ROWS = 2
_MAX_CATEGORIES = 100


class OpenApi:
    """Handler of ``GET /openapi.json``; writes the document again when another version is live.

    Args:
        state: whose default model is behind the routes that name none.
        config: its limits and routes.
        is_guarded: whether a bearer token is asked for.
    """

    def __init__(self, state: ServiceState, config: ServiceConfig, is_guarded: bool) -> None:
        self.paths: Iterable[str] = ()  # of all routes; known when all of them are
        self._state = state
        self._config = config
        self._is_guarded = is_guarded
        self._written: tuple[tuple[str, ...], Answer] = ((), answer_bytes(b""))

    def __call__(self, request: Request) -> Answer:
        """The document."""
        live = self._state.live
        served = tuple(f"{version.model}@{version.version}" for version in self._state.models.values())
        if self._written[0] != served:
            body = msgspec.json.encode(self._write(live))
            self._written = (served, answer_bytes(body, live.headers))
        return self._written[1]

    def _write(self, live: LiveVersion) -> Schema:
        config, template = self._config, read_template()
        values = describe_version(live.manifest, config.max_rows) | {"root": config.root_path or "/"}
        kinds = {**template["paths"], config.predict_route: "predict", config.health_route: "ready"}
        document: Schema = _fill(template["document"], values)
        operations: Schema = _fill(template["operations"], values)
        if any(map(lacks_float32, live.manifest.signature.columns)):
            del operations["predict"]["post"]["requestBody"]["content"]["application/octet-stream"]
        if config.warnings and live.manifest.categories:
            for name in ("RowPrediction", "Prediction"):
                document["components"]["schemas"][name]["properties"]["warnings"] = _WARNINGS
        for path in self.paths:
            if path in kinds:  # those that end in a slash are other paths' doubles
                item = deepcopy(operations[kinds[path]])
                models = [live.model] if kinds[path] == "predict" else list(self._state.models)
                document["paths"][path] = self._complete(path, item, models, values["version"])
        if self._is_guarded:
            document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"bearer": []}]
        return document

    def _complete(self, path: str, item: Schema, models: list[str], version: str) -> Schema:
        """Add what follows from the path: its operation's name and errors, and its parameters."""
        ((method, operation),) = item.items()
        errors = read_template()["errors"]
        may_end_in = dict(errors["always"])
        if method == "post":
            may_end_in |= errors["post"]
        if "{model}" in path:
            may_end_in |= errors["named"]
            item["parameters"] = [_name_parameter("model", {"enum": models})]
        if "{version}" in path:
            number = _name_parameter("version", {"pattern": "^[1-9][0-9]{0,8}$"})
            item["parameters"].append({**number, "example": version})
        if self._is_guarded:
            may_end_in |= errors["guarded"]
        for status, name in sorted(may_end_in.items()):
            operation["responses"].setdefault(status, {"$ref": f"#/components/responses/{name}"})
        operation["operationId"] = _name_operation(path)
        return item


@cache
def read_template() -> Schema:
    """What is the same for every version; not to be changed."""
    text = Path(__file__).with_name("static").joinpath("openapi.json").read_bytes()
    template: Schema = decode_json(text, dict[str, Any])
    return template


def describe_version(manifest: Manifest, max_rows: int) -> Schema:
    """The template's values for one version, by their names.

    What training saw (``x-minimum``, ``x-maximum``, the examples of a text column) is no bound: other
    values are answered too, and watched as drift.
    """
    columns, classes = manifest.signature.columns, manifest.signature.classes
    golden = [write_row(row, columns) for row in manifest.golden.rows[:_FEW_ROWS]]
    properties = {
        column.name: describe_column(column, manifest.histograms.get(column.name)) for column in columns
    }
    values = [label.value for label in classes]
    example = pick_example(manifest)
    row = f"One row of {manifest.model} by the names of its raw columns."
    if manifest.table.unread:
        row += " Other columns of the training table may be sent too, and are not read."
    return {
        "title": manifest.title or manifest.model,
        "description": "\n\n".join(filter(None, (manifest.description, manifest.lineage.attribution))),
        "version": str(manifest.version),
        "row": row,
        "properties": properties,
        "required": [column.name for column in columns if not column.may_be_absent],
        # A default is for what is left out, and in an array of values nothing is.
        "items": [{k: v for k, v in schema.items() if k != "default"} for schema in properties.values()],
        "width": len(columns),
        "max_rows": max_rows,
        "max_rows_text": f"{max_rows:,}",
        "classes": values,
        "labels": sorted({label.label for label in classes}),
        "probabilities": {value: {"type": "number", "minimum": 0, "maximum": 1} for value in values},
        "datatypes": [*NUMBERS, TEXT],
        "example": example,
        "tensors": write_tensors(manifest),
        "golden_row": list(golden[0]),
        "golden_rows": [list(row) for row in golden],
        "csv": write_csv_example(manifest),
        "lines": "".join(msgspec.json.encode(row).decode() + "\n" for row in golden),
    }


def describe_column(column: Column, histogram: Histogram | None = None) -> Schema:
    """One raw value: its type, default and unit, and what training saw of it.

    Text that training did not see is answered too, so that what it saw are examples and no enumeration.
    """
    schema = dict(_TYPES[column.datatype] if column.moment is None else _MOMENTS[column.moment])
    default, minimum, maximum = write_row((column.default, column.minimum, column.maximum), (column,) * 3)
    if column.is_nullable:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        schema["type"] = [*types, "null"]
    if column.may_be_absent:
        schema["default"] = default
    if text := _describe_column(column):
        schema["description"] = text
    if column.unit is not None:
        schema["x-unit"] = column.unit
    if minimum is not None:
        schema["x-minimum"] = minimum
    if maximum is not None:
        schema["x-maximum"] = maximum
    if known := find_categories(column, histogram)[0]:
        schema["examples"] = list(known[:_MAX_CATEGORIES])
    return schema


def write_csv_example(manifest: Manifest) -> str:
    """The first golden rows as CSV, with a line of names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns, table = manifest.signature.columns, manifest.table
    writer.writerow(column.name for column in columns)
    for row in manifest.golden.rows[:_FEW_ROWS]:
        pairs = zip(write_row(row, columns), columns, strict=True)
        writer.writerow(write_field(value, column, table) for value, column in pairs)
    return text.getvalue()


def write_tensors(manifest: Manifest) -> Schema:
    """The row of `pick_example` as a request of the Open Inference Protocol, a tensor a column."""
    columns = {column.name: column for column in manifest.signature.columns}
    return {
        "inputs": [
            {"name": name, "datatype": _name_datatype(columns[name]), "shape": [1], "data": [value]}
            for name, value in pick_example(manifest).items()
        ]
    }


def _name_datatype(column: Column) -> str:
    return column.datatype if column.moment is None else TEXT


def _describe_column(column: Column) -> str:
    parts = []
    bounds = write_row((column.minimum, column.maximum), (column, column))
    if column.description:
        parts.append(column.description.rstrip(".") + ".")
    if column.unit:
        parts.append(f"Unit: {column.unit}.")
    if column.minimum is not None and column.maximum is not None:
        parts.append(f"Training saw {' to '.join(map(_write_number, bounds))}.")
    return " ".join(parts)


def _write_number(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.15g}"


def _fill(tree: Any, values: Mapping[str, Any]) -> Any:
    """A copy of ``tree`` in which each text ``$name`` is the value of that name, or holds it as text."""
    if isinstance(tree, dict):
        return {key: _fill(value, values) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_fill(value, values) for value in tree]
    if not isinstance(tree, str) or "$" not in tree:
        return tree
    return values[tree[1:]] if tree[1:] in values else Template(tree).safe_substitute(values)


def _name_parameter(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", **schema}}


def _name_operation(path: str) -> str:
    """``/v2/models/{model}/infer`` → ``v2_models_model_infer``; a client has a function of this name."""
    return "_".join(re.findall(r"[A-Za-z0-9]+", path.removesuffix(".json"))) or "root"
