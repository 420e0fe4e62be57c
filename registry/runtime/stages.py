"""A stage runs once for the same inputs: its receipt names what its folder was made from.

A stage owns one folder. It writes the folder under a temporary name, leaves a receipt with the
digest of every input and of every output in it, and renames it when it is whole. Run again with
the same inputs it does nothing; with one changed input it runs again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from timberline.registry.errors import StageError
from timberline.registry.runtime.documents import decode_json, encode_canonical, encode_document
from timberline.registry.runtime.files import digest_bytes, digest_file, fresh_folder
from timberline.registry.runtime.logs import log_event

RECEIPT = "receipt.json"


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a stage: SHA-256 and size in bytes."""

    sha256: str
    size: int

    def is_at(self, path: Path) -> bool:
        """Whether the file at ``path`` is this one."""
        return path.is_file() and path.stat().st_size == self.size and digest_file(path) == self.sha256


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stage's folder was made from and what is in it. No times: equal work, equal bytes."""

    stage: str
    inputs: dict[str, str]
    outputs: dict[str, Output]

    @property
    def digest(self) -> str:
        """Identity of the stage's result: the digest of its outputs' digests."""
        return digest_bytes(encode_canonical(self.outputs))

    def is_kept_in(self, folder: Path) -> bool:
        """Whether every output is in ``folder`` with the bytes that are named here."""
        return all(output.is_at(folder / name) for name, output in self.outputs.items())


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
    """The receipt in ``folder``, or None when there is none or it is not one.

    Raises:
        OSError: it may not be read, or the disk fails; that does not mean that the stage has not run.
    """
    try:
        return decode_json((folder / RECEIPT).read_bytes(), Receipt)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, msgspec.DecodeError):
        return None


def require_receipt(folder: Path, command: str) -> Receipt:
    """The receipt of the stage that filled ``folder``, all of whose files are whole.

    Raises:
        StageError: the stage has not run, or a file of it is damaged; names ``command``, which runs it.
    """
    receipt = read_receipt(folder)
    if receipt is None:
        raise StageError("this stage has not run", where=str(folder), hint=f"Run `{command}`.")
    if not receipt.is_kept_in(folder):
        raise StageError(
            "a file is missing or has other bytes than the receipt says",
            where=str(folder),
            hint=f"Run `{command}` again.",
        )
    return receipt


@dataclass(frozen=True)
class Stage:
    """One run of a stage: the folder that it fills, from inputs of these digests."""

    name: str
    folder: Path
    inputs: Mapping[str, str]

    def find_receipt(self) -> Receipt | None:
        """The receipt of a finished run on these very inputs, or None.

        Every output is there with the bytes the receipt names; a damaged or missing file means
        that the stage has to run again.
        """
        receipt = read_receipt(self.folder)
        if receipt is None or receipt.stage != self.name or receipt.inputs != dict(self.inputs):
            return None
        return receipt if receipt.is_kept_in(self.folder) else None

    def is_current(self, logger: logging.Logger, **about: object) -> bool:
        """Whether there is nothing to do, which is then logged with ``about``."""
        if self.find_receipt() is None:
            return False
        log_event(logger, f"{self.name} is skipped: its inputs are unchanged", logging.INFO, **about)
        return True

    @contextlib.contextmanager
    def fill(self) -> Iterator[Path]:
        """Yield an empty folder to fill; it becomes ``folder``, with its receipt, if the block succeeds."""
        with fresh_folder(self.folder, mark=RECEIPT) as partial:
            yield partial
            outputs = {
                path.relative_to(partial).as_posix(): Output(digest_file(path), path.stat().st_size)
                for path in sorted(partial.rglob("*"))
                if path.is_file()
            }
            receipt = Receipt(self.name, dict(self.inputs), outputs)
            (partial / RECEIPT).write_bytes(encode_document(receipt))
