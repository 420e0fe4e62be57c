"""ONNX Runtime as the exporter uses it: no telemetry, no extensions, a bounded number of threads."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from timberline.registry.runtime.documents import decode_json
from timberline.registry.runtime.logs import NO_TELEMETRY

os.environ.update(NO_TELEMETRY)

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from timberline.exporter.errors import ExportError

onnxruntime.disable_telemetry_events()
# For annotations elsewhere: what imports the library by itself would have to forbid its reports, too.
InferenceSession = onnxruntime.InferenceSession

_ERRORS_ONLY = 3
# From which operator set on which release is needed. tests/clients runs every kind of graph in the first; the
# others were tried by hand, on the graphs of all operators: each is the first that knows its operator set.
_OLDEST_RUNTIMES = ((17, "1.17"), (21, "1.18"), (22, "1.21"), (23, "1.23"))
# The runtime's exceptions have no base class of their own.
_REFUSALS = (
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NotImplemented,
)


def find_minimum_runtime(opset: int) -> str:
    """The oldest ONNX Runtime that computes our graphs in this operator set (17 or later): major.minor."""
    return [release for first, release in _OLDEST_RUNTIMES if first <= opset][-1]


def runtime_versions() -> dict[str, str]:
    """Version of what optimises and tries the graph, for the manifest."""
    return {"onnxruntime": str(onnxruntime.__version__)}


def open_session(model: bytes, *, threads: int) -> onnxruntime.InferenceSession:
    """Load ``model`` on the CPU with ``threads`` intra-operator threads.

    Raises:
        ExportError: the runtime refuses the model.
    """
    return _load(model, _options(threads))


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the runtime's profile: a node's has ``cat`` "Node"; start and duration in microseconds."""

    cat: str
    name: str
    ts: int
    dur: int


def profile_session(
    model: onnx.ModelProto, feeds: Mapping[str, npt.NDArray[np.generic]], *, calls: int
) -> list[Event]:
    """The events that the runtime's profiler writes while ``model`` answers ``feeds``, ``calls`` times.

    One thread, and no optimisation of the graph, so that its nodes keep their names.
    """
    with tempfile.TemporaryDirectory(prefix="timberline-") as folder:
        options = _options(1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = _load(model.SerializeToString(), options)
        for _ in range(calls):
            session.run(None, feeds)
        return decode_json(Path(session.end_profiling()).read_bytes(), list[Event])


def optimise_offline(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants and drop what does nothing; BASIC level, whose results are stock operators.

    The higher levels fuse nodes into operators of one runtime and one processor; the service
    applies those to itself when it loads the graph.
    """
    with tempfile.TemporaryDirectory(prefix="timberline-") as folder:
        path = Path(folder) / "model.onnx"
        options = _options(1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        _load(model.SerializeToString(), options)
        return onnx.load(path)


def _load(model: bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except _REFUSALS as error:
        raise ExportError(f"ONNX Runtime refuses the graph: {error}", where="model.onnx") from error


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that wait in a loop take the processor from the network that the graph is compared with.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _ERRORS_ONLY
    return options
