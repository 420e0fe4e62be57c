"""Child processes that change a registry: to race, to be held open, and to be killed.

    python -m tests.support.registry_child publish DIR [FIFO]   says "ready", waits for a line, publishes
    python -m tests.support.registry_child kill DIR ACTION      kills ACTION before each file operation
    python -m tests.support.registry_child attempt              as `Attempts` says

With FIFO the manifest waits for it to be opened, so that the publisher is held with its files copied.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

from tests.support.manifests import build_manifest, give_verdict, publish_tiny
from tests.support.registry_commands import act
from tests.support.s3_proxy import Asked, Fault, S3Proxy
from timberline.registry.aliases import move_alias, read_alias
from timberline.registry.manifest import FileDigest, Manifest
from timberline.registry.names import PRODUCTION
from timberline.registry.store import MODEL_FILE, open_store

MODEL = "tiny"
# Every audited operation that changes or looks at a file system; the hook runs before the operation.
_OPERATIONS = {
    "open",
    "os.link",
    "os.listdir",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.scandir",
}


def publish(root: Path, fifo: str | None = None) -> None:
    """Publish one version as soon as a line comes in; print its number."""
    print("ready", flush=True)
    sys.stdin.readline()
    source = root.parent / f"model-{os.getpid()}"
    source.write_bytes(source.name.encode())

    def describe(version: int, digests: dict[str, FileDigest]) -> Manifest:
        if version == 1 and fifo:
            Path(fifo).read_bytes()
        return build_manifest(MODEL, version, digests)

    print(open_store(root).publish(MODEL, {MODEL_FILE: source}, describe), flush=True)


def _move(root: Path) -> None:
    store = open_store(root)
    current = read_alias(store, MODEL, PRODUCTION)
    assert current
    move_alias(store, MODEL, PRODUCTION, 2, expected=current.sequence, reason="killed on the way")


def _judge(root: Path) -> None:
    give_verdict(open_store(root), MODEL, 2, "BLOCK")


ACTIONS: dict[str, Callable[[Path], object]] = {
    "publish": lambda root: publish_tiny(open_store(root), MODEL),
    "move": _move,
    "judge": _judge,
}


def kill_everywhere(root: Path, action: str) -> None:
    """For k = 0, 1, …: copy ``root/base`` to ``root/<k>`` and run ``action`` on it, killed before its
    k-th file operation; the last k is the first that survives. Forks: this process has one thread."""
    for count in range(10_000):
        copy = root / str(count)
        shutil.copytree(root / "base", copy)
        status = fork_until(count, partial(ACTIONS[action], copy))
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))


def fork_until(count: int | None, action: Callable[[], object]) -> int:
    """The wait status of a fork of this process that runs `run_until`; this process has one thread.

    Without ``count`` the process number is printed, and it is killed by whoever reads that, or not at all.
    """
    child = os.fork()
    if child == 0:
        run_until(count, action)
    if count is None:
        print(child, flush=True)
    return os.waitpid(child, 0)[1]


def run_until(count: int | None, action: Callable[[], object]) -> NoReturn:
    """Run ``action`` and end the process; killed before its file operation number ``count``, from 0."""
    left = 0 if count is None else count

    def hook(event: str, _arguments: object) -> None:
        nonlocal left
        if event in _OPERATIONS and count is not None:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.addaudithook(hook)
    try:
        action()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


class Attempts:
    """A process of one thread that runs actions and kills them on the way."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.support.registry_child", "attempt"]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def make(self, root: Path, words: list[str], count: int) -> bool:
        """Run ``words`` as `act` does, killed before file operation ``count``; whether it got to its end."""
        self._order(str(root), words, count)
        return self._read_end()

    def make_at(self, proxy: S3Proxy, location: str, words: list[str], number: int, fault: Fault) -> bool:
        """Run ``words`` on a bucket behind ``proxy``, killed when request ``number`` comes, from 1.

        Args:
            fault: what becomes of that request: "refuse", or "lose" if the server is to do it. What comes of
                the process after it is refused, as it was on its way from one that is dead.

        Returns:
            Whether it got to its end.
        """
        is_dead = threading.Event()
        pid: queue.Queue[int] = queue.Queue()

        def decide(asked: Asked) -> Fault | None:
            if is_dead.is_set():
                return "refuse"
            if asked.number != number:
                return None
            is_dead.set()
            os.kill(pid.get(), signal.SIGKILL)
            return fault

        proxy.clear()
        proxy.decide = decide
        self._order(location, words, None)
        pid.put(int(self._read_line()))
        is_whole = self._read_end()
        proxy.settle()
        return is_whole

    def _order(self, location: str, words: list[str], count: int | None) -> None:
        assert self._child.stdin
        print(json.dumps([location, words, count]), file=self._child.stdin, flush=True)

    def _read_end(self) -> bool:
        return bool(json.loads(self._read_line()))

    def _read_line(self) -> str:
        assert self._child.stdout
        return self._child.stdout.readline()

    def close(self) -> None:
        """End the process."""
        self._child.communicate()
        assert self._child.returncode == 0


def attempt() -> None:
    """Answer each line of `Attempts.make`."""
    for line in sys.stdin:
        root, words, count = json.loads(line)
        sys.stdout.flush()
        status = fork_until(count, partial(_act_silently, root, words))
        print(json.dumps(os.WIFEXITED(status)), flush=True)


def _act_silently(root: str, words: list[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        act(root, words)


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    if verb == "attempt":
        attempt()
    elif verb == "kill":
        kill_everywhere(Path(rest[0]), *rest[1:])
    else:
        publish(Path(rest[0]), *rest[1:])
