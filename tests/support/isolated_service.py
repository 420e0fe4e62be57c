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
import socket
import struct
import sys
from pathlib import Path

from tests.support.service import running_service

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


def main() -> int:
    """Print one JSON line; see the module."""
    bring_loopback_up()
    answered = 0
    with (
        running_service(Path(sys.argv[1]), "tiny") as service,
        contextlib.closing(service.connect()) as client,
    ):
        for _ in range(1000):
            client.request("POST", "/predict", b'{"rings": 40}')
            response = client.getresponse()
            answered += response.status == 200 and bool(response.read())
    print(json.dumps({"answered": answered, "outgoing": count_outgoing()}))
    return 0


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
