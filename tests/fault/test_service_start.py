"""What must keep a service from getting ready: it says why, ends, and never answers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import (
    ROOT,
    StartingService,
    has_ended,
    read_cpu_seconds,
    refuse_to_start,
    running_service,
    starting_service,
)
from tests.support.tiny_model import (
    CLASSES,
    NUMERIC_COLUMNS,
    NUMERIC_ROWS,
    build_endless_graph,
    build_graph,
    build_large_graph,
    expect_probabilities,
    publish_numeric,
)
from timberline.registry.manifest import Golden
from timberline.registry.signature import ClassLabel, build_signature
from timberline.registry.store import open_store


def read_error(log: str) -> str:
    """The one error event of a log."""
    events = [json.loads(line) for line in log.splitlines()]
    errors = [event["event"] for event in events if event["level"] == "error"]
    assert len(errors) == 1, log
    assert "traceback" not in log
    return str(errors[0])


def test_a_flipped_byte_in_the_graph_is_found(registry: Path) -> None:
    """A damaged file may load and answer wrongly; the digest is what tells."""
    graph = registry / "tiny" / "1" / "model.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    code, log = refuse_to_start(registry, "tiny")
    assert code == 3
    assert "tiny@1: model.onnx" in read_error(log)


def test_a_missing_file_is_found(registry: Path) -> None:
    """A copy that is not whole yet must not be taken for the version; the log names what is not there."""
    (registry / "tiny" / "1" / "model.onnx").unlink()
    code, log = refuse_to_start(registry, "tiny")
    assert code == 3
    assert "tiny@1: model.onnx is missing" in read_error(log)


def test_answers_other_than_the_golden_ones_are_found(tmp_path: Path) -> None:
    """The bytes may be right and this machine's arithmetic may not be."""
    probabilities = expect_probabilities(NUMERIC_COLUMNS, NUMERIC_ROWS)
    probabilities[1] = [0.5, 0.25, 0.25]
    golden = Golden(
        rows=tuple(tuple(row) for row in NUMERIC_ROWS),
        class_indexes=(0, 1, 2),
        probabilities=tuple(tuple(row) for row in probabilities.tolist()),
    )
    publish_numeric(open_store(tmp_path), golden=golden)
    code, log = refuse_to_start(tmp_path, "tiny")
    assert code == 3
    assert "tiny@1: golden row 1: probabilities are off by" in read_error(log)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_bytes": b"not a graph"}, "ONNX Runtime cannot load the graph"),
        ({"model_bytes": build_graph(NUMERIC_COLUMNS, probabilities="scores")}, "the graph's outputs are"),
        ({"signature": build_signature(NUMERIC_COLUMNS[:2], CLASSES)}, "the graph's inputs are"),
        (
            {"signature": build_signature(NUMERIC_COLUMNS, (*CLASSES, ClassLabel(value="8", label="x")))},
            "the graph's outputs are",
        ),
    ],
    ids=["not ONNX", "other output name", "other width", "other classes"],
)
def test_a_graph_that_is_not_what_the_manifest_says_is_found(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """A column more or less would shift every value after it."""
    publish_numeric(open_store(tmp_path), **changes)
    code, log = refuse_to_start(tmp_path, "tiny")
    assert code == 3
    assert message in read_error(log)


@pytest.mark.parametrize("name", ["other", "tiny@2", "tiny@canary", "tiny@@1", "Tiny"])
def test_a_name_that_is_not_there_is_wrong_use(registry: Path, name: str) -> None:
    """Exit code 2 tells an operator's script that starting it again will not help."""
    code, log = refuse_to_start(registry, name)
    assert code == 2
    assert read_error(log)


def test_a_version_is_served_if_it_is_the_one_that_the_digest_names(tmp_path: Path) -> None:
    """Who deploys bytes and not a number must not get others, whatever became of the registry."""
    store = open_store(tmp_path)
    publish_numeric(store)
    digest = store.open_version("tiny", 1).digests.manifest_sha256
    with running_service(tmp_path, f"tiny@1#sha256:{digest}") as service:
        assert service.get_json("/")["version"] == 1
    code, log = refuse_to_start(tmp_path, f"tiny@1#sha256:{'0' * 64}")
    assert code == 3
    assert "the reference names 000000000000" in read_error(log)


def test_a_manifest_that_was_edited_is_not_served(registry: Path) -> None:
    """Labels changed by hand are answers that nobody measured; no digest in the manifest shows it."""
    path = registry / "tiny" / "1" / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"Spruce"', b'"Larch!"'))
    for name in ("tiny", "tiny@1"):
        code, log = refuse_to_start(registry, name)
        assert code == 3
        assert "manifest.json has digest" in read_error(log)


def test_a_taken_port_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    """The commonest mistake of all gets one line and not a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, log = refuse_to_start(tmp_path, "tiny", "--port", str(port))
    assert code == 2
    assert f"127.0.0.1:{port}: cannot listen" in read_error(log)


def test_a_wrong_setting_is_told_with_its_origin(tmp_path: Path) -> None:
    """A setting comes from a flag or a variable, and only one of them is where to mend it."""
    code, log = refuse_to_start(tmp_path, "tiny", "--max-rows", "many")
    assert code == 2
    assert "--max-rows: found 'many'" in read_error(log)


@pytest.mark.parametrize(("name", "version"), [("tiny", 2), ("tiny@production", 2), ("tiny@1", 1)])
def test_the_named_version_is_served(tmp_path: Path, name: str, version: int) -> None:
    """A bare name is production; a number pins."""
    store = open_store(tmp_path)
    publish_numeric(store)
    publish_numeric(store)
    with running_service(tmp_path, name) as service:
        assert service.announced["version"] == version
        assert service.get_json("/")["version"] == version
        assert service.predict({"rings": 40})[1]["version"] == version


def test_variables_stand_in_for_flags(registry: Path) -> None:
    """Containers are configured by variables; a flag wins over one."""
    environment = {"TIMBERLINE_SERVE_MAX_ROWS": "1", "MODEL": "nobody"}
    with running_service(registry, "tiny", environment=environment) as service:
        assert service.predict({"instances": [[0, 1, False, None]] * 2})[0] == 413


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_start_that_hangs_ends_when_it_is_told_to(
    tmp_path: Path, workers: str, number: signal.Signals
) -> None:
    """Whoever released a graph that never returns must be able to take it back."""
    publish_numeric(open_store(tmp_path), model_bytes=build_endless_graph())
    flags = ("--workers", workers, "--load-timeout-s", "1000")
    with starting_service(tmp_path, "tiny", *flags) as service:
        pid = wait_until_it_hangs(service)
        assert service.stop(number) == 0
        assert has_ended(pid)


def wait_until_it_hangs(service: StartingService) -> int:
    """The process that loads, once it has been in the graph for a while."""
    service.wait_for(lambda: service.list_events("starting"))
    started = service.list_events("worker started")
    pid: int = started[0]["pid"] if started else service.process.pid
    before = read_cpu_seconds(pid)
    service.wait_for(lambda: read_cpu_seconds(pid) > before + 0.3)
    return pid


def test_a_worker_whose_start_hangs_ends_with_its_supervisor(tmp_path: Path) -> None:
    """It has answered nobody yet, and nobody would ever know of it."""
    publish_numeric(open_store(tmp_path), model_bytes=build_endless_graph())
    flags = ("--workers", "2", "--load-timeout-s", "1000")
    with starting_service(tmp_path, "tiny", *flags) as service:
        pid = wait_until_it_hangs(service)
        assert service.stop(signal.SIGKILL) == -signal.SIGKILL
        service.wait_for(lambda: has_ended(pid))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_start_that_takes_too_long_is_given_up(tmp_path: Path, workers: str) -> None:
    """An orchestrator can only help a service that says that it cannot."""
    publish_numeric(open_store(tmp_path), model_bytes=build_endless_graph())
    code, log = refuse_to_start(tmp_path, "tiny", "--workers", workers, "--load-timeout-s", "2")
    errors = [event for event in map(json.loads, log.splitlines()) if event["level"] == "error"]
    assert code == 3, log
    assert errors[0]["code"] == "load_failed"
    assert "not loaded within 2 s" in errors[0]["event"]


def test_a_start_that_takes_too_much_memory_is_given_up(tmp_path: Path) -> None:
    """As for a version that is followed; before it has taken the memory."""
    publish_numeric(open_store(tmp_path), model_bytes=build_large_graph(200_000_000))
    code, log = refuse_to_start(tmp_path, "tiny", "--load-memory-bytes", str(512 << 20))
    assert code == 3, log
    assert "takes more memory than it may" in log


@pytest.mark.parametrize("place", ["1/manifest.json", "1/model.onnx", "aliases/production/1.json"])
def test_a_start_from_what_is_no_file_is_refused(registry: Path, place: str) -> None:
    """Opening a FIFO to read waits for a writer, whom nobody expects."""
    (odd := registry / "tiny" / place).unlink()
    os.mkfifo(odd)
    code, log = refuse_to_start(registry, "tiny")
    assert code == 3, log
    assert "no plain file" in read_error(log) or "not a plain file" in read_error(log)


def test_a_fresh_interpreter_serves_without_the_training_stack() -> None:
    """The serve environment does not have them; here they are installed, so only this would tell."""
    heavy = ("tensorflow", "keras", "onnx", "duckdb", "pyarrow", "sqlglot", "pandas")
    code = (
        "import sys, timberline.inference.server.worker, timberline.inference.server.supervisor\n"
        "import timberline.inference.__main__\n"
        f"print(sorted(set({heavy!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_help_needs_no_model(tmp_path: Path) -> None:
    """Somebody who asks how to start it has not started anything yet."""
    command = [sys.executable, "-m", "inference", "serve", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--max-body-bytes" in done.stdout


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_kubernetes_service_of_the_same_name_does_not_stop_the_start(registry: Path, workers: str) -> None:
    """Its links are in every pod of the namespace, and every pod that refuses them restarts for ever."""
    links = {
        "TIMBERLINE_SERVE_SERVICE_HOST": "10.0.0.7",
        "TIMBERLINE_SERVE_SERVICE_PORT": "8000",
        "TIMBERLINE_SERVE_PORT": "tcp://10.0.0.7:8000",
        "TIMBERLINE_SERVE_PORT_8000_TCP": "tcp://10.0.0.7:8000",
        "TIMBERLINE_SERVE_PORT_8000_TCP_PROTO": "tcp",
        "TIMBERLINE_SERVE_METRICS_PORT": "tcp://10.0.0.8:9000",
    }
    with running_service(registry, "tiny", "--workers", workers, environment=links) as service:
        assert service.predict({"rings": 40})[0] == 200
        assert service.request("GET", "/metrics")[0] == 200  # on the same port, as nobody asked for another
    environment = {**links, "TIMBERLINE_SERVE_PORTS": "8000"}
    code, log = refuse_to_start(registry, "tiny", environment=environment)
    assert code == 2
    assert "TIMBERLINE_SERVE_PORTS: no such setting" in read_error(log)
