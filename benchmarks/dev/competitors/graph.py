"""A version's files as any other program would read them: the graph, and the manifest's JSON."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timberline.registry.runtime.logs import NO_TELEMETRY

os.environ.update(NO_TELEMETRY)  # no rival is measured while it reports home

import onnxruntime as ort


@dataclass(frozen=True)
class ServedGraph:
    """A version whose columns are all numbers; ``columns`` are the manifest's, in order."""

    session: Any
    columns: tuple[dict[str, Any], ...]
    classes: tuple[dict[str, str], ...]


def open_version(folder: Path) -> ServedGraph:
    """Load ``model.onnx`` and ``manifest.json`` of ``folder``; one thread a Run that does not spin."""
    signature = json.loads((folder / "manifest.json").read_bytes())["signature"]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return ServedGraph(session, tuple(signature["columns"]), tuple(signature["classes"]))
