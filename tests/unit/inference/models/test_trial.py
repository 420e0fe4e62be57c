"""What a trial tells, who remembers it, and what it may take."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.synchronize import Event
from pathlib import Path

import msgspec
import pytest

from tests.support.service import DEADLINE_S
from timberline.inference.errors import GoldenMismatchError, LoadFailedError, NotReadyError, ServingError
from timberline.inference.models.proven import run_trial
from timberline.inference.models.trial import Ledger, Outcome, Trial, TrialRunner, may_heal
from timberline.registry.errors import ConfigError, DigestMismatchError, LifecycleError, VersionNotFoundError
from timberline.registry.runtime.files import digest_file
from timberline.registry.store import MODEL_FILE
from timberline.registry.version import MANIFEST_FILE


def describe(registry: Path = Path("/nowhere"), version: int = 1, **changes: object) -> Trial:
    """A trial of a version of tiny; ``changes`` replaces fields."""
    manifest = registry / "tiny" / str(version) / MANIFEST_FILE
    trial = Trial(
        registry=str(registry),
        model="tiny",
        version=version,
        manifest_sha256=digest_file(manifest) if manifest.is_file() else "0" * 64,
        sequence=1,
        max_rows=10,
        parent_pid=os.getpid(),
        timeout_s=DEADLINE_S,
        memory_bytes=1 << 30,
    )
    return msgspec.structs.replace(trial, **changes)


@pytest.mark.parametrize(
    "error",
    [
        DigestMismatchError("model.onnx has 3 bytes", where="tiny@1", hint="Publish it again."),
        GoldenMismatchError("probabilities are off", where="tiny@1"),
        LoadFailedError("takes too long"),
    ],
)
def test_an_error_is_the_same_in_another_process(error: LifecycleError) -> None:
    """The worker's log and what it does next rest on the kind and the text."""
    outcome = msgspec.json.decode(msgspec.json.encode(Outcome.of(error)), type=Outcome)
    with pytest.raises(type(error)) as caught:
        outcome.check()
    assert str(caught.value) == str(error)
    assert outcome.may_heal == may_heal(error)


def test_what_may_be_mended_is_told_from_what_may_not() -> None:
    """The first is tried again while the alias stays, the second is not."""
    assert may_heal(VersionNotFoundError("no version 2"))
    assert may_heal(OSError(5, "Input/output error"))
    assert Outcome.of(OSError(5, "Input/output error")).may_heal
    assert not may_heal(GoldenMismatchError("off"))
    assert not Outcome.of(ValueError("our mistake")).may_heal
    assert not Outcome().may_heal


def test_an_unknown_error_is_an_error_of_serving() -> None:
    """A newer program's trial must not be taken for a good version."""
    with pytest.raises(ServingError, match="from the future"):
        Outcome("unheard_of", "from the future").check()


def test_the_ledger_remembers_by_move() -> None:
    """The same version, moved to again, is tried again; its worker's neighbours do not repeat a trial."""
    ledger = Ledger()
    first = describe()
    assert ledger.find(first) is None
    ledger.add(first, Outcome())
    ledger.add(describe(version=2), Outcome.of(LoadFailedError("no")))
    assert ledger.find(first) == Outcome()
    assert ledger.find(describe(sequence=2)) is None
    assert ledger.find(describe(manifest_sha256="1" * 64)) is None
    for sequence in range(1000):
        ledger.add(describe(sequence=sequence), Outcome())
    assert ledger.find(describe(sequence=999)) == Outcome()
    assert ledger.find(describe(version=2)) is None
    assert os.fstat(ledger._fd).st_size < 16_384


def hold(fd: int, is_held: Event) -> None:
    """Take a ledger's lock, say so, and keep it to the end of the process."""
    with Ledger(fd).locked():
        is_held.set()
        signal.pause()


def test_the_lock_of_a_killed_worker_is_free_again() -> None:
    """Otherwise one that is ended in the middle of a trial would end all following."""
    ledger = Ledger()
    context = multiprocessing.get_context("fork")
    is_held = context.Event()
    process = context.Process(target=hold, args=(ledger._fd, is_held))
    process.start()
    assert is_held.wait(DEADLINE_S)
    process.kill()
    process.join()
    with ledger.locked():
        ledger.add(describe(), Outcome())
    assert ledger.find(describe()) == Outcome()


def test_a_good_version_is_tried_once(registry: Path) -> None:
    """What one worker found out speaks for the others: the second is not even able to try."""
    ledger = Ledger()
    TrialRunner(ledger).check(describe(registry))
    (registry / "tiny" / "1" / MODEL_FILE).unlink()
    TrialRunner(ledger).check(describe(registry))
    with pytest.raises(DigestMismatchError, match=r"model\.onnx is missing"):
        TrialRunner(Ledger()).check(describe(registry))


def test_version_that_changed_since_it_was_looked_at_is_tried_anew(registry: Path) -> None:
    """What is found out about other bytes must not be remembered of these, good or bad."""
    ledger = Ledger()
    trial = describe(registry, manifest_sha256="1" * 64)
    with pytest.raises(DigestMismatchError, match=r"its manifest has digest .* a moment ago 1{12}…"):
        TrialRunner(ledger).check(trial)
    assert ledger.find(trial) is None


def test_what_may_be_mended_is_not_remembered(registry: Path) -> None:
    """The next attempt is made in earnest."""
    (graph := registry / "tiny" / "1" / MODEL_FILE).rename(aside := registry / "aside")
    trials = TrialRunner(Ledger())
    with pytest.raises(DigestMismatchError):
        trials.check(describe(registry))
    aside.rename(graph)
    trials.check(describe(registry))


def test_a_process_that_ends_by_itself_is_a_version_that_is_not_served(registry: Path) -> None:
    """A crash inside the graph's runtime has no error to tell. Here it is a trial of another's parent."""
    with pytest.raises(LoadFailedError, match=r"ended the process .* \(exit code 1\)"):
        TrialRunner(Ledger()).check(describe(registry, parent_pid=1))


def test_a_stopped_tester_begins_nothing(tmp_path: Path) -> None:
    """A process started after the stop would be nobody's."""
    trials = TrialRunner(Ledger())
    trials.stop()
    with pytest.raises(NotReadyError):
        trials.check(describe(tmp_path))


def test_a_trial_without_an_order_is_refused() -> None:
    """The verb is a worker's; a person who finds it is told so."""
    with pytest.raises(ConfigError, match="no trial"):
        run_trial(io.BytesIO(b""), io.BytesIO())


def test_memory_beyond_the_limit_is_refused_and_the_limit_goes_with_the_block() -> None:
    """In a process of its own: a limit that stayed would fail whatever comes after."""
    code = (
        "import mmap, resource\n"
        "from timberline.inference.models.trial import limit_memory\n"
        "before = resource.getrlimit(resource.RLIMIT_AS)\n"
        "with limit_memory(64 << 20):\n"
        "    mmap.mmap(-1, 32 << 20).close()\n"
        "    try:\n"
        "        mmap.mmap(-1, 128 << 20)\n"
        "    except OSError as error:\n"
        "        print(error.errno)\n"
        "mmap.mmap(-1, 128 << 20)\n"
        "print(before == resource.getrlimit(resource.RLIMIT_AS))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(errno.ENOMEM), "True"]
