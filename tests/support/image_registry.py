"""A registry of images on loopback: Debian's docker-registry, which keeps what is pushed in a folder.

with serve_images(folder) as host:      # 127.0.0.1:12345
    engine.docker("push", f"{host}/name:tag")
"""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.containers import find_port
from tests.support.service import DEADLINE_S

_SETTINGS = """
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: {folder}/store}}}}
http: {{addr: "{host}"}}
"""


@contextlib.contextmanager
def serve_images(folder: Path, port: str | int = 0) -> Iterator[str]:
    """Host and port of a registry that is there until the block ends; without ``port`` on a free one."""
    host = f"127.0.0.1:{port or find_port()}"
    settings = folder / "registry.yml"
    settings.write_text(_SETTINGS.format(folder=folder, host=host), "utf-8")
    with (folder / "registry.log").open("w") as log:
        process = subprocess.Popen(["docker-registry", "serve", settings], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not _answers(host):
            ended = process.poll() is not None or time.monotonic() > deadline
            assert not ended, (folder / "registry.log").read_text("utf-8")
            time.sleep(0.05)  # polls a fact with a deadline
        yield host
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def _answers(host: str) -> bool:
    with contextlib.closing(http.client.HTTPConnection(host, timeout=5)) as connection:
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status == 200
        except OSError:
            return False
