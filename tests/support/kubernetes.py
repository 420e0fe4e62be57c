"""Kubernetes 1.20.2, built once of Debian's source package and kept in the cache of tests.support.engine.

    programs = build_kubernetes()          # a folder with kube-apiserver, kubelet, kubectl, …
    python -m tests.support.kubernetes     # the same from a shell

Debian 12 has no package of the server's programs, only their source. It is fetched with lists of its own, so
that the machine's apt knows nothing of it, and built by Debian's own Go.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.engine import cache_folder

VERSION = "1.20.2"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet")
GO = Path("/usr/lib/go-1.19/bin")
# By Debian package: what shows that it is there.
NEEDED = {
    "golang-1.19-go": GO / "go",
    "rsync": Path("/usr/bin/rsync"),
    "dpkg-dev": Path("/usr/bin/dpkg-source"),
    "make": Path("/usr/bin/make"),
}
# By file of a package that 1.20 brings along: what Go has changed since, in 1.18. Without it every iteration
# over a map by reflection writes somewhere into the memory of the process, which ends some of them.
REFLECT = Path("vendor/github.com/modern-go/reflect2")
MENDED: Mapping[Path, Mapping[str, str]] = {
    REFLECT / "unsafe_link.go": {
        "func mapiterinit(rtype unsafe.Pointer, m unsafe.Pointer) *hiter": (
            "func mapiterinit(rtype unsafe.Pointer, m unsafe.Pointer, it *hiter)"
        ),
        "	// rest fields are ignored": "	pointers [6]unsafe.Pointer\n	numbers  [4]uintptr",
    },
    REFLECT / "unsafe_map.go": {
        "	return &UnsafeMapIterator{\n": (
            "	it := new(hiter)\n	mapiterinit(type2.rtype, *(*unsafe.Pointer)(obj), it)\n"
            "	return &UnsafeMapIterator{\n"
        ),
        "mapiterinit(type2.rtype, *(*unsafe.Pointer)(obj)),": "it,",
    },
}
SOURCES = "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {release} main\n"
RELEASE = "bookworm"


def build_kubernetes() -> Path:
    """The folder of `PROGRAMS`, which are built where they are missing: ten minutes of a processor, once."""
    folder = cache_folder() / "kubernetes"
    programs = folder / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all((programs / name).is_file() for name in PROGRAMS):
            say(f"building Kubernetes {VERSION} of Debian's source, once: about ten minutes, in {folder}")
            with (folder / "build.log").open("w") as log:
                tree = unpack_source(folder, log.fileno())
                made = compile_programs(folder, tree, log.fileno())
            programs.mkdir(exist_ok=True)
            for name in PROGRAMS:
                shutil.copy2(made / name, programs / f".{name}")
                (programs / f".{name}").rename(programs / name)
            for rest in ("source", "home", "go-build"):  # 2 GB that nothing needs again
                shutil.rmtree(folder / rest)
    return programs


def unpack_source(folder: Path, log: int) -> Path:
    """Fetch the source package, checked by apt against the archive's signature, and unpack it."""
    missing = [package for package, program in NEEDED.items() if not program.exists()]
    assert not missing, f"apt-get install {' '.join(missing)}, or SKIP=kubernetes"
    source = folder / "source"
    shutil.rmtree(source, ignore_errors=True)
    for name in ("lists/partial", "cache/archives/partial"):
        (source / name).mkdir(parents=True)
    (source / "sources.list").write_text(SOURCES.format(mirror=find_mirror(), release=RELEASE), "ascii")
    places = {"etc::sourcelist": "sources.list", "state::lists": "lists", "cache": "cache"}
    apt = ["apt-get", *(f"--option=Dir::{key}={source / name}" for key, name in places.items())]
    apt += ["--option=Dir::Etc::sourceparts=/nonexistent", "--option=APT::Sandbox::User=root"]
    run([*apt, "update"], source, log)
    run([*apt, "source", "--download-only", "kubernetes"], source, log)
    (description,) = source.glob("*.dsc")
    run(["dpkg-source", "--extract", description.name, "tree"], source, log)
    mend(source / "tree")
    return source / "tree"


def find_mirror() -> str:
    """Where this machine has Debian's packages from."""
    listed = ["apt-get", "indextargets", "--format", "$(CREATED_BY) $(CODENAME) $(COMPONENT) $(REPO_URI)"]
    lines = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()
    wanted = f"Packages {RELEASE} main "
    found = [line.removeprefix(wanted) for line in lines if line.startswith(wanted)]
    assert found, f"apt knows no {RELEASE}: apt-get update on Debian 12, or SKIP=kubernetes"
    return found[0]


def mend(tree: Path) -> None:
    """Change the source where this Go needs it."""
    for name, changes in MENDED.items():
        text = (tree / name).read_text("utf-8")
        for old, new in changes.items():
            assert text.count(old) == 1, f"{name} is not what it was: {old}"
            text = text.replace(old, new)
        (tree / name).write_text(text, "utf-8")


def compile_programs(folder: Path, tree: Path, log: int) -> Path:
    """Build with Kubernetes' own makefile, offline; the folder of what it made."""
    package = tree / ".go" / "src" / "k8s.io"
    package.mkdir(parents=True)
    (package / "kubernetes").symlink_to("../../..")
    environment = {
        "CGO_ENABLED": "0",
        "GOCACHE": str(folder / "go-build"),
        "GOPATH": str(tree / ".go"),
        "GOPROXY": "off",
        "HOME": str(folder / "home"),
        "PATH": f"{GO}:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    what = " ".join(f"cmd/{name}" for name in PROGRAMS)
    run(["make", f"WHAT={what}", "GOGCFLAGS="], tree, log, environment)
    return tree / "_output" / "local" / "bin" / "linux" / "amd64"


def run(command: list[str], folder: Path, log: int, environment: dict[str, str] | None = None) -> None:
    """A command that must end with 0, its output in the log."""
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}: see build.log in the cache"


def say(line: str) -> None:
    """Tell whoever waits, past pytest's capture."""
    with os.fdopen(os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2), "w") as out:
        print(line, file=out)


if __name__ == "__main__":
    print(build_kubernetes())
