"""Code of a test that must not run in the test's own process: as a user who may not read everything,
or under an audit hook, which cannot be taken off again.

    with open_to_all() as folder:                    # tmp_path lets no other user in
        code = run_forked(lambda: main([...]), as_nobody=True)
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import timberline.registry

NOBODY = 65534
# Every audited operation that looks at a file system.
_LOOKS = {"open", "os.listdir", "os.scandir"}
_REGISTRY = str(Path(timberline.registry.__file__).parent)


def run_forked(action: Callable[[], Any], *, as_nobody: bool = False) -> Any:
    """What ``action`` returns in a fork of this process; JSON has to be able to carry it.

    Args:
        as_nobody: without the rights of root, to whom everything is readable. Others lack them anyway.
    """
    receiver, sender = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns where threads run: the child takes no lock of theirs, and ends in `os._exit`.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _answer(action, sender, as_nobody and os.geteuid() == 0)
    os.close(sender)
    with os.fdopen(receiver, "rb") as pipe:
        answer = json.loads(pipe.read() or b'"the child died"')
    os.waitpid(child, 0)
    assert isinstance(answer, list), answer
    return answer[0]


def count_opens(action: Callable[[], object], names: Iterable[str]) -> dict[str, int]:
    """How often ``action`` opens published files of these names to read them, in a process of its own.

    What processes below it open is not counted, nor what is being published.
    """

    def count() -> dict[str, int]:
        counts = dict.fromkeys(names, 0)

        def note(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open" and isinstance(arguments[0], str | Path):
                path = Path(arguments[0])
                is_read = not arguments[2] & (os.O_WRONLY | os.O_RDWR)
                if path.name in counts and ".staging" not in path.parts and is_read:
                    counts[path.name] += 1

        sys.addaudithook(note)
        action()
        return dict(counts)

    counted: dict[str, int] = run_forked(count)
    return counted


class Work(NamedTuple):
    """What an action did: files opened and folders read, and lines of the registry's code run."""

    looks: int
    lines: int


def count_work(action: Callable[[], object]) -> Work:
    """Of ``action``, in a process of its own: it is the same on every machine, unlike the time it takes."""

    def count() -> list[int]:
        counts = Counter[str]()

        def note(event: str, arguments: tuple[object, ...]) -> None:
            # What is open already may be "opened" once more, to be read by.
            counts["looks"] += event in _LOOKS and not isinstance(arguments[0], int)

        def trace(frame: FrameType, event: str, _argument: object) -> Any:
            if not frame.f_code.co_filename.startswith(_REGISTRY):
                return None
            counts["lines"] += event == "line"
            return trace

        sys.addaudithook(note)
        sys.settrace(trace)
        action()
        sys.settrace(None)
        return [counts["looks"], counts["lines"]]

    return Work(*run_forked(count))


@contextlib.contextmanager
def open_to_all() -> Iterator[Path]:
    """A folder that everybody may enter, and its owner alone may write."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        for path in (folder, *folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        shutil.rmtree(folder)


def _answer(action: Callable[[], Any], sender: int, gives_up_rights: bool) -> None:
    try:
        if gives_up_rights:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        answer: object = [action()]
    except BaseException:
        answer = traceback.format_exc()
    os.write(sender, json.dumps(answer).encode())
    os._exit(0)
