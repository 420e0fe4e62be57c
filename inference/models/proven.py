"""A version's bytes and graph, held against what was published: what loading it has to pass.

Done by every process that serves a version, and before that by one that only tries it
(`inference.models.trial`), which must be small: nothing of HTTP or metrics is imported here.
`run_trial` is that process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from timberline.inference.errors import GoldenMismatchError, LoadFailedError
from timberline.inference.formats.codec import RowDecoder
from timberline.inference.models.trial import Outcome, Trial, limit_memory
from timberline.inference.session import Session, is_out_of_memory
from timberline.registry.cache import Cache
from timberline.registry.errors import ConfigError, DigestMismatchError
from timberline.registry.manifest import Golden, Manifest
from timberline.registry.moments import write_row
from timberline.registry.runtime.documents import decode_json
from timberline.registry.store import MODEL_FILE, open_store
from timberline.registry.version import Version

# prctl(2): what the kernel sends to a process when the thread that started it has ended.
_PR_SET_PDEATHSIG = 1
# proc(5): of all processes, the one to end when memory runs out.
_FIRST_TO_GO = "1000"


class Proven(NamedTuple):
    """The graph of a version that is what was published, loaded and warm."""

    session: Session
    decoder: RowDecoder


def open_proven(version: Version, *, max_rows: int) -> Proven:
    """Read the graph that a manifest names, compare its digest, load it, and ask it its golden rows.

    The manifest and the graph are all that serving takes, and all of the version that is read, once: what
    else is in its folder is for others to verify.

    Raises:
        DigestMismatchError: the graph is not the one that was published.
        SignatureMismatchError: the graph is not what its manifest says.
        GoldenMismatchError: the graph does not answer as it did when it was published.
        LoadFailedError: there is not enough memory.
    """
    manifest = version.manifest
    try:
        session = Session(
            version.read_file(MODEL_FILE),
            manifest.signature,
            where=f"{version}: {MODEL_FILE}",
            row_by_row=manifest.precision == "int8",
            category_count=len(manifest.categories),
        )
        decoder = RowDecoder(manifest.signature.columns, max_rows, table=manifest.table)
        replay_golden(manifest, session, decoder)
    except MemoryError as error:
        raise LoadFailedError("takes more memory than it may", where=str(version), hint=_SMALLER) from error
    return Proven(session, decoder)


_SMALLER = "Publish a smaller graph, or raise --load-memory-bytes."


def replay_golden(manifest: Manifest, session: Session, decoder: RowDecoder) -> None:
    """Ask a loaded graph its golden rows, by the ways that requests take; this is also its warm-up.

    Raises:
        GoldenMismatchError: a probability is further than ``golden.atol`` from the published one, or the
            graph fails on these rows.
        RowError: a golden row is no row of the signature.
        MemoryError: the graph asks for more memory than there is.
    """
    golden = manifest.golden
    where = f"{manifest.model}@{manifest.version}"
    # One by one, as max_rows may be set below their number.
    sent = [write_row(row, manifest.signature.columns) for row in golden.rows]
    bodies = [msgspec.json.encode({"instances": [row]}) for row in sent]
    rows = [decoder.decode(body).rows[0] for body in bodies]
    try:
        together = session.run(session.feed_rows(rows)).probabilities
        singles = [session.run_row(row)[1] for row in rows]
    except Exception as error:  # the binding's exceptions have no base of their own
        if is_out_of_memory(error):
            raise MemoryError from error
        first = str(error).partition("\n")[0][:300]
        raise GoldenMismatchError(
            f"the graph fails: {first}", where=f"{where}: golden rows", hint="Export the model again."
        ) from error
    _compare(where, golden, together)
    _compare(where, golden, np.array(singles, dtype=np.float32))


def _compare(where: str, golden: Golden, found: npt.NDArray[np.float32]) -> None:
    expected = np.array(golden.probabilities, dtype=np.float32)  # (rows, classes)
    errors = np.abs(found - expected).max(axis=1)  # (rows, classes) → (rows,)
    worst = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
    if not errors[worst] <= golden.atol:
        raise GoldenMismatchError(
            f"probabilities are off by {errors[worst]:.3g}, allowed {golden.atol:.3g}",
            where=f"{where}: golden row {worst}",
            hint="This machine computes otherwise than the exporter's; export and gate the version here.",
        )


def run_trial(source: BinaryIO, target: BinaryIO) -> int:
    """Do the trial that is on ``source``, and write its outcome to ``target``; the process is for this alone.

    Raises:
        ConfigError: there is no trial; somebody else than a worker started this process.
    """
    try:
        trial = decode_json(source.readline(), Trial)
    except msgspec.DecodeError as error:
        raise ConfigError(f"no trial: {error}", where="standard input") from None
    _end_with_parent(trial.timeout_s)
    if os.getppid() != trial.parent_pid:  # it has ended before the kernel was asked to watch it
        return 1
    target.write(msgspec.json.encode(_load(trial)))
    target.flush()
    return 0


def _load(trial: Trial) -> Outcome:
    try:
        with limit_memory(trial.memory_bytes):
            open_proven(_open_version(trial), max_rows=trial.max_rows)
    except Exception as error:  # the edge of the process; its parent tells it
        return Outcome.of(error)
    return Outcome()


def _open_version(trial: Trial) -> Version:
    """The version that the trial is about; of one with another manifest nothing is to be found out."""
    cache = Cache(Path(trial.cache_dir) if trial.cache_dir else None, trial.cache_bytes)
    store = open_store(trial.registry, cache, is_patient=False)
    if store.objects.is_remote:
        return store.open_known(trial.model, trial.version, trial.manifest_sha256)
    version = store.open_version(trial.model, trial.version)
    digest = version.digests.manifest_sha256
    if digest != trial.manifest_sha256:
        raise DigestMismatchError(
            f"its manifest has digest {digest[:12]}…, a moment ago {trial.manifest_sha256[:12]}…",
            where=str(version),
        )
    return version


def _end_with_parent(timeout_s: float) -> None:
    """Be ended by the kernel when the parent is, or is late in doing it; and first when memory runs out."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO, "ascii")
