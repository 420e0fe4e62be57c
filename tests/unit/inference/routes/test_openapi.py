"""The OpenAPI document: what it says of columns, that nothing is left out of it, and when it changes."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from starlette.routing import Route

from tests.support.tiny_model import (
    MIXED_COLUMNS,
    MIXED_ROWS,
    NUMERIC_COLUMNS,
    NUMERIC_ROWS,
    publish_numeric,
)
from timberline.inference.app import STATUSES, App
from timberline.inference.config import ServiceConfig
from timberline.inference.formats.request import Request
from timberline.inference.metrics.counters import ServiceMetrics
from timberline.inference.models.routing import RoutingTable, ServiceState
from timberline.inference.models.versions import LiveVersion, load_version
from timberline.inference.routes.openapi import OpenApi, describe_column, read_template, write_csv_example
from timberline.registry.signature import Column
from timberline.registry.store import open_store

TOKEN = "token-for-openapi-0123"
ASKED = Request("GET", "/openapi.json", b"", (), b"")


@pytest.fixture(scope="module")
def versions(published: Path) -> dict[str, LiveVersion]:
    """One of numbers only, and one with text."""
    store = open_store(published)
    return {name: load_version(store.open_version(name, 1), max_rows=10) for name in ("tiny", "tiny_text")}


def write_document(live: LiveVersion, config: ServiceConfig | None = None) -> dict[str, Any]:
    """The document of an app that serves ``live``."""
    with ThreadPoolExecutor(1) as pool:
        app = App(ServiceState(RoutingTable.of([live])), config or ServiceConfig(), ServiceMetrics(), pool)
        return asyncio.run(_get(app))


async def _get(app: App) -> dict[str, Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    headers = [(b"authorization", f"Bearer {TOKEN}".encode())]
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/openapi.json",
        "query_string": b"",
        "headers": headers,
    }
    await app(scope, receive, send)
    document: dict[str, Any] = json.loads(sent[1]["body"])
    return document


def test_a_number_says_its_unit_and_what_training_saw_but_is_bound_by_float32_alone() -> None:
    """Values outside of the training's range are answered; a client that refuses them would be wrong."""
    largest = 3.4028235677973362e38
    assert np.isfinite(np.float64(largest).astype(np.float32))
    with np.errstate(over="ignore"):
        assert np.isinf(np.nextafter(largest, np.inf).astype(np.float32))
    column = Column(
        name="height",
        datatype="FP64",
        default=0.0,
        unit="m",
        description="Above the sea",
        minimum=-1.5,
        maximum=100.0,
    )
    assert describe_column(column) == {
        "type": "number",
        "format": "double",
        "minimum": -largest,
        "maximum": largest,
        "default": 0.0,
        "description": "Above the sea. Unit: m. Training saw -1.5 to 100.",
        "x-unit": "m",
        "x-minimum": -1.5,
        "x-maximum": 100.0,
    }


def test_categories_are_examples_and_null_a_default() -> None:
    """A category that training did not see is answered too, so that a list of them is no enumeration."""
    soil = describe_column(Column(name="soil", datatype="BYTES", categories=("clay", "sand")))
    assert soil == {"type": "string", "pattern": "^[^\\u0000]*$", "examples": ["clay", "sand"]}
    note = describe_column(Column(name="note", datatype="BYTES", is_nullable=True))
    assert (note["type"], note["default"]) == (["string", "null"], None)


def test_an_integer_has_the_bounds_within_which_json_is_exact() -> None:
    """Those are bounds that the service does hold clients to."""
    schema = describe_column(Column(name="rings", datatype="INT64"))
    assert (schema["minimum"], schema["maximum"]) == (-(2**53) + 1, 2**53 - 1)


@pytest.mark.parametrize(
    ("name", "columns", "rows"),
    [("tiny", NUMERIC_COLUMNS, NUMERIC_ROWS), ("tiny_text", MIXED_COLUMNS, MIXED_ROWS)],
)
def test_rows_of_the_model_fit_their_schema(
    versions: dict[str, LiveVersion], name: str, columns: tuple[Column, ...], rows: Any
) -> None:
    """Generated clients check before they send: what the service takes must pass."""
    schemas = write_document(versions[name])["components"]["schemas"]
    names = [column.name for column in columns]
    for row in rows:
        jsonschema.validate(dict(zip(names, row, strict=True)), schemas["Row"])
        jsonschema.validate(list(row), schemas["RowValues"])
    for wrong in ({}, {"rings": "4"}, {"rings": 4, "ring": 4}, {"rings": 1.5}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schemas["Row"])


def test_a_column_is_required_if_it_has_no_default_and_no_null(versions: dict[str, LiveVersion]) -> None:
    """As the service has it."""
    schemas = write_document(versions["tiny_text"])["components"]["schemas"]
    assert schemas["Row"]["required"] == ["soil", "rings"]


def test_every_error_of_the_service_is_documented(versions: dict[str, LiveVersion]) -> None:
    """A client that meets a status it does not know fails in a way of its own."""
    told = set(STATUSES.values()) - {499}  # which nobody is left to receive
    errors = {int(status) for group in read_template()["errors"].values() for status in group}
    assert told | {500} == errors
    guarded = ServiceConfig(tokens=TOKEN)
    responses = write_document(versions["tiny"], guarded)["paths"]["/predict"]["post"]["responses"]
    assert {int(status) for status in responses} == {200, *errors} - {404}  # it names no model


def test_every_route_is_documented(versions: dict[str, LiveVersion]) -> None:
    """Somebody who adds a route finds out here that its description is missing."""
    config = ServiceConfig(predict_route="/score", health_route="/up")
    with ThreadPoolExecutor(1) as pool:
        app = App(ServiceState(RoutingTable.of([versions["tiny"]])), config, ServiceMetrics(), pool)
    routes = {route.path for route in app._router.routes if isinstance(route, Route)}
    doubles = {path for path in routes if path.endswith("/") and path != "/"}
    assert set(asyncio.run(_get(app))["paths"]) == routes - doubles
    assert {"/score", "/up"} <= routes


def test_metrics_elsewhere_are_not_in_the_document(versions: dict[str, LiveVersion]) -> None:
    """On a port of their own they are no path of this service."""
    assert "/metrics" not in write_document(versions["tiny"], ServiceConfig(metrics_port=9))["paths"]


def test_float32_bodies_are_told_of_models_of_numbers_only(versions: dict[str, LiveVersion]) -> None:
    """Text has no float32."""
    media = {}
    for name, live in versions.items():
        document = write_document(live)
        media[name] = list(document["paths"]["/predict"]["post"]["requestBody"]["content"])
    assert media == {
        "tiny": ["application/json", "text/csv", "application/jsonlines", "application/octet-stream"],
        "tiny_text": ["application/json", "text/csv", "application/jsonlines"],
    }


def list_arrays(tree: Any) -> Iterator[dict[str, Any]]:
    """Every schema of an array in a document."""
    if isinstance(tree, dict):
        kind = tree.get("type")
        if kind == "array" or (isinstance(kind, list) and "array" in kind):
            yield tree
        for value in tree.values():
            yield from list_arrays(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from list_arrays(value)


def test_every_array_says_what_it_holds(versions: dict[str, LiveVersion]) -> None:
    """Generators of clients stop at one that does not, and at ``"items": false``."""
    for live in versions.values():
        arrays = list(list_arrays(write_document(live)))
        assert len(arrays) > 10
        for schema in arrays:
            kinds = schema.get("prefixItems", [schema.get("items")])
            assert all(isinstance(kind, dict) and kind for kind in kinds), schema
            if "prefixItems" in schema:
                assert schema["minItems"] == schema["maxItems"] == len(kinds)


def test_the_csv_example_has_a_line_of_names_and_empty_fields_for_null(
    versions: dict[str, LiveVersion],
) -> None:
    """The one way to write NULL in CSV, shown in the example that people copy."""
    lines = list(csv.reader(write_csv_example(versions["tiny"].manifest).splitlines()))
    assert lines[0] == [column.name for column in NUMERIC_COLUMNS]
    assert lines[1] == ["12.5", "40", "false", ""]


def test_the_document_is_written_again_for_another_version(tmp_path: Path) -> None:
    """It is kept as long as the version is live, and no longer."""
    store = open_store(tmp_path)
    publish_numeric(store)
    publish_numeric(store)
    first, second = (load_version(store.open_version("tiny", number), max_rows=10) for number in (1, 2))
    state = ServiceState(RoutingTable.of([first]))
    document = OpenApi(state, ServiceConfig(), False)
    answer = document(ASKED)
    assert document(ASKED) is answer
    assert json.loads(answer.body)["info"]["version"] == "1"
    state.table = RoutingTable.of([second])
    assert json.loads(document(ASKED).body)["info"]["version"] == "2"
    assert (b"x-model-version", b"tiny@2") in document(ASKED).headers
