"""The page's bytes: its policy fits them, its data cannot leave their element, its size stays small.

Also the example line that a newcomer copies.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import timberline.inference.routes.page
from tests.support.manifests import build_manifest, build_metrics
from tests.support.service import running_service
from tests.support.tiny_model import CLASSES, publish_mixed
from tests.support.wood_model import ATTACK, COLUMNS, GOLDEN_ROWS
from timberline.inference.routes.page import (
    describe_version,
    find_groups,
    page_headers,
    pick_example,
    prefers_page,
    write_curl,
    write_page,
)
from timberline.registry.manifest import Golden, Histogram, Manifest
from timberline.registry.signature import ClassLabel, Column, build_signature
from timberline.registry.store import open_store

BROWSER = b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


def golden(rows: tuple[tuple[float | int | bool | str | None, ...], ...]) -> Golden:
    """Golden rows whose answers do not matter here."""
    return Golden(rows=rows, class_indexes=(0,) * len(rows), probabilities=((1.0, 0.0),) * len(rows))


def wide_manifest() -> Manifest:
    """A manifest in the shape of the forest cover table: 54 columns, 7 classes, 64 golden rows."""
    numbers = [
        Column(
            name=f"Distance_To_Something_{i}x",
            datatype="INT64",
            default=0,
            minimum=0.0,
            maximum=7000.0,
            unit="m",
        )
        for i in range(10)
    ]
    soils = [
        Column(name=f"Soil_Type{i}", datatype="INT64", default=0, minimum=0.0, maximum=1.0)
        for i in range(1, 45)
    ]
    classes = tuple(ClassLabel(value=str(i), label=f"Kind of tree {i}") for i in range(1, 8))
    edges = tuple(350.0 * i for i in range(21))
    metrics = build_metrics()
    return build_manifest(
        signature=build_signature((*numbers, *soils), classes),
        golden=golden(tuple((*[1234 + n] * 10, *(int(i == n % 44) for i in range(44))) for n in range(64))),
        histograms={
            c.name: Histogram(counts=tuple(range(1000, 1020)), edges=edges) for c in (*numbers, *soils)
        },
        metrics=type(metrics)(
            rows=565_892,
            accuracy=metrics.accuracy,
            log_loss=0.5,
            ece=0.01,
            classes={c.value: metrics.classes["1"] for c in classes},
            confusion=((123_456,) * 7,) * 7,
            baselines={"majority": 0.5},
        ),
    )


def read_data(page: bytes) -> dict[str, object]:
    """What the page's scripts are told."""
    found = re.search(rb'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    data: dict[str, object] = json.loads(found[1])
    return data


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (BROWSER, True),
        (b"TEXT/HTML", True),
        (b"text/html;q=0.5, application/json;q=0.4", True),
        (b"", False),
        (b"*/*", False),
        (b"application/json", False),
        (b"application/json, text/plain, */*", False),
        (b"text/html;q=0, */*", False),
        (b"text/html;q=0.4, application/json", False),
        (b"text/html;q=much", False),
        (b"text/*", False),
    ],
)
def test_only_who_asks_for_html_gets_the_page(accept: bytes, wanted: bool) -> None:
    """Probes and scripts send */* and have read JSON here since the first release."""
    assert prefers_page(accept) is wanted


def test_the_policy_knows_the_style_and_the_script_and_nothing_else() -> None:
    """A digest that does not fit leaves a blank page; a wider policy would let in what is not ours."""
    page = write_page(build_manifest()).decode()
    headers = dict(page_headers())
    sources = re.findall(r"<(style|script)(?: type=\"module\")?>(.*?)</\1>", page, re.DOTALL)
    digests = {
        f"{kind}-src": base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for kind, text in sources
    }
    policy = dict(
        part.strip().split(" ", 1) for part in headers[b"content-security-policy"].decode().split(";")
    )
    assert policy == {
        "default-src": "'none'",
        "script-src": f"'sha256-{digests['script-src']}'",
        "style-src": f"'sha256-{digests['style-src']}'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert headers[b"referrer-policy"] == b"no-referrer"


def test_the_sources_name_no_other_place() -> None:
    """The page works in a network without an exit, and tells nobody that it is looked at."""
    static = Path(timberline.inference.routes.page.__file__).with_name("static")
    for path in static.iterdir():
        text = path.read_text("utf-8")
        assert set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]+", text)) <= {"http://www.w3.org"}, path.name
        assert "style=" not in text, "the policy would refuse it"
        assert not re.search(r"\son[a-z]+=|innerHTML|insertAdjacentHTML|eval\(|document\.write", text), (
            path.name
        )


def test_texts_of_a_manifest_cannot_become_markup() -> None:
    """Whoever may publish a model must not thereby run scripts in an operator's browser."""
    column = Column(name=ATTACK, datatype="BYTES", categories=("</script>", "<!--<script>"))
    manifest = build_manifest(
        title=ATTACK,
        description=ATTACK,
        signature=build_signature(
            (column,), (ClassLabel(value="1", label=ATTACK), ClassLabel(value="2", label="b"))
        ),
        golden=golden((("</script>",),)),
    )
    page = write_page(manifest)
    assert len(re.findall(rb"<script", page)) == len(re.findall(rb"</script", page)) == 2
    assert b"<img" not in page
    assert read_data(page)["columns"] == [
        {"name": ATTACK, "type": "BYTES", "categories": ["</script>", "<!--<script>"], "isWhole": True}
    ]


def test_the_page_of_a_table_of_54_columns_is_small() -> None:
    """It is one answer, sent whole and kept in memory."""
    assert len(write_page(wide_manifest())) <= 60 * 1024


def test_a_wide_table_brings_fewer_test_rows() -> None:
    """Rows of a thousand columns must not make a page of megabytes."""
    columns = tuple(Column(name=f"c{i}x", datatype="FP64", minimum=0.0, maximum=1.0) for i in range(1000))
    rows = tuple((0.5,) * 1000 for _ in range(64))
    manifest = build_manifest(
        signature=build_signature(columns, build_manifest().signature.classes), golden=golden(rows)
    )
    told = describe_version(manifest)["golden"]
    assert len(told["rows"]) == len(told["classes"]) == 8


def test_indicators_of_one_choice_are_found() -> None:
    """They become one control, sorted by number and not by letter."""
    assert find_groups(COLUMNS, golden(GOLDEN_ROWS)) == [
        {"name": "Soil_Type", "columns": [4, 5, 6]},
        {"name": "Area", "columns": [7, 8]},
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"maximum": 2.0},
        {"minimum": -1.0},
        {"minimum": None},
        {"datatype": "FP64"},
        {"is_nullable": True},
        {"name": "Soil_TypeA"},
        {"name": "Other1"},
    ],
)
def test_columns_that_only_look_like_a_choice_are_left_alone(change: dict[str, Any]) -> None:
    """A control that sets the wrong columns is worse than two plain ones."""
    facts: dict[str, Any] = {"name": "Soil_Type2", "datatype": "INT64", "minimum": 0.0, "maximum": 1.0}
    columns = [Column(**{**facts, "name": "Soil_Type1"}), Column(**{**facts, **change})]
    assert find_groups(columns, golden(((1, 0), (0, 1)))) == []


@pytest.mark.parametrize("rows", [((1, 0), (1, 1)), ((1, 0), (0, 0)), ((True, False), (False, False))])
def test_one_row_with_two_or_none_set_is_no_choice(rows: tuple[tuple[int, ...], ...]) -> None:
    """Two symptoms are indicators, too, and a patient may have both."""
    columns = [Column(name=f"Symptom{i}", datatype="INT64", minimum=0.0, maximum=1.0) for i in (1, 2)]
    assert find_groups(columns, golden(rows)) == []


def test_a_histogram_shows_density() -> None:
    """Bins may be of unequal width; a wide one must not look fuller than it is."""
    manifest = build_manifest(histograms={"height": Histogram(counts=(10, 10), edges=(0.0, 10.0, 50.0))})
    column = describe_version(manifest)["columns"][0]
    assert column["histogram"] == {"edges": [0.0, 10.0, 50.0], "heights": [100, 25]}


@pytest.mark.parametrize(
    "histogram",
    [Histogram(counts=(0, 0), edges=(0.0, 1.0, 2.0)), Histogram(counts=(4,), edges=(1.0, 1.0))],
)
def test_a_column_of_no_or_one_value_has_a_page_too(histogram: Histogram) -> None:
    """Constant columns are common; a division by zero would take the whole page away."""
    assert b"<h1>" in write_page(build_manifest(histograms={"height": histogram}))


def test_the_example_is_answered(tmp_path: Path) -> None:
    """The first thing a person does with the service must work, quotes in a value and all."""
    publish_mixed(open_store(tmp_path))
    with running_service(tmp_path, "tiny_text") as service:
        ready = next(e for e in map(json.loads, service.log.splitlines()) if e["event"] == "ready")
        words = shlex.split(ready["example"])
        url = f"http://{service.host}:{service.port}/predict"
        assert words[:-1] == ["curl", "-s", url, "-H", "content-type: application/json", "-d"]
        status, answer = service.predict(json.loads(words[-1]))
        assert (status, answer["prediction"]) == (200, "1")


def test_required_columns_are_always_in_the_example() -> None:
    """Left out, the example would be an error message."""
    columns = tuple(Column(name=f"c{n}", datatype="FP64", default=None if n == 9 else 0.0) for n in range(10))
    golden = Golden(rows=((1.5,) * 10,), class_indexes=(0,), probabilities=((1.0, 0.0, 0.0),))
    manifest = build_manifest(signature=build_signature(columns, CLASSES), golden=golden)
    assert pick_example(manifest) == {"c0": 1.5, "c1": 1.5, "c2": 1.5, "c9": 1.5}


@pytest.mark.parametrize(
    ("host", "asked"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("10.0.0.7", "10.0.0.7")],
)
def test_the_address_in_the_example_can_be_asked(host: str, asked: str) -> None:
    """A service in a container listens on every address, which is none."""
    assert f"http://{asked}:8000/predict" in write_curl(build_manifest(), host, 8000)
