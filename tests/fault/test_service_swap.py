"""Aliases that move under load, and versions that must not be served."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from registry.manifest import Golden
from registry.store import MODEL_FILE, Store, open_store
from tests.support.pages import read_counter
from tests.support.service import DEADLINE_S, RunningService, refuse_to_start, running_service
from tests.support.swapping import EXPECTED, SCALES, publish_versions, swap_under_load
from tests.support.tiny_model import (
    NUMERIC_COLUMNS,
    NUMERIC_ROWS,
    expect_probabilities,
    point_alias,
    publish_numeric,
)

# tests/soak does it for longer, with restarts in between and in every format.
REQUESTS = 2000
MOVES = 6
WATCH = ("--watch-s", "0.02")


def read_events(service: RunningService, event: str) -> list[dict[str, Any]]:
    """The log's lines about one kind of event."""
    lines = [json.loads(line) for line in service.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def wait_for(fact: Callable[[], object], service: RunningService) -> None:
    """Ask again until ``fact()`` holds or the deadline has passed."""
    deadline = time.monotonic() + DEADLINE_S
    while not fact():
        assert time.monotonic() < deadline, service.log


@pytest.mark.parametrize("workers", [1, 2])
def test_no_request_is_lost_and_none_is_told_of_another_version(tmp_path: Path, workers: int) -> None:
    """A release in the middle of the day; body, header, numbers and metrics name one and the same version."""
    flags = ("--workers", str(workers))
    tally, page = swap_under_load(tmp_path, requests=REQUESTS, moves=MOVES, flags=flags)
    assert tally.wrong == []
    assert tally.total >= REQUESTS
    for version, rows in tally.rows_by_version.items():
        assert read_counter(page, "predictions_total", version=str(version)) == rows
    assert read_counter(page, "model_swaps_total", outcome="swapped") == MOVES * workers
    assert read_counter(page, "model_swaps_total", outcome="refused") == 0


def test_every_swap_is_told_and_the_old_version_is_freed(tmp_path: Path) -> None:
    """Whoever reads the log must see which version answered when, and that memory does not pile up."""
    publish_versions(tmp_path)
    with running_service(tmp_path, "tiny", *WATCH) as service:
        for version in (2, 1):
            point_alias(open_store(tmp_path), "tiny", "production", version)
            wait_for(lambda v=version: service.get_json("/")["version"] == v, service)  # type: ignore[misc]
            assert service.get_json("/v2/models/tiny")["versions"] == [str(version)]
        wait_for(lambda: len(read_events(service, "retired")) == 2, service)
        swaps = [(line["from_version"], line["to_version"]) for line in read_events(service, "swap")]
        assert swaps == [(1, 2), (2, 1)]
        assert [line["version"] for line in read_events(service, "retired")] == [1, 2]
        assert read_counter(service.request("GET", "/metrics")[2].decode(), "model_info") == 1


def flip_byte(store: Store) -> None:
    """tiny@2 with a bit of its graph turned over, as a bad disk would leave it."""
    publish_numeric(store, scale=SCALES[2], alias=None)
    path = store.open_folder("tiny", 2) / MODEL_FILE
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def forge_golden(store: Store) -> None:
    """tiny@2 whose graph does not answer as its manifest says."""
    golden = Golden(rows=NUMERIC_ROWS[:1], class_indexes=(0,), probabilities=((0.5, 0.25, 0.25),))
    publish_numeric(store, scale=SCALES[2], alias=None, golden=golden)


def break_graph(store: Store) -> None:
    """tiny@2 whose bytes are the published ones and no graph."""
    publish_numeric(store, alias=None, model_bytes=b"no graph")


@pytest.mark.parametrize(
    ("damage", "code"),
    [(flip_byte, "digest_mismatch"), (forge_golden, "golden_mismatch"), (break_graph, "signature_mismatch")],
)
def test_a_version_that_must_not_be_served_is_refused(
    tmp_path: Path, damage: Callable[[Store], None], code: str
) -> None:
    """A bad release costs a line in the log and a count in the metrics; clients notice nothing."""
    publish_numeric(store := open_store(tmp_path))
    damage(store)
    with running_service(tmp_path, "tiny", *WATCH) as service:
        point_alias(store, "tiny", "production", 2)
        assert_refused(service, code)


def test_a_version_without_its_manifest_is_refused_until_it_is_whole(tmp_path: Path) -> None:
    """An interrupted copy of a registry: the alias is there already, the version not yet."""
    whole, copied = tmp_path / "whole", tmp_path / "copied"
    publish_versions(whole)
    shutil.copytree(whole, copied)
    (manifest := copied / "tiny" / "2" / "manifest.json").unlink()
    point_alias(open_store(whole), "tiny", "production", 2)
    moved = Path("tiny", "aliases", "production", "2.json")
    with running_service(copied, "tiny", *WATCH) as service:
        shutil.copy(whole / moved, copied / moved)
        assert_refused(service, "version_not_found")
        shutil.copy(whole / "tiny" / "2" / "manifest.json", manifest)
        point_alias(open_store(copied), "tiny", "production", 2)
        wait_for(lambda: service.get_json("/")["version"] == 2, service)


def test_a_registry_that_never_answers_holds_up_neither_answers_nor_the_end(tmp_path: Path) -> None:
    """A file server that hangs must cost the news only: the watcher waits, and nobody waits for it."""
    publish_versions(tmp_path)
    with running_service(tmp_path, "tiny", *WATCH) as service:
        # Whoever opens a pipe to read it waits for somebody to write; opening it to write tells when.
        os.mkfifo(hung := tmp_path / "tiny" / "aliases" / "production" / "2.json")
        with hung.open("wb"):
            answers = [service.predict({"instances": [list(NUMERIC_ROWS[0])]}) for _ in range(20)]
            assert {(status, answer["version"]) for status, answer in answers} == {(HTTPStatus.OK, 1)}
            service.stop()


def test_a_worker_killed_after_a_refusal_comes_back_with_the_old_version(tmp_path: Path) -> None:
    """Production names a version that nobody may serve; a crash in that state must not cost a worker."""
    publish_numeric(store := open_store(tmp_path))
    flip_byte(store)
    with running_service(tmp_path, "tiny", "--workers", "2", *WATCH) as service:
        point_alias(store, "tiny", "production", 2)
        wait_for(lambda: len(read_events(service, "version refused")) == 2, service)
        os.kill(read_events(service, "worker started")[0]["pid"], signal.SIGKILL)
        wait_for(lambda: read_events(service, "worker restarted"), service)
        answers = [service.predict({"instances": [list(NUMERIC_ROWS[0])]}) for _ in range(20)]
        assert {(status, answer["version"]) for status, answer in answers} == {(HTTPStatus.OK, 1)}
        assert len(read_events(service, "version refused")) == 3


def assert_refused(service: RunningService, code: str) -> None:
    """tiny@2 was refused for this reason, told once and counted, and tiny@1 answers as before."""
    wait_for(lambda: read_events(service, "version refused"), service)
    (line,) = read_events(service, "version refused")
    assert (line["model"], line["version"], line["code"]) == ("tiny", 2, code)
    assert line["why"]
    assert service.request("GET", "/v2/health/ready")[0] == HTTPStatus.OK
    status, answer = service.predict({"instances": [list(NUMERIC_ROWS[0])]})
    assert (status, answer["version"]) == (HTTPStatus.OK, 1)
    page = service.request("GET", "/metrics")[2].decode()
    assert read_counter(page, "model_swaps_total", outcome="refused") == 1
    assert read_counter(page, "model_swaps_total", outcome="swapped") == 0


def test_a_canary_answers_its_customers_and_nobody_else(tmp_path: Path) -> None:
    """Who is in it stays in it, is told which version answered, and is counted under that version."""
    publish_versions(tmp_path)
    point_alias(open_store(tmp_path), "tiny", "candidate", 2)
    flags = ("--canary", "candidate=0.3", "--canary-header", "X-Customer", *WATCH)
    with running_service(tmp_path, "tiny", *flags) as service:
        first, second = ([ask_as(service, customer) for customer in range(40)] for _ in range(2))
        assert first == second
        assert set(first) == {1, 2}
        assert service.get_json("/v2/models/tiny")["versions"] == ["1", "2"]
        page = service.request("GET", "/metrics")[2].decode()
        for version in (1, 2):
            assert read_counter(page, "predictions_total", version=str(version)) == 2 * first.count(version)
        point_alias(open_store(tmp_path), "tiny", "candidate", 1)
        wait_for(lambda: service.get_json("/v2/models/tiny")["versions"] == ["1"], service)
        assert {ask_as(service, customer) for customer in range(40)} == {1}


def ask_as(service: RunningService, customer: int) -> int:
    """The version that answers this customer, by header, body and probabilities alike."""
    row = {"rings": 400, "height": 30.0}
    status, headers, body = service.request("POST", "/predict", row, {"X-Customer": f"customer {customer}"})
    answer = json.loads(body)
    version: int = answer["version"]
    assert (status, headers["x-model-version"]) == (HTTPStatus.OK, f"tiny@{version}")
    expected = expect_probabilities(NUMERIC_COLUMNS, [(30.0, 400, False, None)], SCALES[version])[0]
    assert list(answer["probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-6)
    return version


def test_a_shadow_is_asked_and_nobody_sees_it(tmp_path: Path) -> None:
    """Its agreement is counted; every answer is the main version's, also when the shadow is broken."""
    publish_versions(tmp_path)
    with running_service(tmp_path, "tiny", "--shadow", "2=1") as service:
        for row in NUMERIC_ROWS:
            status, answer = service.predict({"instances": [list(row)]})
            assert (status, answer["version"]) == (HTTPStatus.OK, 1)
        wait_for(lambda: sum(read_shadow(service).values()) == len(NUMERIC_ROWS), service)
        labels = [EXPECTED[version].argmax(axis=1) for version in (1, 2)]
        agree = int((labels[0] == labels[1]).sum())
        expected = {"agree": agree, "differ": len(NUMERIC_ROWS) - agree, "dropped": 0, "failed": 0}
        assert read_shadow(service) == expected
        assert service.get_json("/v2/models/tiny")["versions"] == ["1"]
        assert service.request("GET", "/v2/models/tiny/versions/2")[0] == HTTPStatus.NOT_FOUND


def read_shadow(service: RunningService) -> dict[str, float]:
    """Rows that the shadow was asked, by outcome."""
    page = service.request("GET", "/metrics")[2].decode()
    outcomes = ("agree", "differ", "dropped", "failed")
    return {outcome: read_counter(page, "shadow_rows_total", outcome=outcome) for outcome in outcomes}


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        ("tiny@1,tiny@2", (), "model tiny is named twice. A second version of it is a canary: --canary"),
        ("tiny", ("--canary", "candidate"), "canary: found 'candidate', expected a version or alias"),
        ("tiny", ("--shadow", "candidate=2"), "shadow: found 'candidate=2'"),
        ("tiny", ("--canary", "9=0.1"), "no version 9"),
    ],
)
def test_settings_that_mean_nothing_stop_the_start(
    tmp_path: Path, model: str, flags: tuple[str, ...], message: str
) -> None:
    """A service that starts without the canary it was told of tells nobody that there is none."""
    publish_versions(tmp_path)
    code, log = refuse_to_start(tmp_path, model, *flags)
    assert code == 2
    assert message in log
