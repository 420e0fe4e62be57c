"""S3 servers on loopback, for as long as a block runs: a real one, a quick one, and two that are half of one.

- `serve_s3`: SeaweedFS, with one account. It keeps all conditions, makes a bucket of whatever is put, and
  takes five seconds and 150 MB.
- `serve_moto`: keeps all conditions and asks for no account, in memory.
- `serve_rclone`: ignores both conditions.
- `serve_localbucket`: ignores If-Match.

Bucket names have three letters or more. `S3Server.process` freezes, kills and starts a server again.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore

from timberline.registry.bucket import open_client

# Below are those that programs are known by.
_FIRST_PORT = 12_000
_READY_DEADLINE_S = 90.0
_REGION = "us-east-1"


class ServerProcess:
    """A server's process, which may be started more than once on the same ports and data."""

    def __init__(self, command: Sequence[str], folder: Path, ready_url: str) -> None:
        self._command = list(command)
        self._folder = folder
        self._ready_url = ready_url
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as out:
            # In a folder of its own, without settings of whoever runs the tests.
            environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(self._folder)}
            self._process = subprocess.Popen(
                self._command, stdout=out, stderr=subprocess.STDOUT, cwd=self._folder, env=environment
            )
        self._wait_until_ready()

    def freeze(self) -> None:
        """Its connections stay open, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once: an orderly end of SeaweedFS takes half a minute, and is no test."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _READY_DEADLINE_S
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            with contextlib.suppress(OSError):
                try:
                    with direct.open(self._ready_url, timeout=2):
                        return
                except urllib.error.HTTPError as error:
                    error.close()
                    if error.code < 500:
                        return
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = self._log.read_text(errors="replace")[-3000:]
                raise AssertionError(f"the S3 server is not ready:\n{log}")
            threading.Event().wait(0.05)


@dataclass(frozen=True)
class S3Server:
    """Where it is and who may use it; ``environment`` says so in the standard variables.

    ``is_open`` says that any account will do.
    """

    endpoint: str
    access_key: str
    secret_key: str
    process: ServerProcess
    is_open: bool

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": _REGION,
            "NO_PROXY": "127.0.0.1",
        }

    def open(self, url: str) -> Any:
        """obstore's client of a bucket of this server."""
        return open_client(url, self.environment)

    def make_bucket(self, name: str) -> str:
        """Make an empty bucket, and return its URL."""
        url = f"s3://{name}"
        if self.is_open:
            request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(request, timeout=30):
                pass
        else:  # SeaweedFS makes one for the first object that is put
            obstore.put(self.open(url), "first", b"")
            obstore.delete(self.open(url), "first")
        return url


@contextlib.contextmanager
def serve_s3(
    folder: Path, *, access_key: str = "tester", secret_key: str, volume_count: int = 200
) -> Iterator[S3Server]:
    """SeaweedFS over ``folder`` on free ports.

    Args:
        volume_count: of 64 MB each, of which a bucket takes about seven; with few it is soon full.
    """
    master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc = _free_ports(8)
    account = {"accessKey": access_key, "secretKey": secret_key}
    identity = {"name": access_key, "credentials": [account], "actions": ["Admin", "Read", "Write", "List"]}
    settings = folder / "s3.json"
    settings.write_text(json.dumps({"identities": [identity]}))
    (folder / "store").mkdir()
    options = {
        "dir": folder / "store",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        "master.electionTimeout": "1s",  # of one candidate; with the default it takes 16 s to start again
        "master.volumeSizeLimitMB": 64,
        "master.port": master,
        "master.port.grpc": master_grpc,
        "volume.max": volume_count,
        "volume.port": volume,
        "volume.port.grpc": volume_grpc,
        "filer.port": filer,
        "filer.port.grpc": filer_grpc,
        "s3.port": s3,
        "s3.port.grpc": s3_grpc,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.config": settings,
    }
    command = [_program("weed"), "server", "-s3", *(f"-{name}={value}" for name, value in options.items())]
    with _running(command, folder, s3, access_key, secret_key, ready="/healthz") as server:
        yield server


def serve_moto(folder: Path) -> AbstractContextManager[S3Server]:
    """moto, which keeps what it is given in memory; any account will do."""
    (port,) = _free_ports(1)
    command = [_program("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    return _running(command, folder, port)


def serve_rclone(folder: Path) -> AbstractContextManager[S3Server]:
    """``rclone serve s3``; a bucket is a folder in ``folder/store``."""
    (folder / "store").mkdir()
    (port,) = _free_ports(1)
    store = str(folder / "store")
    command = [_program("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--config=", store]
    return _running(command, folder, port)


def serve_localbucket(folder: Path) -> AbstractContextManager[S3Server]:
    """localbucket; a bucket is a folder in ``folder/store``."""
    (port,) = _free_ports(1)
    command = [_program("localbucket"), "--host", "127.0.0.1", "--port", str(port), str(folder / "store")]
    return _running(command, folder, port)


@contextlib.contextmanager
def _running(
    command: Sequence[str],
    folder: Path,
    port: int,
    access_key: str = "anybody",
    secret_key: str = "",
    *,
    ready: str = "/",
) -> Iterator[S3Server]:
    endpoint = f"http://127.0.0.1:{port}"
    process = ServerProcess(command, folder, f"{endpoint}{ready}")
    try:
        process.start()
        yield S3Server(endpoint, access_key, secret_key or "any", process, is_open=not secret_key)
    finally:
        process.kill()


def _program(name: str) -> str:
    """One that a package has put beside this Python."""
    return str(Path(sys.executable).with_name(name))


def _free_ports(count: int) -> list[int]:
    """Free now, and none that the system gives to clients.

    One of those may be taken by any connection before a server has it, or while it is started again. They are
    held together while they are picked, so that they differ.
    """
    first_of_clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            held = stack.enter_context(socket.socket())
            port = _FIRST_PORT + secrets.randbelow(max(first_of_clients - _FIRST_PORT, 1000))
            with contextlib.suppress(OSError):  # it is taken
                held.bind(("127.0.0.1", port))
                found.append(port)
    return found


def main() -> None:
    """``python -m tests.support.s3_server FOLDER``: serve until stdin ends.

    When it is ready, the variables of its account are one line of JSON on stdout.
    """
    with serve_s3(Path(sys.argv[1]), secret_key=secrets.token_hex(16)) as server:
        print(json.dumps(server.environment), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
