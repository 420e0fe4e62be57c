"""The sums of the attacks' table, the bodies, and both kinds of clients against servers of a few lines."""

from __future__ import annotations

import contextlib
import gzip
import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.manifests import TINY_CLASSES, build_manifest
from timberline.benchmarks.dev.attacks.attackers import (
    MOST_URL_BYTES,
    AttackOutcome,
    AttackPlan,
    AttackState,
    Connection,
    attack,
    drive,
    list_attacks,
)
from timberline.benchmarks.dev.attacks.bodies import Subject, choose_subject, list_bodies
from timberline.benchmarks.dev.attacks.table import (
    Honest,
    Memory,
    Report,
    Row,
    check_bounds,
    correct,
    describe_honest,
    format_attacks,
    load_bounds,
)
from timberline.benchmarks.dev.clients import HonestOutcome, HonestPlan, HonestRecord, watch_service
from timberline.benchmarks.dev.service.report import Target
from timberline.benchmarks.errors import BenchmarkError
from timberline.benchmarks.measure.services import read_memory
from timberline.registry.errors import ConfigError
from timberline.registry.signature import Column, build_signature

SUBJECT = Subject(model="tiny", number="rings", text="note", max_body_bytes=4096)
MIB = 1024 * 1024
GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
REFUSED = b"HTTP/1.1 431 No\r\ncontent-length: 0\r\n\r\n"
REQUEST = b"GET / HTTP/1.1\r\n\r\n"

Answer = Callable[[socket.socket], object]


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[int]:
    """The port of a server that gives each connection to ``answer`` and then closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        answer(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)  # wakes the thread


def plan(port: int, name: str = "none", *, most_s: float = 20.0) -> AttackPlan:
    """One short attack."""
    return AttackPlan(attack=name, port=port, request=REQUEST, subject=SUBJECT, again_s=0.0, most_s=most_s)


def done(
    requests: int = 1, cut: int = 0, began: float = 10.0, ended: float = 12.0, **statuses: int
) -> AttackOutcome:
    """An attack that went on for two seconds; ``_200=3`` is three answers of that status."""
    return AttackOutcome(
        sent_bytes=1_500_000,
        requests=requests,
        statuses={name.strip("_"): count for name, count in statuses.items()},
        cut=cut,
        began_at_s=began,
        ended_at_s=ended,
    )


def visits(*seen: tuple[float, float, str]) -> HonestRecord:
    """What one client saw: when it asked, how long it waited, the outcome."""
    return HonestRecord(
        asked_at_s=[at for at, _, _ in seen],
        waits_s=[wait for _, wait, _ in seen],
        outcomes=[outcome for _, _, outcome in seen],
    )


HONEST = Honest(requests=9, p50_ms=1.0, p99_ms=40.0, worst_ms=90.0, failed=0, outcomes={"200": 9})
MEMORY = Memory(before_bytes=80 * MIB, peak_bytes=240 * MIB, after_bytes=81 * MIB)


def test_a_long_wait_counts_for_the_requests_that_it_kept_from_being_asked() -> None:
    """One wait of ten seconds among a thousand short ones must not vanish behind the 99th percentile."""
    corrected = correct(np.array([0.001, 0.05, 0.001]), 0.01)
    assert sorted(corrected.tolist()) == pytest.approx([0.001, 0.001, 0.02, 0.03, 0.04, 0.05])


def test_only_waits_of_the_attack_count() -> None:
    """The quiet before it would dilute the percentiles; what it delays after its end counts as worst."""
    kept = visits((9.0, 0.5, "503"), (9.9, 0.3, "200"), (11.0, 0.1, "200"))
    anew = visits((11.5, 0.1, "lost"), (12.5, 4.0, "503"))
    honest = describe_honest(HonestOutcome(kept=kept, anew=anew), done(), 1.0)
    assert (honest.requests, honest.failed) == (4, 2)
    assert honest.outcomes == {"200": 2, "lost": 1, "503": 1}
    assert honest.p50_ms == pytest.approx(100.0)
    assert honest.p99_ms < 300.0
    assert honest.worst_ms == pytest.approx(4000.0)


def test_a_client_that_never_asked_again_has_still_waited() -> None:
    """A service that stood still from the first moment on must not look quick."""
    waits = HonestOutcome(kept=visits((9.9, 25.0, "lost")), anew=visits())
    honest = describe_honest(waits, done(), 0.5)
    assert honest.failed == 1
    assert honest.worst_ms == pytest.approx(25_000.0)
    assert honest.p99_ms > 20_000.0


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("p99_ms", 40.0),
        ("worst_ms", 90.0),
        ("failed", 0.0),
        ("extra_answers", 2.0),
        ("unanswered", 1.0),
        ("not_refused", 0.0),
        ("peak_bodies", 10.0),
        ("kept_bodies", 1 / 16),
    ],
)
def test_every_figure_is_judged_as_it_was_seen(figure: str, value: float) -> None:
    """A bound on a figure that is counted wrongly holds nothing."""
    seen = done(3, 1, _200=2, _431=3)
    for at_most, is_met in ((value, True), (value - 0.01, False)):
        bounds = {figure: Target(text="", at_most=at_most)}
        (judged,) = check_bounds(bounds, seen, HONEST, MEMORY, 16 * MIB)
        assert judged.value == pytest.approx(value)
        assert judged.is_met is is_met


def test_an_endless_request_that_was_neither_refused_nor_cut_is_counted() -> None:
    """That nobody noticed it does not make it bounded."""
    bounds = {"not_refused": Target(text="", at_most=0)}
    (judged,) = check_bounds(bounds, done(5, 1, _431=2, _200=1), HONEST, MEMORY, MIB)
    assert judged.value == 2


def test_every_attack_has_its_bounds() -> None:
    """A kind without bounds would be shown and never held against anything; a bound without a figure too."""
    bounds = load_bounds()
    attacks = list_attacks(SUBJECT)
    assert {each.bounds for each in attacks.values()} == set(bounds)
    for kind, targets in bounds.items():
        judged = check_bounds(targets, done(), HONEST, MEMORY, MIB)
        assert all(each.is_met is not None for each in judged), kind
    assert [kind for kind, targets in bounds.items() if not targets] == ["none"]


def test_the_reference_names_every_attack_and_every_bound() -> None:
    """A row that is explained nowhere cannot be read; a bound in words that is another one misleads."""
    text = (Path(__file__).resolve().parents[4] / "docs" / "explanation" / "attacks.md").read_text("utf-8")
    missing = [name for name in list_attacks(SUBJECT) if f"`{name}`" not in text]
    assert missing == []
    for kind, targets in load_bounds().items():
        for name, target in targets.items():
            assert f"| `{kind}` | `{name}` | {target.text} | {target.at_most:g} |" in text


def test_wrong_bounds_are_refused(tmp_path: Path) -> None:
    """A misspelt bound would hold nothing."""
    path = tmp_path / "bounds.toml"
    path.write_text('[head]\np99_ms = { text = "p99", at_mots = 50 }\n')
    with pytest.raises(ConfigError, match="at_mots"):
        load_bounds(path)


def test_the_table_says_what_is_over_and_lists_each_bound_once() -> None:
    """Who reads the table must see which bound, and by how much."""
    bounds = {"worst_ms": Target(text="worst wait, ms", at_most=50), "failed": Target(text="no", at_most=0)}
    rows = []
    for name, limits in (("none", {}), ("deep nesting", bounds)):
        seen = done(1200, 2, _413=1000, _200=100, _400=10, _503=1)
        judged = check_bounds(limits, seen, HONEST, MEMORY, MIB)
        rows.append(
            Row(
                attack=name,
                bounds="body",
                done=seen,
                seconds=2.0,
                server_cpu_s=0.5,
                server_wait_s=0.25,
                honest=HONEST,
                memory=MEMORY,
                judged=judged,
            )
        )
    machine: dict[str, float | str] = {"server_core": 1, "client_core": 0, "load_average_before": 0.1}
    report = Report(
        model="tiny",
        version=1,
        max_body_bytes=16 * MIB,
        pause_s=0.002,
        machine=machine,
        rows=tuple(rows),
        left_out={"URL": "did not start"},
    )
    text = format_attacks(report)
    (line,) = [line for line in text.splitlines() if line.startswith("deep nesting")]
    assert line.split()[2:4] == ["1.5", "413"]
    assert "413 × 1,000, 200 × 100, 400 × 10" in line
    assert line.endswith("worst ≤ 50  OVER: worst 90")
    assert text.count("worst wait, ms ≤ 50") == 1
    assert "not measured: URL: did not start" in text
    assert [row.is_over for row in rows] == [False, True]


@pytest.mark.parametrize("name", list_bodies(SUBJECT))
def test_a_body_is_of_the_allowed_size(name: str) -> None:
    """One that is refused for its length shows nothing about how it is read."""
    subject = Subject(model="tiny", number="rings", text="note", max_body_bytes=400_000)
    head, _, body = list_bodies(subject)[name]().partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] in {b"POST /predict HTTP/1.1", b"POST /v2/models/tiny/infer HTTP/1.1"}
    assert b"content-length: %d" % len(body) in lines
    if b"content-encoding: gzip" in lines:
        body = gzip.decompress(body)
    assert 100_000 < len(body) < 400_000


def test_bodies_speak_of_columns_that_the_model_has() -> None:
    """A name that the model does not know may be refused before anything is decoded."""
    columns = (
        Column(name="soil", datatype="BYTES", categories=("clay",)),
        Column(name="rings", datatype="INT64"),
    )
    manifest = build_manifest("tiny", 1, {}, signature=build_signature(columns, TINY_CLASSES))
    subject = choose_subject(manifest, 4096)
    assert (subject.model, subject.number, subject.text) == ("tiny", "rings", "soil")
    numbers = build_manifest("tiny", 1, {}, signature=build_signature(columns[1:], TINY_CLASSES))
    assert choose_subject(numbers, 4096).text == "rings"


def test_an_attack_without_end_stops_at_its_refusal() -> None:
    """What is refused early has to count as refused, however much the attacker still wanted to send."""

    def refuse(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(REFUSED)
        while connection.recv(1 << 16):  # so that no reset overtakes the refusal
            pass

    with serving(refuse) as port:
        seen = attack(plan(port, "headers, long lines"))
    assert (seen.statuses, seen.requests, seen.cut) == ({"431": 1}, 1, 0)
    assert seen.sent_bytes < 100 * 1_000_000


def test_a_connection_that_is_cut_without_an_answer_is_counted() -> None:
    """A service that just hangs up has bounded the attack as well."""
    with serving(lambda connection: connection.recv(100)) as port:
        seen = attack(plan(port, "URL"))
    assert (seen.statuses, seen.requests, seen.cut) == ({}, 1, 1)


@pytest.fixture
def _file_limit() -> Iterator[None]:
    """An attack on many connections raises the limit of its own process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("_file_limit")
def test_every_one_of_many_connections_is_asked_for_its_answer() -> None:
    """One that is refused must not end the others, or the table shows an attack that was never made."""

    def refuse(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(REFUSED)

    with serving(refuse) as port:
        seen = attack(plan(port, "60 unfinished gzip bodies"))
    assert (seen.statuses, seen.requests, seen.cut) == ({"431": 60}, 60, 0)


def test_who_reads_nothing_is_counted_as_cut_when_it_is() -> None:
    """The bound of this attack is that the service hangs up; the answers before are not looked at."""
    with serving(lambda connection: connection.recv(1 << 16)) as port:
        seen = attack(plan(port, "answers nobody reads"))
    assert (seen.statuses, seen.cut) == ({}, 1)
    assert 0 < seen.requests * len(REQUEST) <= seen.sent_bytes < MOST_URL_BYTES


def test_answers_are_counted_wherever_their_bytes_are_split() -> None:
    """Answers to pipelined requests come as the network cuts them; a 100 is none."""

    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        for letter in b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD + GOOD + REFUSED:
            connection.sendall(bytes([letter]))
        connection.recv(1)

    with serving(answer) as port:
        state = AttackState(plan(port))
        line = Connection(state, [REQUEST * 3], wants=3)
        drive(state, [line])
        line.close()
    assert state.statuses == {"200": 2, "431": 1}
    assert (state.sent_bytes, state.cut) == (3 * len(REQUEST), 0)


def test_an_attack_ends_when_nothing_moves() -> None:
    """A service that neither reads nor answers would hold up the whole table."""
    held: list[socket.socket] = []
    with serving(lambda connection: held.append(connection.dup())) as port:
        state = AttackState(plan(port))
        line = Connection(state, iter([REQUEST]), wants=1)
        drive(state, [line], stall_s=0.1)
        assert (line.is_sent, line.is_finished) == (True, False)
        line.close()
    for connection in held:
        connection.close()


def test_a_service_that_is_not_there_is_a_cut() -> None:
    """Where the service has died under an attack, the row has to say so, not the benchmark to stop."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    seen = attack(plan(port, "300 requests in one packet"))
    assert (seen.cut, seen.statuses) == (1, {})


def test_honest_clients_say_what_they_were_told() -> None:
    """A refusal or a lost answer is what an attack is measured by; after it they go on to ask."""
    answers = iter([GOOD, b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 2"])
    over = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        if (said := next(answers, None)) is None:
            over.set()
        connection.sendall(said or GOOD)

    with serving(answer) as port:
        waits = watch_service(HonestPlan(port=port, request=REQUEST, pause_s=0.0), lambda: over.wait(60))
    outcomes = [*waits.kept.outcomes, *waits.anew.outcomes]
    assert outcomes.count("503") == 1
    assert {"200", "lost"} <= set(outcomes)
    for client in (waits.kept, waits.anew):
        assert len(client.waits_s) == len(client.asked_at_s) == len(client.outcomes)


def test_memory_is_read_of_a_process_now_and_at_its_peak() -> None:
    """What was given back in time must still show as the peak."""
    memory = read_memory(os.getpid())
    assert 0 < memory.resident_bytes <= memory.peak_bytes
    with pytest.raises(BenchmarkError, match="ended"):
        read_memory(2**22)
