"""A stand-in for `docker` and `podman` where no engine runs: what the images hold, run without isolation.

    install_engine(reader, "docker")      # of tests.support.walkthrough

It reads flags strictly (an unknown one is wrong use, as with the real ones) and knows `build`, `run` and
`stop`. `build` makes an image's files of the Dockerfile's ``COPY`` lines, stage by stage; of ``RUN`` it does
nothing but links, and what copies of another stage and removes of the copy. `run` needs an image that was
built, makes a root with its files and the mounted folders in a mount namespace of its own, and becomes the
image's real entry point there, with the image's variables and none of the host's. The environment of the
tests stands where an image has its own.

Not enforced, though read: limits, capabilities, user, a read-only root (volumes with ``ro`` are). There is no
network of its own: the service listens on the port that is published. What pip needs to reach the index and
the settings of the quick gate come from outside (`PASSED`).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.dockerfiles import Step, read_stages, texts
from tests.support.makefile import QUICK_GATE
from tests.support.walkthrough import Walkthrough

ROOT = Path(__file__).resolve().parents[2]
PASSED = re.compile("|".join([*QUICK_GATE, "PIP_.*", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", ".*_(?i:proxy)"]))
WRONG_USE = 125  # of docker and podman


class Flags(NamedTuple):
    """What a command was given: values by flag, in order, and the words behind them."""

    values: dict[str, list[str]]
    words: list[str]

    def last(self, flag: str, default: str = "") -> str:
        """The value that counts."""
        return self.values.get(flag, [default])[-1]


# By command: each flag and the form of its value; None has no value.
FLAGS: Mapping[str, Mapping[str, str | None]] = {
    "build": {
        "-f": r".+",
        "-t": r"[a-z][a-z0-9/._-]*(:\w+)?",
        "--target": r"\w+",
        "--build-arg": r"[A-Z_]+=.*",
        "--network": r"host",
    },
    "run": {
        "--rm": None,
        "-it": None,
        "--read-only": None,
        "-v": r"/[^:]*:/[^:]*(:(ro|Z|ro,Z))?",
        "-p": r"\d+:\d+",
        "-e": r"\w+(=.*)?",
        "--env-file": r".+",
        "--name": r"\w+",
        "--user": r"\d+(:\d+)?",
        "--memory": r"\d+[mg]",
        "--cpus": r"\d+(\.\d+)?",
        "--tmpfs": r"/\w+",
        "--cap-drop": r"ALL",
    },
    "stop": {"-t": r"\d+"},
}


def install_engine(reader: Walkthrough, name: str) -> None:
    """Put the stand-in on the reader's path as ``name``; each engine has images of its own."""
    state = reader.folder.parent / f"engine {name}"
    state.mkdir()
    reader.provide(
        name,
        f"#!{sys.executable}\nimport sys\nsys.path[:0] = {[str(ROOT), str(ROOT / 'src')]!r}\n"
        f"from tests.support.container_engine import main\nmain({str(state)!r})\n",
    )


def main(state: str) -> None:
    """One command; ends the process, or becomes the container."""
    command, *rest = sys.argv[1:] or [""]
    if command not in FLAGS:
        fail(f"unknown command {command!r}")
    commands: Mapping[str, Callable[[Path, Flags], None]] = {"build": build, "run": run, "stop": stop}
    commands[command](Path(state), read_flags(command, rest))


def fail(why: str) -> Any:
    """End as the real ones do on wrong use."""
    print(f"stand-in engine: {why}", file=sys.stderr)
    sys.exit(WRONG_USE)


def read_flags(command: str, words: Sequence[str]) -> Flags:
    """Take flags off the front of ``words``; what follows the first other word is not the engine's."""
    known, values, rest = FLAGS[command], dict[str, list[str]](), list(words)
    while rest and rest[0].startswith("-"):
        flag = rest.pop(0)
        if flag not in known:
            fail(f"{command} has no flag {flag}")
        form = known[flag]
        value = "" if form is None else rest.pop(0) if rest else fail(f"{flag} needs a value")
        if form is not None and not re.fullmatch(form, value):
            fail(f"{flag} {value} has not the form {form}")
        values.setdefault(flag, []).append(value)
    return Flags(values, rest)


# build


def build(state: Path, flags: Flags) -> None:
    """Make the files of the image and keep its instructions."""
    (context,) = flags.words
    dockerfile = Path(flags.last("-f", f"{context}/Dockerfile"))
    stages = read_stages(dockerfile) if dockerfile.exists() else fail(f"there is no {dockerfile}")
    target = flags.last("--target", list(stages)[-1])
    if target not in stages:
        fail(f"{dockerfile} has no stage {target}")
    tag = flags.last("-t") or fail("an image without a name")
    folder = state / "images" / tag
    shutil.rmtree(folder, ignore_errors=True)
    trees = {name: folder / (name or "last") for name in stages}
    for name, steps in stages.items():
        make_tree(Path(context), trees[name], steps, trees)
    image = {"steps": stages[target], "tree": str(trees[target])}
    (folder / "image.json").write_text(json.dumps(image), "utf-8")


def make_tree(context: Path, tree: Path, steps: Sequence[Step], trees: Mapping[str, Path]) -> None:
    """The files that a stage copies, and the links that it makes."""
    workdir = "/"
    for word, text in steps:
        if word == "WORKDIR":
            workdir = text
        elif word == "COPY":
            *sources, target = text.split()
            origin = context
            if sources[0].startswith("--from="):
                origin = trees[sources.pop(0).removeprefix("--from=")]
            if sources != ["/opt/venv"]:  # the environment of the tests
                copy(origin, sources, tree / f"{Path(workdir, target)}".lstrip("/"), target)
        elif mounted := re.match(r"--mount=type=bind,from=([\w-]+),source=(/app),target=(/mnt) ", text):
            take(trees[mounted[1]], mounted, tree, text)
        for target, link in re.findall(r"\bln -s (\S+) (\S+)", text if word == "RUN" else ""):
            place = tree / f"{Path(workdir, link)}".lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(target)


def take(origin: Path, mounted: re.Match[str], tree: Path, text: str) -> None:
    """Of a ``RUN`` that has another stage's folder mounted: what it copies, then what it removes of that."""
    for source, target in re.findall(r"\bcp -a (\S+) (\S+)", text):
        taken = source.replace(mounted[3], mounted[2], 1)
        shutil.copytree(f"{origin}{taken}", f"{tree}{target}", symlinks=True)
    for removed in " ".join(re.findall(r"\brm -r ([^&]+)", text)).split():
        shutil.rmtree(f"{tree}{removed}")


def copy(origin: Path, patterns: Sequence[str], place: Path, target: str) -> None:
    """What ``COPY`` does: a folder's contents, or files."""
    for pattern in patterns:
        found = sorted(origin.glob(pattern.lstrip("/"))) or fail(f"COPY: there is no {pattern}")
        for source in found:
            if source.is_dir():
                shutil.copytree(
                    source,
                    place,
                    symlinks=True,
                    ignore=shutil.ignore_patterns("__pycache__"),
                    dirs_exist_ok=True,
                )
            else:
                into = place / source.name if target.endswith(("/", ".")) else place
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, into)


# run


class Container(NamedTuple):
    """What becomes of `run`, given to the process inside the mount namespace."""

    root: str
    tree: str
    mounts: list[tuple[str, str, bool]]  # of the host, in the container, whether read-only
    workdir: str
    command: list[str]
    environment: dict[str, str]


def run(state: Path, flags: Flags) -> None:
    """Become the container."""
    tag, *words = flags.words or fail("no image is named")
    path = state / "images" / tag / "image.json"
    image = json.loads(path.read_text("utf-8")) if path.exists() else fail(f"there is no image {tag}")
    steps = [Step(*step) for step in image["steps"]]
    entry = json.loads(texts(steps, "ENTRYPOINT")[-1])
    mounts = [read_volume(value) for value in flags.values.get("-v", [])]
    root = state / "roots" / f"{os.getpid()}"
    root.mkdir(parents=True)
    container = Container(
        root=str(root),
        tree=image["tree"],
        mounts=mounts,
        workdir=texts(steps, "WORKDIR")[-1],
        command=[*entry, *(words or json.loads(texts(steps, "CMD")[-1]))],
        environment=read_environment(steps, flags),
    )
    if name := flags.last("--name"):
        (state / name).write_text(f"{os.getpid()}", "utf-8")
    inside = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'src')]!r}; "
    inside += "from tests.support.container_engine import enter; enter(sys.argv[1])"
    os.execvp("unshare", ["unshare", "-rm", sys.executable, "-c", inside, json.dumps(container)])


def read_volume(value: str) -> tuple[str, str, bool]:
    """A volume; a folder that is not there would be made by root, or refused."""
    source, target, *options = value.split(":")
    if not Path(source).is_dir():
        fail(f"-v: there is no folder {source}")
    return source, target, "ro" in "".join(options)


def read_environment(steps: list[Step], flags: Flags) -> dict[str, str]:
    """The variables of the image, over them those of the flags."""
    found = {key: value for key, value in os.environ.items() if PASSED.fullmatch(key)}
    for line in texts(steps, "ENV"):
        found |= dict(word.split("=", 1) for word in shlex.split(line))
    found["PATH"] = found["PATH"].replace("$PATH", "/image/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    for file in flags.values.get("--env-file", []):
        lines = Path(file).read_text("utf-8").splitlines()
        found |= read_variables(line for line in lines if line and not line.startswith("#"))
    found |= read_variables(flags.values.get("-e", []))
    for published in flags.values.get("-p", []):
        found["PORT"] = published.partition(":")[0]
    return found


def read_variables(lines: Iterable[str]) -> dict[str, str]:
    """Variables by name; a name that stands alone has the value that it has in the caller's shell, if any."""
    pairs = [line.partition("=") for line in lines]
    given = {name: value if equals else os.environ.get(name) for name, equals, value in pairs}
    return {name: value for name, value in given.items() if value is not None}


def enter(document: str) -> None:
    """Make the root and become the entry point; called in a mount namespace of its own."""
    container = Container(*json.loads(document))
    root = Path(container.root)
    places = ["/opt/venv", "/app", "/image", *(target for _, target, _ in container.mounts)]
    show_host(Path("/"), root, {Path(place) for place in places})
    (root / "opt/venv").symlink_to(sys.prefix)
    mount(container.tree, root / "image")
    mount(f"{container.tree}/app", root / "app")
    for source, target, is_read_only in container.mounts:
        mount(source, root / target.lstrip("/"), is_read_only=is_read_only)
    os.chroot(root)
    os.chdir(container.workdir)
    os.environ.clear()
    os.environ.update(container.environment)
    os.execvp(container.command[0], container.command)


def show_host(folder: Path, shown: Path, places: set[Path]) -> None:
    """Show ``folder`` of the host as ``shown``, but for ``places``, which are left free for other things."""
    made = {place.relative_to(folder).parts[0] for place in places}
    for name in sorted(made | {entry.name for entry in folder.iterdir()}):
        entry, there = folder / name, shown / name
        below = {place for place in places if entry in place.parents}
        if entry in places:
            if entry != Path("/opt/venv"):
                there.mkdir()
        elif below:
            there.mkdir()
            if entry.is_dir():
                show_host(entry, there, below)
            else:
                for place in below:
                    (shown / place.relative_to(folder)).mkdir(parents=True, exist_ok=True)
        elif entry.is_symlink():
            there.symlink_to(entry.readlink())
        elif entry.is_dir():
            there.mkdir()
            mount(str(entry), there)
        elif entry.is_file():
            there.touch()
            mount(str(entry), there)


def mount(source: str, target: Path, *, is_read_only: bool = False) -> None:
    """Bind ``source`` and all below it to ``target``."""
    subprocess.run(["mount", "--rbind", source, target], check=True)
    if is_read_only:
        flags = os.statvfs(target).f_flag  # those that the namespace may not take off
        names = {os.ST_NOSUID: "nosuid", os.ST_NODEV: "nodev", os.ST_NOEXEC: "noexec"}
        kept = "".join(f",{name}" for bit, name in names.items() if flags & bit)
        subprocess.run(["mount", "-o", f"remount,bind,ro{kept}", target], check=True)


# stop


def stop(state: Path, flags: Flags) -> None:
    """Send SIGTERM, wait, and kill what is still there after the given time."""
    (name,) = flags.words
    if not (state / name).exists():
        fail(f"there is no container {name}")
    pid = int((state / name).read_text("utf-8"))
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + float(flags.last("-t", "10"))
    while time.monotonic() < deadline:
        if not is_running(pid):
            return
        time.sleep(0.05)  # polls a fact with a deadline
    os.kill(pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second where it ends between opening and reading
        return False
