"""A service for other people's data talks to nobody who did not ask it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from registry.store import open_store
from tests.support.isolated_service import ask_often, read_counter, swap
from tests.support.service import DEADLINE_S, ROOT, running_service
from tests.support.tiny_model import publish_numeric

# Python runs a module of this name before anything else; this one writes down every connection,
# datagram and look-up that Python code is about to make.
WITNESS = """
import os, sys
OUTGOING = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
            "socket.gethostbyname", "socket.gethostbyaddr", "urllib.Request", "http.client.connect"}
def witness(event, arguments):
    if event in OUTGOING:
        with open(os.environ["WITNESS"], "a") as file:
            file.write(f"{event} {arguments[1:]!r}\\n")
sys.addaudithook(witness)
"""


def test_the_kernel_counts_no_packet_in_a_thousand_requests(tmp_path: Path) -> None:
    """Whatever sends it, library or program: where the kernel allows it the service runs in a network
    of its own that ends at loopback, over large requests and a swap, and the kernel is asked."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rn", "true"], check=False).returncode:
        pytest.skip("no network namespaces here")
    publish_numeric(open_store(tmp_path))
    script = ROOT / "tests" / "support" / "isolated_service.py"
    done = subprocess.run(
        ["unshare", "-rn", sys.executable, str(script), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"answered": 1000, "outgoing": 0}


def test_the_kernel_does_count_datagrams() -> None:
    """A counter that never moves would prove nothing."""
    before = read_counter("Udp:", "OutDatagrams")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", 9))  # the discard port; whether anybody listens is no matter
    assert read_counter("Udp:", "OutDatagrams") > before


def test_python_opens_no_connection_in_a_thousand_requests(tmp_path: Path) -> None:
    """The same where namespaces are forbidden, as far as Python's own audit events see."""
    publish_numeric(open_store(tmp_path / "registry"))
    site, seen = tmp_path / "site", tmp_path / "seen"
    site.mkdir()
    (site / "sitecustomize.py").write_text(WITNESS, "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(site), "WITNESS": str(seen)}
    knock = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    subprocess.run([sys.executable, "-c", knock], env=environment, check=True)
    assert seen.read_text("utf-8").startswith("socket.connect"), "the witness sees nothing"
    seen.unlink()
    with running_service(
        tmp_path / "registry", "tiny", "--watch-s", "0.05", environment=environment
    ) as service:
        assert ask_often(service, 500) == 500
        swap(service, tmp_path / "registry")
        assert ask_often(service, 500) == 500
    assert not seen.exists(), seen.read_text("utf-8")
