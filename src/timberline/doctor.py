"""``timberline doctor``: what a bug report needs to know of this installation, on one screen."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from timberline import __version__
from timberline.registry.errors import LifecycleError
from timberline.registry.objects import SCHEMES
from timberline.registry.runtime.cli import print_json, run_command
from timberline.registry.runtime.cpus import RunQueue, count_cpus, find_memory_bytes
from timberline.registry.runtime.logs import configure_logging
from timberline.registry.runtime.options import Verbs, add_verb, find_data
from timberline.registry.runtime.working_copy import list_roots
from timberline.registry.store import open_store

_PACKAGES = (
    *(
        "duckdb",
        "gevent",
        "kagglesdk",
        "keras",
        "locust",
        "msgspec",
        "numpy",
        "obstore",
        "onnx",
        "onnxruntime",
    ),
    *(
        "prometheus-client",
        "pyarrow",
        "scipy",
        "sqlglot",
        "starlette",
        "tensorflow",
        "tf2onnx",
        "uvicorn",
        "uvloop",
    ),
)
_ROLES = ("serve", "tools", "train", "bench")
# Names only: a value may be a secret.
_VARIABLES = re.compile(
    r"TIMBERLINE_|TF_|ONEDNN_|OMP_|KAGGLE_|AWS_|(MODEL|MODELS|DATA|REGISTRY|HOST|PORT|TMPDIR)$"
)
_GIB = 2**30


def add_verbs(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """The verb ``doctor``."""
    text = "versions, processors, disk and registry of this installation, for a bug report"
    doctor = add_verb(verbs, "doctor", text, run, "data", "registry", model=None)
    doctor.add_argument(
        "--json", action=argparse.BooleanOptionalAction, help="JSON (the default off a terminal)"
    )


def run(options: argparse.Namespace) -> int:
    """Print the report; 1 where it names a problem."""
    configure_logging(options.log_level or "info", options.log_format or "auto")
    return run_command("doctor", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    registry, problem = describe_registry(options.registry)
    data = find_data(options)
    data_problem = find_data_problem(data)
    report = {
        "timberline": f"{__version__} ({describe_installation()})",
        "python": f"{platform.python_version()} {platform.python_implementation()}, {sys.executable}",
        "system": f"{platform.platform()} {' '.join(platform.libc_ver())}".strip(),
        "processors": describe_processors(),
        "memory": describe_memory(),
        **{f"role {role}": text for role, text in describe_roles().items()},
        "packages": ", ".join(f"{name} {version}" for name, version in find_packages().items()),
        "free disk": ", ".join(
            f"{what} {describe_disk(Path(place))}"
            for what, place in (("data", find_working_folder(data)), ("registry", options.registry))
            if not place.startswith(SCHEMES)
        ),
        **({"data": f"{data}: {data_problem or 'in reach'}"} if data.startswith(SCHEMES) else {}),
        "registry": problem or f"{options.registry}: {registry}",
        "variables": ", ".join(sorted(filter(_VARIABLES.match, os.environ))) or "none that count",
    }
    if sys.stdout.isatty() if options.json is None else not options.json:
        sys.stdout.write("".join(f"{name:12} {text}\n" for name, text in report.items()))
    else:
        print_json(report)
    return 1 if problem or data_problem else 0


def describe_installation() -> str:
    """Whether the code that runs is a checkout's, a wheel's, or an image's."""
    here = Path(__file__).resolve().parent
    if (here.parents[1] / "pyproject.toml").is_file():
        return "a checkout"
    return "installed" if _find_version("timberline") else "no distribution: an image"


def describe_processors() -> str:
    """Processors that may be used, and whether the kernel tells how long a thread waited for one."""
    if not importlib.util.find_spec("timberline.benchmarks"):  # an image holds the parts of its role
        return f"{count_cpus()} of {os.cpu_count()}, schedstat: {'yes' if RunQueue().is_known else 'no'}"
    machine = importlib.import_module("timberline.benchmarks.machine").describe_machine()
    return f"{machine['cpu_count']} of {os.cpu_count()}, {machine['cpu']}, schedstat: {machine['schedstat']}"


def describe_memory() -> str:
    """What is free, and the limit of a container."""
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = find_memory_bytes()
    return f"{pages / _GIB:.1f} GiB free, limit {f'{limit / _GIB:.1f} GiB' if limit else 'none'}"


def describe_roles() -> dict[str, str]:
    """For each extra of the distribution, whether all packages that it names are there."""
    named: defaultdict[str, set[str]] = defaultdict(set)
    for line in (importlib.metadata.requires("timberline") or ()) if _find_version("timberline") else ():
        if match := re.match(r"([\w.-]+)(?:\[([\w,]+)\])?.*extra == ['\"](\w+)['\"]", line):
            name, extras, role = match.groups()
            named[role] |= set(extras.split(",")) if name == "timberline" else {name}
    described = {}
    for role in _ROLES if named else ():
        names = set().union(*(named.get(name, {name}) for name in named[role]))
        missing = sorted(name for name in names if not _find_version(name))
        described[role] = f"lacks {', '.join(missing)}" if missing else "complete"
    return described


def find_packages() -> dict[str, str]:
    """Versions of the packages that figures and faults depend on, of those that are there."""
    found = ((name, _find_version(name)) for name in _PACKAGES)
    return {name: version for name, version in found if version}


def describe_disk(folder: Path) -> str:
    """Free bytes where the folder is, or would be made."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return f"{shutil.disk_usage(there).free / _GIB:.1f} GiB"


def find_working_folder(data: str) -> str:
    """Where files of the data lie on this machine."""
    if not data.startswith(SCHEMES):
        return data
    return str(next(iter(list_roots(data)), tempfile.gettempdir()))


def find_data_problem(data: str) -> str:
    """What keeps data in a bucket from being read; "" of a folder."""
    if not data.startswith(SCHEMES):
        return ""
    try:
        open_store(data).objects.list_names()
    except (LifecycleError, OSError) as error:
        return str(error)
    return ""


def describe_registry(location: str) -> tuple[str, str]:
    """What is in the registry, and what keeps it from being read; one of the two is empty."""
    is_bucket = location.startswith(SCHEMES)
    if not is_bucket and not Path(location).exists():
        return "not there yet", ""
    try:
        store = open_store(location)
        counts = {model: len(store.versions(model)) for model in store.models()}
    except (LifecycleError, OSError) as error:
        return "", str(error)
    access = "in reach" if is_bucket else "writable" if os.access(location, os.W_OK) else "read-only"
    models = ", ".join(f"{model} ({count})" for model, count in list(counts.items())[:10]) or "no model"
    return f"{access}, {len(counts)} models, {sum(counts.values())} versions: {models}", ""


def _find_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
