"""``GET /openapi.json``: what this service takes and gives, made from the versions that it serves."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from timberline.inference.config import ServiceConfig
from timberline.inference.formats.request import Answer, Request, answer_bytes
from timberline.inference.formats.strict_json import LARGEST_INTEGER
from timberline.inference.formats.tensors import NUMBERS, TEXT
from timberline.inference.models.routing import ServiceState
from timberline.inference.models.versions import LiveVersion
from timberline.inference.routes.page import pick_example
from timberline.registry.manifest import Manifest
from timberline.registry.signature import TEXT_INPUT, Column

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
    items = {"type": "array", "minItems": 1, "maxItems": max_rows, "items": _point_to(row)}
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
    predictions = {"type": "array", "minItems": 1, "items": _point_to("RowPrediction")}
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


def _point_to(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


Tree = dict[str, Any]

# By status: name of the response, what it means, headers that come with it.
ERRORS: Mapping[int, tuple[str, str, tuple[str, ...]]] = {
    400: ("BadRequest", "What was sent is not rows of this model; says which row and column.", ()),
    401: ("Unauthorized", "No bearer token was sent, or one that is not known here.", ("WWW-Authenticate",)),
    404: ("NotFound", "No such model or version is served here.", ()),
    405: ("MethodNotAllowed", "The path is there, but not for this method.", ("Allow",)),
    408: ("RequestTimeout", "The request did not arrive in time.", ()),
    413: ("ContentTooLarge", "More bytes or more rows than are taken at once.", ()),
    414: ("URITooLong", "The request line is longer than what is read.", ()),
    415: ("UnsupportedMediaType", "The body is declared to be something that is not read here.", ()),
    431: ("RequestHeaderFieldsTooLarge", "The head is longer than what is read, or has too many fields.", ()),
    500: ("InternalError", "The service failed; its log says why.", ()),
    503: ("ServiceUnavailable", "Too much to do, or stopping; ask again.", ("Retry-After",)),
    504: ("DeadlineExceeded", "Not answered in the time that a request may take.", ()),
}
_ALWAYS = (400, 405, 408, 414, 431, 500, 503)
_NAMED = (404,)
_WITH_BODY = (413, 415, 504)
_TEXT: Tree = {"type": "string"}
_TEXT_OR_NONE: Tree = {"type": ["string", "null"]}
# Of a tensor, flat or in rows; numbers, booleans and strings by the datatype, and null for NULL.
_SCALARS = ["number", "boolean", "string", "null"]
_ELEMENT: Tree = {"anyOf": [{"type": _SCALARS}, {"type": "array", "items": {"type": _SCALARS}}]}
_BINARY: Tree = {"type": "string", "format": "binary"}
_HEADERS: Tree = {
    "WWW-Authenticate": {"schema": {"const": "Bearer"}},
    "Allow": {"description": "The methods there are.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds.", "schema": {"type": "string", "pattern": "^[0-9]+$"}},
}
_VERSION_HEADER: Tree = {
    "x-model-version": {
        "description": "The model and version that answered.",
        "schema": {"type": "string", "examples": ["forest_cover@7"]},
    }
}
_JSON_LENGTH_HEADER: Tree = {
    "inference-header-content-length": {
        "description": "Where blobs follow: bytes of JSON before them.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    }
}

# What each path does: a method of `PathWriter`. Paths that end in a slash are other paths' doubles.
KINDS: Mapping[str, str] = {
    "/": "probe",
    "/predict": "predict",
    "/predict/{model}": "predict",
    "/invocations": "predict",
    "/ping": "ready",
    "/metrics": "metrics",
    "/openapi.json": "document",
    "/v2": "server",
    "/v2/health/live": "live",
    "/v2/health/ready": "ready",
    "/v2/models/{model}": "model",
    "/v2/models/{model}/versions/{version}": "model",
    "/v2/models/{model}/ready": "model_ready",
    "/v2/models/{model}/versions/{version}/ready": "model_ready",
    "/v2/models/{model}/infer": "infer",
    "/v2/models/{model}/versions/{version}/infer": "infer",
    "/v2/repository/index": "index",
    "/v2/models": "model_list",
    "/v1/models": "model_list",
    "/v1/models/{model}:predict": "predict",
    "/v1/models/{model}/versions/{version}:predict": "predict",
    "/v1/models/{model}": "status",
    "/v1/models/{model}/versions/{version}": "status",
}


def describe_errors() -> Tree:
    """The component responses of all errors; they have one shape."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        name: {
            "description": text,
            "content": content,
            **({"headers": {header: _HEADERS[header] for header in headers}} if headers else {}),
        }
        for name, text, headers in ERRORS.values()
    }


class PathWriter:
    """Writes the operations of one service.

    Args:
        manifest: of the version behind the routes that name no model.
        models: names of all models served.
        is_guarded: whether a bearer token is asked for.
    """

    def __init__(self, manifest: Manifest, models: Iterable[str], is_guarded: bool) -> None:
        self._manifest = manifest
        self._models = list(models)
        self._is_guarded = is_guarded

    def write(self, paths: Iterable[str], predict_route: str, health_route: str) -> Tree:
        """Path items for those of ``paths`` that `KINDS` or a setting gives a meaning."""
        kinds = {**KINDS, predict_route: "predict", health_route: "ready"}
        return {path: getattr(self, f"_{kinds[path]}")(path) for path in paths if path in kinds}

    def _probe(self, path: str) -> Tree:
        answers = {
            "application/json": {"schema": _object({"status": {"const": "alive"}})},
            "text/html": {"schema": {"type": "string"}},
        }
        return {"get": self._operation(path, "What is served here", answers)}

    def _metrics(self, path: str) -> Tree:
        text = {"schema": {"type": "string"}}
        answers = {"text/plain": text, "application/openmetrics-text": text}
        return {"get": self._operation(path, "Counts in the Prometheus text format", answers)}

    def _document(self, path: str) -> Tree:
        answers = {"application/json": {"schema": _object({"openapi": {"type": "string"}})}}
        return {"get": self._operation(path, "This document", answers)}

    def _live(self, path: str) -> Tree:
        operation = self._operation(path, "Whether the process answers", _refer("Health"))
        return {"get": {**operation, "security": []}}

    def _ready(self, path: str) -> Tree:
        operation = self._operation(path, "Whether work should be sent here", _refer("Health"))
        not_ready = {"description": "Not ready.", "headers": {"Retry-After": _HEADERS["Retry-After"]}}
        operation["responses"]["503"] = {**not_ready, "content": _refer("Health")}
        return {"get": {**operation, "security": []}}

    def _predict(self, path: str) -> Tree:
        both = [{"$ref": f"#/components/schemas/{name}"} for name in ("Prediction", "Predictions")]
        floats = "For many rows: the bare probabilities, little-endian float32, row by row in class order."
        answers: Tree = {
            "application/json": {"schema": {"anyOf": both}},
            "text/csv": {
                "schema": {**_TEXT, "description": "A line for each row: class, label, probabilities."}
            },
            "application/jsonlines": {"schema": {**_TEXT, "description": "A line for each row: its answer."}},
            "application/octet-stream": {"schema": {**_BINARY, "description": floats}},
        }
        more = (*_WITH_BODY, *_NAMED) if "{model}" in path else _WITH_BODY
        operation = self._operation(path, "Predict the class of one row or of many", answers, *more)
        operation["parameters"] = [
            {
                "name": "probabilities",
                "in": "query",
                "description": "false for the short form, without probabilities.",
                "schema": {"type": "boolean", "default": True},
            }
        ]
        operation["requestBody"] = {"required": True, "content": self._bodies()}
        operation["responses"]["200"]["headers"] = _VERSION_HEADER
        if "{model}" not in path:
            return {"post": operation}
        # The rows are told of this model only; those of others are in their metadata.
        place = self._place(path)
        place[0]["schema"]["enum"] = [self._manifest.model]
        return {"parameters": place, "post": operation}

    def _bodies(self) -> Tree:
        named = ("Row", "Rows", "RowsOfValues")
        golden = self._manifest.golden.rows
        bodies: Tree = {
            "application/json": {
                "schema": {"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in named]},
                "examples": {
                    "row": {"$ref": "#/components/examples/Row"},
                    "rows": {"value": {"instances": [list(row) for row in golden[:2]]}},
                },
            },
            "text/csv": {
                "schema": {"type": "string", "description": "Rows with a line of names, or in column order."},
                "example": write_csv_example(self._manifest),
            },
            "application/jsonlines": {
                "schema": {"type": "string", "description": "A row on each line, as instances may hold it."},
                "example": "".join(msgspec.json.encode(row).decode() + "\n" for row in golden[:2]),
            },
        }
        if all(spec.name != TEXT_INPUT for spec in self._manifest.signature.inputs):
            width = len(self._manifest.signature.columns)
            text = f"Rows of {width} little-endian float32 values in column order; NaN is NULL."
            bodies["application/octet-stream"] = {"schema": {**_BINARY, "description": text}}
        return bodies

    def _server(self, path: str) -> Tree:
        return {"get": self._operation(path, "Name and extensions", _refer("ServerMetadata"))}

    def _model(self, path: str) -> Tree:
        answers = _refer("ModelMetadata")
        operation = self._operation(path, "Tensors and model card of a version", answers, *_NAMED)
        return {"parameters": self._place(path), "get": operation}

    def _model_ready(self, path: str) -> Tree:
        operation = self._operation(path, "Whether a version can answer", _refer("ModelReady"), *_NAMED)
        operation["responses"]["503"] = {"description": "Not ready.", "content": _refer("ModelReady")}
        return {"parameters": self._place(path), "get": operation}

    def _model_list(self, path: str) -> Tree:
        return {"get": self._operation(path, "The models that are served", _refer("ModelList"))}

    def _status(self, path: str) -> Tree:
        answers = _refer("ModelStatus")
        operation = self._operation(path, "Whether a model can answer, and its versions", answers, *_NAMED)
        operation["responses"]["503"] = {"description": "Not ready.", "content": answers}
        return {"parameters": self._place(path), "get": operation}

    def _infer(self, path: str) -> Tree:
        blobs = "The same JSON, and behind it the blobs of the outputs that were asked for as such."
        answers = {
            **_refer("InferenceResponse"),
            "application/octet-stream": {"schema": {**_BINARY, "description": blobs}},
        }
        operation = self._operation(path, "Run a version on tensors", answers, *_NAMED, *_WITH_BODY)
        operation["responses"]["200"]["headers"] = {**_VERSION_HEADER, **_JSON_LENGTH_HEADER}
        operation["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/InferenceRequest"},
                    "examples": {"tensors": {"$ref": "#/components/examples/Tensors"}},
                }
            },
        }
        return {"parameters": self._place(path), "post": operation}

    def _index(self, path: str) -> Tree:
        entry = _object({"name": _TEXT, "version": _TEXT, "state": _TEXT, "reason": _TEXT})
        answers = {"application/json": {"schema": {"type": "array", "items": entry}}}
        # The protocol's body, {"ready": true}, is not read: a version that is not ready is not listed.
        return {"post": self._operation(path, "The versions that are live", answers, *_WITH_BODY)}

    def _place(self, path: str) -> list[Tree]:
        model = {"name": "model", "in": "path", "required": True}
        version = {"name": "version", "in": "path", "required": True}
        place: list[Tree] = [{**model, "schema": {"type": "string", "enum": self._models}}]
        if "{version}" in path:
            pattern = {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"}
            place.append({**version, "schema": pattern, "example": str(self._manifest.version)})
        return place

    def _operation(self, path: str, summary: str, answers: Tree, *more: int) -> Tree:
        """An operation with every error that it may end in: those of all routes and ``more``."""
        statuses = {*_ALWAYS, *more} | ({401} if self._is_guarded else set())
        return {
            "operationId": _name_operation(path),
            "summary": summary,
            "responses": {
                "200": {"description": "The answer.", "content": answers},
                **{str(s): {"$ref": f"#/components/responses/{ERRORS[s][0]}"} for s in sorted(statuses)},
            },
        }


def _name_operation(path: str) -> str:
    """``/v2/models/{model}/infer`` → ``v2_models_model_infer``; a client has a function of this name."""
    return "_".join(re.findall(r"[A-Za-z0-9]+", path.removesuffix(".json"))) or "root"


def describe_protocol() -> Tree:
    """The component schemas of health and of the Open Inference Protocol, by their names."""
    texts: Tree = {"type": "array", "items": _TEXT}
    shape: Tree = {"type": "array", "items": {"type": "integer", "minimum": -1}}
    spec: Tree = {"name": _TEXT, "datatype": _TEXT, "shape": shape}
    data: Tree = {"type": "array", "items": _ELEMENT}
    tensors = {"type": "array", "items": _object(spec)}
    rows: Tree = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": 2}
    sent: Tree = {"name": _TEXT, "datatype": {"type": "string", "enum": [*NUMBERS, TEXT]}, "shape": rows}
    of_version = {"error_code": _TEXT, "error_message": _TEXT}
    return {
        "Error": _close({"error": _TEXT}, ["error"]),
        "Health": _object({"live": {"type": "boolean"}, "ready": {"type": "boolean"}}),
        "ServerMetadata": _object({"name": _TEXT, "version": _TEXT, "extensions": texts}),
        "ModelMetadata": _object(
            {"name": _TEXT, "versions": texts, "platform": _TEXT, "inputs": tensors, "outputs": tensors}
        ),
        "ModelReady": _object({"name": _TEXT, "ready": {"type": "boolean"}}),
        "ModelList": _object({"models": texts}),
        "ModelStatus": _object(
            {
                "name": _TEXT,
                "ready": {"type": "boolean"},
                "model_version_status": {
                    "type": "array",
                    "items": _object({"version": _TEXT, "state": _TEXT, "status": _object(of_version)}),
                },
            }
        ),
        "InferenceRequest": _close(
            {
                "id": _TEXT_OR_NONE,
                "parameters": _describe_hints("binary_data_output"),
                "inputs": {
                    "type": "array",
                    "minItems": 1,
                    "items": _close({**sent, "parameters": _describe_hints(), "data": data}, [*sent, "data"]),
                },
                "outputs": {
                    "type": ["array", "null"],
                    "items": _close({"name": _TEXT, "parameters": _describe_hints("binary_data")}, ["name"]),
                },
                "model_name": {**_TEXT_OR_NONE, "description": "Of the path; no other is taken."},
                "model_version": {
                    **_TEXT_OR_NONE,
                    "description": "Of the path, or of a version that is live.",
                },
            },
            ["inputs"],
        ),
        "InferenceResponse": {
            "type": "object",
            "properties": {
                "model_name": _TEXT,
                "model_version": _TEXT,
                "id": _TEXT,
                "parameters": _describe_hints(),
                "outputs": {
                    "type": "array",
                    "items": {
                        **_object({**spec, "parameters": _describe_hints(), "data": data}),
                        "required": list(spec),
                    },
                },
            },
            "required": ["model_name", "outputs"],
        },
    }


def _describe_hints(*flags: str) -> Tree:
    """Parameters: what is read, and whatever else an implementation puts there."""
    known = {name: {"type": ["boolean", "null"]} for name in flags}
    return {"type": ["object", "null"], "properties": known, "additionalProperties": True}


def _object(properties: Tree) -> Tree:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _close(properties: Tree, required: list[str]) -> Tree:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _refer(name: str) -> Tree:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


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

    def _write(self, live: LiveVersion) -> dict[str, Any]:
        config, manifest = self._config, live.manifest
        about = (manifest.description, manifest.lineage.attribution)
        paths = PathWriter(manifest, self._state.models, self._is_guarded)
        components: dict[str, Any] = {
            "schemas": {**describe_rows(manifest, config.max_rows), **describe_protocol()},
            "responses": describe_errors(),
            "examples": {
                "Row": {"summary": "A row", "value": pick_example(manifest)},
                "Tensors": {"summary": "The same row as tensors", "value": write_tensors(manifest)},
            },
        }
        document: dict[str, Any] = {
            "openapi": "3.1.0",
            "info": {
                "title": manifest.title or manifest.model,
                "description": "\n\n".join(filter(None, about)),
                "version": str(manifest.version),
            },
            "servers": [{"url": config.root_path or "/"}],
            "paths": paths.write(self.paths, config.predict_route, config.health_route),
            "components": components,
        }
        if self._is_guarded:
            components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"bearer": []}]
        return document
