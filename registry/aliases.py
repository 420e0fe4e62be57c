"""Movable names of versions: compare-and-swap, and a history that is only ever added to.

``<model>/aliases/<alias>/<sequence>.json``: the record with the greatest number is the alias, the
others are its history. A move adds the next number if nobody else has; that is the whole swap.
"""

from __future__ import annotations

import datetime
import os
import pwd
import socket
from typing import Annotated, Literal

import msgspec

from registry.errors import AliasConflictError, RegistryError, VersionNotFoundError
from registry.manifest import Sha256
from registry.names import PRODUCTION, ModelRef, check_name, parse_number
from registry.store import Store

Action = Literal["set", "promote", "rollback"]
Number = Annotated[int, msgspec.Meta(ge=1)]
# A record has 500 bytes and what somebody gave as the reason.
_MOST_RECORD_BYTES = 1 << 20


class AliasRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One move of an alias: where to, by whom, when and why.

    ``manifest_sha256`` pins what the version was at that moment, ``verdict_sha256`` the evidence
    that the move rested on (None when it rested on none). ``sequence`` counts up from 1 and is the
    order; ``moved_at`` (ISO 8601, UTC) is for people.
    """

    schema_version: Literal[1] = 1
    model: str
    alias: str
    sequence: Number
    version: Number
    manifest_sha256: Sha256
    action: Action = "set"
    moved_at: str
    moved_by: str
    reason: str
    forced: bool = False
    verdict_sha256: Sha256 | None = None


def read_alias(store: Store, model: str, alias: str) -> AliasRecord | None:
    """Where the alias points now, or None if it never pointed anywhere."""
    sequence = max(_sequences(store, model, alias), default=None)
    return None if sequence is None else _read(store, model, alias, sequence)


def read_history(store: Store, model: str, alias: str) -> list[AliasRecord]:
    """Every move of the alias, oldest first."""
    return [_read(store, model, alias, sequence) for sequence in _sequences(store, model, alias)]


def list_aliases(store: Store, model: str) -> list[AliasRecord]:
    """Where each of the model's aliases points now, by name."""
    keys = store.blobs.list_keys(f"{check_name(model, 'a model')}/aliases")
    records = (read_alias(store, model, alias) for alias in sorted({key.split("/")[2] for key in keys}))
    return [record for record in records if record]


def move_alias(
    store: Store,
    model: str,
    alias: str,
    version: int,
    *,
    expected: int | None,
    reason: str,
    forced: bool = False,
    action: Action = "set",
    verdict_sha256: str | None = None,
) -> AliasRecord:
    """Point the alias at ``version`` if it has not moved since the caller looked.

    This is the bare move: which evidence `production` asks for is `registry.promotion`'s to know.

    Args:
        expected: the ``sequence`` that the caller saw; None when there was no such alias.

    Raises:
        AliasConflictError: somebody else moved the alias; nothing changed.
        VersionNotFoundError: no such version is published.
    """
    current = read_alias(store, model, check_name(alias, "an alias"))
    seen = current.sequence if current else None
    record = AliasRecord(
        model=model,
        alias=alias,
        sequence=(expected or 0) + 1,
        version=version,
        manifest_sha256=store.identify(model, version).manifest_sha256,
        action=action,
        moved_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        moved_by=_user(),
        reason=reason,
        forced=forced,
        verdict_sha256=verdict_sha256,
    )
    if seen != expected or not store.blobs.put_if_absent(
        _key(model, alias, record.sequence), msgspec.json.format(msgspec.json.encode(record))
    ):
        raise AliasConflictError(
            f"was moved by somebody else after move {expected or 0}",
            where=f"{model}@{alias}",
            hint="Nothing was changed. Look where it points now, and decide again.",
        )
    return record


def resolve(store: Store, ref: ModelRef | str, *, default: str = PRODUCTION) -> int:
    """The number of the version that ``ref`` names; a bare model means its alias ``default``.

    Raises:
        VersionNotFoundError: no such version or alias; says which there are.
    """
    ref = ModelRef.parse(ref) if isinstance(ref, str) else ref
    if ref.version is not None:
        store.read_manifest(ref.model, ref.version)
        return ref.version
    record = read_alias(store, ref.model, ref.alias or default)
    if record is not None:
        return record.version
    versions = ", ".join(map(str, store.versions(ref.model))) or "none"
    aliases = ", ".join(sorted(other.alias for other in list_aliases(store, ref.model))) or "none"
    raise VersionNotFoundError(
        f"no alias {ref.alias or default!r} in {store.location}",
        where=ref.model,
        hint=f"There are versions: {versions}; aliases: {aliases}.",
    )


def _sequences(store: Store, model: str, alias: str) -> list[int]:
    folder = _key(model, alias, None)
    names = (key.removeprefix(f"{folder}/") for key in store.blobs.list_keys(folder))
    return sorted(number for name in names if (number := parse_number(name.removesuffix(".json"))))


def _key(model: str, alias: str, sequence: int | None) -> str:
    folder = f"{check_name(model, 'a model')}/aliases/{check_name(alias, 'an alias')}"
    return folder if sequence is None else f"{folder}/{sequence}.json"


def _read(store: Store, model: str, alias: str, sequence: int) -> AliasRecord:
    where = f"{model}@{alias}: {_key(model, alias, sequence)}"
    try:
        data = store.blobs.read(_key(model, alias, sequence), _MOST_RECORD_BYTES) or b""
        record = msgspec.json.decode(data, type=AliasRecord)
    except msgspec.DecodeError as error:
        raise RegistryError(f"not an alias record: {error}", where=where, hint=_RESTORE) from error
    if (record.model, record.alias, record.sequence) != (model, alias, sequence):
        raise RegistryError(
            f"is move {record.sequence} of {record.model}@{record.alias}", where=where, hint=_RESTORE
        )
    return record


_RESTORE = "The history is damaged; restore this file from a copy of the registry."


def _user() -> str:
    """Who runs this process: ``name@host``, or ``uid 10001@host`` where the user has no name."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"
