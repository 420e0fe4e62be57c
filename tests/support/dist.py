"""What a release publishes: ``python -m tests.support.dist`` (`make dist`) builds it and tries it.

The last commit is built twice, from two exports; both builds have to be equal byte by byte. sdist, wheel and
SHA256SUMS are left in dist/. Then the wheel, and the wheel that pip makes of the sdist, each go into an empty
environment with the serve role's lock file: version, doctor, and one prediction of a tiny version. The build
needs no network, the environments need the package index.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import timberline
from tests.support.pips import ROOT
from tests.support.roles import make_environment
from tests.support.service import running_service
from tests.support.tiny_model import publish_numeric
from tests.support.wheels import Distribution, build_distribution
from timberline.registry.store import open_store

SUMS = "SHA256SUMS"


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def export_commit(folder: Path) -> Path:
    """Write the tree of the last commit into ``folder``: nothing that lies about in the checkout."""
    archive = folder.with_suffix(".tar")
    _git("archive", "--format=tar", f"--output={archive}", "HEAD")
    with tarfile.open(archive) as exported:
        exported.extractall(folder, filter="tar")  # links of src lead out of their folder, into the tree
    archive.unlink()
    return folder


def write_sums(files: Iterable[Path], folder: Path) -> None:
    """Write SHA256SUMS for files in ``folder``, as ``sha256sum -c`` reads it."""
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (folder / SUMS).write_text("".join(lines), "utf-8")


def read_record(wheel: Path) -> str:
    """A wheel's own list of its files with their digests."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/RECORD")]
        return archive.read(name).decode()


def build_as_pip_does(sdist: Path, folder: Path) -> Path:
    """The wheel that pip makes of an sdist for a user, without an index."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    words = [*pip, "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(sdist)]
    subprocess.run(words, check=True)
    return next(folder.glob("*.whl"))


def try_wheel(wheel: Path, folder: Path) -> dict[str, str]:
    """Install ``wheel`` in an empty environment in ``folder`` and use it there; what it said.

    Raises:
        AssertionError, subprocess.CalledProcessError: it does not install or does not work.
    """
    program = Path(make_environment(folder / "environment", "serve", wheel=wheel)).with_name("timberline")
    # What make and the shell have set is not the user's.
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}

    def say(*words: str) -> str:
        command = [str(program), *words]
        return subprocess.run(
            command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    version, doctor = say("--version").strip(), json.loads(say("doctor", "--json"))
    assert version == f"timberline {timberline.__version__}", version
    assert doctor["timberline"] == f"{timberline.__version__} (installed)", doctor
    assert doctor["role serve"] == "complete", doctor
    publish_numeric(open_store(folder / "registry"))
    with running_service(folder / "registry", "tiny", program=program) as service:
        status, answer = service.predict({"rings": 40})
    assert (status, answer["model"], answer["version"]) == (200, "tiny", 1), answer
    return {"version": version, "python": doctor["python"].split(",")[0], "label": answer["label"]}


def build_twice(export: Callable[[Path], Path], scratch: Path, epoch: int) -> Distribution:
    """Build what ``export`` writes into a folder in two places, as two people would; the first build.

    The second one has another umask, time zone and seed of hashes, and files of another time that none but
    their owner may read.

    Raises:
        AssertionError: the builds differ.
    """
    with _as_somebody("UTC", "0", 0o022):
        first = build_distribution(export(_make(scratch / "first" / "tree")), scratch / "first", epoch)
    with _as_somebody("Pacific/Kiritimati", "1", 0o077):
        tree = export(_make(scratch / "a second" / "place" / "tree"))
        for path in (path for path in tree.rglob("*") if not path.is_symlink()):
            path.chmod(path.stat().st_mode & 0o700)
            os.utime(path, (10**9, 10**9))
        second = build_distribution(tree, scratch / "a second" / "place", epoch)
    for one, other in zip(first, second, strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes(), f"two builds of {one.name} differ"
    return first


def _make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@contextlib.contextmanager
def _as_somebody(time_zone: str, seed: str, umask: int) -> Iterator[None]:
    """What differs from one person's shell to another's."""
    kept, mask = dict(os.environ), os.umask(umask)
    os.environ.update(TZ=time_zone, PYTHONHASHSEED=seed)
    try:
        yield
    finally:
        os.umask(mask)
        os.environ.clear()
        os.environ.update(kept)


def main() -> int:
    """Fill dist/ with the last commit's release; 2 if files of it were changed since.

    What git does not know is not in the commit, is named, and does not matter.
    """
    if changes := _git("status", "--porcelain", "--untracked-files=no"):
        sys.stderr.write(f"A release is built from a commit, and this is in none:\n{changes}\n")
        return 2
    if unknown := _git("ls-files", "--others", "--exclude-standard"):
        sys.stderr.write(f"Not in the release, since git does not know it:\n{unknown}\n")
    folder = ROOT / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        built = build_twice(export_commit, scratch / "builds", int(_git("log", "-1", "--format=%ct")))
        rebuilt = build_as_pip_does(built.sdist, _make(scratch / "rebuilt"))
        assert read_record(rebuilt) == read_record(built.wheel), "pip makes another wheel of the sdist"
        tried = {
            kind: try_wheel(path, _make(scratch / kind))
            for kind, path in (("wheel", built.wheel), ("sdist", rebuilt))
        }
        # Last: what lies there may be uploaded.
        _make(folder)
        write_sums([Path(shutil.copy(file, folder)) for file in built], folder)
    sums = (folder / SUMS).read_text("utf-8").splitlines()
    print(json.dumps({"commit": _git("rev-parse", "HEAD"), "files": sums, "tried": tried}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
