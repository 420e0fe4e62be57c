"""The container's health check says what the service says, finds it wherever it listens, and costs little."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.service import DEADLINE_S, ROOT, refuse_to_start, running_service

# Variables that a test of where a service listens must not inherit.
_PLACES = ("HOST", "PORT", "XDG_RUNTIME_DIR")
HEALTH = [sys.executable, "-m", "timberline.inference", "health"]


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    """A folder for state files that no other service on this machine uses, as a variable."""
    folder = tmp_path / "run"
    folder.mkdir()
    return {"TIMBERLINE_SERVE_RUNTIME_DIR": str(folder)}


def read_check() -> list[str]:
    """The image's own health check, with this interpreter."""
    (text,) = re.findall(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", (ROOT / "Dockerfile.serve").read_text(), re.M)
    program, *rest = json.loads(text)
    assert program == "python"
    return [sys.executable, *rest]


CHECK = read_check()


def list_hosts() -> list[str]:
    """Addresses to listen on: IPv6 where the machine has it."""
    hosts = ["127.0.0.1", "127.0.0.2", "0.0.0.0"]
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        hosts += ["::1", "::"]
    return hosts


def check(
    *flags: str, environment: Mapping[str, str] | None = None, command: list[str] = HEALTH
) -> tuple[int, str]:
    """Exit code and stderr of a health check."""
    inherited = {name: text for name, text in os.environ.items() if name not in _PLACES}
    done = subprocess.run(
        [*command, *flags],
        cwd=ROOT / "src",  # as in the image, where the package lies in the working folder
        env={**inherited, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def list_files(place: Mapping[str, str]) -> list[Path]:
    """The state files that are there."""
    return list(Path(place["TIMBERLINE_SERVE_RUNTIME_DIR"]).glob("timberline-*/*"))


def find_free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def test_a_ready_service_is_healthy_and_a_stopped_one_is_not(registry: Path, place: dict[str, str]) -> None:
    """An orchestrator restarts on this answer; it has to be right both ways."""
    with running_service(registry, "tiny", environment=place) as service:
        port = str(service.port)
        assert check("--port", port, environment=place) == (0, "")
        assert check("--port", port) == (0, "")  # without its file: loopback
    for environment in (place, {}):
        code, told = check("--port", port, environment=environment)
        assert code == 1
        assert f"port {port}: Connection refused" in told
    assert list_files(place) == []


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("host", list_hosts())
def test_the_check_finds_the_service_wherever_it_listens(
    registry: Path, place: dict[str, str], host: str, workers: str
) -> None:
    """A port of 0, an address of its own, IPv6: the check gets no flag, and PORT may say something else."""
    with running_service(registry, "tiny", "--host", host, "--workers", workers, environment=place):
        for command in (HEALTH, CHECK):
            assert check(environment={**place, "PORT": "1", "HOST": "10.9.9.9"}, command=command) == (0, "")
        assert len(list_files(place)) == 1
    for command in (HEALTH, CHECK):
        assert check(environment={**place, "PORT": str(find_free_port())}, command=command)[0] == 1
    assert list_files(place) == []


@pytest.mark.parametrize(
    "wanted", [{"SAGEMAKER_BIND_TO_PORT": "{}"}, {"AIP_HTTP_PORT": "{}"}, {"PORT": "{}", "HOST": "::1"}]
)
def test_without_a_file_the_check_asks_where_the_variables_say(
    registry: Path, tmp_path: Path, wanted: Mapping[str, str]
) -> None:
    """Where no folder can be written to the service still runs, and its container must not be restarted."""
    nowhere = {"TIMBERLINE_SERVE_RUNTIME_DIR": str(tmp_path / "not there")}
    variables = {name: text.format(find_free_port()) for name, text in wanted.items()}
    with running_service(registry, "tiny", environment=variables, is_bare=True):
        assert check(environment={**variables, **nowhere}) == (0, "")
    assert check(environment={**variables, **nowhere})[0] == 1


def test_of_several_services_one_has_to_be_named(registry: Path, place: dict[str, str]) -> None:
    """A check that asks the wrong one would keep a broken one running."""
    with (
        running_service(registry, "tiny", environment=place) as first,
        running_service(registry, "tiny", environment=place) as second,
    ):
        code, told = check(environment=place)
        assert code == 2
        assert str(first.port) in told
        assert str(second.port) in told
        for service in (first, second):
            assert check("--port", str(service.port), environment=place)[0] == 0
            assert check(environment={**place, "PORT": str(service.port)})[0] == 0
        first.stop()
        assert check("--port", str(first.port), environment=place)[0] == 1
        assert check(environment=place) == (0, "")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_service_is_not_healthy(registry: Path, place: dict[str, str], workers: str) -> None:
    """What it left says where it listened, and somebody else may listen there by now."""
    with running_service(registry, "tiny", "--workers", workers, environment=place) as service:
        service.expected_code = -signal.SIGKILL
        service.process.kill()
        service.wait()
        assert len(list_files(place)) == 1
        environment = {**place, "PORT": str(find_free_port())}
        assert check(environment=environment)[0] == 1
    with running_service(registry, "tiny", environment=place):
        assert len(list_files(place)) == 1
        assert check(environment=environment) == (0, "")


def test_a_service_that_drains_is_not_healthy(registry: Path, place: dict[str, str]) -> None:
    """Readiness has said no already; the check says it too, and why."""
    with running_service(registry, "tiny", "--drain-s", "60", environment=place) as service:
        service.process.send_signal(signal.SIGTERM)
        service.wait_for(lambda: service.request("GET", "/v2/health/ready")[0] == 503)
        code, told = check(environment=place)
        assert (code, "status 503" in told) == (1, True)
        service.process.send_signal(signal.SIGTERM)
        service.wait()


def test_a_folder_that_cannot_be_used_stops_the_start_only_if_it_was_asked_for(
    registry: Path, tmp_path: Path
) -> None:
    """A wrong setting is told; a link that somebody left in everybody's folder is passed by."""
    target = tmp_path / "target"
    target.mkdir()
    trap = tmp_path / f"timberline-{os.geteuid()}"
    trap.symlink_to(target)
    code, log = refuse_to_start(registry, "tiny", "--runtime-dir", str(tmp_path))
    assert (code, "--runtime-dir" in log) == (2, True)
    with running_service(registry, "tiny", environment={"XDG_RUNTIME_DIR": str(tmp_path)}) as service:
        assert check("--port", str(service.port), environment={"XDG_RUNTIME_DIR": str(tmp_path)})[0] == 0
        assert list(target.iterdir()) == []
    assert trap.is_symlink()


def list_imports(*command: str, environment: Mapping[str, str] | None = None) -> set[str]:
    """The modules that a command imports, the built-in ones too."""
    program, *rest = command
    done = subprocess.run(
        [program, "-X", "importtime", *rest],
        cwd=ROOT / "src",  # as in the image, where the package lies in the working folder
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def test_the_check_imports_next_to_nothing(registry: Path, place: dict[str, str]) -> None:
    """Imports are what a check costs: with all of the service's it was 45 times the idle service."""
    ours = {"timberline", "timberline.inference", "timberline.inference.server"}
    ours.add("timberline.inference.server.probe")
    with running_service(registry, "tiny", environment=place):
        found = list_imports(*read_check(), environment=place)
        assert found - list_imports(sys.executable, "-S", "-E", "-c", "pass") == {
            *ours,
            "__future__",
            "_socket",
        }
        found = list_imports(*HEALTH, environment=place)
        assert found - list_imports(sys.executable, "-c", "import runpy") - {"__future__", "pkgutil"} <= {
            *(*ours, "_socket", "timberline.inference.__main__")
        }


def test_a_mistake_in_the_flags_is_told_by_the_real_parser() -> None:
    """The short way understands what is right; what is not gets the same words as everywhere."""
    assert check("--port", "99999")[0] == 1
    code, told = check("--prot", "1")
    assert code == 2
    assert "usage: python -m inference" in told
