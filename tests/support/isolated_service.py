"""Run a service in a network that ends at loopback, ask it 1,000 times, print what it tried to send out.

Called as ``unshare -rn python tests/support/isolated_service.py REGISTRY``. In a namespace with no
route but loopback every attempt to reach another machine is counted by the kernel as a packet without
a route, and every attempt to look its name up as a datagram (/proc/net/snmp).
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import DEADLINE_S, ROOT, RunningService, running_service
from tests.support.tiny_model import publish_numeric
from timberline.registry.runtime.logs import NO_TELEMETRY
from timberline.registry.store import open_store

# Where onnxruntime would report its usage: without the switches, and not in what it takes for a CI run
# (read from its library, 1.31), in which it reports nothing and a test would prove nothing.
REPORTING = dict.fromkeys(
    [
        *NO_TELEMETRY,
        *("CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "TRAVIS", "JENKINS_URL"),
        *("CODEBUILD_BUILD_ID", "BUILDKITE", "TEAMCITY_VERSION", "APPVEYOR", "BITBUCKET_BUILD_NUMBER"),
    ],
    "",
)

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
# Every tenth request has so many rows that it is worked on in a thread.
_MANY = json.dumps({"instances": [[12.5, 40, False, None]] * 500}).encode()
_ONE = b'{"rings": 40}'


def main() -> int:
    """Print one JSON line; see the module."""
    bring_loopback_up()
    registry = Path(sys.argv[1])
    with running_service(registry, "tiny", "--watch-s", "0.05", environment=REPORTING) as service:
        answered = ask_often(service, 500)
        swap(service, registry)
        answered += ask_often(service, 500)
    print(json.dumps({"answered": answered, "outgoing": count_outgoing()}))
    return 0


def run_isolated(script: str, flags: str, *arguments: Path) -> Any:
    """The JSON that a script of tests/support prints in namespaces of its own; skips where there are none."""
    unshare = ["unshare", flags]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("no namespaces here")
    done = subprocess.run(
        [*unshare, sys.executable, ROOT / "tests" / "support" / script, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ask_often(service: RunningService, times: int) -> int:
    """How many of ``times`` requests, small and large ones, were answered with 200."""
    answered = 0
    with contextlib.closing(service.connect()) as client:
        for number in range(times):
            client.request("POST", "/predict", _ONE if number % 10 else _MANY)
            response = client.getresponse()
            answered += response.status == 200 and bool(response.read())
    return answered


def swap(service: RunningService, registry: Path) -> None:
    """Publish the next version, and wait until it is the one that answers."""
    version = publish_numeric(open_store(registry))
    deadline = time.monotonic() + DEADLINE_S
    while service.get_json("/")["version"] != version:
        assert time.monotonic() < deadline, service.log


def bring_loopback_up() -> None:
    """What ``ip link set lo up`` does, without needing the program."""
    request = array.array("B", struct.pack("16sh14x", b"lo", _IFF_UP))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def count_outgoing() -> int:
    """Packets of this network that had no way out, and datagrams of any kind (names are asked by them)."""
    return read_counter("Ip:", "OutNoRoutes") + read_counter("Udp:", "OutDatagrams")


def read_counter(protocol: str, name: str) -> int:
    """A counter of /proc/net/snmp, which has a line of names and a line of values for each protocol."""
    lines = Path("/proc/net/snmp").read_text("ascii").splitlines()
    names, values = (line.split() for line in lines if line.startswith(protocol))
    return int(dict(zip(names, values, strict=True))[name])


if __name__ == "__main__":
    sys.exit(main())
