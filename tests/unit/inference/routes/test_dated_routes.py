"""What a version with dates and categories says about itself: every value is one that a client can send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest

from tests.support.pet_model import AS_SENT, CLASSES, COLUMNS, ROWS, VOCABULARIES, publish_pets
from timberline.inference.config import ServiceConfig
from timberline.inference.formats.request import Request
from timberline.inference.models.routing import RoutingTable, ServiceState
from timberline.inference.models.versions import LiveVersion, load_version
from timberline.inference.routes.openapi import OpenApi
from timberline.inference.routes.page import describe_version, write_curl
from timberline.inference.routes.protocol import Metadata
from timberline.registry.moments import write_row
from timberline.registry.signature import SourceTable, build_signature
from timberline.registry.store import open_store

NAMES = [column.name for column in COLUMNS]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> LiveVersion:
    """pets@1."""
    store = open_store(tmp_path_factory.mktemp("pets"))
    publish_pets(store, constants={"fitted.mean(weight)": 9.5})
    return load_version(store.open_version("pets", 1), max_rows=10)


def write_document(live: LiveVersion, *, warnings: bool = False) -> dict[str, Any]:
    """The OpenAPI document of a service of ``live``."""
    state, config = ServiceState(RoutingTable.of([live])), ServiceConfig(warnings=warnings)

    write = OpenApi(state, config, False)
    write.paths = ["/predict"]
    document: dict[str, Any] = json.loads(write(Request("GET", "/openapi.json", b"", (), b"")).body)
    return document


def test_the_schema_takes_the_rows_that_the_service_takes(live: LiveVersion) -> None:
    """A generated client checks its rows by it before it sends them."""
    schemas = write_document(live)["components"]["schemas"]
    row = schemas["Row"]
    for sent in (*AS_SENT, *(write_row(row, COLUMNS) for row in ROWS)):
        jsonschema.validate(dict(zip(NAMES, sent, strict=True)), row)
    numbers = dict(zip(NAMES, AS_SENT[0], strict=True)) | {"born": 15826, "seen": 1367411400.5}
    jsonschema.validate(numbers, row)
    assert live.decoder.decode(json.dumps(numbers).encode()).rows[0][2:4] == (15826, 1367411400500000)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(numbers | {"born": 15826.5}, row)
    assert row["properties"]["breed"]["examples"] == list(VOCABULARIES["kind_of_breed"])
    assert "enum" not in row["properties"]["breed"]


def test_examples_are_answered(live: LiveVersion) -> None:
    """They are what a newcomer sends first."""
    content = write_document(live)["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert "application/octet-stream" not in content
    feed = live.decoder.tables.read_csv(content["text/csv"]["example"].encode(), None)
    expected = live.session.feed_rows(ROWS[:2])
    assert feed.numeric is not None
    assert feed.text is not None
    assert expected.text is not None
    np.testing.assert_array_equal(feed.numeric, expected.numeric)
    assert feed.text.tolist() == expected.text.tolist()
    (rows,) = live.decoder.decode_lines(content["application/jsonlines"]["example"].encode())
    assert [tuple(row) for row in rows] == [tuple(row) for row in ROWS[:2]]
    body = write_curl(live.manifest, "127.0.0.1", 1).partition("-d ")[2].strip("'")
    assert live.decoder.decode(body.encode()).rows[0][2] == ROWS[0][2]


def test_warnings_are_described_where_answers_have_them(live: LiveVersion) -> None:
    """The schema allows nothing that no answer has."""
    for name in ("RowPrediction", "Prediction"):
        for warnings in (True, False):
            schema = write_document(live, warnings=warnings)["components"]["schemas"][name]
            assert ("warnings" in schema["properties"]) is warnings


def test_the_page_has_moments_as_text(live: LiveVersion) -> None:
    """Its fields are those of a calendar, and what they hold is sent as it stands."""
    page = describe_version(live.manifest)
    columns = {column["name"]: column for column in page["columns"]}
    assert (columns["born"]["type"], columns["born"]["minimum"]) == ("date", "2000-01-01")
    assert (columns["seen"]["type"], columns["seen"]["maximum"]) == ("timestamp", "2020-09-13T12:26:40Z")
    assert page["golden"]["rows"] == [write_row(row, COLUMNS) for row in ROWS]


def test_of_many_values_the_page_offers_the_commonest(live: LiveVersion) -> None:
    """A column of a thousand breeds knows no list of all, and its field is still to be searched."""
    columns = tuple(
        msgspec.structs.replace(column, categories=None) if column.name == "breed" else column
        for column in COLUMNS
    )
    manifest = msgspec.structs.replace(live.manifest, signature=build_signature(columns, CLASSES))
    breed, *_ = describe_version(manifest)["columns"]
    assert breed["categories"] == VOCABULARIES["kind_of_breed"]
    assert "isWhole" not in breed


def test_the_model_card_tells_what_was_learned(live: LiveVersion) -> None:
    """Who asks about a version reads days as days, and which values it knows."""
    request = Request("GET", "/v2/models/pets", b"", (), b"", {"model": "pets"})
    answer = json.loads(Metadata(ServiceState(RoutingTable.of([live]))).model(request).body)
    card = answer["card"]
    born = next(column for column in card["columns"] if column["name"] == "born")
    assert (born["minimum"], born["maximum"]) == ("2000-01-01", "2020-01-01")
    assert card["categories"] == [{"feature": "kind_of_breed", "values": 3}, {"feature": "coat", "values": 2}]
    assert card["constants"] == {"fitted.mean(weight)": 9.5}
    assert card["values"]["colour"] == {"black": 70, "white": 30}
    assert [output["name"] for output in answer["outputs"]] == ["probabilities", "label"]


def test_an_example_of_csv_has_dates_as_the_table_has_them(tmp_path: Path) -> None:
    """A field is read by the column's format alone."""
    store = open_store(tmp_path)
    columns = tuple(
        msgspec.structs.replace(column, time_format="%d.%m.%y") if column.name == "born" else column
        for column in COLUMNS
    )
    table = SourceTable(null_text=("",), true_text=("Ja",), false_text=("Nein",))
    publish_pets(store, signature=build_signature(columns, CLASSES), table=table)
    live = load_version(store.open_version("pets", 1), max_rows=10)
    example = write_document(live)["paths"]["/predict"]["post"]["requestBody"]["content"]["text/csv"][
        "example"
    ]
    assert "01.05.13" in example
    assert "Ja" in example
    feed = live.decoder.tables.read_csv(example.encode(), None)
    assert feed.numeric is not None
    assert feed.numeric[:, 1].tolist() == [row[2] for row in ROWS[:2]]
