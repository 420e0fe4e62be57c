"""Several workers: who answers, what happens when one ends, and how all of them are replaced."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.closed_loop import ClosedLoop
from tests.support.pages import read_counter
from tests.support.service import (
    DEADLINE_S,
    ROOT,
    RunningService,
    has_ended,
    read_cpu_seconds,
    refuse_to_start,
    running_service,
)
from tests.support.tiny_model import NUMERIC_ROWS, build_slow_graph, publish_numeric
from timberline.registry.store import open_store

BODY = b'{"rings": 40}'
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n"


@pytest.fixture
def service(registry: Path) -> Iterator[RunningService]:
    """tiny@1 behind two workers."""
    with running_service(registry, "tiny", "--workers", "2") as running:
        yield running


def count_connections(pid: int) -> int:
    """Sockets that a process has open."""
    links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    return sum(link.startswith("socket:") for link in links)


def test_one_line_announces_all_workers(service: RunningService) -> None:
    """Whoever starts the service reads one line, however many processes there are."""
    assert service.announced["workers"] == 2
    assert service.announced["model"] == "tiny"
    assert len(service.worker_pids) == 2
    assert len(service.list_events("ready")) == 2
    command = [sys.executable, "-m", "inference", "health", "--port", str(service.port)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def test_connections_are_spread_evenly(service: RunningService) -> None:
    """A client pool's connections live for hours; a worker that took most of them has most of the work."""
    pids = service.worker_pids
    before = [count_connections(pid) for pid in pids]
    with contextlib.ExitStack() as stack:
        for _ in range(16):
            connection = stack.enter_context(contextlib.closing(service.connect()))
            connection.request("GET", "/v2/health/live")
            connection.getresponse().read()
        shares = [count_connections(pid) - old for pid, old in zip(pids, before, strict=True)]
    assert sum(shares) == 16
    assert min(shares) >= 6, shares


def test_a_killed_worker_is_replaced_while_the_other_answers(service: RunningService) -> None:
    """Running out of memory ends a process without a word; nobody but the log is to notice."""
    victim, survivor = service.worker_pids
    os.kill(victim, signal.SIGKILL)
    while not service.list_events("worker restarted"):
        assert service.predict({"rings": 40})[0] == 200
    (ended,) = service.list_events("worker ended")
    assert (ended["pid"], ended["signal"], ended["level"]) == (victim, "SIGKILL", "error")
    (restarted,) = service.list_events("worker restarted")
    assert restarted["worker"] == ended["worker"]
    assert count_restarts(service) == {"killed": 1}
    assert set(service.worker_pids) == {survivor, restarted["pid"]}


def test_a_worker_that_is_stuck_is_replaced(service: RunningService) -> None:
    """It holds connections and takes more of them; only its silence tells."""
    stuck, other = service.worker_pids
    os.kill(stuck, signal.SIGSTOP)
    service.wait_for(lambda: service.list_events("worker restarted"))
    (hung,) = service.list_events("worker hung")
    assert (hung["pid"], hung["level"]) == (stuck, "error")
    (ended,) = service.list_events("worker ended")
    assert (ended["pid"], ended["signal"]) == (stuck, "SIGKILL")
    assert other in service.worker_pids
    assert len(service.worker_pids) == 2
    assert service.predict({"rings": 40})[0] == 200
    assert count_restarts(service) == {"hung": 1}


def count_restarts(service: RunningService) -> dict[str, float]:
    """Workers that took the place of another, by why."""
    page = service.request("GET", "/metrics")[2].decode()
    found = {
        reason: read_counter(page, "worker_restarts_total", reason=reason)
        for reason in ("hung", "killed", "ended", "rolled")
    }
    return {reason: count for reason, count in found.items() if count}


def test_a_machine_that_stood_still_does_not_cost_all_workers(service: RunningService) -> None:
    """A suspended machine silences all at once; ending them all would end the service."""
    first, second = service.worker_pids
    for pid in (first, second):
        os.kill(pid, signal.SIGSTOP)
    service.wait_for(lambda: service.list_events("worker hung"))
    (hung,) = service.list_events("worker hung")
    left = second if hung["pid"] == first else first
    os.kill(left, signal.SIGCONT)
    service.wait_for(lambda: service.list_events("worker restarted"))
    assert left in service.worker_pids
    assert service.predict({"rings": 40})[0] == 200


def test_a_worker_that_cannot_start_again_is_tried_until_it_can(
    service: RunningService, registry: Path
) -> None:
    """A registry that is away for a minute must not cost the service its workers for good."""
    shutil.move(registry, registry.with_name("away"))
    os.kill(service.worker_pids[0], signal.SIGKILL)
    service.wait_for(lambda: len(service.list_events("worker ended")) >= 3)
    assert service.predict({"rings": 40})[0] == 200
    shutil.move(registry.with_name("away"), registry)
    service.wait_for(lambda: service.list_events("worker restarted"))
    assert service.predict({"rings": 40})[0] == 200


def test_a_worker_that_the_system_has_no_room_for_is_tried_until_there_is(service: RunningService) -> None:
    """A machine at its limits is to lose one worker for a while, and not the service."""
    _, hard = resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE)
    soft, _ = resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (3, hard))
    os.kill(service.worker_pids[0], signal.SIGKILL)
    service.wait_for(lambda: len(service.list_events("worker not started")) >= 2)
    line = service.list_events("worker not started")[0]
    assert (line["level"], "Too many open files" in line["error"]) == ("error", True)
    assert service.predict({"rings": 40})[0] == 200
    resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
    service.wait_for(lambda: service.list_events("worker restarted"))
    assert len(service.worker_pids) == 2


def test_a_service_whose_second_worker_fails_ends_with_its_code(registry: Path, tmp_path: Path) -> None:
    """A half-started service would answer with half of what was asked for, and nobody would know."""
    second_fails = (
        "import os, sys\n"
        "if 'worker' in sys.orig_argv:\n"
        "    try:\n"
        f"        os.mkdir({str(tmp_path / 'first')!r})\n"
        "    except FileExistsError:\n"
        "        os._exit(41)\n"
    )
    (tmp_path / "sitecustomize.py").write_text(second_fails)
    environment = {"PYTHONPATH": str(tmp_path)}
    code, log = refuse_to_start(registry, "tiny", "--workers", "2", environment=environment)
    events = [json.loads(line) for line in log.splitlines()]
    codes = [line["exit_code"] for line in events if line["event"] == "worker ended"]
    assert (code, codes) == (41, [41, 0])
    assert "all workers ready" not in {line["event"] for line in events}


def test_a_worker_whose_libraries_print_starts_all_the_same(registry: Path, tmp_path: Path) -> None:
    """Workers announce themselves on a stream that any library may write to."""
    chatter = "import sys\nif 'worker' in sys.orig_argv:\n    print('a licence of 80 pages', flush=True)\n"
    (tmp_path / "sitecustomize.py").write_text(chatter)
    environment = {"PYTHONPATH": str(tmp_path)}
    with running_service(registry, "tiny", "--workers", "2", environment=environment) as service:
        lines = service.list_events("not an announcement")
        assert [(line["level"], line["line"]) for line in lines] == [
            ("warning", repr(b"a licence of 80 pages\n"))
        ] * 2
        assert service.predict({"rings": 40})[0] == 200


def test_workers_end_with_their_supervisor(registry: Path) -> None:
    """What nobody watches over must not hold the port; but what was begun is finished."""
    with (
        running_service(registry, "tiny", "--workers", "2") as service,
        contextlib.ExitStack() as stack,
    ):
        service.expected_code = -signal.SIGKILL
        pids = service.worker_pids
        for pid in pids:
            stack.callback(kill_if_there, pid)
        begun = stack.enter_context(socket.create_connection((service.host, service.port), DEADLINE_S))
        begun.sendall(HEAD + BODY[:5])
        service.process.kill()
        service.wait()
        begun.sendall(BODY[5:])
        assert begun.recv(65536).startswith(b"HTTP/1.1 200 OK")
        service.wait_for(lambda: all(has_ended(pid) for pid in pids))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((service.host, service.port), DEADLINE_S)


def test_what_is_in_work_when_the_supervisor_is_killed_is_answered(tmp_path: Path) -> None:
    """Slow requests are finished, and those that come during the drain are answered, as on SIGTERM."""
    publish_numeric(open_store(tmp_path), model_bytes=build_slow_graph())
    flags = ("--workers", "2", "--drain-s", "4", "--deadline-s", "60")
    rows = [list(NUMERIC_ROWS[0])] * 2000
    with (
        running_service(tmp_path, "tiny", *flags) as service,
        contextlib.ExitStack() as stack,
        ThreadPoolExecutor(1) as pool,
    ):
        service.expected_code = -signal.SIGKILL
        pids = service.worker_pids
        for pid in pids:
            stack.callback(kill_if_there, pid)
        before = {pid: read_cpu_seconds(pid) for pid in pids}
        slow = pool.submit(service.predict, {"instances": rows})
        service.wait_for(lambda: any(read_cpu_seconds(pid) > before[pid] + 0.3 for pid in pids))
        assert not slow.done()
        service.process.kill()
        service.wait()
        service.wait_for(lambda: service.request("GET", "/v2/health/ready")[0] == 503)
        assert service.predict({"rings": 40})[0] == 200
        status, answer = slow.result(DEADLINE_S)
        assert (status, len(answer["predictions"])) == (200, len(rows))
        service.wait_for(lambda: all(has_ended(pid) for pid in pids))


def kill_if_there(pid: int) -> None:
    """Leave no process behind when a test failed."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_a_rolling_restart_loses_no_request(service: RunningService) -> None:
    """New settings of the machine, a new program: replaced under load, and nobody sees it."""
    before = service.worker_pids
    with ClosedLoop(service, 16) as load:
        for times in range(1, 4):
            seen = load.answer_count
            service.process.send_signal(signal.SIGHUP)
            service.wait_for_events("rolling restart done", times)
            load.wait_for_answers(seen + 101)
    assert load.failures == []
    assert load.statuses == {200}
    assert count_restarts(service) == {"rolled": 6}
    assert not set(before) & set(service.worker_pids)
    assert len(service.worker_pids) == 2


def test_a_rolling_restart_that_cannot_succeed_changes_nothing(
    service: RunningService, registry: Path
) -> None:
    """A replacement is ready before anybody is dismissed."""
    before = service.worker_pids
    shutil.move(registry, registry.with_name("away"))
    service.process.send_signal(signal.SIGHUP)
    service.wait_for(lambda: service.list_events("rolling restart given up"))
    service.wait_for(lambda: service.worker_pids == before)  # the one that failed takes a moment to end
    assert service.predict({"rings": 40})[0] == 200


def test_no_request_of_a_closed_loop_is_lost_at_the_end(registry: Path) -> None:
    """The end of a service of several processes is the end of one: every request is answered."""
    with running_service(registry, "tiny", "--workers", "2") as service:
        with ClosedLoop(service, 16) as load:
            service.wait_for(lambda: load.answer_count > 500)
            service.stop()
        assert load.failures == []
        assert load.statuses == {200}


def test_a_worker_that_does_not_end_is_ended(registry: Path) -> None:
    """One that hangs, here because it was stopped, must not hang the release."""
    with running_service(registry, "tiny", "--workers", "2", "--shutdown-grace-s", "0") as service:
        stuck = service.worker_pids[0]
        os.kill(stuck, signal.SIGSTOP)
        service.stop()
        assert ("SIGKILL", stuck) in [
            (ended.get("signal"), ended["pid"]) for ended in service.list_events("worker ended")
        ]


def test_a_service_that_cannot_start_says_so_once(registry: Path) -> None:
    """An exit code for the script, one line for the person, as with one process."""
    graph = registry / "tiny" / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    code, log = refuse_to_start(registry, "tiny", "--workers", "2")
    errors = [line for line in map(json.loads, log.splitlines()) if line["level"] == "error"]
    assert code == 3, log
    assert "tiny@1: model.onnx" in errors[0]["event"]
    assert [line["event"] for line in errors[1:]] == ["worker ended"]


def test_a_worker_without_an_order_is_refused() -> None:
    """The verb is the supervisor's; a person who finds it is told what to use."""
    command = [sys.executable, "-m", "inference", "worker"]
    done = subprocess.run(command, cwd=ROOT, input=b"", capture_output=True, check=False)
    assert done.returncode == 2
    assert b"--workers" in done.stderr


def test_the_supervisor_loads_nothing_heavy() -> None:
    """It must outlive what workers die of, and its memory is nobody's use."""
    heavy = ("numpy", "onnxruntime", "uvicorn", "uvloop", "starlette", "prometheus_client")
    code = "import sys, timberline.inference.server.supervisor\n"
    code += f"print(sorted(set({heavy!r}) & set(sys.modules)))\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_metrics_may_have_a_port_of_their_own(registry: Path, workers: str) -> None:
    """What the outside may ask for predictions need not see the traffic."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = ("--workers", workers, "--metrics-port", str(port))
    with running_service(registry, "tiny", *flags) as service:
        assert service.predict({"rings": 40})[0] == 200
        assert service.request("GET", "/metrics")[0] == 404
        assert service.get_json("/")["metrics"] == f":{port}/metrics"
        aside = RunningService(service.process, {**service.announced, "port": port}, Path(os.devnull))
        status, _, page = aside.request("GET", "/metrics")
        assert status == 200
        assert b'http_requests_total{method="POST",route="/predict",status="200"} 1.0' in page
        assert aside.request("GET", "/v2/health/ready")[0] == 200
        assert aside.predict({"rings": 40})[0] == 404
