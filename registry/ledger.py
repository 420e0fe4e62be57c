"""Which numbers were given out, for which bytes: what outlives a version's folder.

``<model>/ledger/<n>.json`` is written once, after version n was published, and pins its manifest. So a
folder that was lost is missed, its number is not given out again, and a manifest that was edited with
all its digests is found. ``<model>/ledger/<n>.removed.json`` says that the version is gone for good, by
whom and why. A version that was published before there was a ledger has no entry, and is taken as it is.
"""

from __future__ import annotations

import os
import pwd
import socket
from typing import Annotated, Literal, NamedTuple

import msgspec

from timberline.registry.blobs import Blobs
from timberline.registry.errors import DamageError
from timberline.registry.manifest import Sha256
from timberline.registry.names import check_name, parse_number
from timberline.registry.runtime.documents import decode_json, utc_now

# An entry has 300 bytes and what somebody gave as the reason.
MOST_RECORD_BYTES = 1 << 20
FOLDER = "ledger"

_REMOVED = ".removed"


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number that was given out, or (in a file of its own) taken away.

    ``manifest_sha256`` is None in the entry of a removal; ``written_at`` is ISO 8601, UTC.
    """

    schema_version: Literal[1] = 1
    model: str
    version: Annotated[int, msgspec.Meta(ge=1)]
    manifest_sha256: Sha256 | None
    written_at: str
    written_by: str
    reason: str


class Numbers(NamedTuple):
    """The numbers of a model's ledger."""

    published: frozenset[int]
    removed: frozenset[int]


def find_numbers(keys: list[str]) -> Numbers:
    """The numbers among the keys of a model."""
    published: set[int] = set()
    removed: set[int] = set()
    for key in keys:
        parts = key.split("/")
        if len(parts) == 3 and parts[1] == FOLDER and parts[2].endswith(".json"):
            name = parts[2].removesuffix(".json")
            number = parse_number(name.removesuffix(_REMOVED))
            if number is not None:
                (removed if name.endswith(_REMOVED) else published).add(number)
    return Numbers(frozenset(published), frozenset(removed))


def is_entry(stem: str) -> bool:
    """Whether a file of the ledger may be called so, before its ``.json``."""
    return parse_number(stem.removesuffix(_REMOVED)) is not None


def read_entry(blobs: Blobs, model: str, version: int) -> Entry | None:
    """What was published under this number; None if nothing is known of it.

    Raises:
        DamageError: the entry is not readable, or is another version's.
        OSError: it is there and cannot be read.
    """
    return _read(blobs, model, version, "")


def read_removal(blobs: Blobs, model: str, version: int) -> Entry | None:
    """By whom and why the version was written off; None if it was not.

    Raises:
        DamageError, OSError: as `read_entry`.
    """
    return _read(blobs, model, version, _REMOVED)


def _read(blobs: Blobs, model: str, version: int, kind: str) -> Entry | None:
    key = _key(model, version, kind)
    data = blobs.read(key, MOST_RECORD_BYTES)
    if data is None:
        return None
    where = f"{model}@{version}: {key}"
    try:
        entry = decode_json(data, Entry)
    except msgspec.DecodeError as error:
        raise DamageError(f"not an entry of the ledger: {error}", where=where, hint=_MEND) from error
    if (entry.model, entry.version, entry.manifest_sha256 is None) != (model, version, bool(kind)):
        raise DamageError(f"is another entry of {entry.model}@{entry.version}", where=where, hint=_MEND)
    return entry


_MEND = "Write it again with `python -m registry repair`, or restore it from a copy of the registry."


def write_entry(blobs: Blobs, model: str, version: int, manifest_sha256: str) -> None:
    """Say once for all that ``version`` was published with this manifest."""
    blobs.put_if_absent(_key(model, version), _encode(model, version, manifest_sha256, "published"))


def replace_entry(blobs: Blobs, model: str, version: int, manifest_sha256: str, reason: str) -> None:
    """Write a damaged entry again, for the manifest that is there."""
    blobs.put(_key(model, version), _encode(model, version, manifest_sha256, reason))


def write_removal(blobs: Blobs, model: str, version: int, reason: str) -> None:
    """Say that ``version`` is gone for good; its number stays taken."""
    blobs.put(key_of_removal(model, version), _encode(model, version, None, reason))


def key_of_removal(model: str, version: int) -> str:
    """Where `write_removal` writes."""
    return _key(model, version, _REMOVED)


def tell_user() -> str:
    """Who runs this process: ``name@host``, or ``uid 10001@host`` where the user has no name."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def _encode(model: str, version: int, manifest_sha256: str | None, reason: str) -> bytes:
    entry = Entry(
        model=model,
        version=version,
        manifest_sha256=manifest_sha256,
        written_at=utc_now("milliseconds"),
        written_by=tell_user(),
        reason=reason,
    )
    return msgspec.json.format(msgspec.json.encode(entry))


def _key(model: str, version: int, kind: str = "") -> str:
    return f"{check_name(model, 'a model')}/{FOLDER}/{version}{kind}.json"
