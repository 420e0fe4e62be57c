"""A stage runs once for the same inputs: its receipt names what its folder was made from.

A stage owns one folder. It writes the folder under a temporary name, leaves a receipt with the
digest of every input and of every output in it, and renames it when it is whole. Run again with
the same inputs it does nothing; with one changed input it runs again.

Where the data is in a bucket, the bucket's receipts count: a stage's folders are brought from it, and put
into it, as of `registry.runtime.working_copy`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from timberline.registry.errors import StageError
from timberline.registry.runtime.documents import encode_canonical, encode_document
from timberline.registry.runtime.files import digest_bytes, digest_file, fresh_folder
from timberline.registry.runtime.logs import log_event
from timberline.registry.runtime.receipts import RECEIPT, Receipt, list_outputs
from timberline.registry.runtime.working_copy import bring, find_copy, name_path, read_local_receipt


def digest_value(value: object) -> str:
    """SHA-256 of a value's canonical JSON; for configuration that takes part in a receipt."""
    return digest_bytes(encode_canonical(value))


def digest_code(package: Path) -> str:
    """SHA-256 over the names and bytes of every Python file below ``package``.

    A stage that names it among its inputs runs again when its program changes, released or not.
    """
    files = sorted(package.rglob("*.py"))
    return digest_value([(path.relative_to(package).as_posix(), digest_file(path)) for path in files])


def read_receipt(folder: Path) -> Receipt | None:
    """The receipt of what is in ``folder``, or None when there is none or it is not one.

    Raises:
        OSError: it may not be read, or the disk fails; that does not mean that the stage has not run.
    """
    copy = find_copy(folder)
    return copy.receipt(folder) if copy else read_local_receipt(folder)


def require_receipt(folder: Path, command: str) -> Receipt:
    """The receipt of the stage that filled ``folder``, all of whose files are whole.

    Of a bucket the files are compared when they are brought.

    Raises:
        StageError: the stage has not run, or a file of it is damaged; names ``command``, which runs it.
    """
    receipt = read_receipt(folder)
    if receipt is None:
        raise StageError("this stage has not run", where=name_path(folder), hint=f"Run `{command}`.")
    if find_copy(folder) is None and not receipt.is_kept_in(folder):
        raise StageError(
            "a file is missing or has other bytes than the receipt says",
            where=str(folder),
            hint=f"Run `{command}` again.",
        )
    return receipt


@dataclass(frozen=True)
class Stage:
    """One run of a stage: the folder that it fills, from inputs of these digests.

    ``reads``: folders of other stages, and the names in them that this one reads (none: all). They are
    brought before the stage runs, where the data is in a bucket.
    """

    name: str
    folder: Path
    inputs: Mapping[str, str]
    reads: Mapping[Path, Sequence[str]] = field(default_factory=dict)

    def find_receipt(self) -> Receipt | None:
        """The receipt of a finished run on these very inputs, or None.

        Every output is there with the bytes the receipt names (in a bucket: in their size); a damaged or
        missing file means that the stage has to run again.
        """
        if copy := find_copy(self.folder):
            receipt: Receipt | None = copy.receipt(self.folder, again=True)
            return receipt if self._is_own(receipt) and copy.is_whole(self.folder) else None
        return self._find_local_receipt()

    def _find_local_receipt(self) -> Receipt | None:
        receipt = read_local_receipt(self.folder)
        return receipt if receipt and self._is_own(receipt) and receipt.is_kept_in(self.folder) else None

    def _is_own(self, receipt: Receipt | None) -> bool:
        return receipt is not None and receipt.stage == self.name and receipt.inputs == dict(self.inputs)

    def is_current(self, logger: logging.Logger, **about: object) -> bool:
        """Whether there is nothing to do, which is then logged with ``about``.

        What was finished here before, and could not be put into the bucket then, is put now.
        """
        if self.find_receipt() is None:
            copy = find_copy(self.folder)
            finished = self._find_local_receipt() if copy else None
            if copy is None or finished is None:
                return False
            copy.share(self.folder, finished)
        log_event(logger, f"{self.name} is skipped: its inputs are unchanged", logging.INFO, **about)
        return True

    @contextlib.contextmanager
    def fill(self) -> Iterator[Path]:
        """Yield an empty folder to fill; it becomes ``folder``, with its receipt, if the block succeeds.

        Raises:
            OSError: what is read could not be brought, or what was done not put.
            DigestMismatchError: what is read is damaged.
        """
        for folder, names in self.reads.items():
            bring(folder, *names)
        with fresh_folder(self.folder, mark=RECEIPT) as partial:
            yield partial
            receipt = Receipt(self.name, dict(self.inputs), list_outputs(partial))
            (partial / RECEIPT).write_bytes(encode_document(receipt))
        if copy := find_copy(self.folder):
            copy.share(self.folder, receipt)
