"""A container engine of the tests' own: Debian's dockerd with a data root and a socket of its own.

    with running_engine() as engine:
        engine.build("Dockerfile.serve", "timberline-serve")
        engine.docker("run", "--rm", "--network", "host", "timberline-serve", "help")

It makes no bridge and no firewall rule, so that nothing of the machine changes: containers have the host's
network or none. Images stay between runs, in ``$XDG_CACHE_HOME/timberline/engine``; one process has the
engine at a time.

The base image stands for ``python:3.11-slim-bookworm``, which is not to be had without a registry: Debian
12's own Python on mmdebstrap's smallest root. What pip needs of this machine to reach an index (its
configuration and its certificates) is mounted into the steps of a build that install, and is in no layer.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
BASE = "docker.io/library/python:3.11-slim-bookworm"
CLIENT = "/usr/bin/docker"  # Debian's 20.10 has BuildKit in itself; newer ones want a plugin
START_S = 60.0
# What has no hard limit below: a container may not have more files than this process.
FILES = 4096
SECRETS: Mapping[str, Path] = {
    "pip.conf": Path("/etc/pip.conf"),
    "ca.crt": Path("/etc/ssl/certs/ca-certificates.crt"),
}
# Run by mmdebstrap in this order. Sources and caches of apt are emptied: no mirror's name is in an image.
BASE_HOOKS = (
    'rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
    'ln -s /usr/bin/python3 "$1"/usr/local/bin/python3; ln -s python3 "$1"/usr/local/bin/python',
    'rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* "$1"/var/lib/apt/lists/*'
    ' "$1"/var/cache/apt/* "$1"/var/log/* "$1"/var/cache/ldconfig "$1"/etc/.pwd.lock;'
    # As official images: no compiled files.
    ' find "$1"/usr/lib/python3* -name __pycache__ -prune -exec rm -r {} +;'
    # Engines mount their own over these, and would make and remove what is not there at every step.
    ' : > "$1"/etc/resolv.conf; : > "$1"/etc/hostname; : > "$1"/etc/hosts',
)


def cache_folder() -> Path:
    """Where what takes minutes to make is kept between runs, outside of the tree."""
    home = os.environ.get("XDG_CACHE_HOME") or f"{Path.home()}/.cache"
    return Path(home) / "timberline"


def list_secrets(secrets: Mapping[str, Path]) -> list[str]:
    """Flags that show files to the steps of a build, as far as they are there."""
    return [f"--secret=id={name},src={path}" for name, path in secrets.items() if path.is_file()]


class Engine(NamedTuple):
    """A running dockerd."""

    socket: Path

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which `make images`, docker-compose and a script reach this engine."""
        # Debian's client comes first: a newer one that lies elsewhere cannot build without a plugin.
        path = os.pathsep.join(["/usr/bin", os.environ["PATH"]])
        # What a make that runs the tests was given is not for a make that they run.
        given = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        return {
            **given,
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_BUILDKIT": "1",
            "DOCKER_CONFIG": str(self.socket.parent / "client"),
            "PATH": path,
        }

    @property
    def build_flags(self) -> list[str]:
        """What a build needs to reach the package index as this machine does."""
        return ["--network", "host", *list_secrets(SECRETS)]

    def docker(
        self, *words: str | Path, check: bool = True, timeout_s: float = 600.0
    ) -> subprocess.CompletedProcess[str]:
        """One command of the client; with ``check`` it must end with 0."""
        done = subprocess.run(
            [CLIENT, *map(str, words)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert not check or done.returncode == 0, (
            f"docker {' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """One command of the client that goes on, its output in a pipe."""
        return subprocess.Popen(
            [CLIENT, *map(str, words)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def build(
        self,
        dockerfile: str,
        tag: str,
        *words: str,
        context: Path = ROOT,
        secrets: Mapping[str, Path] = SECRETS,
        timeout_s: float = 3600.0,
    ) -> None:
        """Build ``dockerfile`` of ``context`` as ``tag``; ``words`` are more flags."""
        self.docker(
            "build",
            "--network",
            "host",
            *list_secrets(secrets),
            *words,
            "-f",
            context / dockerfile,
            "-t",
            tag,
            context,
            timeout_s=timeout_s,
        )

    def inspect(self, image: str) -> dict[str, Any]:
        """What the engine says of an image."""
        (found,) = json.loads(self.docker("image", "inspect", image).stdout)
        return dict(found)

    def ask(self, path: str) -> Any:
        """The JSON behind a ``path`` of the engine's interface, which says more than its client prints."""
        connection = http.client.HTTPConnection("engine")
        connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(connection):
            connection.sock.connect(str(self.socket))
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())

    def has(self, image: str) -> bool:
        """Whether the engine has an image of this name."""
        return self.docker("image", "inspect", image, check=False).returncode == 0

    def make_base(self) -> None:
        """Make the base image, unless it is there: about a minute."""
        if self.has(BASE):
            return
        archive = self.socket.parent / "base.tar"
        hooks = [f"--customize-hook={hook}" for hook in BASE_HOOKS]
        paths = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
        packages = "--include=python3,python3-pip,python3-venv,ca-certificates"
        command = ["mmdebstrap", "-q", "--variant=minbase", packages, *paths, *hooks]
        sources = sorted(Path("/etc/apt/sources.list.d").glob("debian*.sources"))
        command += ["bookworm", str(archive), *map(str, sources or [Path("/etc/apt/sources.list")])]
        subprocess.run(command, check=True, capture_output=True, timeout=1200)
        self.docker("import", "--change", 'CMD ["python3"]', archive, BASE)
        archive.unlink()


@contextlib.contextmanager
def running_engine(environment: Mapping[str, str] | None = None) -> Iterator[Engine]:
    """A dockerd with the base image in it, until the block ends; waits for another process that has it.

    ``environment`` is added to its own: a driver of logs finds its account there.
    """
    folder = cache_folder() / "engine"
    (folder / "client").mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [
                    shutil.which("dockerd", path="/usr/sbin:/usr/bin") or "dockerd",
                    f"--data-root={folder / 'data'}",
                    f"--exec-root={folder / 'exec'}",
                    f"--pidfile={folder / 'pid'}",
                    f"--host=unix://{folder / 'docker.sock'}",
                    "--iptables=false",
                    "--ip-forward=false",
                    "--bridge=none",
                    f"--default-ulimit=nofile={FILES}:{FILES}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )
        try:
            engine = Engine(folder / "docker.sock")
            deadline = time.monotonic() + START_S
            while engine.docker("version", check=False).returncode:
                ended = process.poll() is not None or time.monotonic() > deadline
                assert not ended, (folder / "log").read_text("utf-8")
                time.sleep(0.1)  # polls a fact with a deadline
            engine.make_base()
            yield engine
        finally:
            process.terminate()
            process.wait(60)
