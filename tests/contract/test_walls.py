"""Who may import whom (the table is in docs/explanation/architecture.md)."""

from __future__ import annotations

import ast
import graphlib
import http
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src"
PARTS = ("registry", "training", "exporter", "inference", "benchmarks")
ALLOWED_PARTS = {
    "registry": set(),
    "training": {"registry"},
    "exporter": {"registry", "training.features"},
    "inference": {"registry"},
    "benchmarks": {"registry"},
}
ALLOWED_LIBRARIES = {
    "registry": {"msgspec"},
    "inference": {
        *(
            "httptools",
            "msgspec",
            "numpy",
            "onnxruntime",
            "prometheus_client",
            "starlette",
            "uvicorn",
            "uvloop",
        ),
    },
    "benchmarks": {
        *("msgspec", "numpy", "scipy", "locust", "gevent", "pyarrow", "psutil", "duckdb", "pandas"),
        *("jinja2", "markupsafe", "rich"),
    },
}
# Programs of other services, run in environments of their own and imported by nobody.
COMPETITORS = "benchmarks/dev/competitors/"
COMPETITOR_LIBRARIES = {
    "numpy",
    "onnxruntime",
    "uvicorn",
    "uvloop",
    "starlette",
    "fastapi",
    "pydantic",
    "mlserver",
}
# Registry and data in a bucket; where nobody has one, neither has the environment.
BUCKET = {(f"registry/{name}.py", "obstore") for name in ("bucket", "data_bucket", "refusals")}
# Becomes the service, and slows down what the service runs its graphs with.
SLOWED = ("benchmarks/selftest/slowed.py", "onnxruntime")
# Asks graphs about rows of another table, in versions that learned from different ones.
SCORING = ("benchmarks/analysis/fresh.py", "onnxruntime")
# The rooms of benchmarks, from the ground up: none imports from one that comes after it.
ROOMS = ("measure", "analysis", "history", "report", "gate", "load", "selftest", "dev")
REFUSALS = {int(status) for status in http.HTTPStatus if status >= http.HTTPStatus.BAD_REQUEST}
FORBIDDEN_LIBRARIES = {
    "training": {"onnx", "onnxruntime", "tf2onnx", "starlette", "uvicorn", "locust"},
    "exporter": {"starlette", "uvicorn", "locust", "kaggle", "kagglesdk"},
}


def imports(part: str) -> Iterator[tuple[str, str]]:
    """Every module that a file of ``part`` imports, ours as ``<part>.…``, with the file it stands in."""
    for path in sorted((ROOT / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            where = path.relative_to(ROOT).as_posix()
            if isinstance(node, ast.Import):
                yield from ((where, alias.name.removeprefix("timberline.")) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{where}: relative import"
                yield where, (node.module or "").removeprefix("timberline.")


def is_within(module: str, allowed: str) -> bool:
    """``training.features.parse`` is within ``training.features``; ``training`` is not."""
    return module == allowed or module.startswith(f"{allowed}.")


@pytest.mark.parametrize("part", PARTS)
def test_parts_import_only_what_lies_below_them(part: str) -> None:
    """A part that reaches over a wall cannot be run, replaced or shipped alone."""
    seen = list(imports(part))
    assert seen
    broken = [
        (where, module)
        for where, module in seen
        if module.partition(".")[0] in PARTS
        and not is_within(module, part)
        and not any(is_within(module, allowed) for allowed in ALLOWED_PARTS[part])
    ]
    assert broken == []


def test_nothing_that_is_shipped_imports_what_only_developers_run() -> None:
    """`benchmarks/dev` is not in the wheel; the command line asks whether it is there."""
    found = {
        where
        for part in PARTS
        for where, module in imports(part)
        if is_within(module, "benchmarks.dev") and not where.startswith("benchmarks/dev/")
    }
    assert found == set()


@pytest.mark.parametrize("part", PARTS)
def test_parts_use_only_their_own_libraries(part: str) -> None:
    """The serve image holds four libraries, and the ground floor one; a new one is a decision."""
    tops = {(where, module.partition(".")[0]) for where, module in imports(part)}
    libraries = {
        (where, top) for where, top in tops if top not in {*sys.stdlib_module_names, *PARTS, "timberline"}
    }
    if part in ALLOWED_LIBRARIES:
        allowed = ALLOWED_LIBRARIES[part]
        foreign = {(w, top) for w, top in libraries if top not in allowed}
        assert {
            (w, top)
            for w, top in foreign - {SLOWED, SCORING, *BUCKET}
            if not (w.startswith(COMPETITORS) and top in COMPETITOR_LIBRARIES)
        } == set()
    else:
        assert {(w, top) for w, top in libraries if top in FORBIDDEN_LIBRARIES[part]} == set()


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        (
            "inference.app",
            ("tensorflow", "keras", "onnx", "duckdb", "pyarrow", "sqlglot", "timberline.training"),
        ),
        ("registry.promotion", ("numpy", "onnxruntime", "tensorflow", "duckdb")),
        ("training.features", ("tensorflow", "keras", "duckdb", "pyarrow")),
        ("training.data.etl", ("tensorflow", "keras", "pandas")),
    ],
)
def test_a_fresh_interpreter_loads_nothing_from_behind_a_wall(
    module: str, forbidden: tuple[str, ...]
) -> None:
    """What static imports cannot show: that nothing heavy comes in through a side door."""
    barred = set(forbidden)
    code = f"import sys, timberline.{module}; print(sorted(set(sys.modules) & {barred!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Two modules in a circle are one module in two files; neither can be read or tested first."""
    modules = {
        ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__"): path
        for part in PARTS
        for path in sorted((SOURCES / "timberline" / part).rglob("*.py"))
    }
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names} & set(modules)
                graph[name] |= inner or ({node.module} & set(modules))
            elif isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names} & set(modules)
        graph[name].discard(name)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError and names the circle


def test_rooms_of_the_benchmarks_import_downwards_only() -> None:
    """What is measured can be read without knowing how it is judged, and judged without a gate."""
    climbs = []
    for where, module in imports("benchmarks"):
        room, imported = where.split("/")[1], module.removeprefix("benchmarks.").partition(".")[0]
        if module.startswith("benchmarks.") and {room, imported} <= set(ROOMS):
            climbs += [(where, module)] * (ROOMS.index(imported) > ROOMS.index(room))
        elif module.startswith("benchmarks.") and imported in ROOMS:
            climbs += [(where, module)] * (not where.endswith("__main__.py"))
    assert climbs == []


def test_one_table_decides_what_a_refusal_looks_like() -> None:
    """A status that is written in a second place has, sooner or later, another body or another header."""
    found = {
        (str(path.relative_to(ROOT / "inference")), node.value)
        for path in (ROOT / "inference").rglob("*.py")
        if path.name != "app.py" and not path.name.startswith("openapi")  # the table, and what documents it
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value in REFUSALS
    }
    assert found == {
        ("routes/protocol.py", 503),  # readiness is an answer, not a refusal
    }


# Where text that may be anything is parsed, besides `registry.runtime.documents`, and why there.
PARSERS = {
    "registry/runtime/documents.py": "the one place",
    "inference/formats/codec.py": "a request; nothing unknown is read, so never deep",
    "inference/formats/tensors.py": "a request; catches all three errors",
    "inference/formats/infer_request.py": "a request; catches all three errors",
    "inference/formats/strict_json.py": "a request; catches all three errors",
    "inference/formats/csv.py": "a request; digits, points and commas only",
    "benchmarks/measure/formats.py": "a reply, thousands a second; catches all three errors",
    "benchmarks/dev/clients.py": "a line of the benchmark that started it",
    "benchmarks/dev/attacks/attackers.py": "a line of the benchmark that started it",
    "benchmarks/dev/pandas_etl.py": "the program that is measured against; stands alone",
    "benchmarks/dev/competitors/in_process.py": "runs in an environment without this package",
    "benchmarks/dev/competitors/program.py": "runs in an environment without this package",
}
PARSING = {("json", "decode"), ("json", "Decoder"), ("json", "loads"), ("json", "load")}
PARSING |= {("toml", "decode"), ("tomllib", "loads"), ("tomllib", "load"), ("yaml", "decode")}


def test_bytes_from_outside_are_parsed_in_one_place() -> None:
    """Parsers raise three kinds of error; where each caller names its own, one damaged file is a crash."""
    found = set()
    for part in PARTS:
        for path in (ROOT / part).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Attribute):
                    owner = node.value
                    name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                    if (name, node.attr) in PARSING:
                        found.add(path.relative_to(ROOT).as_posix())
    assert found == set(PARSERS)
