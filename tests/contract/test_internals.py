"""What is private to other packages and used all the same: it is there, and nothing more is used.

The service's connection extends uvicorn's, and one row is run past onnxruntime's public method; both
change without notice, so their versions are bounded and each name is looked for here. The names are
read from our code, not listed: what is written tomorrow is checked tomorrow.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import uvicorn
from onnxruntime.capi import onnxruntime_pybind11_state
from packaging.requirements import Requirement
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tests.support.locks import parse_lock
from tests.support.pips import ROOT
from tests.support.registry_tree import folder_of
from tests.support.roles import PARTS
from timberline.benchmarks.selftest.slowed import _RUNS
from timberline.registry.store import open_store

# Private names of other packages in our code, and why each is used.
PRIVATE = {
    "_iobinding": "onnxruntime: the binding itself, for a Run that asks for nothing beside it",
    "_loop": "uvicorn: the protocol asks for the running loop under this name",
    "_exit": "os: a thread inside a graph cannot be ended, only its process",
    "_sess": "onnxruntime: the session itself, whose Run is a twentieth quicker for one row",
    "_session": "kagglesdk: where a Range header can be set; held by test_sources_kaggle.py",
    "_SubParsersAction": "argparse: the type of what add_subparsers returns has no public name",
}
# Public in spite of the underscore, which keeps them apart from a named tuple's fields.
NAMED_TUPLE = {"_asdict", "_replace", "_fields"}
PROCESS = sorted((ROOT / "inference" / "server").glob("*.py"))


def trees(files: list[Path]) -> Iterator[ast.AST]:
    return (ast.parse(path.read_text("utf-8")) for path in files)


def private_names(path: Path) -> set[str]:
    """Names with one underscore that a file takes from something that it does not define itself."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = list(ast.walk(tree))
    own = {
        node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    own |= {
        node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    used = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    }
    used |= {node.arg for node in nodes if isinstance(node, ast.keyword) and node.arg}
    return {name for name in used - own if name.startswith("_") and not name.startswith("__")}


def test_every_private_name_of_another_package_has_its_reason() -> None:
    """Each is a debt that an update may call in; a new one is a decision."""
    used = set().union(*(private_names(path) for part in PARTS for path in (ROOT / part).rglob("*.py")))
    assert used - NAMED_TUPLE == set(PRIVATE)


# uvicorn


def connection_classes() -> list[ast.ClassDef]:
    """Our classes that extend uvicorn's protocol, directly or through one another."""
    bases, found = {"HttpToolsProtocol"}, list[ast.ClassDef]()
    classes = [node for tree in trees(PROCESS) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for _ in classes:
        for node in classes:
            if node not in found and bases & {ast.unparse(base) for base in node.bases}:
                found.append(node)
                bases.add(node.name)
    return found


def own_names() -> set[str]:
    """What our connections define: methods, class attributes, and what their ``__init__`` sets."""
    names: set[str] = set()
    for kind in connection_classes():
        for node in kind.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(node.name)
                if node.name == "__init__":
                    names |= {
                        n.attr
                        for n in ast.walk(node)
                        if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)
                    }
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def used_of_uvicorn() -> set[str]:
    """``name`` or ``name.attribute`` of everything that our connections take from their base."""
    own, found = own_names(), set()
    for kind in connection_classes():
        is_direct = "HttpToolsProtocol" in map(ast.unparse, kind.bases)  # what is above it is not ours
        for node in (node for node in ast.walk(kind) if isinstance(node, ast.Attribute)):
            match = re.fullmatch(r"(self|super\(\))\.(\w+)((?:\.\w+)?)", ast.unparse(node))
            if match and (match[2] not in own or (is_direct and match[1] == "super()")):
                found.add(match[2] + match[3])
    return {name for name in found if not name.startswith("__")}


async def look_at_a_connection() -> dict[str, set[str]]:
    """Attributes of uvicorn's own protocol, and theirs, while it waits for the rest of a request."""
    is_asked, is_done = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        is_asked.set()
        await is_done.wait()

    config = uvicorn.Config(app, ws="none", lifespan="off", interface="asgi3", log_config=None)
    config.load()
    loop = asyncio.get_running_loop()
    protocol = HttpToolsProtocol(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    client, server = socket.socketpair()
    with client:
        await loop.connect_accepted_socket(lambda: protocol, server)
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n12")
        await is_asked.wait()
        found = {name: set(dir(getattr(protocol, name))) for name in dir(protocol)}
        is_done.set()
        await asyncio.gather(*protocol.tasks)
        protocol.transport.abort()
    return found


@pytest.fixture(scope="module")
def live() -> dict[str, set[str]]:
    """Names of uvicorn's protocol at work → names of what they are."""
    return asyncio.run(asyncio.wait_for(look_at_a_connection(), 60))


@pytest.mark.parametrize("name", sorted(used_of_uvicorn()))
def test_what_our_connection_takes_from_uvicorn_is_there(name: str, live: dict[str, set[str]]) -> None:
    """A name that is gone fails in the middle of a request, and only on the way that uses it; state of our
    own is set in ``__init__``, so that it cannot be taken for uvicorn's."""
    first, _, second = name.partition(".")
    assert first in live
    assert not second or second in live[first]


def test_the_names_are_found() -> None:
    """A reading of our code that finds nothing would hold nothing."""
    assert {"cycle.response_complete", "headers", "transport.write"} <= used_of_uvicorn()


def test_no_method_of_our_connection_has_lost_its_caller(live: dict[str, set[str]]) -> None:
    """An override of what uvicorn has renamed is never called, and uvicorn's own way is taken instead."""
    methods = {
        node.name for kind in connection_classes() for node in kind.body if isinstance(node, ast.FunctionDef)
    }
    called = {
        node.attr
        for tree in trees(sorted((ROOT / "inference").rglob("*.py")))
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert {name for name in methods if not name.startswith("__")} - set(live) - called == set()


def test_what_our_server_takes_from_uvicorns_state_is_there() -> None:
    """The server that fills these is ours; the protocol that reads them is uvicorn's."""
    text = (ROOT / "inference" / "server" / "listener.py").read_text("utf-8")
    (name,) = re.findall(r"self\.(\w+) = ServerState\(\)", text)
    used = set(re.findall(rf"self\.{name}\.(\w+)", text))
    assert used
    assert used - set(dir(ServerState())) == set()
    assert inspect.getsource(HttpToolsProtocol).count("server_state.default_headers"), "nobody reads the date"


def test_every_setting_that_is_given_to_uvicorn_is_known_to_it() -> None:
    """Of the service, and of the programs that it is compared with."""
    files = [path for part in ("inference", "benchmarks") for path in sorted((ROOT / part).rglob("*.py"))]
    given: set[str] = set()
    for node in (node for tree in trees(files) for node in ast.walk(tree)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "uvicorn.Config":
            given |= {keyword.arg for keyword in node.keywords if keyword.arg}
    assert {"http", "lifespan"} <= given
    assert given - set(inspect.signature(uvicorn.Config).parameters) == set()
    text = "".join(path.read_text("utf-8") for path in PROCESS)
    config = uvicorn.Config(lambda: None, log_config=None)
    config.load()
    assert set(re.findall(r"listener\.config\.(\w+)", text)) - set(dir(config)) == set()


# onnxruntime


@pytest.fixture(scope="module")
def session(published: Path) -> Any:
    """A session over the smallest served graph."""
    version = open_store(published).open_version("tiny", 1)
    return onnxruntime.InferenceSession((folder_of(version) / "model.onnx").read_bytes())


def test_the_private_run_of_onnxruntime_is_the_one_behind_its_public_method(session: Any) -> None:
    """The service calls it for every single row; the gate's self-test slows it down by name."""
    assert isinstance(session._sess, onnxruntime_pybind11_state.InferenceSession)
    assert [name for name in _RUNS if not callable(getattr(session._sess, name, None))] == []
    public = inspect.getsource(type(session).run_with_iobinding)
    assert "self._sess.run_with_iobinding(iobinding._iobinding, run_options)" in public
    assert hasattr(session.io_binding(), "_iobinding")


def test_the_refusals_of_onnxruntime_that_the_exporter_knows_are_there() -> None:
    """They lie in its compiled module, have no common base and are not documented."""
    named = set(
        re.findall(r"\bstate\.(\w+)", (ROOT / "exporter" / "graph" / "runtime.py").read_text("utf-8"))
    )
    assert named
    assert [
        name for name in named if not issubclass(getattr(onnxruntime_pybind11_state, name), Exception)
    ] == []


# Versions


def requirements_for(name: str) -> list[Requirement]:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    found = [Requirement(line) for lines in extras.values() for line in lines]
    return [requirement for requirement in found if requirement.name == name]


@pytest.mark.parametrize(
    ("name", "operators"), [("uvicorn", {"=="}), ("onnxruntime", {">=", "<"}), ("kagglesdk", {">=", "<"})]
)
def test_a_package_whose_insides_are_used_cannot_be_replaced_by_a_later_one(
    name: str, operators: set[str]
) -> None:
    """Whoever installs without the lock file gets what these tests have run with."""
    (locked,) = [
        pin.version
        for pin in parse_lock((ROOT / "requirements/dev.txt").read_text("utf-8"))
        if pin.name == name
    ]
    found = requirements_for(name)
    assert found
    for requirement in found:
        assert {part.operator for part in requirement.specifier} == operators
        assert locked in requirement.specifier
