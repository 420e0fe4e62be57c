"""The stage `fetch`: the source's files, whole and verified, under DATA/raw/<digest of the source>/.

Models with the same source share one folder. Present and undamaged, it is not fetched again;
two runs at the same time wait for each other.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from timberline.registry.runtime.files import PARTIAL_PREFIX, lacks_locks
from timberline.registry.runtime.logs import log_event
from timberline.registry.runtime.receipts import RECEIPT, Receipt
from timberline.registry.runtime.stages import Stage, digest_value, require_receipt
from timberline.registry.runtime.working_copy import bring, find_copy, name_path
from timberline.training.config import CsvSource, KaggleSource, ModelConfig, PackageSource, Source
from timberline.training.errors import SourceError
from timberline.training.sources.csv import open_csv_source
from timberline.training.sources.download import Fetcher, InterruptedDownloadError, Pause
from timberline.training.sources.local import REFERENCES, read_references
from timberline.training.sources.package import PackageFetcher

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_logger = logging.getLogger("training.data.fetch")


def run_fetch(
    config: ModelConfig,
    data: Path,
    *,
    environment: Mapping[str, str] | None = None,
    pause: Pause = time.sleep,
) -> dict[str, Any]:
    """Fetch the source of ``config`` unless it is here; return what is there as JSON values.

    Args:
        data: the folder DATA.
        environment: where credentials are looked for; the process's own when None.
        pause: waits so many seconds before a lost connection is tried again.

    Raises:
        SourceError: it could not be fetched or is not what was asked for; nothing half-written is
            left, except the beginning of a download that broke off, which the next run goes on with.
    """
    # A copy: a release of Kaggle's client took its token out of the process's own as it was imported.
    known = dict(os.environ) if environment is None else environment
    fetcher = _open_source(config.source, data, known, pause)
    folder = raw_folder(config, data)
    inputs = {"source": digest_value(config.source), **fetcher.inputs()}
    stage = Stage("fetch", folder, inputs)
    if stage.is_current(_logger, source=fetcher.label):
        return _summary(config, folder, is_skipped=True)
    with _one_at_a_time(folder):
        is_skipped = stage.find_receipt() is not None  # the process before may have fetched it
        if not is_skipped:
            _fetch(fetcher, stage)
    log_event(_logger, "fetch finished", source=fetcher.label, folder=name_path(folder))
    return _summary(config, folder, is_skipped=is_skipped)


def raw_folder(config: ModelConfig, data: Path) -> Path:
    """Where the files of this source lie, or will lie."""
    return data / "raw" / digest_value(config.source)[:16]


def fetched_files(config: ModelConfig, data: Path) -> tuple[Path, ...]:
    """The files of the table in their order, each checked against its digest.

    Where the data is in a bucket they are not here before they are brought, which checks them.

    Raises:
        StageError: nothing is fetched, or a file was damaged, removed or changed since.
    """
    folder = raw_folder(config, data)
    receipt = require_receipt(folder, f"timberline fetch {config.model.name}")
    return _files_in(config.source, folder, receipt)


def _files_in(source: Source, folder: Path, receipt: Receipt) -> tuple[Path, ...]:
    if isinstance(source, CsvSource):
        bring(folder, REFERENCES)
        if (references := read_references(folder)) is not None:
            return references
    names = dict.fromkeys(source.files) if isinstance(source, KaggleSource) else sorted(receipt.outputs)
    return tuple(folder / name for name in names)


def _open_source(source: Source, data: Path, environment: Mapping[str, str], pause: Pause) -> Fetcher:
    match source:
        case PackageSource():
            return PackageFetcher(source, data / "raw" / "wheels")
        case KaggleSource():
            # Late: the client costs a third of a second, and only this source needs it.
            from timberline.training.sources.kaggle import KaggleFetcher  # noqa: PLC0415

            return KaggleFetcher(source, environment, pause)
        case CsvSource():
            # Whoever reads the data from a bucket does not see this machine's files.
            is_shared = find_copy(data) is not None
            return open_csv_source(source, environment, pause, copies_files=is_shared)


def _fetch(fetcher: Fetcher, stage: Stage) -> None:
    folder = stage.folder
    scratch = folder.with_name(f"{PARTIAL_PREFIX}download-{folder.name}")
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        with stage.fill() as partial:
            fetcher.fetch(partial, scratch)
            _check_names(partial, fetcher)
    except InterruptedDownloadError:
        raise
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise _disk_error(error, folder) from error
    except Exception:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    shutil.rmtree(scratch, ignore_errors=True)


def _check_names(folder: Path, fetcher: Fetcher) -> None:
    if (folder / RECEIPT).exists():
        raise SourceError(f"holds a file named {RECEIPT}, which the stage writes itself", where=fetcher.label)


def _disk_error(error: OSError, folder: Path) -> SourceError:
    if error.errno in _DISK_FULL:
        free = shutil.disk_usage(folder.parent).free
        return SourceError(
            f"the disk is full or a size limit is reached ({error.strerror}; {free:,} bytes free)",
            where=str(folder.parent),
            hint="Make room, or point DATA at another disk, and run the same command again.",
        )
    return SourceError(f"cannot be written: {error}", where=str(folder.parent))


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the lock of one source; the system lets go of it when its holder dies."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{PARTIAL_PREFIX}lock-{folder.name}").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log_event(_logger, "another process fetches the same source; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if not lacks_locks(error):
                raise
            raise SourceError(
                f"its file system has no file locks ({error.strerror}); two fetches would mix their files",
                where=str(folder.parent),
                hint="Nothing was fetched. Point DATA at a local disk or at NFSv4.",
            ) from error
        yield


def _summary(config: ModelConfig, folder: Path, *, is_skipped: bool) -> dict[str, Any]:
    receipt = require_receipt(folder, f"timberline fetch {config.model.name}")
    files = _files_in(config.source, folder, receipt)
    outputs = {folder / name: output for name, output in receipt.outputs.items()}
    sizes = [outputs[path].size if path in outputs else path.stat().st_size for path in files]
    return {
        "stage": "fetch",
        "model": config.model.name,
        "skipped": is_skipped,
        "folder": name_path(folder),
        "files": [name_path(path) for path in files],
        "bytes": sum(sizes),
        "digest": receipt.digest,
    }
