"""What a stage leaves beside its files: what they were made from, and what they are."""

from __future__ import annotations

from pathlib import Path

import msgspec

from timberline.registry.runtime.documents import encode_canonical
from timberline.registry.runtime.files import digest_bytes, digest_file

RECEIPT = "receipt.json"


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a stage: SHA-256 and size in bytes."""

    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path) -> Output:
        """What is at ``path``."""
        return cls(digest_file(path), path.stat().st_size)

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


class SharedReceipt(Receipt, frozen=True, forbid_unknown_fields=True):
    """The receipt of a stage in a bucket: its files lie in ``folder`` beside it, "" where they lie beside it.

    The latter is what a copy of a local folder looks like.
    """

    folder: str = ""


def list_outputs(folder: Path) -> dict[str, Output]:
    """Every file below ``folder``, but for its receipt."""
    return {
        path.relative_to(folder).as_posix(): Output.of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / RECEIPT
    }
