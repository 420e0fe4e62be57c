"""What a bucket's server says, in plain words; and what is done about it without saying anything."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.support.s3_answers import AnsweringServer, Said, answering, tag_of
from timberline.registry.bucket import BucketStore
from timberline.registry.refusals import BucketError, LostError, MissingError, RefusedError

URL = "s3://registry/prefix"
KEY = "registry/prefix/m/a"
DATE = "Fri, 27 Nov 2026 09:00:00 GMT"
LONG = 40 * "lengthy "


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[AnsweringServer]:
    """A server to which the environment leads, and which a store takes for one that keeps conditions."""
    with answering() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        server.objects["registry/prefix/.timberline/conditions.json"] = b"{}"
        yield server


@pytest.fixture
def bucket(server: AnsweringServer) -> BucketStore:
    """A store in it."""
    return BucketStore(URL)


# What is said → the error, and what it tells.
ANSWERS: list[tuple[Said, type[BucketError], str]] = [
    (Said(403, "AccessDenied", "Access Denied"), RefusedError, r"refused \(403: AccessDenied: .*\). Set A"),
    (Said(400, "ExpiredToken", "It has expired."), RefusedError, "ExpiredToken.*AWS_SESSION_TOKEN"),
    (Said(403, "RequestTimeTooSkewed", "15 minutes"), RefusedError, "Set this machine's clock"),
    (Said(404, "NoSuchBucket", "No such bucket"), MissingError, "create it, or correct its name"),
    (Said(301, "PermanentRedirect", "use eu-west-3"), LostError, "another region.*Set AWS_REGION"),
    (
        Said(400, "AuthorizationHeaderMalformed", "us-east-1 is wrong; expecting 'eu-west-3'"),
        LostError,
        "another region .*expecting 'eu-west-3'.*Set AWS_REGION",
    ),
    (Said(507, "InsufficientStorage", "quota"), LostError, "full .*quota.* Make room"),
    (Said(500, "InternalError", "assign volume: No free volumes left"), LostError, "is full"),
    (Said(500, "InternalError", "oops"), LostError, r"cannot do it now \(500: InternalError: oops\)"),
    (Said(503, "SlowDown", "Reduce your rate"), LostError, "SlowDown.*Try again later"),
    (Said(400, "Odd", LONG), LostError, "400: Odd: lengthy"),
]
CASES = [(ask, *answer) for ask in ("list", "create") for answer in ANSWERS]
CASES += [(ask, *answer) for ask in ("read", "put", "swap") for answer in (ANSWERS[0], ANSWERS[-3])]


@pytest.mark.parametrize(("ask", "said", "kind", "expected"), CASES)
def test_what_the_server_says_is_told_with_what_to_do(
    server: AnsweringServer, bucket: BucketStore, said: Said, kind: type[BucketError], expected: str, ask: str
) -> None:
    """One line, whatever was asked for; the client's own words run over forty."""
    asks: dict[str, Callable[[], object]] = {
        "list": lambda: bucket.list_keys("m"),
        "read": lambda: bucket.read("m/a"),
        "put": lambda: bucket.put("m/a", b"1"),
        "create": lambda: bucket.put_if_absent("m/a", b"1"),
        "swap": lambda: bucket.put_if_same("m/a", b"1", tag_of(b"0")),
    }
    server.objects[KEY] = b"0"
    if ask == "create":
        del server.objects[KEY]
    before = dict(server.objects)
    server.is_meant = lambda asked: asked.method == ("PUT" if ask in ("put", "create", "swap") else "GET")
    server.next_answers = [said] * 4  # it is asked again, and no more than three times
    with pytest.raises(kind, match=expected) as caught:
        asks[ask]()
    told = str(caught.value)
    assert told.startswith("s3://registry/prefix/m")
    assert "\n" not in told
    assert len(told) < 650
    assert caught.value.__context__ is None
    assert server.objects == before


def test_a_refusal_does_not_repeat_the_account(
    server: AnsweringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers quote what they were sent."""
    account = {"AWS_ACCESS_KEY_ID": "k3y", "AWS_SECRET_ACCESS_KEY": "s3cr3t", "AWS_SESSION_TOKEN": "t0k3n"}
    for name, value in account.items():
        monkeypatch.setenv(name, value)
    server.next_answers = [Said(403, "InvalidAccessKeyId", "no k3y with s3cr3t and t0k3n")]
    with pytest.raises(RefusedError, match="no … with … and …"):
        BucketStore(URL).list_keys()


def test_a_create_that_is_in_somebodys_way_is_tried_again(
    server: AnsweringServer, bucket: BucketStore
) -> None:
    """Amazon answers 409 while another create is going on, which may fail; the client takes it for a loss."""
    server.is_meant = lambda asked: asked.method == "PUT"
    server.next_answers = [Said(409, "ConditionalRequestConflict", "try again")] * 2
    assert bucket.put_if_absent("m/a", b"mine")
    assert server.objects[KEY] == b"mine"


def test_a_swap_that_is_in_somebodys_way_is_tried_again(server: AnsweringServer, bucket: BucketStore) -> None:
    """The same of a swap: what was seen is still there, so nobody else has won."""
    server.objects[KEY] = b"0"
    server.is_meant = lambda asked: asked.method == "PUT"
    server.next_answers = [Said(409, "ConditionalRequestConflict", "try again")] * 6
    assert bucket.put_if_same("m/a", b"mine", tag_of(b"0"))
    assert server.objects[KEY] == b"mine"


def test_writers_that_stay_in_the_way_are_an_error(server: AnsweringServer, bucket: BucketStore) -> None:
    """Neither a win nor a loss may be made up."""
    server.is_meant = lambda asked: asked.method == "PUT"
    server.next_answers = [Said(409, "ConditionalRequestConflict", "try again")] * 1000
    with pytest.raises(LostError, match="other writers are in the way"):
        bucket.put_if_absent("m/a", b"mine")
    assert KEY not in server.objects


@pytest.mark.parametrize("status", [500, 503])
def test_a_write_that_was_done_and_denied_is_a_win(
    server: AnsweringServer, bucket: BucketStore, status: int
) -> None:
    """A gateway gives up, the server behind it does not; the next attempt loses against the first."""
    server.is_meant = lambda asked: asked.method == "PUT"
    server.next_answers = [Said(status, "InternalError", is_done=True)]
    assert bucket.put_if_absent("m/a", b"mine")
    server.next_answers = [Said(status, "InternalError", is_done=True)]
    assert bucket.put_if_same("m/a", b"mine too", tag_of(b"mine"))
    assert server.objects[KEY] == b"mine too"
    server.next_answers = [Said(status, "InternalError", is_done=False)]
    assert not bucket.put_if_absent("m/a", b"another's")


def test_a_write_without_an_answer_is_read_back(
    server: AnsweringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client does not repeat a conditional write that timed out. It was done, or is not yet; here both.

    With the patience of a service, so that it takes five seconds and not eleven.
    """
    silent = {"registry/prefix/m/done": True, "registry/prefix/m/undone": False}
    server.is_meant = lambda asked: asked.method == "PUT" and asked.path in silent
    server.next_answers = [Said(200, is_done=True, is_late=True), Said(200, is_late=True)]
    bucket, won = BucketStore(URL, is_patient=False), dict[str, bool]()

    def create(name: str) -> None:
        won[name] = bucket.put_if_absent(f"m/{name}", name.encode())

    first = threading.Thread(target=create, args=("done",))
    first.start()
    while len(server.next_answers) == 2:
        threading.Event().wait(0.01)
    second = threading.Thread(target=create, args=("undone",))
    second.start()
    for thread in (first, second):
        thread.join()
    assert won == {"done": True, "undone": True}
    assert server.objects[f"{KEY[:-1]}undone"] == b"undone"


def test_a_server_that_is_gone_is_not_asked_for_each_object(
    monkeypatch: pytest.MonkeyPatch, server: AnsweringServer
) -> None:
    """Else a list of 5,000 versions would wait 5,000 times; each of them still has its answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    answers = BucketStore(URL).read_many([f"m/{number}" for number in range(5000)])
    assert len(answers) == 5000
    assert {type(answer) for answer in answers} == {LostError}
    assert len({id(answer) for answer in answers}) <= 16


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://127.0.0.1:{free}", "nobody listens there"),
        ("http://no-such-host.invalid", "there is no host of that name"),
        ("https://127.0.0.1:{server}", r"TLS cannot be spoken.*AWS_ENDPOINT_URL=http://.*AWS_CA_BUNDLE"),
    ],
)
def test_what_is_wrong_on_the_way_is_told(
    server: AnsweringServer, monkeypatch: pytest.MonkeyPatch, endpoint: str, expected: str
) -> None:
    """The three slips in an endpoint; a write that was not answered says that it may have been done."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    port = server.endpoint.rpartition(":")[2]
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.format(free=free, server=port))
    store = BucketStore(URL)
    with pytest.raises(LostError, match=f"^s3://registry/prefix/m: .*{expected}.*"):
        store.list_keys("m")
    with pytest.raises(LostError, match=f"{expected}.*It is not known whether it was written"):
        store._create("m/a", b"1")


def test_a_body_that_ends_early_is_no_object(server: AnsweringServer, bucket: BucketStore) -> None:
    """Half a model must not be taken for a damaged one."""
    server.objects[KEY] = b"x" * 100
    server.is_meant = lambda asked: asked.method == "GET"
    server.next_answers = [Said(200, headers=(("ETag", '"t"'), ("Last-Modified", DATE)), is_cut=True)] * 9
    with pytest.raises(LostError, match="the connection broke off"):
        bucket.digest("m/a")
    with pytest.raises(LostError, match="the connection broke off"):
        bucket.read("m/a")
