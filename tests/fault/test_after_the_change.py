"""What follows a change cannot undo it: a folder not synced, a lock that stays, a result that is lost.

And file systems that lack what a change needs: nothing is changed, and a sentence says what is missing.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults import ROOT, compile_shim, describe_fault, run_on_lower_layer, run_python
from tests.support.manifests import give_verdict, publish_tiny
from tests.support.overlay_child import MARK, NEW, OLD
from tests.support.tables import NAME, SmallTable, rows
from timberline.registry.aliases import read_alias
from timberline.registry.names import PRODUCTION
from timberline.registry.promotion import promote
from timberline.registry.store import open_store
from timberline.registry.verdict import VERDICT_FILE, decode_verdict

# What a file system says that has no sync of folders, by the call that it says it to.
CANNOT_SYNC = [
    ("fsync", errno.EINVAL),
    ("fsync", errno.EOPNOTSUPP),
    ("fsync", errno.ENOSYS),
    ("fsync", errno.EBADF),
    ("opendir", errno.EACCES),
    ("opendir", errno.EISDIR),
]
FAILED = [("fsync", errno.EIO), ("fsync", errno.ENOSPC), ("opendir", errno.EMFILE), ("opendir", errno.EIO)]
WRITTEN = {
    "promote": "tiny/aliases/production/2.json",
    "publish": "tiny/3",
    "judge": f"tiny/2/{VERDICT_FILE}",
}
# Folders that it writes in: the head lies beside the records, the ledger beside the versions.
PLACES = {"promote": 2, "publish": 2, "judge": 1}
# What `python -m registry` has no verb for, run as it runs them.
RUN = """
import sys
from pathlib import Path
from timberline.registry.runtime.cli import run_command
from timberline.registry.runtime.logs import configure_logging
from tests.support.registry_child import ACTIONS
configure_logging("info", "human")
sys.exit(run_command("registry", lambda: print(ACTIONS[sys.argv[1]](Path(sys.argv[2]))) or 0))
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two versions with passing verdicts, the first in production."""
    store = open_store(tmp_path / "registry")
    for version in (1, 2):
        publish_tiny(store)
        give_verdict(store, "tiny", version)
    promote(store, "tiny", 1)
    # The second verdict was given against nothing; it is given again, against what is in production.
    give_verdict(store, "tiny", 2)
    return tmp_path / "registry"


def act(action: str, root: Path, fault: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Promote, publish or judge version 2 as a command does, under a fault."""
    if action == "promote":
        command = ("-m", "registry", "promote", "tiny@2", "--log-format", "human", "--registry", str(root))
        return run_python(*command, environment=fault)
    return run_python("-c", RUN, action, str(root), environment=fault)


def see(root: Path) -> dict[str, Any]:
    """What each of the actions changes, as a reader finds it."""
    store = open_store(root)
    for version in store.versions("tiny"):
        store.open_version("tiny", version).verify()
    record = read_alias(store, "tiny", PRODUCTION)
    judged = store.read_document("tiny", 2, VERDICT_FILE)
    assert record is not None
    assert judged is not None
    return {
        "promote": record.version,
        "publish": store.versions("tiny"),
        "judge": decode_verdict(judged).outcome,
    }


BEFORE = {"promote": 1, "publish": [1, 2], "judge": "PASS"}
AFTER = {"promote": 2, "publish": [1, 2, 3], "judge": "BLOCK"}


@pytest.mark.parametrize(("call", "number"), CANNOT_SYNC)
@pytest.mark.parametrize("action", WRITTEN)
def test_change_where_folders_cannot_be_synced_is_done_with_a_warning(
    action: str, call: str, number: int, root: Path, shim: Path
) -> None:
    """CIFS and FUSE do so: the command ended with 3 and the change was there, so that it was made twice."""
    done = act(action, root, describe_fault(shim, call, number, "/registry/tiny"))
    assert done.returncode == 0, done.stderr
    warning = f"/registry/{WRITTEN[action]} is written; its folder could not be synced: {os.strerror(number)}"
    assert (done.stderr.count(warning), done.stderr.count("warning: ")) == (1, PLACES[action])
    assert see(root) == BEFORE | {action: AFTER[action]}


@pytest.mark.parametrize(("call", "number"), FAILED)
@pytest.mark.parametrize("action", WRITTEN)
def test_error_after_the_change_says_that_it_has_happened(
    action: str, call: str, number: int, root: Path, shim: Path
) -> None:
    """A disk that fails is no small thing; but who reads "I/O error" alone repeats a change that is there."""
    done = act(action, root, describe_fault(shim, call, number, "/registry/tiny"))
    assert done.returncode == 3
    message = f"/registry/{WRITTEN[action]} is written, but its folder could not be synced: [Errno {number}]"
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert see(root) == BEFORE | {action: AFTER[action]}


@pytest.mark.parametrize("action", ["publish"])
def test_disk_that_fails_before_the_change_leaves_the_old_state(action: str, root: Path, shim: Path) -> None:
    """The folder of a new version is synced before it gets its name; there the error is one of the change."""
    done = act(action, root, describe_fault(shim, "fsync", errno.EIO, "/registry/.staging"))
    assert (done.returncode, see(root)) == (3, BEFORE)
    assert "is written" not in done.stderr


def test_warning_comes_once_a_folder(tmp_path: Path, shim: Path) -> None:
    """Training writes a checkpoint an epoch; a thousand equal lines hide the one that differs."""
    code = """
import sys
from pathlib import Path
from timberline.registry.runtime.files import fresh_folder, write_atomically
from timberline.registry.runtime.logs import configure_logging
configure_logging("info", "human")
for number in range(3):
    for folder in ("one", "two"):
        write_atomically(Path(sys.argv[1]) / folder / f"file-{number}", b"x")
    with fresh_folder(Path(sys.argv[1]) / "one" / "folder"):
        pass
"""
    fault = describe_fault(shim, "fsync", errno.EINVAL, str(tmp_path))
    done = run_python("-c", code, str(tmp_path), environment=fault)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("could not be synced") == 2
    assert len(list(tmp_path.rglob("file-*"))) == 6


def test_folder_whose_sync_fails_is_there_whole(tmp_path: Path, shim: Path) -> None:
    """A stage that took hours must not be thrown away for what came after it."""
    code = """
import sys
from pathlib import Path
from timberline.registry.errors import AfterChangeError
from timberline.registry.runtime.stages import Stage
folder = Path(sys.argv[1]) / "stage"
for text in ("first", "second"):
    try:
        with Stage("etl", folder, {"input": text}).fill() as partial:
            (partial / "file").write_text(text)
    except AfterChangeError as error:
        print(error, Stage("etl", folder, {"input": text}).find_receipt() is not None, sep="\\n")
"""
    fault = describe_fault(shim, "fsync", errno.EIO, str(tmp_path))
    done = run_python("-c", code, str(tmp_path), environment=fault)
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[1::2]) == (0, ["True", "True"]), done.stderr
    assert all("/stage is written, but its folder could not be synced" in line for line in lines[::2])
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
@pytest.mark.parametrize("action", WRITTEN)
def test_lock_that_cannot_be_removed_is_no_failure_of_the_change(
    action: str, number: int, root: Path, shim: Path
) -> None:
    """No process holds it, and the next writer removes it."""
    done = act(action, root, describe_fault(shim, "unlink", number, ".lock"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f".lock could not be removed: {os.strerror(number)}") == PLACES[action]
    assert see(root) == BEFORE | {action: AFTER[action]}
    assert {path.suffix for path in (root / ".staging").iterdir()} == {".lock"}
    publish_tiny(open_store(root))
    assert list((root / ".staging").iterdir()) == []


@pytest.mark.parametrize(
    "number", [errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV]
)
def test_file_system_without_hard_links_is_said_and_nothing_changes(
    number: int, root: Path, shim: Path
) -> None:
    """SMB, exFAT and gcsfuse have none; "operation not permitted" sends people after rights instead."""
    done = act("promote", root, describe_fault(shim, "link", number, str(root)))
    assert done.returncode == 3
    assert f"{root}: its file system has no hard links ({os.strerror(number)})" in done.stderr
    assert "Nothing was changed" in done.stderr
    assert see(root) == BEFORE
    assert list((root / ".staging").iterdir()) == []


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EIO, errno.ETIMEDOUT])
def test_link_that_was_made_though_its_answer_was_lost_is_a_move(number: int, root: Path, shim: Path) -> None:
    """NFS repeats a request whose answer was lost, and the second answer is "exists": open(2), O_EXCL."""
    done = act("promote", root, describe_fault(shim, "link", number, str(root), does=True))
    assert done.returncode == 0, done.stderr
    assert see(root) == BEFORE | {"promote": 2}


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL])
@pytest.mark.parametrize("action", WRITTEN)
def test_file_system_without_locks_is_said_and_nothing_changes(
    action: str, number: int, root: Path, shim: Path
) -> None:
    """Without them a live writer looks like one that was killed."""
    done = act(action, root, describe_fault(shim, "flock", number, str(root)))
    assert done.returncode == 3
    assert f"{root}: its file system has no file locks ({os.strerror(number)})" in done.stderr
    assert see(root) == BEFORE
    assert list((root / ".staging").iterdir()) == []


@pytest.mark.parametrize("planted", ["folder", "FIFO", "link"])
def test_thing_that_is_no_lock_stops_no_writer(planted: str, root: Path) -> None:
    """Whoever can make a folder could stop every publisher, and a FIFO would make it wait."""
    path = root / ".staging" / "0123456789abcdef.lock"
    if planted == "folder":
        path.mkdir()
    elif planted == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to(root / "tiny" / "1" / "manifest.json")
    assert publish_tiny(open_store(root)) == 3
    assert see(root)["publish"] == [1, 2, 3]


def _promote_to(root: Path, stdout: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "registry", "promote", "tiny@2", "--registry", str(root)],
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


def test_result_that_cannot_be_written_is_no_failure_of_the_change(root: Path) -> None:
    """A full disk under standard output ended with 120 and a traceback, after production had moved."""
    with Path("/dev/full").open("wb") as full:
        done = _promote_to(root, full.fileno())
    assert done.returncode == 3
    assert "standard output: done, but the result could not be written: [Errno 28]" in done.stderr
    assert "Exception ignored" not in done.stderr
    assert see(root) == BEFORE | {"promote": 2}


def test_reader_of_the_result_that_has_gone_is_no_failure_of_the_change(root: Path) -> None:
    """`… | head -0` in a pipeline is the everyday form of it."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = _promote_to(root, write_end)
    finally:
        os.close(write_end)
    assert done.returncode == 3
    assert "standard output: done, but the result could not be written" in done.stderr
    assert "Exception ignored" not in done.stderr
    assert see(root) == BEFORE | {"promote": 2}


def test_folder_of_a_lower_layer_is_replaced_and_never_mixed(tmp_path: Path, shim: Path) -> None:
    """An image with data in it has its folders in a lower layer, where a rename of one is EXDEV.

    Killed before every single operation: the old folder, the new one, none, or what is left of the old one
    without the file that readers take it for a result by.
    """
    done = run_on_lower_layer(
        tmp_path / "try", shim, "-m", "tests.support.overlay_child", "replace", str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert len(seen) > len(OLD)
    for state in seen:
        found = state["found"]
        is_left_over = found is not None and MARK not in found and found.items() <= OLD.items()
        assert found in (None, OLD, NEW) or is_left_over, found
        assert (state["again"], state["left"]) == (NEW, ["target"])
    assert seen[0]["found"] == OLD
    assert (seen[-1]["found"], seen[-1]["code"]) == (NEW, 0)
    assert any(state["found"] is None for state in seen)


def test_registry_in_a_lower_layer_is_written_to(tmp_path: Path, shim: Path) -> None:
    """What it renames is new and so above: a version, a record of an alias and a verdict all get through."""
    done = run_on_lower_layer(
        tmp_path / "try", shim, "-m", "tests.support.overlay_child", "registry", str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[1, 2], 2, 2]


def test_stage_is_run_again_over_data_in_a_lower_layer(tmp_path: Path, shim: Path) -> None:
    """A container of an image that holds prepared data ended with "invalid cross-device link"."""
    done = run_on_lower_layer(
        tmp_path / "try", shim, "-m", "tests.support.overlay_child", "etl", str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [False, True, False, True]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_fetch_and_ledger_on_a_file_system_without_locks_say_so(
    number: int, tmp_path: Path, shim: Path
) -> None:
    """The other two that lock; "no locks available" alone sounds as if some came back."""
    table = SmallTable(tmp_path, rows(10))
    fault = describe_fault(shim, "flock", number, str(tmp_path))
    command = ["-m", "training", "fetch", "--model", NAME, "--models", str(table.models)]
    done = run_python(*command, "--data", str(table.data), environment=fault)
    assert done.returncode == 3
    assert f"{table.data}/raw: its file system has no file locks ({os.strerror(number)})" in done.stderr
    assert not [path for path in table.data.rglob("*") if path.is_file() and "lock" not in path.name]
    code = "from timberline.benchmarks.selftest.ledger import locked\n"
    code += f"with locked(Path({str(tmp_path / 'rows.csv')!r})): pass"
    done = run_python("-c", f"from pathlib import Path\n{code}", environment=fault)
    assert f"BenchmarkError: {tmp_path}/rows.csv: its file system has no file locks" in done.stderr
