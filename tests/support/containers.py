"""Containers of a real engine, for as long as a block runs.

    with serving(engine, registry) as container:
        container.service.predict({"rings": 40})
        engine.docker("stop", "-t", "40", container.name)

A service listens on a free port of this machine, with every right taken from it that it can do without.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support.engine import CLIENT, ROOT, Engine
from tests.support.service import RunningService, running_command

SERVE, TOOLS, TRAIN = IMAGES = ("timberline-serve", "timberline-tools", "timberline-train")
# As docs/how-to/containers.md runs it, and a number of a user that no image knows, as OpenShift gives.
HARDENED = (
    *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--user", "1234567:0", "--pids-limit", "64"),
)


class Container(NamedTuple):
    """A running service."""

    engine: Engine
    name: str
    service: RunningService

    def exec(self, *command: str) -> tuple[int, str]:
        """Exit code and output of a command in the container."""
        done = self.engine.docker("exec", self.name, *command, check=False)
        return done.returncode, done.stdout + done.stderr

    def read_state(self, template: str) -> str:
        """A value that the engine knows of it, as in ``{{.State.OOMKilled}}``."""
        return self.engine.docker("inspect", "-f", template, self.name).stdout.strip()

    def read_cpu_ns(self) -> int:
        """Processor time that all its processes have used so far."""
        stats = self.engine.ask(f"/containers/{self.name}/stats?stream=false&one-shot=true")
        return int(stats["cpu_stats"]["cpu_usage"]["total_usage"])


@contextlib.contextmanager
def serving(
    engine: Engine,
    registry: Path,
    *flags: str,
    model: str = "tiny",
    network: str = "host",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Container]:
    """The serve image on ``registry``; ``flags`` are more for the engine."""
    name = f"serve-{secrets.token_hex(4)}"
    given = {"MODEL": model, "HOST": "127.0.0.1", "PORT": f"{find_port()}", **(environment or {})}
    command: list[str | Path] = [
        CLIENT,
        "run",
        "--rm",
        "--name",
        name,
        "--network",
        network,
        *HARDENED,
        *flags,
    ]
    command += [f"--env={key}={value}" for key, value in given.items()]
    command += ["-v", f"{registry}:/registry:ro", SERVE]
    try:
        with running_command(command, engine.environment) as service:
            yield Container(engine, name, service)
    finally:
        engine.docker("rm", "-f", name, check=False)


def make_images(engine: Engine) -> None:
    """`make images` of this checkout; what has not changed is not built again."""
    command = ["make", "images", f"BUILD_FLAGS={shlex.join(engine.build_flags)}"]
    done = subprocess.run(
        command, cwd=ROOT, env=engine.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def find_port() -> int:
    """A port that is free now."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
