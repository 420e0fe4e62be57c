"""The service's routes as an OpenAPI document tells them; what rows look like is in `openapi_rows`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from timberline.inference.formats.tensor_data import NUMBERS, TEXT
from timberline.inference.routes.openapi_rows import write_csv_example
from timberline.registry.manifest import Manifest
from timberline.registry.signature import TEXT_INPUT

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
