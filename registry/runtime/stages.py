"""A stage runs once for the same inputs: receipts that say what a folder was made from.

A stage owns one folder. It writes the folder under a temporary name, leaves a receipt with the
digest of every input and of every output in it, and renames it when it is whole. Run again with
the same inputs it does nothing; with one changed input it runs again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from timberline.registry.runtime.documents import decode_json, encode_canonical, encode_document
from timberline.registry.runtime.files import digest_bytes, digest_file, fresh_folder

RECEIPT = "receipt.json"


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a stage: SHA-256 and size in bytes."""

    sha256: str
    size: int


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stage's folder was made from and what is in it. No times: equal work, equal bytes."""

    stage: str
    inputs: dict[str, str]
    outputs: dict[str, Output]

    @property
    def digest(self) -> str:
        """Identity of the stage's result: the digest of its outputs' digests."""
        return digest_bytes(encode_canonical(self.outputs))


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


def find_current(folder: Path, stage: str, inputs: Mapping[str, str]) -> Receipt | None:
    """The receipt of a finished run of ``stage`` on these very ``inputs``, or None.

    Every output is there with the bytes the receipt names; a damaged or missing file means
    that the stage has to run again.
    """
    receipt = read_receipt(folder)
    if receipt is None or receipt.stage != stage or receipt.inputs != dict(inputs):
        return None
    for name, output in receipt.outputs.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != output.size:
            return None
        if digest_file(path) != output.sha256:
            return None
    return receipt


@contextlib.contextmanager
def stage_folder(folder: Path, stage: str, inputs: Mapping[str, str]) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes ``folder``, with its receipt, if the block succeeds."""
    with fresh_folder(folder, mark=RECEIPT) as partial:
        yield partial
        outputs = {
            path.relative_to(partial).as_posix(): Output(digest_file(path), path.stat().st_size)
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        receipt = Receipt(stage, dict(inputs), outputs)
        (partial / RECEIPT).write_bytes(encode_document(receipt))
