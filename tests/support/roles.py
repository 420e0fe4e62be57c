"""The roles alone: what each may import, and its every module imported where nothing else is there.

``python -m tests.support.roles`` installs each role from its lock file, and this project's wheel, into an
environment of its own under var/roles, imports every module there and makes a release with the wheel, outside
of the checkout (`make test-roles`: minutes, and the package index).
The small form has no network: an interpreter that sees links to those packages of this environment
that the role's lock file names.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.support.locks import REQUIREMENTS, parse_lock
from tests.support.pips import ROOT
from tests.support.wheels import install_project, install_wheel

_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SOURCES = ROOT / "src"
PARTS = ("registry", "training", "exporter", "inference", "benchmarks")
# What each role's environment must be able to run: parts, or files and folders of one.
_COMMAND = ("src/timberline/__main__.py", "src/timberline/doctor.py")
ROLES = {
    "serve": ("registry", "inference", "src/timberline/doctor.py"),
    "tools": (  # fetch, and the registry's commands
        *("registry", *_COMMAND),
        *("training/data/fetch.py", "training/sources", "training/config.py", "training/errors.py"),
    ),
    "train": ("registry", "training", "exporter", *_COMMAND, "src/timberline/features.py"),
    "bench": (
        "registry",
        "inference",
        "benchmarks",
        "src/timberline/release.py",
    ),  # the gate starts the service
}
# Not in the wheel.
DEV = "benchmarks/dev"
# Of a role's parts, but for developers, or for an environment of its own.
DEV_ONLY = {
    "benchmarks/dev/pandas_etl.py": "pandas, which `bench-etl` compares the training role with",
    "benchmarks/dev/competitors/fastapi_service.py": "runs where rivals/fastapi.txt is installed",
    "benchmarks/dev/competitors/mlserver_service.py": "runs where rivals/mlserver.txt is installed",
}
# Extras that a role's lock file holds beside its own: an image's registry may be in a bucket.
_LOCKED_WITH = {"serve": ("s3",)}
_IMPORT = """
import importlib, json, sys
asked, failed = json.load(sys.stdin), {}
sys.path[:0] = asked["path"]
for module, name in asked["imports"]:
    try:
        found = importlib.import_module(module)
        if name and not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")
    except BaseException as error:
        failed[f"{module} {name}".strip()] = f"{type(error).__name__}: {error}"
print(json.dumps(failed))
"""


def declared(extra: str) -> set[str]:
    """Names of the packages that an extra asks for, with those of the extras it is made of or locked with."""
    found: set[str] = set()
    extras = (extra, *_LOCKED_WITH.get(extra, ()))
    asked = [line for each in extras for line in _PROJECT["optional-dependencies"][each]]
    for line in [*_PROJECT["dependencies"], *asked]:
        ((name, more),) = re.findall(r"^([A-Za-z0-9._-]+)(?:\[([a-z0-9,]+)\])?", line)
        if name == _PROJECT["name"]:
            found = found.union(*map(declared, more.split(",")))
        else:
            found.add(name)
    return found


def list_files(parts: Iterable[str]) -> list[Path]:
    """Every source file of ``parts`` that a role has to run."""
    places = [ROOT / part for part in parts]
    files = [
        path for place in places for path in (sorted(place.rglob("*.py")) if place.is_dir() else [place])
    ]
    return [path for path in files if path.relative_to(ROOT).as_posix() not in DEV_ONLY]


def list_imports(path: Path) -> Iterator[tuple[str, str]]:
    """``(module, name)`` of every import in a file, those inside functions too; the name may be empty."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def imported_packages(files: Iterable[Path]) -> dict[str, str]:
    """Distributions that ``files`` import, each with one file that does; the parts themselves aside.

    A module that no installed distribution brings stands under its own name.
    """
    owners = importlib.metadata.packages_distributions()
    own = {"timberline", "tests", *sys.stdlib_module_names}
    found: dict[str, str] = {}
    for path in files:
        for top in {module.partition(".")[0] for module, _ in list_imports(path)} - own:
            (owner,) = set(owners.get(top, [top]))
            found[re.sub(r"[-_.]+", "-", owner).lower()] = path.relative_to(ROOT).as_posix()
    return found


def link_packages(folder: Path, names: set[str]) -> None:
    """Fill ``folder`` with links to the files of the installed distributions ``names``, and no others.

    A folder that only these distributions have files in is one link; TensorFlow alone has 20,000 files.
    """
    theirs: list[tuple[Path, Path]] = []
    foreign = {Path()}
    for distribution in importlib.metadata.distributions():
        files = [Path(file) for file in distribution.files or () if ".." not in file.parts]
        if re.sub(r"[-_.]+", "-", distribution.name).lower() in names:
            site = Path(str(distribution.locate_file("")))
            theirs += [(site, file) for file in files if file.parts[0] != "__pycache__"]
        else:
            foreign.update(parent for file in files for parent in file.parents)
    for site, file in theirs:
        owned = next((parent for parent in reversed(file.parents) if parent not in foreign), file)
        link = folder / owned
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(site / owned)


def import_role(role: str, python: list[str], path: list[Path]) -> dict[str, str]:
    """Import every module of a role, and all that its modules import somewhere; what failed, and how.

    Args:
        role: a key of `ROLES`.
        python: the interpreter and its flags.
        path: what stands before its own ``sys.path``; none of it: the wheel is installed.
    """
    files = [file for file in list_files(ROLES[role]) if path or not file.is_relative_to(ROOT / DEV)]
    names = [file.relative_to(ROOT).with_suffix("").as_posix() for file in files]
    modules = [f"timberline.{name.removeprefix('src/timberline/').replace('/', '.')}" for name in names]
    imports = {(module.removesuffix(".__init__"), "") for module in modules}
    imports.update(pair for file in files for pair in list_imports(file))
    asked = {"path": [str(folder) for folder in path], "imports": sorted(imports)}
    done = subprocess.run(
        [*python, "-c", _IMPORT],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    failed: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return failed


def locked_names(role: str) -> set[str]:
    """Names of what a role's lock file pins for this Python on this machine."""
    pins = parse_lock((REQUIREMENTS / f"{role}.txt").read_text("utf-8"))
    return {pin.name for pin in pins if pin.is_for_here}


def make_environment(environment: Path, *roles: str, wheel: Path | None = None) -> str:
    """An environment of these roles' lock files and the project's wheel; its interpreter.

    ``wheel`` is a built one; without it one is built of the checkout.
    """
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
    python = str(environment / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    locks = [word for role in roles for word in ("-r", str(REQUIREMENTS / f"{role}.txt"))]
    subprocess.run([*pip, "install", "--quiet", "--require-hashes", *locks], check=True)
    if wheel:
        install_wheel(Path(python), wheel)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            install_project(Path(python), Path(scratch))
    subprocess.run([*pip, "check"], check=True, stdout=subprocess.DEVNULL)
    return python


def try_release(environment: Path) -> dict[str, str]:
    """A whole first release where nothing of the checkout is but a model folder; what failed."""
    command = Path(make_environment(environment, "train", "bench")).with_name("timberline")
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(ROOT / "models" / "electricity", Path(scratch) / "models" / "electricity")
        environ = {key: text for key, text in os.environ.items() if not key.startswith(("PYTHON", "MAKE"))}
        words = [str(command), "release", "electricity", "--data", "data", "--registry", "registry"]
        done = subprocess.run(words, cwd=scratch, env=environ, capture_output=True, text=True, check=False)
        words = [str(command), "list", "--registry", "registry"]
        listed = subprocess.run(words, cwd=scratch, env=environ, capture_output=True, check=False)
    is_released = done.returncode == 0 and b'"production"' in listed.stdout
    return {} if is_released else {"release": f"{done.returncode}: {done.stderr[-2000:]}"}


def main() -> int:
    """Try every role and a release, each in an environment under var/roles; 1 if one fails."""
    folder = ROOT / "var" / "roles"
    results = {role: import_role(role, [make_environment(folder / role, role), "-I"], []) for role in ROLES}
    results["release"] = try_release(folder / "release")
    print(json.dumps(results, indent=2))
    return int(any(results.values()))


if __name__ == "__main__":
    sys.exit(main())
