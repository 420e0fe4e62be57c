"""Tokens: where they come from, which are refused, and what passes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from timberline.inference.app import find_trace
from timberline.inference.config import ServiceConfig, resolve_config
from timberline.inference.errors import UnauthorizedError
from timberline.inference.routes.access import Guard, TokensWatch, read_guard
from timberline.registry.errors import ConfigError

FIRST = "first-token-0123456789"
SECOND = "c2Vjb25kLXRva2Vu/+~._=="


def passes(guard: Guard, *values: bytes) -> bool:
    """Whether a request with these ``Authorization`` headers may be answered."""
    try:
        guard.check([(b"host", b"x"), *((b"authorization", value) for value in values)])
    except UnauthorizedError:
        return False
    return True


@pytest.mark.parametrize(
    "value",
    [b"Bearer " + FIRST.encode(), b"bearer " + SECOND.encode(), b"BEARER   " + FIRST.encode() + b" "],
)
def test_every_token_passes_whatever_the_case_of_the_scheme(value: bytes) -> None:
    """Tokens are changed by having two for a while; HTTP's scheme names have no case."""
    assert passes(Guard([FIRST, SECOND]), value)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [b""],
        [b"Bearer"],
        [b"Bearer "],
        [FIRST.encode()],
        [b"Basic " + FIRST.encode()],
        [b"Bearer " + FIRST[:-1].encode()],
        [b"Bearer " + FIRST.encode() + b"x"],
        [b"Bearer " + FIRST.upper().encode()],
        [b"Bearer " + FIRST.encode() + b"," + SECOND.encode()],
        [b"Bearer \xff\xfe"],
        [b"Bearer wrong-wrong-wrong", b"Bearer " + FIRST.encode()],
    ],
)
def test_anything_else_is_refused(values: list[bytes]) -> None:
    """Also two headers of which one is right: a proxy before this may have read the other."""
    assert not passes(Guard([FIRST, SECOND]), *values)


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    """A token with one character mistyped must not end up in a client's log."""
    with pytest.raises(UnauthorizedError) as caught:
        Guard([FIRST]).check([(b"authorization", b"Bearer nearly-" + FIRST.encode())])
    assert FIRST not in str(caught.value)


def test_nothing_set_is_no_guard() -> None:
    """Without tokens the service is open, and asks nothing of any request."""
    assert read_guard(ServiceConfig()) is None


def test_tokens_of_both_places_pass(tmp_path: Path) -> None:
    """The environment and the file add up; comments, blank lines and line ends are no part of tokens."""
    file = tmp_path / "tokens"
    file.write_bytes(f"# made in spring\r\n\r\n  {SECOND}\r\n".encode())
    guard = read_guard(ServiceConfig(tokens=f"{FIRST}, ", tokens_file=str(file)))
    assert guard is not None
    assert passes(guard, b"Bearer " + FIRST.encode())
    assert passes(guard, b"Bearer " + SECOND.encode())
    assert not passes(guard, b"Bearer # made in spring")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no token is there"),
        (b"# none yet\n\n", "no token is there"),
        (b"\n\ntoo-short-token\n", "line 3: the token has 15 characters, expected at least 16"),
        (b"words of a sentence\n", "line 1: the token has a character that no bearer token may have"),
        (b"\xff" * 20, "the tokens cannot be read: it is not UTF-8"),
    ],
    ids=["empty", "comments", "short", "spaces", "bytes"],
)
def test_a_file_that_guards_nothing_is_a_mistake(tmp_path: Path, content: bytes, message: str) -> None:
    """Who names a file of tokens believes to be guarded; and the message must show none of them."""
    file = tmp_path / "tokens"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_guard(ServiceConfig(tokens_file=str(file)))
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)
    assert "too-short-token" not in str(caught.value)
    assert "sentence" not in str(caught.value)


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    """A secret that was not mounted must not open the service."""
    with pytest.raises(ConfigError, match="No such file"):
        read_guard(ServiceConfig(tokens_file=str(tmp_path / "none")))


def test_an_empty_name_of_a_file_is_a_mistake() -> None:
    """What --tokens-file "$TOKENS" becomes where the variable is not set must not open the service."""
    with pytest.raises(ConfigError, match=r"^--tokens-file: found ''"):
        resolve_config({"tokens_file": ""}, {})


@pytest.mark.parametrize("tokens", [",", "short", f"{FIRST},short"])
def test_a_variable_with_a_bad_token_is_a_mistake(tokens: str) -> None:
    """One bad token among good ones would be a surprise for whoever got it."""
    with pytest.raises(ConfigError, match="environment TIMBERLINE_SERVE_TOKENS") as caught:
        read_guard(ServiceConfig(tokens=tokens))
    assert FIRST not in str(caught.value)


@pytest.fixture
def watched(tmp_path: Path) -> tuple[Path, Guard, TokensWatch]:
    """A file with the first token, the guard over it, and the watch that keeps the guard at the file."""
    file = tmp_path / "tokens"
    file.write_text(FIRST, "utf-8")
    config = ServiceConfig(tokens_file=str(file), tokens=f"{FIRST}-always")
    guard = read_guard(config)
    assert guard is not None
    return file, guard, TokensWatch(guard, config)


def find_passing(guard: Guard) -> list[str]:
    """Which of the tokens of these tests pass."""
    tokens = (FIRST, SECOND, f"{FIRST}-always")
    return [token for token in tokens if passes(guard, b"Bearer " + token.encode())]


def test_a_file_that_changed_is_read_when_it_has_come_to_rest(
    watched: tuple[Path, Guard, TokensWatch],
) -> None:
    """Half a file is no file of tokens; the old ones end when the new ones begin, the environment's stay."""
    file, guard, watch = watched
    watch.look()
    for text in (SECOND[:16], SECOND[:18], SECOND):
        file.write_text(text, "utf-8")
        watch.look()
        assert find_passing(guard) == [FIRST, f"{FIRST}-always"]
    watch.look()
    assert find_passing(guard) == [SECOND, f"{FIRST}-always"]


def make_pipe(file: Path) -> None:
    """Put a named pipe in the place of a file."""
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"short\n"),
        lambda file: file.write_bytes(b"\xff" * 20),
        lambda file: file.write_bytes(b"a" * 2_000_000),
        lambda file: file.unlink(),
        lambda file: (file.unlink(), file.mkdir()),
        make_pipe,
        lambda file: (file.unlink(), file.symlink_to(file)),
    ],
    ids=["empty", "short", "not UTF-8", "huge", "gone", "folder", "pipe", "circle"],
)
def test_a_file_that_went_bad_keeps_the_tokens_and_is_told_once(
    watched: tuple[Path, Guard, TokensWatch],
    spoil: Callable[[Path], object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody is locked out by a mistake, nor is everybody let in; a line a second would fill the log."""
    file, guard, watch = watched
    spoil(file)
    for _ in range(5):
        watch.look()
    assert find_passing(guard) == [FIRST, f"{FIRST}-always"]
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", "tokens kept as they were")
    assert str(file) in vars(record)["fields"]["error"]
    if file.is_dir():
        file.rmdir()
    else:
        file.unlink(missing_ok=True)
    file.write_text(SECOND, "utf-8")
    for _ in range(2):
        watch.look()
    assert find_passing(guard) == [SECOND, f"{FIRST}-always"]


def test_a_change_is_seen_although_size_and_time_are_the_same(
    watched: tuple[Path, Guard, TokensWatch], caplog: pytest.LogCaptureFixture
) -> None:
    """What copies a file may set its time back; and a file that was only touched is no news."""
    file, guard, watch = watched
    status = file.stat()
    with caplog.at_level("INFO"):
        for _ in range(3):
            watch.look()
        file.write_text(SECOND.ljust(len(FIRST)), "utf-8")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        for _ in range(3):
            watch.look()
        os.utime(file, ns=(0, 0))
        for _ in range(3):
            watch.look()
    assert find_passing(guard) == [SECOND, f"{FIRST}-always"]
    assert [record.getMessage() for record in caplog.records] == ["tokens read again"]


@pytest.mark.parametrize("where", ["file", "environment"])
@pytest.mark.parametrize(
    ("token", "is_long_enough"), [("0123456789abcdef", True), ("0123456789abcde", False)]
)
def test_sixteen_characters_are_enough_and_fifteen_are_not(
    tmp_path: Path, where: str, token: str, is_long_enough: bool
) -> None:
    """The bound stands in the docs; the message tells which entry is too short, and by how much."""
    file = tmp_path / "tokens"
    file.write_text(f"{FIRST}\n{token}\n", "utf-8")
    config = (
        ServiceConfig(tokens_file=str(file)) if where == "file" else ServiceConfig(tokens=f"{FIRST},{token}")
    )
    if is_long_enough:
        guard = read_guard(config)
        assert guard is not None
        assert passes(guard, b"Bearer " + token.encode())
        return
    place = f"{file}: line 2" if where == "file" else "environment TIMBERLINE_SERVE_TOKENS: token 2"
    with pytest.raises(ConfigError, match="the token has 15 characters, expected at least 16") as caught:
        read_guard(config)
    assert str(caught.value).startswith(place)


@pytest.mark.parametrize(
    ("token", "is_one"),
    [
        ("abc.DEF_012~345+678/9-", True),
        ("0123456789abcdef==", True),
        ("0123456789abcdef=x", False),
        ("=0123456789abcdef", False),
        ("0123456789abcdef\u00e9", False),
        ("0123456789,abcdef", False),
        ('"0123456789abcdef"', False),
    ],
)
def test_a_token_is_what_can_stand_in_the_header(tmp_path: Path, token: str, is_one: bool) -> None:
    """RFC 6750, section 2.1; any other could never be sent, and guards nothing."""
    file = tmp_path / "tokens"
    file.write_text(token, "utf-8")
    if is_one:
        guard = read_guard(ServiceConfig(tokens_file=str(file)))
        assert guard is not None
        assert passes(guard, b"Bearer " + token.encode())
    else:
        with pytest.raises(ConfigError, match="a character that no bearer token may have"):
            read_guard(ServiceConfig(tokens_file=str(file)))


def test_a_file_has_a_longest_length(tmp_path: Path) -> None:
    """A mebibyte is read whole; one byte more is some other file."""
    file = tmp_path / "tokens"
    file.write_bytes(b"#" * (2**20 - len(FIRST) - 1) + b"\n" + FIRST.encode())
    guard = read_guard(ServiceConfig(tokens_file=str(file)))
    assert guard is not None
    assert passes(guard, b"Bearer " + FIRST.encode())
    with file.open("ab") as more:
        more.write(b"\n")
    with pytest.raises(ConfigError, match="more than 1,048,576 bytes"):
        read_guard(ServiceConfig(tokens_file=str(file)))


def test_each_of_many_tokens_passes_and_what_is_between_them_does_not() -> None:
    """Whichever comes first or last; the right answer for one must not be undone by the next."""
    tokens = [f"token-number-{number:04}" for number in range(5)]
    guard = Guard(tokens)
    assert all(passes(guard, b"Bearer " + token.encode()) for token in tokens)
    assert not passes(guard, b"Bearer token-number-0005")
    assert not passes(Guard([]), b"Bearer ")


def test_replacing_says_whether_anything_changed() -> None:
    """What is logged as read again is what let somebody in or kept somebody out."""
    guard = Guard([FIRST])
    assert guard.replace([FIRST]) is False
    assert guard.replace([FIRST, SECOND]) is True
    assert guard.replace([SECOND]) is True
    assert not passes(guard, b"Bearer " + FIRST.encode())
    assert guard.replace([]) is True
    assert not passes(guard, b"Bearer " + SECOND.encode())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "a bearer token is asked for here"),
        ([b"Basic " + FIRST.encode()], "a bearer token is asked for here"),
        ([b"Bearer " + FIRST.encode()] * 2, "a bearer token is asked for here"),
        ([b"Bearer nobodys-token-0123"], "the bearer token is not known here"),
    ],
)
def test_a_refusal_tells_what_is_missing(values: list[bytes], said: str) -> None:
    """Whoever forgot the header looks elsewhere than whoever has an old token."""
    with pytest.raises(UnauthorizedError) as caught:
        Guard([FIRST]).check([(b"authorization", value) for value in values])
    assert said in str(caught.value)
    assert "Authorization: Bearer" in (caught.value.hint or "")


def test_other_headers_are_not_the_header() -> None:
    """A token in a header that a proxy adds must not open anything."""
    with pytest.raises(UnauthorizedError):
        Guard([FIRST]).check([(b"x-authorization", b"Bearer " + FIRST.encode())])


@pytest.mark.parametrize("kind", ["none", "gone", "pipe", "folder"])
def test_what_is_no_file_is_not_watched(tmp_path: Path, kind: str) -> None:
    """A pipe says what it says once, and who reads it a second time waits for ever."""
    path = tmp_path / "tokens"
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "folder":
        path.mkdir()
    before = set(threading.enumerate())
    TokensWatch(Guard([FIRST]), ServiceConfig(tokens_file="" if kind == "none" else str(path))).start()
    assert set(threading.enumerate()) - before == set()


def test_a_pipe_is_read_at_the_start(tmp_path: Path) -> None:
    """A shell hands secrets over so, `--tokens-file <(…)`; whoever writes it may come a moment later."""
    pipe = tmp_path / "tokens"
    os.mkfifo(pipe)

    def write() -> None:
        with pipe.open("w", encoding="utf-8") as file:
            time.sleep(0.1)  # who does not wait finds nothing
            file.write(f"{FIRST}\n")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    guard = read_guard(ServiceConfig(tokens_file=str(pipe)))
    writer.join()
    assert guard is not None
    assert passes(guard, b"Bearer " + FIRST.encode())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (os.mkfifo, "it is not a regular file"),
        (lambda file: file.mkdir(), "directory"),
        (lambda file: None, "No such file"),
        (lambda file: file.write_bytes(b"#" * (2**20 + 1)), "more than 1,048,576 bytes"),
    ],
    ids=["pipe", "folder", "gone", "huge"],
)
def test_why_the_tokens_were_kept_is_told(
    watched: tuple[Path, Guard, TokensWatch],
    spoil: Callable[[Path], object],
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A mistake that is named wrongly is mended wrongly."""
    file, _, watch = watched
    file.unlink()
    spoil(file)
    for _ in range(3):
        watch.look()
    (record,) = caplog.records
    assert said in vars(record)["fields"]["error"]


def test_new_tokens_are_logged_by_their_number(
    watched: tuple[Path, Guard, TokensWatch], caplog: pytest.LogCaptureFixture
) -> None:
    """Those of both places; and which they are is told to nobody."""
    file, _, watch = watched
    watch.look()
    file.write_text(f"{SECOND}\n{FIRST}-2\n", "utf-8")
    with caplog.at_level("INFO"):
        for _ in range(2):
            watch.look()
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("INFO", "tokens read again")
    assert vars(record)["fields"] == {"tokens": 3}


def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    """Kubernetes mounts secrets so; both files have the same size and the same time."""
    for name, token in (("old", FIRST), ("new", SECOND.ljust(len(FIRST), "="))):
        (tmp_path / name).write_text(token, "utf-8")
        os.utime(tmp_path / name, ns=(0, 0))
    link = tmp_path / "tokens"
    link.symlink_to("old")
    config = ServiceConfig(tokens_file=str(link))
    guard = read_guard(config)
    assert guard is not None
    watch = TokensWatch(guard, config)
    watch.look()
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").replace(link)
    for _ in range(2):
        watch.look()
    assert not passes(guard, b"Bearer " + FIRST.encode())


TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "value", [TRACE, b"cc" + TRACE[2:], b"cc" + TRACE[2:] + b"-what-the-future-will-be-like"]
)
def test_a_trace_is_found(value: bytes) -> None:
    """A later version of the header is read as far as this one goes."""
    assert find_trace([(b"traceparent", value)]) == {"traceparent": value[:55].decode()}


@pytest.mark.parametrize(
    "values",
    [
        [],
        [TRACE, TRACE],
        [TRACE.upper()],
        [b"ff" + TRACE[2:]],
        [TRACE + b"-more"],
        [TRACE + b"\n"],
        [TRACE[:-1]],
        [b"00-" + b"0" * 32 + TRACE[35:]],
        [TRACE[:36] + b"0" * 16 + b"-01"],
    ],
)
def test_what_is_no_trace_is_left_out(values: list[bytes]) -> None:
    """The header is the client's to write; only what is one may come into a log."""
    assert find_trace([(b"traceparent", value) for value in values]) == {}
