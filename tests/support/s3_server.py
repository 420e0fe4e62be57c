"""A real S3 server (SeaweedFS) on loopback, with one account, for as long as a block runs."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.store import S3Store

_READY_DEADLINE_S = 90.0


@dataclass(frozen=True)
class S3Server:
    """Where it is and who may use it; ``environment`` says so in the standard variables."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
        }

    def make_bucket(self, name: str) -> None:
        """Make an empty bucket; this server makes one for the first object that is put."""
        store = S3Store(
            name,
            endpoint=self.endpoint,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            region="us-east-1",
            client_options={"allow_http": True},
        )
        obstore.put(store, "first", b"")
        obstore.delete(store, "first")


@contextlib.contextmanager
def serve_s3(folder: Path, *, access_key: str = "tester", secret_key: str) -> Iterator[S3Server]:
    """Start a server over ``folder`` on free ports and stop it at the end of the block."""
    master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc = _free_ports(8)
    account = {"accessKey": access_key, "secretKey": secret_key}
    identity = {"name": access_key, "credentials": [account], "actions": ["Admin", "Read", "Write", "List"]}
    settings = folder / "s3.json"
    settings.write_text(json.dumps({"identities": [identity]}))
    (folder / "store").mkdir()
    weed = Path(sys.executable).with_name("weed")
    options = {
        "dir": folder / "store",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 64,
        "master.port": master,
        "master.port.grpc": master_grpc,
        "volume.max": 200,  # a bucket takes about seven volumes
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
    command = [str(weed), "server", "-s3", *(f"-{name}={value}" for name, value in options.items())]
    log = folder / "weed.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=folder)
        try:
            server = S3Server(f"http://127.0.0.1:{s3}", access_key, secret_key)
            _wait_until_ready(f"{server.endpoint}/healthz", process, log)
            yield server
        finally:
            process.kill()  # its orderly end takes half a minute, and the data goes away anyway
            process.wait()


def _free_ports(count: int) -> list[int]:
    """Free now; held together while they are picked, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [held.getsockname()[1] for held in sockets]


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _READY_DEADLINE_S
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        with contextlib.suppress(OSError), direct.open(url, timeout=2):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the S3 server is not ready:\n{log.read_text(errors='replace')[-3000:]}")
        threading.Event().wait(0.1)
