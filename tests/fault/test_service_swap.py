"""Aliases that move under load, and versions that must not be served."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from tests.support.pages import read_counter
from tests.support.registry_tree import folder_of
from tests.support.service import (
    RunningService,
    has_ended,
    read_cpu_seconds,
    refuse_to_start,
    running_service,
)
from tests.support.swapping import EXPECTED, SCALES, publish_versions, swap_under_load
from tests.support.tiny_model import (
    NUMERIC_COLUMNS,
    NUMERIC_ROWS,
    build_endless_graph,
    build_large_graph,
    expect_probabilities,
    point_alias,
    publish_numeric,
)
from timberline.registry.manifest import Golden
from timberline.registry.promotion import promote, rollback
from timberline.registry.runtime.files import digest_file
from timberline.registry.store import MODEL_FILE, Store, open_store

# tests/soak does it for longer, with restarts in between and in every format.
REQUESTS = 2000
MOVES = 6
WATCH = ("--watch-s", "0.02")


def read_events(service: RunningService, event: str) -> list[dict[str, Any]]:
    """The log's lines about one kind of event."""
    lines = [json.loads(line) for line in service.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def wait_for_version(service: RunningService, version: int) -> None:
    """Until a version is live."""
    service.wait_for(lambda: service.get_json("/")["version"] == version)


def wait_for_refusals(service: RunningService, count: int) -> None:
    """Until versions were refused so many times."""
    service.wait_for(lambda: len(read_events(service, "version refused")) == count)


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
            wait_for_version(service, version)
            assert service.get_json("/v2/models/tiny")["versions"] == [str(version)]
        service.wait_for(lambda: len(read_events(service, "retired")) == 2)
        swaps = [(line["from_version"], line["to_version"]) for line in read_events(service, "swap")]
        assert swaps == [(1, 2), (2, 1)]
        assert [line["version"] for line in read_events(service, "retired")] == [1, 2]
        assert read_counter(service.request("GET", "/metrics")[2].decode(), "model_info") == 1


def flip_byte(store: Store) -> None:
    """tiny@2 with a bit of its graph turned over, as a bad disk would leave it."""
    publish_numeric(store, scale=SCALES[2], alias=None)
    path = folder_of(store.open_version("tiny", 2)) / MODEL_FILE
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


def never_return(store: Store) -> None:
    """tiny@2 whose graph has no end."""
    publish_numeric(store, alias=None, model_bytes=build_endless_graph())


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


COPIES = {
    "alias first": ("manifest.json", "model.onnx", "evaluation.parquet"),
    "manifest before the graph": ("model.onnx", "evaluation.parquet"),
    "graph without the manifest": ("manifest.json",),
    "half of the graph": ("model.onnx/2",),
    "half of the manifest": ("manifest.json/2",),
}


@pytest.mark.parametrize("late", COPIES.values(), ids=COPIES.keys())
def test_a_version_that_is_being_copied_is_served_when_it_is_whole(
    tmp_path: Path, late: tuple[str, ...]
) -> None:
    """rsync, cp and file servers bring the alias before the last byte; nobody promotes a second time."""
    whole, copied = tmp_path / "whole", tmp_path / "copied"
    publish_versions(whole)
    shutil.copytree(whole, copied)
    for name in late:
        cut_or_remove(copied / "tiny" / "2" / name.removesuffix("/2"), is_cut=name.endswith("/2"))
    point_alias(open_store(whole), "tiny", "production", 2)
    moved = Path("tiny", "aliases", "production", "2.json")
    with running_service(copied, "tiny", *WATCH) as service:
        shutil.copy(whole / moved, copied / moved)
        service.wait_for(lambda: read_events(service, "version refused"))
        assert service.predict({"instances": [list(NUMERIC_ROWS[0])]})[1]["version"] == 1
        for name in (part.removesuffix("/2") for part in late):
            shutil.copy(whole / "tiny" / "2" / name, copied / "tiny" / "2" / name)
        wait_for_version(service, 2)
        page = service.request("GET", "/metrics")[2].decode()
        assert read_counter(page, "model_swaps_total", outcome="refused") == 1
        assert read_counter(page, "model_swaps_total", outcome="swapped") == 1


def cut_or_remove(path: Path, *, is_cut: bool) -> None:
    """As a copy that has not come so far."""
    data = path.read_bytes()
    path.unlink()
    if is_cut:
        path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_graph_that_never_returns_is_refused_and_the_next_version_followed(
    tmp_path: Path, workers: int
) -> None:
    """Its trial is ended by the clock, once for all workers; following goes on."""
    publish_versions(tmp_path)
    publish_numeric(store := open_store(tmp_path), alias=None, model_bytes=build_endless_graph())
    flags = ("--load-timeout-s", "8", "--workers", str(workers), *WATCH)
    with running_service(tmp_path, "tiny", *flags) as service:
        point_alias(store, "tiny", "production", 3)
        service.wait_for(lambda: list_trials(service))
        trials = set()
        while len(read_events(service, "version refused")) < workers:
            trials |= set(list_trials(service))
        assert len(trials) == 1
        (code,) = {line["code"] for line in read_events(service, "version refused")}
        assert code == "load_failed"
        assert "not loaded within 8 s" in read_events(service, "version refused")[0]["why"]
        point_alias(store, "tiny", "production", 2)
        service.wait_for(lambda: len(read_events(service, "swap")) == workers)
        assert service.get_json("/")["version"] == 2
        assert list_trials(service) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_trial_ends_when_the_alias_has_moved_on(tmp_path: Path, workers: int) -> None:
    """Whoever sees that a version hangs points the alias elsewhere, and is not made to wait for the clock."""
    publish_versions(tmp_path)
    publish_numeric(store := open_store(tmp_path), alias=None, model_bytes=build_endless_graph())
    flags = ("--load-timeout-s", "3600", "--workers", str(workers), *WATCH)
    with running_service(tmp_path, "tiny", *flags) as service:
        point_alias(store, "tiny", "production", 3)
        service.wait_for(lambda: list_trials(service))
        point_alias(store, "tiny", "production", 2)
        service.wait_for(lambda: len(read_events(service, "swap")) == workers)
        assert service.get_json("/")["version"] == 2
        assert list_trials(service) == []
        assert read_events(service, "version refused") == []  # nothing was found out


def list_trials(service: RunningService) -> list[int]:
    """The processes that try a version for this service."""
    found = []
    parents = {service.process.pid, *service.worker_pids}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text("utf-8").rpartition(")")[2].split()[1])
            if parent in parents and (entry / "cmdline").read_bytes().endswith(b"inference\0trial\0"):
                found.append(int(entry.name))
    return found


def test_a_trial_inherits_nothing_and_ends_with_its_worker(tmp_path: Path) -> None:
    """A graph that holds the service's socket, or outlives it, would be a service nobody watches."""
    publish_versions(tmp_path)
    publish_numeric(store := open_store(tmp_path), alias=None, model_bytes=build_endless_graph())
    with running_service(tmp_path, "tiny", *WATCH) as service:
        service.expected_code = -signal.SIGKILL
        point_alias(store, "tiny", "production", 3)
        service.wait_for(lambda: list_trials(service))
        (trial,) = list_trials(service)
        fds = {int(entry.name): str(entry.readlink()) for entry in Path(f"/proc/{trial}/fd").iterdir()}
        assert not [link for link in fds.values() if link.startswith("socket:")]
        assert not [link for link in fds.values() if "timberline" in link]
        service.process.kill()
        service.wait_for(lambda: has_ended(trial))


def test_a_stop_ends_the_trial_and_the_look_that_waits_for_it(tmp_path: Path) -> None:
    """A release that hangs must not hold up the end; and while it hangs, the log and the metrics say so."""
    publish_versions(tmp_path)
    publish_numeric(store := open_store(tmp_path), alias=None, model_bytes=build_endless_graph())
    with running_service(tmp_path, "tiny", *WATCH) as service:
        point_alias(store, "tiny", "production", 3)
        service.wait_for(lambda: list_trials(service))
        before = read_last_look(service)
        service.wait_for(lambda: read_events(service, "look takes long"))
        assert read_last_look(service) == before
        assert service.request("GET", "/v2/health/ready")[0] == HTTPStatus.OK
        assert service.predict({"instances": [list(NUMERIC_ROWS[0])]})[1]["version"] == 1
        service.stop()
        assert list_trials(service) == []
        assert read_events(service, "version refused") == []


def test_a_look_that_the_system_never_lets_end_holds_up_neither_answers_nor_the_end(tmp_path: Path) -> None:
    """As with a file server that is gone, the watcher is inside the kernel; here it waits for our lock."""
    publish_versions(tmp_path)
    with running_service(tmp_path, "tiny", *WATCH) as service, open_ledger(service).open("r+b") as ledger:
        fcntl.lockf(ledger, fcntl.LOCK_EX)
        point_alias(open_store(tmp_path), "tiny", "production", 2)
        service.wait_for(lambda: read_events(service, "look takes long"))
        answers = [service.predict({"instances": [list(NUMERIC_ROWS[0])]}) for _ in range(20)]
        assert {(status, answer["version"]) for status, answer in answers} == {(HTTPStatus.OK, 1)}
        service.stop()


def open_ledger(service: RunningService) -> Path:
    """The memory whose lock a worker takes before it tries a version."""
    fds = Path(f"/proc/{service.process.pid}/fd").iterdir()
    return next(fd for fd in fds if "timberline-trials" in str(fd.readlink()))


def test_a_trial_takes_less_memory_than_half_a_worker(tmp_path: Path) -> None:
    """A container is given room for its workers and some more, not for one twice."""
    publish_versions(tmp_path)
    publish_numeric(store := open_store(tmp_path), alias=None, model_bytes=build_endless_graph())
    with running_service(tmp_path, "tiny", *WATCH) as service:
        point_alias(store, "tiny", "production", 3)
        service.wait_for(lambda: [pid for pid in list_trials(service) if read_cpu_seconds(pid) > 1])
        (trial,) = list_trials(service)
        own = read_memory_bytes(trial, "Private_Clean") + read_memory_bytes(trial, "Private_Dirty")
        assert own < read_memory_bytes(service.process.pid, "Rss") / 2


def read_memory_bytes(pid: int, kind: str) -> int:
    """Memory of a process: all of it (Rss), or a part that no other process has too (Private_Dirty)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


def read_last_look(service: RunningService) -> float:
    """When the registry was last looked at, as the metrics have it."""
    page = service.request("GET", "/metrics")[2].decode()
    return read_counter(page, "registry_last_look_timestamp_seconds")


def test_a_graph_that_grows_is_refused_before_it_has_grown(tmp_path: Path) -> None:
    """3.6 GB in a container of one is the end of all that run in it."""
    publish_versions(tmp_path)
    publish_numeric(store := open_store(tmp_path), alias=None, model_bytes=build_large_graph())
    publish_numeric(store, alias=None, model_bytes=build_large_graph(100_000_000))
    with running_service(tmp_path, "tiny", "--load-memory-bytes", str(256 << 20), *WATCH) as service:
        for version, bound in ((3, 3_600_000_000), (4, 400_000_000)):
            point_alias(store, "tiny", "production", version)
            known = len(read_events(service, "version refused")) + 1
            wait_for_refusals(service, known)
            line = read_events(service, "version refused")[-1]
            assert (line["version"], line["code"]) == (version, "load_failed")
            assert "more memory" in line["why"]
            assert read_peak_bytes(service.process.pid) < bound
        point_alias(store, "tiny", "production", 2)
        wait_for_version(service, 2)


def read_peak_bytes(pid: int) -> int:
    """The most memory that a process has had at a time."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.mark.parametrize("place", ["manifest.json", "model.onnx", "alias"])
@pytest.mark.parametrize("kind", ["FIFO", "socket", "link to a device"])
def test_what_is_no_file_is_refused_by_its_kind_and_following_goes_on(
    tmp_path: Path, place: str, kind: str
) -> None:
    """Whoever opens a FIFO waits for its other end; a registry that holds one has no other end."""
    publish_versions(tmp_path)
    store = open_store(tmp_path)
    with running_service(tmp_path, "tiny", *WATCH) as service:
        if place == "alias":
            odd = tmp_path / "tiny" / "aliases" / "production" / "2.json"
            event = "alias not readable"
        else:
            (odd := tmp_path / "tiny" / "2" / place).rename(tmp_path / "aside")
            event = "version refused"
            make_odd(odd, kind)
            move_blindly(tmp_path, 2)
        if place == "alias":
            make_odd(odd, kind)
        service.wait_for(lambda: read_events(service, event))
        assert service.predict({"instances": [list(NUMERIC_ROWS[0])]})[1]["version"] == 1
        odd.unlink()
        if place == "alias":
            point_alias(store, "tiny", "production", 2)
        else:
            (tmp_path / "aside").rename(odd)
        wait_for_version(service, 2)


def make_odd(path: Path, kind: str) -> None:
    """Something at ``path`` that is no file."""
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound, contextlib.chdir(path.parent):
            bound.bind(path.name)  # by its name alone: an address has at most 108 bytes
    else:
        path.symlink_to("/dev/zero")


def move_blindly(registry: Path, version: int) -> None:
    """Point production at a version whose manifest cannot be read, as its move was recorded elsewhere."""
    folder = registry / "tiny" / "aliases" / "production"
    before = folder / "1.json"
    record = json.loads(before.read_bytes()) | {"previous_sha256": digest_file(before)}
    manifest = registry / "aside"
    if not (registry / "tiny" / str(version) / "manifest.json").is_file():
        digest = digest_file(manifest)
    else:
        digest = digest_file(registry / "tiny" / str(version) / "manifest.json")
    record |= {"sequence": record["sequence"] + 1, "version": version, "manifest_sha256": digest}
    (folder / f"{record['sequence']}.json").write_text(json.dumps(record), "utf-8")


@pytest.mark.parametrize("style", ["git-sync", "kubernetes"])
def test_a_registry_behind_a_link_that_is_switched_is_followed(tmp_path: Path, style: str) -> None:
    """git-sync and Kubernetes bring a whole new tree and then switch one link to it."""
    publish_versions(old := tmp_path / "old")
    shutil.copytree(old, new := tmp_path / "new")
    point_alias(open_store(new), "tiny", "production", 2)
    mount = tmp_path / "mount"
    mount.mkdir()
    link = mount / ("current" if style == "git-sync" else "..data")
    link.symlink_to(old)
    (mount / "tiny").symlink_to(Path(link.name, "tiny"))
    registry = link if style == "git-sync" else mount
    with running_service(registry, "tiny", *WATCH) as service:
        for target, version in ((new, 2), (old, 1), (new, 2)):
            (mount / "next").symlink_to(target)
            (mount / "next").rename(link)
            wait_for_version(service, version)
        shutil.rmtree(old)
        assert service.predict({"instances": [list(NUMERIC_ROWS[0])]})[1]["version"] == 2
        assert read_events(service, "version refused") == []


def test_promoting_again_makes_a_refused_version_be_tried_again(tmp_path: Path) -> None:
    """What was wrong with the machine is mended; the version itself may have been good all the time."""
    publish_versions(tmp_path)
    publish_numeric(store := open_store(tmp_path), alias=None, model_bytes=build_large_graph(100_000_000))
    with running_service(tmp_path, "tiny", "--load-memory-bytes", str(256 << 20), *WATCH) as service:
        for number, step in enumerate(("promote", "promote", "rollback", "promote"), 1):
            if step == "promote":
                promote(store, "tiny", 3, force=True, reason="again")
                refusals = number - (number == 4)
                wait_for_refusals(service, refusals)
            else:
                assert rollback(store, "tiny").version == 1
        page = service.request("GET", "/metrics")[2].decode()
        assert read_counter(page, "model_swaps_total", outcome="refused") == 3
        assert service.get_json("/")["version"] == 1


@pytest.mark.parametrize("damage", [flip_byte, never_return])
def test_a_worker_killed_after_a_refusal_comes_back_with_the_old_version(
    tmp_path: Path, damage: Callable[[Store], None]
) -> None:
    """Production names a version that nobody may serve; a crash in that state must not cost a worker."""
    publish_numeric(store := open_store(tmp_path))
    damage(store)
    with running_service(tmp_path, "tiny", "--workers", "2", "--load-timeout-s", "8", *WATCH) as service:
        point_alias(store, "tiny", "production", 2)
        wait_for_refusals(service, 2)
        os.kill(read_events(service, "worker started")[0]["pid"], signal.SIGKILL)
        service.wait_for(lambda: read_events(service, "worker restarted"))
        answers = [service.predict({"instances": [list(NUMERIC_ROWS[0])]}) for _ in range(20)]
        assert {(status, answer["version"]) for status, answer in answers} == {(HTTPStatus.OK, 1)}
        assert len(read_events(service, "version refused")) == 3, service.log


def assert_refused(service: RunningService, code: str) -> None:
    """tiny@2 was refused for this reason, told once and counted, and tiny@1 answers as before."""
    service.wait_for(lambda: read_events(service, "version refused"))
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
        service.wait_for(lambda: service.get_json("/v2/models/tiny")["versions"] == ["1"])
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
        service.wait_for(lambda: sum(read_shadow(service).values()) == len(NUMERIC_ROWS))
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
