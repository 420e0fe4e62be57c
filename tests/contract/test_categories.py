"""Unknown categories and dates on the wire: what is answered, marked and counted, in every form."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.pet_model import (
    AS_SENT,
    COLUMNS,
    ROWS,
    UNKNOWN,
    VOCABULARIES,
    code_rows,
    expect_probabilities,
    publish_pets,
)
from tests.support.service import RunningService, running_service
from tests.support.tiny_model import point_alias
from timberline.registry.store import open_store

NAMES = [column.name for column in COLUMNS]
NAMED: list[dict[str, Any]] = [dict(zip(NAMES, row, strict=True)) for row in AS_SENT]
KNOWN, STRANGE = NAMED[0], NAMED[-1]  # of the last row no text is known
ATOL = 1e-6
JSON_LINES = {"Content-Type": "application/jsonlines", "Accept": "application/jsonlines"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with pets@production."""
    folder: Path = tmp_path_factory.mktemp("pets")
    publish_pets(open_store(folder))
    return folder


@pytest.fixture(scope="module")
def warning(registry: Path) -> Iterator[RunningService]:
    """A service whose answers say what is unknown; beyond two rows it works in a thread."""
    with running_service(registry, "pets", "--warnings", "--inline-max-rows", "2") as running:
        yield running


@pytest.fixture
def silent(registry: Path) -> Iterator[RunningService]:
    """A service as it is without a setting."""
    with running_service(registry, "pets", "--workers", "2") as running:
        yield running


def post(service: RunningService, body: str, headers: dict[str, str], path: str = "/predict") -> bytes:
    """The body of a good answer."""
    status, _, answer = service.request("POST", path, body.encode(), headers)
    assert status == 200, answer
    return answer


def count_unknown(service: RunningService) -> list[float]:
    """How many values of each feature were unknown, by /metrics."""
    page = service.request("GET", "/metrics")[2].decode()
    family = next(f for f in text_string_to_metric_families(page) if f.name == "unknown_categories")
    found = {
        sample.labels["feature"]: sample.value for sample in family.samples if sample.name.endswith("_total")
    }
    return [found[name] for name in VOCABULARIES]


def test_unknown_categories_are_counted_and_not_marked_by_default(silent: RunningService) -> None:
    """Clients of today read answers of today; an operator sees in any case that the table has changed."""
    answers = [silent.predict(row)[1] for row in NAMED]
    answers += silent.predict({"instances": NAMED * 30})[1]["predictions"]  # in a thread
    assert not any("warnings" in answer for answer in answers)
    unknown = (code_rows(ROWS) == 0).sum(axis=0) * 31
    assert count_unknown(silent) == unknown.tolist()


def test_a_row_says_what_is_unknown_in_it(warning: RunningService) -> None:
    """The answer stands; who asked decides what an unknown breed is worth to them."""
    before = count_unknown(warning)
    status, answer = warning.predict(STRANGE)
    assert (status, answer.pop("warnings")) == (200, UNKNOWN)
    assert list(answer) == ["prediction", "label", "probabilities", "model", "version"]
    assert list(answer["probabilities"].values()) == pytest.approx(
        expect_probabilities(ROWS)[-1].tolist(), abs=ATOL
    )
    assert "warnings" not in warning.predict(KNOWN)[1]
    assert count_unknown(warning) == [count + 1 for count in before]
    short = json.loads(post(warning, json.dumps(STRANGE), {}, "/predict?probabilities=false"))
    assert short["warnings"] == UNKNOWN


@pytest.mark.parametrize("times", [1, 4])
def test_of_many_rows_each_says_it_for_itself(warning: RunningService, times: int) -> None:
    """A list of answers is read row by row, on the event loop's way as on the thread's."""
    rows = [KNOWN, STRANGE] * times
    expected = [None, UNKNOWN] * times
    answers = warning.predict({"instances": rows})[1]["predictions"]
    assert [answer.get("warnings") for answer in answers] == expected
    lines = post(warning, "\n".join(map(json.dumps, rows)), JSON_LINES).splitlines()
    assert [json.loads(line).get("warnings") for line in lines] == expected
    table = post(warning, json.dumps({"instances": rows}), {"Accept": "text/csv; header=present"}).decode()
    read = list(csv.DictReader(table.splitlines()))
    assert [row["warnings"] or None for row in read] == [text and "; ".join(text) for text in expected]


def test_versions_with_codes_and_without_take_each_others_place(tmp_path: Path) -> None:
    """A registry holds both for as long as a rollback may need the older."""
    store = open_store(tmp_path)
    publish_pets(store)
    publish_pets(store, categories=(), alias="candidate")

    def serve(version: int) -> Any:
        point_alias(store, "pets", "production", version)
        service.wait_for(lambda: service.predict(STRANGE)[1]["version"] == version)
        return service.predict(STRANGE)[1].get("warnings")

    flags = ("--warnings", "--watch-s", "0.1", "--shadow", "candidate=1")
    with running_service(tmp_path, "pets", *flags) as service:
        assert service.predict(STRANGE)[1]["warnings"] == UNKNOWN
        assert serve(2) is None
        assert serve(1) == UNKNOWN
        service.wait_for(lambda: count_shadow(service, "agree"))
        assert count_shadow(service, "failed") == count_shadow(service, "differ") == 0


def count_shadow(service: RunningService, outcome: str) -> float:
    """Rows that a shadow was asked, by what came of it."""
    page = service.request("GET", "/metrics")[2].decode()
    family = next(f for f in text_string_to_metric_families(page) if f.name == "shadow_rows")
    return sum(sample.value for sample in family.samples if sample.labels.get("outcome") == outcome)


def ask_tensors(service: RunningService, outputs: list[str] | None = None) -> dict[str, Any]:
    """The protocol's answer to the rows, a tensor a column."""
    tensors = [
        {"name": column.name, "datatype": "BYTES" if column.moment else column.datatype, "shape": [len(ROWS)]}
        | {"data": [row[column.name] for row in NAMED]}
        for column in COLUMNS
    ]
    asked = {"inputs": tensors} | ({"outputs": [{"name": name} for name in outputs]} if outputs else {})
    answer: dict[str, Any] = json.loads(post(service, json.dumps(asked), {}, "/v2/models/pets/infer"))
    return answer


def test_tensors_name_what_is_unknown_and_give_the_codes_when_asked(warning: RunningService) -> None:
    """The protocol's parameters have no lists, and its clients take the outputs that metadata tells of."""
    usual = ask_tensors(warning)
    assert usual["parameters"] == {"warnings": "; ".join(UNKNOWN)}
    assert [output["name"] for output in usual["outputs"]] == ["probabilities", "label"]
    assert usual["outputs"][0]["data"] == pytest.approx(expect_probabilities(ROWS).ravel().tolist(), abs=ATOL)
    (codes,) = ask_tensors(warning, ["categories"])["outputs"]
    assert (codes["datatype"], codes["shape"]) == ("INT64", [len(ROWS), len(VOCABULARIES)])
    assert codes["data"] == code_rows(ROWS).ravel().tolist()


def test_the_rows_as_they_are_sent_are_the_rows_as_the_graph_takes_them(warning: RunningService) -> None:
    """Text and number of the same moment must not be two rows."""
    status, answer = warning.predict({"instances": [list(row) for row in AS_SENT]})
    assert status == 200, answer
    found = [list(row["probabilities"].values()) for row in answer["predictions"]]
    assert np.array(found) == pytest.approx(expect_probabilities(ROWS), abs=ATOL)
    numbers = KNOWN | {"born": ROWS[0][2], "seen": float(ROWS[0][3] or 0) / 1e6}
    assert warning.predict(numbers)[1] == warning.predict(KNOWN)[1]
