"""A version is one file whose digest was checked: nothing else is read, and no code is run, to load it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, load_from_string, numpy_helper

from tests.support.tiny_model import CLASSES, NUMERIC_COLUMNS, NUMERIC_ROWS, build_graph
from timberline.inference.errors import SignatureMismatchError
from timberline.inference.session import Session
from timberline.registry.signature import build_signature

ROOT = Path(__file__).resolve().parents[3]
SIGNATURE = build_signature(NUMERIC_COLUMNS, CLASSES)
WEIGHTS = "weights.bin"
# What makes objects, or code, of bytes that somebody else wrote.
LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "register_custom_ops_library", "fromfile", "memmap"}


def read_tiny() -> ModelProto:
    """The tiny graph, to be changed."""
    return load_from_string(build_graph(NUMERIC_COLUMNS))


def move_weights_out(location: str, folder: Path) -> bytes:
    """The tiny graph with its weights in a file of ``folder``, which the graph finds at ``location``."""
    model = read_tiny()
    (tensor,) = (t for t in model.graph.initializer if t.name == "weights")
    (folder / WEIGHTS).write_bytes(numpy_helper.to_array(tensor).astype(np.float32).tobytes())
    for field in ("raw_data", "float_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("location", [WEIGHTS, "../{name}/" + WEIGHTS, "{folder}/" + WEIGHTS])
def test_weights_outside_of_the_graph_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    """The file is there, in the working directory even, and fits: but no digest covers it."""
    graph = move_weights_out(location.format(name=tmp_path.name, folder=tmp_path), tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SignatureMismatchError, match=r"^tiny@1: .*External data path"):
        Session(graph, SIGNATURE, where="tiny@1")


def test_weights_at_an_address_are_refused() -> None:
    """The runtime's mark for data in memory would make it read at an address that the file names."""
    model = read_tiny()
    (tensor,) = (t for t in model.graph.initializer if t.name == "weights")
    for field in ("raw_data", "float_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "*/_ORT_MEM_ADDR_/*"), ("offset", "4096"), ("length", "48")):
        tensor.external_data.add(key=key, value=value)
    with pytest.raises(SignatureMismatchError, match=r"^tiny@1: ONNX Runtime cannot load"):
        Session(model.SerializeToString(), SIGNATURE, where="tiny@1")


def test_operators_of_somebody_else_are_refused() -> None:
    """They would come in a library, which is code; the message names the operator."""
    model = read_tiny()
    model.graph.node[0].domain = "somebody.else"
    model.opset_import.append(helper.make_opsetid("somebody.else", 1))
    with pytest.raises(SignatureMismatchError, match=r"somebody\.else:Cast.* is not a registered"):
        Session(model.SerializeToString(), SIGNATURE, where="tiny@1")


def test_the_graph_itself_loads() -> None:
    """So that the refusals above are for what they name."""
    session = Session(read_tiny().SerializeToString(), SIGNATURE, where="tiny@1")
    assert len(session.run_row(NUMERIC_ROWS[0])[1]) == len(CLASSES)


def test_nothing_is_unpickled() -> None:
    """A pickle runs what it holds; neither the service nor what it reads versions with knows how to."""
    found = [(path.name, name) for path in _sources() for name in _suspects(path)]
    assert found == []


def _sources() -> list[Path]:
    return [path for part in ("inference", "registry") for path in sorted((ROOT / part).rglob("*.py"))]


def _suspects(path: Path) -> Iterator[str]:
    """Names of modules and calls in a source file that make objects or code of bytes."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in LOADERS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in LOADERS:
            yield node.module or ""
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in {"np.load", "numpy.load"} or called.rpartition(".")[2] in CALLS:
                yield called
