"""A service for other people's data talks to nobody who did not ask it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.isolated_service import REPORTING, ask_often, read_counter, run_isolated, swap
from tests.support.roles import PARTS, list_imports
from tests.support.service import ROOT, running_service

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


def list_modules_with_onnxruntime() -> list[str]:
    """Our modules that load onnxruntime themselves; tf2onnx loads it too."""
    loaders = {"onnxruntime", "tf2onnx"}
    sources = ROOT / "src"
    files = [path for part in PARTS for path in sorted((sources / "timberline" / part).rglob("*.py"))]
    files += sorted((ROOT / "tests" / "support").glob("*.py"))
    found = [
        path for path in files if loaders & {module.partition(".")[0] for module, _ in list_imports(path)}
    ]
    homes = [(path, sources if path.is_relative_to(sources) else ROOT) for path in found]
    return [".".join(path.relative_to(home).with_suffix("").parts) for path, home in homes]


def test_the_kernel_counts_no_packet_in_a_thousand_requests(registry: Path) -> None:
    """Whatever sends it, library or program: where the kernel allows it the service runs in a network
    of its own that ends at loopback, over large requests and a swap, and the kernel is asked."""
    assert run_isolated("isolated_service.py", "-rn", registry) == {"answered": 1000, "outgoing": 0}


def test_the_kernel_does_count_datagrams() -> None:
    """A counter that never moves would prove nothing."""
    before = read_counter("Udp:", "OutDatagrams")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", 9))  # the discard port; whether anybody listens is no matter
    assert read_counter("Udp:", "OutDatagrams") > before


def test_python_opens_no_connection_in_a_thousand_requests(registry: Path, tmp_path: Path) -> None:
    """The same where namespaces are forbidden, as far as Python's own audit events see."""
    site, seen = tmp_path / "site", tmp_path / "seen"
    site.mkdir()
    (site / "sitecustomize.py").write_text(WITNESS, "utf-8")
    environment = {**os.environ, **REPORTING, "PYTHONPATH": str(site), "WITNESS": str(seen)}
    knock = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    subprocess.run([sys.executable, "-c", knock], env=environment, check=True)
    assert seen.read_text("utf-8").startswith("socket.connect"), "the witness sees nothing"
    seen.unlink()
    with running_service(registry, "tiny", "--watch-s", "0.05", environment=environment) as service:
        assert ask_often(service, 500) == 500
        swap(service, registry)
        assert ask_often(service, 500) == 500
    assert not seen.exists(), seen.read_text("utf-8")


def record_usage(folder: Path, code: str) -> list[Path]:
    """What onnxruntime leaves in an empty home folder, where it would report its usage, of Python code."""
    environment = {**os.environ, **REPORTING, "HOME": str(folder), "XDG_CACHE_HOME": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [path for path in folder.rglob("*") if "onnxruntime" in path.as_posix().lower()]


def test_onnxruntime_does_record_usage_where_it_is_not_forbidden(tmp_path: Path) -> None:
    """Its reports begin with a device number in the user's cache, at once, where a packet takes ten
    seconds: where that file is no sign of them any more, the tests below prove nothing."""
    assert [path.name for path in record_usage(tmp_path, "import onnxruntime") if path.name == "deviceid"]


@pytest.mark.parametrize("module", list_modules_with_onnxruntime())
def test_no_usage_is_recorded_by_what_imports_onnxruntime(module: str, tmp_path: Path) -> None:
    """The service, and each of its siblings as the first to load the library in its process."""
    switches = {"ORT_DISABLE_TELEMETRY": "1", "ORT_TELEMETRY_DISABLED": "1"}  # releases differ
    code = f"import os, {module}; assert {switches}.items() <= os.environ.items()"
    assert record_usage(tmp_path, code) == []


def test_no_usage_of_the_service_is_recorded(registry: Path, tmp_path: Path) -> None:
    """The same of the whole program, over a prediction."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**REPORTING, "HOME": str(home), "XDG_CACHE_HOME": ""}
    with running_service(registry, "tiny", environment=environment) as service:
        assert service.predict({"rings": 40})[0] == 200
    assert list(home.rglob("*")) == []
