"""A service whose bucket does not answer: it goes on, says so, starts from its cache, and follows again."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from tests.support.bucket_service import Bucket, Place
from tests.support.pages import read_counter
from tests.support.s3_proxy import Asked, Fault
from tests.support.service import DEADLINE_S, RunningService, has_ended
from tests.support.soak import IS_FULL
from tests.support.swapping import working_clients
from tests.support.tiny_model import NUMERIC_ROWS

Outage = Callable[[Place], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def answer(place: Place, fault: Fault) -> Iterator[None]:
    """The server answers nothing but this."""
    place.proxy.decide = lambda _: fault
    yield
    place.proxy.decide = lambda _: None


@contextlib.contextmanager
def hang(place: Place) -> Iterator[None]:
    """Connections are made and requests taken, and no answer comes."""
    is_over = threading.Event()

    def wait(_: Asked) -> Fault | None:
        is_over.wait(DEADLINE_S)
        return None

    place.proxy.decide = wait
    try:
        yield
    finally:
        place.proxy.decide = lambda _: None
        is_over.set()


@contextlib.contextmanager
def freeze(place: Place) -> Iterator[None]:
    """The server's process is stopped, as on a machine that swaps or is being moved."""
    place.process.suspend()
    try:
        yield
    finally:
        place.process.resume()


OUTAGES: dict[str, Outage] = {
    "refused": lambda place: answer(place, "refuse"),
    "500": lambda place: answer(place, 500),
    "403": lambda place: answer(place, 403),
    "frozen": freeze,
}


def read_registry(service: RunningService) -> Any:
    """What `GET /` says of the registry."""
    return service.get_json("/").get("registry")


def read_page(service: RunningService) -> str:
    """The page of metrics."""
    return service.request("GET", "/metrics")[2].decode()


@pytest.mark.parametrize("name", OUTAGES if IS_FULL else ["refused", "frozen"])
def test_an_outage_fails_no_request_and_is_over_by_itself(place: Place, bucket: Bucket, name: str) -> None:
    """A bucket's bad hour is not the service's; a release that is made meanwhile is followed afterwards."""
    with bucket.serve("tiny", "--workers", "2") as service:
        service.wait_for(lambda: 304 in [seen.status for seen in bucket.list_asked()])
        with working_clients(service, 4) as tally:
            with OUTAGES[name](place):
                service.wait_for_events("registry does not answer", 1)
                service.wait_for(lambda: read_registry(service))
                before = tally.total
                service.wait_for(lambda: tally.total > before + 50)
                said = read_registry(service)
                assert (said["answers"], said["from_cache"]) == (False, [])
                assert said["failing_since"].endswith("+00:00")
                assert read_counter(read_page(service), "registry_up") == 0
                assert read_counter(read_page(service), "model_from_cache") == 0
                assert service.get_json("/v2/health/ready")["ready"] is True
            bucket.move(2)
            service.wait_for_events("swap", 2)
        assert tally.wrong == []
        service.wait_for(lambda: read_registry(service) is None)
        service.wait_for(lambda: read_counter(read_page(service), "registry_up") == 1)
        (told,) = service.list_events("registry does not answer")
        assert place.server.secret_key not in service.log
        assert told["level"] == "warning"
        assert len(service.list_events("registry answers again")) == 1


def fill_cache(bucket: Bucket, model: str = "tiny") -> None:
    """As a service leaves it that has run here before."""
    with bucket.serve(model):
        pass


@pytest.mark.parametrize("name", ["refused", "500", "403"] if IS_FULL else ["403"])
def test_a_service_starts_from_its_cache(place: Place, bucket: Bucket, name: str) -> None:
    """A node that restarts serves what it served before, and says that it may be old."""
    fill_cache(bucket)
    bucket.move(2)  # unseen
    with OUTAGES[name](place), bucket.serve("tiny", "--workers", "2") as service:
        assert service.get_json("/v2/health/ready")["ready"] is True
        assert service.predict({"instances": [list(NUMERIC_ROWS[0])]})[1]["version"] == 1
        said = read_registry(service)
        assert (said["answers"], said["from_cache"]) == (False, ["tiny@1"])
        page = read_page(service)
        assert read_counter(page, "model_from_cache", model="tiny", version="1") == 1
        assert read_counter(page, "registry_up") == 0
        assert "\nregistry_last_look_timestamp_seconds " not in page  # nobody has looked
        started = service.list_events("started from the cache")
        assert [(line["ref"], line["version"], line["level"]) for line in started] == [
            ("tiny@production", 1, "warning")
        ] * 2
        place.proxy.decide = lambda _: None
        service.wait_for_events("swap", 2)
        service.wait_for(lambda: read_registry(service) is None)
        page = read_page(service)
        assert read_counter(page, "model_from_cache") == 0
        assert read_counter(page, "registry_up") == 1
        assert service.get_json("/")["version"] == 2


def test_a_service_starts_from_its_cache_while_the_bucket_hangs(place: Place, bucket: Bucket) -> None:
    """A server that takes connections and answers nothing is the worst case: each question takes seconds."""
    fill_cache(bucket)
    with hang(place), bucket.serve("tiny") as service:
        assert read_registry(service)["from_cache"] == ["tiny@1"]
        assert service.predict({"instances": [list(NUMERIC_ROWS[0])]})[1]["version"] == 1


@pytest.mark.parametrize("model", ["tiny@2", "tiny@production", "tiny"])
def test_what_has_not_moved_is_confirmed(place: Place, bucket: Bucket, model: str) -> None:
    """The statement goes away without a release; a pinned version is asked for as well."""
    fill_cache(bucket, model)
    version = 2 if model == "tiny@2" else 1
    with OUTAGES["refused"](place), bucket.serve(model) as service:
        assert read_registry(service)["from_cache"] == [f"tiny@{version}"]
        place.proxy.decide = lambda _: None
        service.wait_for_events("version confirmed", 1)
        service.wait_for(lambda: read_registry(service) is None)
        assert service.get_json("/")["version"] == version
        assert service.list_events("swap") == []


@pytest.mark.parametrize(
    ("flags", "place_named"), [((), True), (("--cache-bytes", "0"), False)], ids=["empty", "none"]
)
def test_without_a_copy_the_start_fails_and_says_what_to_do(
    place: Place, bucket: Bucket, flags: tuple[str, ...], place_named: bool
) -> None:
    """Nothing can be served; an orchestrator tries again, and its log says what is missing."""
    with OUTAGES["refused"](place):
        code, log = bucket.refuse_to_start("tiny", *flags)
    assert code == 3
    assert '"code":"registry_unreachable"' in log
    assert "cannot be asked, and there is nothing to start with" in log
    assert (str(bucket.cache) in log) == place_named
    assert "See that the bucket answers and that this account may read it" in log
    assert "Traceback" not in log


def test_another_reference_is_no_copy(place: Place, bucket: Bucket) -> None:
    """What `tiny@production` was says nothing of `tiny@candidate`, or of another registry's tiny."""
    fill_cache(bucket)
    other = Bucket(f"{bucket.url}-other", bucket.proxy, bucket.cache)
    with OUTAGES["refused"](place):
        assert bucket.refuse_to_start("tiny@candidate")[0] == 3
        assert other.refuse_to_start("tiny")[0] == 3


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_a_damaged_copy_is_fetched_again_and_never_served(place: Place, bucket: Bucket, name: str) -> None:
    """A bit that turned over in a cache must not change a prediction, whether the bucket is there or not."""
    fill_cache(bucket)
    flip(bucket.find_entry(1, name))
    with OUTAGES["refused"](place):
        code, log = bucket.refuse_to_start()
        assert code == 3
        assert "cache entry damaged" in log
    fill_cache(bucket)
    flip(bucket.find_entry(1, name))
    bucket.proxy.clear()
    with bucket.serve() as service:
        assert len(service.list_events("cache entry damaged")) == 1
        assert service.predict({"instances": [list(NUMERIC_ROWS[0])]})[0] == HTTPStatus.OK
    assert {part: bucket.count()[f"1/{part}"] for part in ("manifest.json", "model.onnx")} == {
        part: int(part == name) for part in ("manifest.json", "model.onnx")
    }


def test_a_cache_that_cannot_be_written_costs_the_copies_only(place: Place, bucket: Bucket) -> None:
    """A read-only root, a full disk or a wrong path: one line in the log, and all goes on."""
    bucket.cache.write_bytes(b"")  # a file, where a folder should be
    with bucket.serve("tiny") as service:
        bucket.move(2)
        service.wait_for_events("swap", 1)
        (line,) = service.list_events("cache not written")
        assert line["path"] == str(bucket.cache)
    with OUTAGES["refused"](place):
        assert bucket.refuse_to_start()[0] == 3


def test_the_bound_holds_and_what_is_served_stays(place: Place, bucket: Bucket) -> None:
    """Releases come and go; the version of today is in the cache, or a restart without the bucket fails."""
    size = sum(
        bucket.store.objects.find_size(f"tiny/1/{name}") or 0 for name in ("manifest.json", "model.onnx")
    )
    room = ("--cache-bytes", str(size * 3 // 2))
    with bucket.serve("tiny", *room) as service:
        for number, version in enumerate((2, 1, 2), 1):
            bucket.move(version)
            service.wait_for_events("swap", number)
            held = sum(path.stat().st_size for path in (bucket.cache / "sha256").iterdir())
            assert held <= size * 3 // 2
    with OUTAGES["refused"](place), bucket.serve("tiny", *room) as service:
        assert service.get_json("/")["version"] == 2


def test_a_worker_that_is_replaced_while_the_bucket_is_down_answers(place: Place, bucket: Bucket) -> None:
    """One crash in the bad hour must not cost a worker for the rest of it."""
    with bucket.serve("tiny", "--workers", "2") as service:
        with OUTAGES["refused"](place):
            service.wait_for_events("registry does not answer", 1)
            (killed, _) = service.worker_pids
            os.kill(killed, signal.SIGKILL)
            service.wait_for(lambda: has_ended(killed))
            service.wait_for_events("worker restarted", 1)
            assert read_registry(service)["from_cache"] == ["tiny@1"]
        service.wait_for_events("version confirmed", 1)
        service.wait_for(lambda: read_registry(service) is None)
