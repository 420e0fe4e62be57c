"""A machine with git and Docker for `deploy/vm/timberline`: an origin, a home, and an engine of its own.

    with running_engine() as engine:
        machine = Machine(tmp_path, engine)
        machine.run("update"); machine.run("build"); machine.run("release"); machine.run("swap")

Everything is the real thing, with two exceptions. The image of the stages has no packages in it, which are
2.3 GB: it is the base image with the code, and the environment of the tests is mounted where it lies. And
containers have the host's network, as the engine makes no bridge.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.checkout import commit, git, write_checkout
from tests.support.engine import CLIENT, Engine
from tests.support.makefile import DEADLINE_S, QUICK_GATE

# The code and the entry point of Dockerfile.train, and none of its packages.
_STAGES = """\
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE} AS tools
WORKDIR /app
COPY src/timberline/*.py timberline/
COPY registry timberline/registry
COPY training timberline/training
COPY exporter timberline/exporter
COPY inference timberline/inference
COPY benchmarks timberline/benchmarks
COPY models models
COPY deploy/stage /usr/local/bin/stage
RUN chmod -R u=rwX,go=rX . && chmod 755 /usr/local/bin/stage
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp MODEL=forest_cover DATA=/var/timberline/data REGISTRY=/var/timberline/registry
ENTRYPOINT ["stage"]
FROM tools AS train
"""
_DOCKER = """\
#!{python}
import os, sys
words = sys.argv[1:]
with open({calls!r}, "a") as calls:
    print(*words, file=calls)
if words[0] == "build":
    words = [{stages!r} if word == "Dockerfile.train" else word for word in words]
    words[1:1] = {build!r}
if words[0] == "run" and any(word.startswith(("timberline-train", "timberline-tools")) for word in words):
    words[1:1] = {run!r}
os.execv({client!r}, [{client!r}, *words])
"""


def find_port() -> int:
    """A port that nobody has."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Machine:
    """``origin`` is pushed to by its test, ``home`` is the script's."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.origin, self.home = folder / "origin", folder / "home"
        self.port = find_port()
        self.engine = engine
        self.settings = {
            "MODEL": "forest_cover",
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "TIMBERLINE_SERVE_DRAIN_S": "0.5",
        }
        self.home.mkdir()
        write_checkout(self.origin)
        git(folder, "clone", "--quiet", str(self.origin), str(self.home / "source"))
        self.write_settings()
        self.calls = folder / "calls"  # of docker, one a line
        self._commands = folder / "commands"
        self._write_docker(folder)

    @property
    def script(self) -> Path:
        """The script of the commit that is checked out."""
        return self.home / "source" / "deploy" / "vm" / "timberline"

    @property
    def environment(self) -> dict[str, str]:
        """Of the script."""
        without_make = {k: v for k, v in self.engine.environment.items() if not k.startswith("MAKE")}
        path = f"{self._commands}{os.pathsep}{without_make['PATH']}"
        return without_make | {"TIMBERLINE_HOME": str(self.home), "PATH": path}

    @property
    def head(self) -> str:
        """The commit that is checked out."""
        return git(self.home / "source", "rev-parse", "HEAD")

    @property
    def services(self) -> list[str]:
        """Names of the containers that serve, running or not."""
        shown = self.engine.docker(
            "ps", "-a", "--filter", "label=timberline=service", "--format", "{{.Names}}"
        )
        return shown.stdout.split()

    def write_settings(self, **more: str) -> None:
        """Write the file of settings."""
        self.settings |= more
        lines = [f"{name}={value}\n" for name, value in self.settings.items()]
        (self.home / "settings").write_text("".join(lines), "utf-8")

    def push(self, subject: str) -> str:
        """A commit more in the origin, which changes nothing of the images but their name."""
        (self.origin / "CHANGELOG.md").write_text(subject, "utf-8")
        return commit(self.origin, subject)

    def calls_since(self, count: int) -> list[str]:
        """What docker was called with after the first ``count`` calls."""
        return self.calls.read_text("utf-8").splitlines()[count:] if self.calls.exists() else []

    def run(self, *words: str, code: int = 0, home: Path | None = None) -> subprocess.CompletedProcess[str]:
        """One command of the script, which ends with ``code``; in another ``home`` if one is given."""
        done = subprocess.run(
            [self.script, *words],
            env=self.environment | {"TIMBERLINE_HOME": str(home or self.home)},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == code, f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def kill_at(self, call: str, *words: str) -> None:
        """Start a command and kill it and its children when it has called docker with ``call`` in it."""
        count = len(self.calls_since(0))
        process = subprocess.Popen(
            [self.script, *words],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + DEADLINE_S
        while not any(call in line for line in self.calls_since(count)):
            assert process.poll() is None, f"{words} ended before {call}"
            assert time.monotonic() < deadline
            time.sleep(0.001)  # polls a fact with a deadline
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def remove_services(self) -> None:
        """End what still serves or works."""
        names = self.engine.docker("ps", "-aq").stdout.split()
        if names:
            self.engine.docker("rm", "--force", *names)

    def _write_docker(self, folder: Path) -> None:
        stages = folder / "Dockerfile.stages"
        stages.write_text(_STAGES, "utf-8")
        places = {sys.prefix, sys.base_prefix, str(Path(np.__file__).resolve().parents[1])}
        quick = [word for name, value in QUICK_GATE.items() for word in ("--env", f"{name}={value}")]
        mounts = [word for place in sorted(places) for word in ("-v", f"{place}:{place}:ro")]
        path = f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin"
        self._commands.mkdir()
        docker = self._commands / "docker"
        text = _DOCKER.format(
            python=sys.executable,
            calls=str(self.calls),
            stages=str(stages),
            build=self.engine.build_flags,
            run=["--network", "host", "--env", f"PATH={path}", *quick, *mounts],
            client=CLIENT,
        )
        docker.write_text(text, "utf-8")
        docker.chmod(0o755)


@contextlib.contextmanager
def machine_of(folder: Path, engine: Engine) -> Iterator[Machine]:
    """A machine whose containers are gone at the end."""
    machine = Machine(folder, engine)
    machine.remove_services()
    try:
        yield machine
    finally:
        machine.remove_services()


class Remote:
    """What `tests.support.closed_loop` asks of a service, for one in a container."""

    host = "127.0.0.1"

    def __init__(self, port: int) -> None:
        self.port = port

    def wait_for(self, fact: Callable[[], Any]) -> None:
        """Ask again until ``fact()`` holds."""
        deadline = time.monotonic() + DEADLINE_S
        while not fact():
            assert time.monotonic() < deadline
            time.sleep(0.01)  # polls a fact with a deadline
