"""``summary.json``: what a list shows of a version; 600 bytes, where a manifest has 90,000.

It lies beside each version of a bucket, and is derived from the manifest and the verdict: nothing is served,
resolved or promoted by it. One that is missing, or cannot be read, is computed from them again
(`summarise_version`). `registry.checks` compares the two.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from timberline.registry.errors import RegistryError
from timberline.registry.manifest import Interval, Manifest, Sha256, Summary
from timberline.registry.runtime.documents import decode_json, encode_document
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.verdict import VERDICT_FILE, Outcome, VersionDigests, decode_verdict

SUMMARY_FILE = "summary.json"
SUMMARY_SCHEMA_VERSION = 1
# It has 600 bytes, and the names of the lines that are marked.
MAX_SUMMARY_BYTES = 64 << 10


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table in a summary."""


class StoredVerdict(_Table, frozen=True, kw_only=True):
    """What a list shows of a verdict, and needs to tell whether a rollback has voided it.

    ``sha256`` is that of verdict.json, ``champion`` the number of the version that it was given against;
    ``is_bound``: for the very digests of the version; ``is_sealed``: its file has a seal; ``warned``: the
    lines that are marked WARN.
    """

    sha256: Sha256
    outcome: Outcome
    champion: int | None
    created_at: str
    is_bound: bool
    is_sealed: bool
    warned: tuple[str, ...]


class StoredSummary(_Table, frozen=True, kw_only=True):
    """What a list shows of a version; ``model_bytes`` is the size of its graph.

    ``is_in_doubt``: a gate is writing its verdict, or was killed while it did, or the verdict cannot be read:
    ``verdict`` is None, and verdict.json has to be looked at.
    """

    schema_version: int = SUMMARY_SCHEMA_VERSION
    model: str
    version: Annotated[int, msgspec.Meta(ge=1)]
    manifest_sha256: Sha256
    created_at: str
    accuracy: Interval
    model_bytes: Annotated[int, msgspec.Meta(ge=0)]
    verdict: StoredVerdict | None = None
    is_in_doubt: bool = False


def summarise_version(manifest: Manifest | Summary, digests: VersionDigests) -> StoredSummary:
    """What a list shows of a version that has no verdict."""
    # Not by its name: that is `registry.store`'s. The graph is the file that the digests are of.
    graph = next(file for file in manifest.files.values() if file.sha256 == digests.model_sha256)
    return StoredSummary(
        model=manifest.model,
        version=manifest.version,
        manifest_sha256=digests.manifest_sha256,
        created_at=manifest.created_at,
        accuracy=manifest.metrics.accuracy,
        model_bytes=graph.size,
    )


def summarise_verdict(data: bytes, model: str, judged: VersionDigests) -> StoredVerdict:
    """What a list shows of the verdict in ``data``, beside the version ``judged`` of ``model``.

    Raises:
        RegistryError: it is none.
    """
    verdict = decode_verdict(data, where=f"{model}@{judged.version}: {VERDICT_FILE}")
    return StoredVerdict(
        sha256=digest_bytes(data),
        outcome=verdict.outcome,
        champion=verdict.champion.version if verdict.champion else None,
        created_at=verdict.created_at,
        is_bound=(verdict.model, verdict.candidate) == (model, judged),
        is_sealed=verdict.is_sealed,
        warned=tuple(line.name for line in verdict.lines if line.is_marked),
    )


def encode_summary(
    manifest: Manifest | Summary, digests: VersionDigests, verdict: bytes | None, *, is_in_doubt: bool = False
) -> bytes:
    """The bytes of ``summary.json``: canonical JSON.

    Args:
        verdict: the bytes of verdict.json; None when there is none.
        is_in_doubt: say so, whatever the verdict is.
    """
    summary = summarise_version(manifest, digests)
    if not is_in_doubt and verdict is not None:
        try:
            judged = summarise_verdict(verdict, manifest.model, digests)
        except RegistryError:
            is_in_doubt = True
        else:
            summary = msgspec.structs.replace(summary, verdict=judged)
    return encode_document(msgspec.structs.replace(summary, is_in_doubt=is_in_doubt))


def decode_stored(data: bytes, model: str, version: int) -> StoredSummary | None:
    """The summary of ``model@version``; None for what is none, another's, or one of another program."""
    try:
        summary = decode_json(data, StoredSummary)
    except msgspec.DecodeError:
        return None
    found = (summary.schema_version, summary.model, summary.version)
    return summary if found == (SUMMARY_SCHEMA_VERSION, model, version) else None
