"""What every rival says on stdout when it listens: the line that our own service writes."""

from __future__ import annotations

import argparse
import json
import socket
import sys


def parse_arguments(text: str | None, **more: dict[str, object]) -> argparse.Namespace:
    """``--name model@version`` and ``more`` flags (with the arguments of ``add_argument``)."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--name", required=True, metavar="MODEL@VERSION")
    for flag, options in more.items():
        parser.add_argument(f"--{flag.replace('_', '-')}", **options)  # type: ignore[arg-type]
    return parser.parse_args()


def listen() -> socket.socket:
    """A listening socket on a free port of the loopback address; who connects early has to wait."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    listener.setblocking(False)
    return listener


def announce(port: int, name: str) -> None:
    """Say where ``name`` is served."""
    model, _, version = name.partition("@")
    line = {
        "event": "listening",
        "host": "127.0.0.1",
        "port": port,
        "model": model,
        "version": int(version),
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
