"""The arithmetic of the service's benchmark, on recorded rounds, and what its load generator refuses."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.support.manifests import TINY_CLASSES, build_manifest
from timberline.benchmarks.dev.clients import RoundOutcome, RoundPlan, drive
from timberline.benchmarks.dev.competitors.environments import LOCKS, find_python, list_competitors
from timberline.benchmarks.dev.service import requests as service_requests
from timberline.benchmarks.dev.service.report import (
    DEFAULT_TARGETS,
    Spread,
    Target,
    busiest_us,
    check_targets,
    count_rate,
    derive_figures,
    describe_service,
    divide,
    load_targets,
)
from timberline.benchmarks.errors import BenchmarkError, WorkloadError
from timberline.benchmarks.measure.services import (
    list_processes,
    read_cpu_s,
    read_each_cpu_s,
    read_resident_bytes,
    read_wait_s,
)
from timberline.registry.errors import ConfigError
from timberline.registry.manifest import Golden
from timberline.registry.signature import Column, build_signature

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def seen(
    cpu_us: float, *more_us: float, requests: int = 1000, clients_s: float = 0.5, wait_s: float = 0.0
) -> RoundOutcome:
    """A round of one second; ``cpu_us`` and ``more_us`` are what each process took for one request."""
    return RoundOutcome(
        requests=requests,
        elapsed_s=1.0,
        server_cpu_s=tuple(us * requests / 1e6 for us in (cpu_us, *more_us)),
        server_wait_s=wait_s,
        client_cpu_s=clients_s,
        latencies_s=array("f", [0.001] * requests).tobytes(),
        answer_bytes=100,
    )


def test_ratios_are_taken_within_a_round() -> None:
    """A slow round slows both down; a ratio of medians would mix rounds."""
    assert divide([10.0, 40.0, 30.0], [5.0, 20.0, 10.0]) == Spread(median=2.0, low=2.0, high=3.0, least=2.0)


def test_a_row_counts_all_processes_and_pools_latencies() -> None:
    """A server that works in a second process must not look cheap."""
    row = describe_service([seen(20.0, 30.0, wait_s=0.9), seen(50.0)], [seen(25.0), seen(25.0)])
    assert row.cpu_us.median == pytest.approx(50.0)
    assert row.to_noop.median == pytest.approx(2.0)
    assert row.p50_ms == pytest.approx(1.0)
    assert row.requests == 2000
    assert row.busy_share == pytest.approx(0.05)
    assert row.waited_share == pytest.approx(0.9)


def test_the_cheapest_rounds_make_a_ratio_of_their_own() -> None:
    """Other programs only add to a cost, and need not add to both sides of one round."""
    assert divide([10.0, 90.0], [20.0, 5.0]).least == pytest.approx(2.0)


def test_capacity_is_that_of_the_busiest_process() -> None:
    """Two workers of which one does everything are worth one."""
    assert busiest_us(seen(50.0, 50.0)) == pytest.approx(50.0)
    assert busiest_us(seen(70.0, 30.0)) == pytest.approx(70.0)
    assert busiest_us(seen(100.0, 0.0)) == pytest.approx(100.0)


def test_a_rate_is_scaled_to_what_the_clients_left() -> None:
    """Clients that took half a core of two left one and a half to the server."""
    assert count_rate(seen(10.0, requests=900, clients_s=0.5), 2) == pytest.approx(1200.0)


def test_figures_are_derived_from_the_arms_that_were_measured() -> None:
    """What was not measured must be absent, not zero: a target would be met by it."""
    bare = derive_figures({"noop": [seen(20.0)], "timberline": [seen(40.0)]}, 1000)
    assert set(bare) == {"timberline_to_noop"}
    samples = {
        "noop": [seen(20.0)],
        "timberline": [seen(50.0)],
        "run": [seen(12.0)],
        "fastapi": [seen(150.0)],
        "mlserver": [seen(500.0)],
        "run_batch": [seen(900.0, requests=10)],
        "batch_binary": [seen(1000.0, requests=8)],
        "two_workers": [seen(26.0, 26.0)],
    }
    found = {name: spread.median for name, spread in derive_figures(samples, 1000).items()}
    assert found["timberline_to_noop"] == pytest.approx(2.5)
    assert found["not_run_to_noop"] == pytest.approx(1.9)
    assert found["fastapi_to_timberline"] == pytest.approx(3.0)
    assert found["mlserver_to_timberline"] == pytest.approx(10.0)
    assert found["batch_to_in_process"] == pytest.approx(0.9)
    assert found["batch_binary_rows_per_s"] == pytest.approx(8000.0)
    assert found["two_workers_to_one"] == pytest.approx(50 / 26)


def test_targets_are_met_at_their_bound_and_unknown_without_a_figure() -> None:
    """A figure that is missing is neither a success nor a failure, and must be seen."""
    targets = {
        "a": Target(text="a", at_most=2.0),
        "b": Target(text="b", at_least=3.0),
        "c": Target(text="c", at_most=1.0, of="high"),
        "d": Target(text="d", at_most=1.0),
    }
    figures = {
        name: Spread(median=value, low=0.0, high=2.0) for name, value in zip("abc", (2, 2.9, 1), strict=True)
    }
    judged = {target.name: target.is_met for target in check_targets(targets, figures)}
    assert judged == {"a": True, "b": False, "c": False, "d": None}


def test_the_committed_targets_are_of_figures_that_exist() -> None:
    """A misspelt name would leave its target unmeasured for ever."""
    arms = ("noop", "timberline", "run", "fastapi", "mlserver", "run_batch", "batch_binary", "two_workers")
    figures = {*derive_figures({name: [seen(20.0)] for name in arms}, 1000), "ready_s", "resident_mb"}
    assert set(load_targets()) <= figures
    assert all((target.at_most is None) != (target.at_least is None) for target in load_targets().values())


def test_a_wrong_targets_file_is_refused(tmp_path: Path) -> None:
    """A bound that is not read is a bound that is always kept."""
    wrong = tmp_path / "targets.toml"
    wrong.write_text(DEFAULT_TARGETS.read_text("utf-8").replace("at_most", "at_mots"), "utf-8")
    with pytest.raises(ConfigError, match="at_mots"):
        load_targets(wrong)


def test_requests_carry_every_column_and_their_length() -> None:
    """A request that left columns out would make every server look faster than it is."""
    manifest = build_manifest()
    head, _, body = service_requests.write_row(manifest).partition(b"\r\n\r\n")
    assert all(column.name.encode() in body for column in manifest.signature.columns)
    assert b"content-length: %d" % len(body) in head
    chunked = service_requests.write_row(manifest, is_chunked=True)
    assert chunked.endswith(b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    assert b"content-length" not in chunked


def test_the_least_row_is_of_the_columns_that_must_be_given() -> None:
    """An attacker sends as little as is answered, so that as much as can be has to be worked on."""
    columns = (
        Column(name="soil", datatype="BYTES", is_nullable=True),
        Column(name="rings", datatype="INT64"),
        Column(name="height", datatype="FP64", default=0.0),
    )
    golden = Golden(rows=((None, 40, 1.5),), class_indexes=(0,), probabilities=((0.5, 0.5),))
    for given, body in ((columns, b'{"rings":40}'), (columns[::2], b'{"soil":null}')):
        rows = tuple(row if given is columns else row[::2] for row in golden.rows)
        manifest = build_manifest(
            signature=build_signature(given, TINY_CLASSES), golden=msgspec.structs.replace(golden, rows=rows)
        )
        assert service_requests.write_least_row(manifest).endswith(b"\r\n\r\n" + body)


def test_a_binary_batch_tells_where_its_tensor_begins() -> None:
    """The protocol's binary extension: JSON first, whose length stands in a header, then the rows."""
    manifest = build_manifest()
    matrix = service_requests.build_matrix(manifest, 5)
    assert matrix.shape == (5, len(manifest.signature.columns))
    head, _, body = service_requests.write_protocol_batch(manifest, matrix).partition(b"\r\n\r\n")
    found = re.search(rb"inference-header-content-length: (\d+)", head)
    assert found
    assert np.array_equal(np.frombuffer(body[int(found[1]) :], "<f8").reshape(matrix.shape), matrix)


def test_text_columns_have_no_matrix() -> None:
    """The graph alone is measured on numbers; a text column must be told, not dropped."""
    columns = (Column(name="soil", datatype="BYTES"),)
    manifest = build_manifest(signature=build_signature(columns, TINY_CLASSES))
    with pytest.raises(WorkloadError, match="text"):
        service_requests.build_matrix(manifest, 1)


@pytest.fixture
def server() -> Iterator[tuple[int, list[bytes]]]:
    """A server of one connection at a time: its port, and the answers it gives over and over, in pieces."""
    pieces = [ANSWER[:10], ANSWER[10:]]
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        try:
            while True:
                connection = listener.accept()[0]
                with connection:
                    while connection.recv(1000):
                        for piece in pieces:
                            connection.sendall(piece)
        except OSError:  # the listener is closed at the end, the client hangs up when it is wrong
            pass

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield listener.getsockname()[1], pieces
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def plan(port: int) -> RoundPlan:
    """A short round over one connection; this process stands for the server's."""
    return RoundPlan(
        port=port,
        request=b"POST / HTTP/1.1\r\n\r\n",
        connections=1,
        warmup_s=0.0,
        window_s=0.05,
        pids=(os.getpid(),),
        cores=tuple(os.sched_getaffinity(0)),
    )


def test_a_round_counts_whole_answers_and_the_servers_time(server: tuple[int, list[bytes]]) -> None:
    """What is divided by what: processor time of the server by answers of the same window."""
    found = drive(plan(server[0]))
    assert found.requests == len(found.latencies_s) // 4 > 0
    assert found.elapsed_s >= 0.05
    assert found.server_cpu_s[0] > 0
    assert found.answer_bytes == len(ANSWER)


def test_more_than_one_answer_makes_the_round_invalid(server: tuple[int, list[bytes]]) -> None:
    """An answer too many would be counted as one of the next request."""
    server[1][1] += ANSWER
    with pytest.raises(ConnectionError, match="more than was asked"):
        drive(plan(server[0]))


def test_any_answer_but_200_makes_the_round_invalid(server: tuple[int, list[bytes]]) -> None:
    """Refusals are cheap: a server that only refused would win."""
    server[1][:] = [ANSWER.replace(b"200 OK", b"503 No")]
    with pytest.raises(BenchmarkError, match="answered 503"):
        drive(plan(server[0]))


def test_processor_time_counts_threads_that_have_ended() -> None:
    """A server that starts a thread for each request must pay for it."""
    threads = [threading.Thread(target=lambda: sum(range(300_000))) for _ in range(2)]
    before = read_cpu_s(os.getpid())
    started = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.process_time() - started  # both looks lie within those of the reading
    assert read_cpu_s(os.getpid()) - before >= spent > 0
    assert read_wait_s(os.getpid()) >= 0


def test_a_process_that_is_gone_has_no_processor_time() -> None:
    """A server that died within a round must not count as one that did nothing."""
    with pytest.raises(BenchmarkError, match="ended"):
        read_cpu_s(2**22 + 1)  # beyond the kernel's largest process number


BURNER = """
import sys, time
for line in sys.stdin:
    began = time.process_time()
    while time.process_time() - began < float(line):
        pass
    print(time.process_time() - began, flush=True)
"""


def test_the_processor_time_of_a_window_is_what_the_process_says_of_itself() -> None:
    """A line of the gate rests on it: a reading in ticks, or of one thread, would judge chance."""
    with subprocess.Popen(
        [sys.executable, "-c", BURNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def burn(seconds: float) -> float:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{seconds}\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        burn(0.001)  # the interpreter has started
        before = read_each_cpu_s({"one": process.pid, "gone": 2**22 + 1})
        own = burn(0.1)
        after = read_each_cpu_s({"one": process.pid})
        process.stdin.close()
    assert set(before) == {"one"}
    # Of its own it tells all but a line read and a line written.
    assert 1.0 <= (after["one"] - before["one"]) / own < 1.1


def test_memory_is_told_for_each_process() -> None:
    """A worker's memory is its own, not the sum of all."""
    pids = list_processes(os.getpid())
    assert pids[0] == os.getpid()
    assert read_resident_bytes(pids[:1])[0] > 1_000_000


def test_every_competitor_is_locked_with_hashes_and_no_host() -> None:
    """What is compared must be installed alike everywhere, from wherever the user's index is."""
    assert list_competitors() == ["fastapi", "mlserver"]
    for name in list_competitors():
        text = (LOCKS / f"{name}.txt").read_text("utf-8")
        entries = re.split(r"\n(?=[a-z0-9])", text.strip())
        assert [entry.partition(" ")[0] for entry in entries if "--hash=sha256:" not in entry] == []
        assert re.findall(r"https?://|--(?:extra-)?index-url|--find-links", text) == []
        for line in (LOCKS / f"{name}.in").read_text("utf-8").splitlines():
            if line[0] not in "#-":
                assert f"\n{line}==" in f"\n{text}"


def test_a_competitor_of_another_lock_file_is_not_there(tmp_path: Path) -> None:
    """Figures of versions that nobody locked cannot be repeated."""
    folder = tmp_path / "fastapi"
    folder.mkdir()
    assert find_python(tmp_path, "fastapi") is None
    (folder / "installed.sha256").write_text("of something else")
    assert find_python(tmp_path, "fastapi") is None
