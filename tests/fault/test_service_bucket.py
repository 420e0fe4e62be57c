"""A service of a registry in a bucket: what it asks for, what it follows, who of its workers asks."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import obstore
import pytest

from tests.support.bucket_service import Bucket
from tests.support.pages import read_counter
from tests.support.service import RunningService, has_ended
from tests.support.swapping import swap_under_load
from tests.support.tiny_model import NUMERIC_ROWS
from timberline.registry.aliases import move_alias, read_alias
from timberline.registry.bucket import open_client
from timberline.registry.errors import AfterChangeError
from timberline.registry.store import open_store


def find_askers(service: RunningService) -> list[int]:
    """The workers that hold the lock of whoever asks, by the kernel's list of locks."""
    board = {}
    for pid in service.worker_pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                if "timberline-board" in str(fd.readlink()):
                    board[pid] = fd.stat().st_ino
    lines = [line.split() for line in Path("/proc/locks").read_text("ascii").splitlines()]
    held = {(int(line[4]), int(line[5].split(":")[2])) for line in lines if line[1] == "POSIX"}
    return [pid for pid, inode in board.items() if (pid, inode) in held]


def wait_for_polls(bucket: Bucket, service: RunningService, count: int) -> None:
    """Until the head was asked for so many times since the last clear."""
    service.wait_for(lambda: bucket.count()["head.json"] >= count)


@pytest.mark.parametrize("workers", [1, 2])
def test_moves_are_followed_and_no_request_is_lost(bucket: Bucket, workers: int) -> None:
    """A release by a command on another machine reaches every worker of every service."""
    flags = ("--workers", str(workers), "--cache-dir", str(bucket.cache))
    tally, page = swap_under_load(
        bucket.url, requests=600, moves=3, flags=flags, is_published=True, connections=8
    )
    assert tally.wrong == []
    assert read_counter(page, "model_swaps_total", outcome="swapped") == 3 * workers
    assert read_counter(page, "registry_up") == 1
    for version, rows in tally.rows_by_version.items():
        assert read_counter(page, "predictions_total", version=str(version)) == rows


def test_manifest_and_graph_are_all_that_is_fetched_and_once(bucket: Bucket) -> None:
    """An evaluation of 23 MB that nobody reads, or a list of every key, would be paid for at each start."""
    with bucket.serve("tiny", "--workers", "2") as service:
        bucket.move(2)
        service.wait_for_events("swap", 2)
        assert service.get_json("/")["version"] == 2
    asked = bucket.count()
    for version in (1, 2):
        assert asked.pop(f"{version}/manifest.json") == 1
        assert asked.pop(f"{version}/model.onnx") == 1
    assert set(asked) == {"head.json", "log"}
    assert {seen.asked.method for seen in bucket.list_asked()} == {"GET"}


def test_without_a_cache_each_process_fetches(bucket: Bucket) -> None:
    """`--cache-bytes 0` is for machines that have nothing to spare; it must still serve and follow."""
    with bucket.serve("tiny", "--workers", "2", "--cache-bytes", "0") as service:
        bucket.move(2)
        service.wait_for_events("swap", 2)
    asked = bucket.count()
    assert asked["1/model.onnx"] == 2
    assert asked["2/model.onnx"] == 3  # one trial, which speaks for both
    assert not bucket.cache.exists()


def test_a_cache_that_nobody_wants_is_not_missed(bucket: Bucket) -> None:
    """`TIMBERLINE_CACHE=off` was told as a folder that cannot be written to, which one looks for in vain."""
    with bucket.serve("tiny", "--cache-dir", "", environment={"TIMBERLINE_CACHE": "off"}) as service:
        assert service.list_events("no cache") == []
    assert not bucket.cache.exists()


def test_a_poll_is_one_conditional_request_of_the_whole_service(bucket: Bucket) -> None:
    """A thousand services ask day and night: each question has its price."""
    with bucket.serve("tiny", "--workers", "2") as service:
        wait_for_polls(bucket, service, 8)  # the start is over
        service.wait_for(lambda: bucket.list_asked()[-1].status == 304)
        bucket.proxy.clear()
        wait_for_polls(bucket, service, 7)
        asked = bucket.list_asked()
        assert len(find_askers(service)) == 1
    assert [seen.asked.method for seen in asked] == ["GET"] * len(asked)
    by_tag = [seen for seen in asked if seen.asked.seen_tag]
    assert {seen.status for seen in by_tag} == {304}
    assert {seen.asked.path.rpartition("/")[2] for seen in by_tag} == {"head.json"}
    # At most one of ten was about the whole alias: its head again, the last record, none after it.
    assert len(asked) - len(by_tag) <= 3


def test_another_worker_asks_when_the_one_that_did_is_killed(bucket: Bucket) -> None:
    """A service that follows nothing any more looks healthy in every other respect."""
    with bucket.serve("tiny", "--workers", "2") as service:
        service.wait_for(lambda: find_askers(service))
        (asker,) = find_askers(service)
        os.kill(asker, signal.SIGKILL)
        service.wait_for(lambda: has_ended(asker) and find_askers(service))
        service.wait_for_events("worker restarted", 1)
        bucket.move(2)
        service.wait_for_events("swap", 2)
        bodies = {service.get_json("/")["version"] for _ in range(20)}
        assert bodies == {2}


def test_a_move_without_its_head_is_found(bucket: Bucket) -> None:
    """A promoter that was killed after the record has moved the alias: nothing else will say so."""
    client = open_client(bucket.url)
    head = bytes(obstore.get(client, "tiny/aliases/production/head.json").bytes())
    refused = open_store(bucket.url)
    with bucket.serve("tiny", "--workers", "2") as service:
        service.wait_for(lambda: 304 in [seen.status for seen in bucket.list_asked()])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", bucket.proxy.endpoint)
            promoter = open_store(bucket.url)
        bucket.proxy.decide = lambda asked: (
            500 if asked.path.endswith("head.json") and asked.condition else None
        )
        current = read_alias(refused, "tiny", "production")
        assert current is not None
        with pytest.raises(AfterChangeError):
            move_alias(promoter, "tiny", "production", 2, expected=current.sequence, reason="killed")
        assert bytes(obstore.get(client, "tiny/aliases/production/head.json").bytes()) == head
        service.wait_for_events("swap", 2)
        assert service.get_json("/")["version"] == 2
        bucket.proxy.decide = lambda _: None


def test_a_pinned_version_asks_for_nothing_once_it_is_loaded(bucket: Bucket) -> None:
    """`tiny@1` never moves."""
    with bucket.serve("tiny@1") as service:
        assert service.get_json("/")["version"] == 1
        asked = bucket.count()
        assert asked == {"1.json": 1, "1/manifest.json": 1, "1/model.onnx": 1}  # the ledger pins its manifest
        assert service.request("GET", "/metrics")[0] == 200
        assert bucket.count() == asked


def test_two_services_share_a_cache(bucket: Bucket) -> None:
    """Pods of one machine fetch a version once."""
    with bucket.serve() as first, bucket.serve() as second:
        bucket.move(2)
        first.wait_for_events("swap", 1)
        second.wait_for_events("swap", 1)
    asked = bucket.count()
    assert [asked[f"{version}/model.onnx"] for version in (1, 2)] == [1, 1]
    assert [asked[f"{version}/manifest.json"] for version in (1, 2)] == [1, 1]


def test_a_version_that_is_damaged_is_refused_and_followed_when_it_is_mended(bucket: Bucket) -> None:
    """What was refused is not in the cache: the bytes that were published come from the bucket."""
    client = open_client(bucket.url)
    good = bytes(obstore.get(client, "tiny/2/model.onnx").bytes())
    obstore.put(client, "tiny/2/model.onnx", good[:-1] + bytes([good[-1] ^ 1]), use_multipart=False)
    with bucket.serve("tiny") as service:
        bucket.move(2)
        service.wait_for(lambda: service.list_events("version refused"))
        assert service.list_events("version refused")[0]["code"] == "digest_mismatch"
        assert service.predict({"instances": [list(NUMERIC_ROWS[0])]})[1]["version"] == 1
        obstore.put(client, "tiny/2/model.onnx", good, use_multipart=False)
        service.wait_for_events("swap", 1)


def test_a_canary_is_followed_too(bucket: Bucket) -> None:
    """Its alias may not be there at the start, and has no head to be asked for then."""
    with bucket.serve("tiny", "--canary", "candidate=1") as service:
        assert service.get_json("/")["models"] == {"tiny": ["1"]}
        bucket.move(2, alias="candidate")
        service.wait_for_events("canary on", 1)
        assert service.get_json("/")["models"] == {"tiny": ["1", "2"]}
