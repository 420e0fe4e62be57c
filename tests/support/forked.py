"""Code of a test that must not run in the test's own process: as somebody who may not read everything,
or under an audit hook, which cannot be taken off again.

    with open_to_all() as folder:                    # tmp_path lets nobody else in
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NOBODY = 65534
# Every audited operation that looks at a file system.
_LOOKS = {"open", "os.listdir", "os.scandir"}


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


def count_looks(action: Callable[[], object]) -> dict[str, int]:
    """How often ``action`` opens a file or reads a folder, by the audit event."""

    def count() -> Counter[str]:
        counts: Counter[str] = Counter()

        def note(event: str, _arguments: object) -> None:
            if event in _LOOKS:
                counts[event] += 1

        sys.addaudithook(note)
        action()
        return counts

    return run_forked(count)  # type: ignore[no-any-return]


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
