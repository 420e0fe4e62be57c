"""Graphs computed by another release of ONNX Runtime, in a process of its own.

Reads {"folder"} from its argument: of every ``<name>.onnx`` in it ``<name>.json`` lists what it is to be
asked, each by input. Prints {"version", "answers"}: by name, of every question the outputs as lists, or why
the graph is refused. Knows nothing of this project.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

KINDS = {"tensor(double)": np.float64, "tensor(float)": np.float32, "tensor(string)": object}


def compute(graph: Path) -> list[dict[str, Any]] | str:
    """What the graph answers, or why it does not load."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no base class of their own
        return str(error)
    kinds = {entry.name: KINDS[entry.type] for entry in session.get_inputs()}
    names = [entry.name for entry in session.get_outputs()]
    answers = []
    for question in json.loads(graph.with_suffix(".json").read_text("utf-8")):
        found = session.run(names, {name: np.array(question[name], kind) for name, kind in kinds.items()})
        answers.append({name: values.tolist() for name, values in zip(names, found, strict=True)})
    return answers


if __name__ == "__main__":
    folder = Path(json.loads(sys.argv[1])["folder"])
    told = {path.stem: compute(path) for path in sorted(folder.glob("*.onnx"))}
    print(json.dumps({"version": onnxruntime.__version__, "answers": told}))
