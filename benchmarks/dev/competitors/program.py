"""What every competitor's program has: its arguments, its announcement, a version's files.

A version's files are read as any other program would: the graph, and the manifest's JSON. Nothing of ours is
imported, and ONNX Runtime only where a graph is opened: each program runs in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# ONNX Runtime's builds report their usage unless this is set before it is imported; releases differ.
os.environ.update(ORT_DISABLE_TELEMETRY="1", ORT_TELEMETRY_DISABLED="1")


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
    """Write on stdout where ``name`` is served: the line that our own service writes."""
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


@dataclass(frozen=True)
class ServedGraph:
    """A version whose columns are all numbers; ``columns`` are the manifest's, in order."""

    session: Any
    columns: tuple[dict[str, Any], ...]
    classes: tuple[dict[str, str], ...]


def open_version(folder: Path) -> ServedGraph:
    """Load ``model.onnx`` and ``manifest.json`` of ``folder``; one thread a Run that does not spin."""
    import onnxruntime as ort  # noqa: PLC0415  (not there for the no-ops, and in no environment but theirs)

    signature = json.loads((folder / "manifest.json").read_bytes())["signature"]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return ServedGraph(session, tuple(signature["columns"]), tuple(signature["classes"]))
