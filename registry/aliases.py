"""Movable names of versions: compare-and-swap, and a history that is only ever added to.

``<model>/aliases/<alias>/<sequence>.json``: the record with the greatest number is the alias, the
others are its history. A move adds the next number if nobody else has; that is the whole swap.

The records are a chain: each carries the SHA-256 of the one before. ``<model>/heads/<alias>.json``
names the last one, and is written after it. So a record that is missing, planted or edited is found,
the first and the last ones too. The head may be behind the records (a move that was killed between
the two) but never ahead of them. A damaged alias is repaired by one more record, which states what
it accepts (`repair_alias`); nothing is ever taken away.

This guards against damage and carelessness. It holds no secret: who may write the registry can write
another chain.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import msgspec

from timberline.registry.errors import (
    AfterChangeError,
    AliasConflictError,
    DamageError,
    DigestMismatchError,
    LifecycleError,
    VersionNotFoundError,
    make_after_change,
)
from timberline.registry.folder import printable_name
from timberline.registry.manifest import Sha256
from timberline.registry.names import (
    MAX_NUMBER,
    PRODUCTION,
    ModelRef,
    check_name,
    describe_newest,
    is_name,
    parse_number,
)
from timberline.registry.runtime.documents import decode_json, utc_now
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.store import MAX_RECORD_BYTES, Store, name_user
from timberline.registry.version import Version

Action = Literal["set", "promote", "rollback", "repair"]
Number = Annotated[int, msgspec.Meta(ge=1)]
ALIASES = "aliases"
HEADS = "heads"
# 1: no link to the record before. 2: a link.
_FIRST_LINKED = 2


class AliasRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One move of an alias: where to, by whom, when and why.

    ``manifest_sha256`` pins what the version was at that moment, ``verdict_sha256`` the evidence
    that the move rested on (None when it rested on none). ``sequence`` counts up from 1 and is the
    order; ``moved_at`` (ISO 8601, UTC) is for people. ``previous_sha256`` is the SHA-256 of the
    record before, None for the first one and in ``schema_version`` 1. ``history_sha256`` stands in a
    repair only: of everything before it, as it was found and accepted.
    """

    schema_version: Literal[1, 2] = 2
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
    previous_sha256: Sha256 | None = None
    history_sha256: Sha256 | None = None


class History(NamedTuple):
    """The moves of an alias that can be read, oldest first, and what is wrong with the rest.

    ``chain`` are those among them that follow on one another, or on a repair, from the first on: what was
    planted before a repair is not among them. ``strays`` are sentences too, about what lies beside the
    records and is none: it is to be removed, and says nothing against the history.
    """

    records: list[AliasRecord]
    findings: list[str]
    chain: list[AliasRecord]
    strays: list[str]

    @property
    def problems(self) -> list[str]:
        """Findings and strays."""
        return [*self.findings, *self.strays]


class _Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last record at the time of writing; a later one may be there by now."""

    schema_version: Literal[1] = 1
    sequence: Number
    sha256: Sha256


class _AliasFiles(NamedTuple):
    """What there is of an alias; ``head_problem`` says why there is no ``head``, if that is a fault."""

    head: _Head | None
    head_problem: str
    sequences: list[int]
    strays: list[str]


class _Stored(NamedTuple):
    """What lies in the place of a record: its digest, "" for what is no plain file, and what is wrong."""

    sequence: int
    sha256: str
    record: AliasRecord | None
    problem: str = ""


def read_alias(store: Store, model: str, alias: str) -> AliasRecord | None:
    """Where the alias points now, or None if it never pointed anywhere.

    The last record is held against the head and the record before it; `inspect_history` looks at all.

    Raises:
        DamageError: it cannot be said for sure; nothing is fallen back to.
        OSError: the registry cannot be read.
    """
    state = _look(store, model, alias)
    if not state.sequences and not state.head and not state.head_problem:
        return None
    tip = _find(store, model, alias, state.sequences[-1]) if state.sequences else None
    before = _find(store, model, alias, state.sequences[-2]) if len(state.sequences) > 1 else None
    problem = state.head_problem or _check_tip(model, alias, state.head, before, tip)
    if not problem and tip and tip.record and tip.record.action == "repair":
        # It follows on no single record, but on all of them.
        found = [_find(store, model, alias, sequence) for sequence in state.sequences]
        problem = "; ".join(_check_repair(model, alias, found))
    if problem or tip is None or tip.record is None:
        raise _damage(model, alias, problem)
    return tip.record


def inspect_history(store: Store, model: str, alias: str) -> History:
    """Every move of the alias that can be read, and every damage of the chain, a sentence each.

    What lies before the last repair is settled, if it still is as it was found then.

    Raises:
        OSError: the registry cannot be read.
    """
    state = _look(store, model, alias)
    found = [_find(store, model, alias, sequence) for sequence in state.sequences]
    start = _find_repair(found)
    findings = [state.head_problem] if state.head_problem else []
    findings += _check_repair(model, alias, found[: start + 1]) if start is not None else []
    for index in range(start or 0, len(found)):
        before = found[index - 1] if index else None
        problem = found[index].problem or _check_link(model, alias, before, found[index])
        findings += [problem] if problem else []
    if not state.head_problem and (found or state.head):
        problem = _check_head(model, alias, state.head, found, start or 0)
        findings += [problem] if problem else []
    records = [each.record for each in found if each.record]
    strays = [f"{stray} is no record of an alias" for stray in state.strays]
    return History(records, list(dict.fromkeys(findings)), _list_chain(model, alias, found), strays)


def read_history(store: Store, model: str, alias: str) -> list[AliasRecord]:
    """Every move of the alias, oldest first.

    Raises:
        DamageError: the history is damaged; says where.
        OSError: the registry cannot be read.
    """
    return _read_whole(store, model, alias).records


def read_chain(store: Store, model: str, alias: str) -> list[AliasRecord]:
    """As `read_history`, without what a repair had to accept and no chain vouches for.

    Raises:
        DamageError, OSError: as `read_history`.
    """
    return _read_whole(store, model, alias).chain


def _read_whole(store: Store, model: str, alias: str) -> History:
    history = inspect_history(store, model, alias)
    if history.findings:
        raise _damage(model, alias, "; ".join(history.findings))
    return history


def list_aliases(store: Store, model: str) -> list[str]:
    """The names of the model's aliases, of damaged ones too.

    Raises:
        OSError: the registry cannot be read.
    """
    folder = check_name(model, "a model")
    names = [name.removesuffix("/") for name in store.objects.list_names(f"{folder}/{ALIASES}")]
    names += [name.removesuffix(".json") for name in store.objects.list_names(f"{folder}/{HEADS}")]
    return sorted({name for name in names if is_name(name)})


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
        DamageError: the alias or the version is damaged; nothing changed.
    """
    current = read_alias(store, model, check_name(alias, "an alias"))
    if (current.sequence if current else None) != expected:
        raise _conflict(model, alias, expected or 0)
    before = _find(store, model, alias, current.sequence) if current else None
    if before:  # so that the head is never behind by more than the move that is under way
        _write_head(store, model, alias, before)
    record = AliasRecord(
        model=model,
        alias=alias,
        sequence=(expected or 0) + 1,
        version=version,
        manifest_sha256=store.open_version(model, version).digests.manifest_sha256,
        action=action,
        moved_at=utc_now("milliseconds"),
        moved_by=name_user(),
        reason=reason,
        forced=forced,
        verdict_sha256=verdict_sha256,
        previous_sha256=before.sha256 if before else None,
    )
    return _add(store, record)


def repair_alias(store: Store, model: str, alias: str, version: int, *, reason: str) -> AliasRecord | None:
    """Point a damaged alias at ``version``, and accept its history as it is found now.

    Recorded like a forced move. The damaged records stay where they are: further damage to them is
    found, and so is every move that is lost after this one.

    Returns:
        The move; None if the alias is not damaged, and nothing was changed.

    Raises:
        DamageError: ``version`` is damaged; or there is something that a repair cannot settle: in the
            place of the alias's folder or head, or among its records. Nothing was changed.
        AliasConflictError: somebody else moved or repaired the alias meanwhile; nothing changed.
    """
    state = _look(store, model, check_name(alias, "an alias"))
    found = [_find(store, model, alias, sequence) for sequence in state.sequences]
    history = inspect_history(store, model, alias)
    if history.strays:
        hint = "Nothing was changed. Remove it, and repair what is left."
        raise DamageError("; ".join(history.strays), where=f"{model}@{alias}", hint=hint)
    if not history.findings:
        return None
    store.objects.read(_head_key(model, alias), MAX_RECORD_BYTES)  # what is no file cannot be replaced
    known = state.head.sequence if state.head else 0
    sequence = max([known, *state.sequences]) + 1
    if sequence > MAX_NUMBER:
        raise _damage(model, alias, f"{_key(model, alias, sequence - 1)} leaves no number for another move")
    record = AliasRecord(
        model=model,
        alias=alias,
        sequence=sequence,
        version=version,
        manifest_sha256=store.open_version(model, version).digests.manifest_sha256,
        action="repair",
        moved_at=utc_now("milliseconds"),
        moved_by=name_user(),
        reason=reason,
        forced=True,
        history_sha256=_digest_history(found),
    )
    return _add(store, record)


def open_reference(store: Store, ref: ModelRef, *, default: str = PRODUCTION) -> Version:
    """Open the version that ``ref`` names; a bare model means its alias ``default``.

    Raises:
        VersionNotFoundError: no such version or alias; says which there are.
        DigestMismatchError: the version's manifest is not the one that ``ref``, or the last move of
            the alias, is about.
        DamageError: the alias or the manifest is damaged, or the version it points at is lost.
    """
    if ref.version is not None:
        return open_pinned(store, ref.model, ref.version, ref.manifest_sha256, "the reference names")
    record = read_alias(store, ref.model, ref.alias or default)
    if record is not None:
        return open_target(store, record)
    versions = describe_newest(store.versions(ref.model))
    aliases = ", ".join(list_aliases(store, ref.model)) or "none"
    raise VersionNotFoundError(
        f"no alias {ref.alias or default!r} in {store.location}",
        where=ref.model,
        hint=f"There are versions: {versions}; aliases: {aliases}.",
    )


def resolve(store: Store, ref: ModelRef | str, *, default: str = PRODUCTION) -> int:
    """The number of the version that ``ref`` names; arguments and errors as of `open_reference`."""
    ref = ModelRef.parse(ref) if isinstance(ref, str) else ref
    return open_reference(store, ref, default=default).manifest.version


def open_target(store: Store, record: AliasRecord) -> Version:
    """Open the version that an alias points at, if it still is what it was at the move.

    Raises:
        DigestMismatchError: it is another one.
        DamageError: it is lost, or its manifest is damaged.
    """
    try:
        return open_pinned(
            store, record.model, record.version, record.manifest_sha256, "the alias was moved to"
        )
    except VersionNotFoundError as error:
        raise DamageError(
            f"points at version {record.version}, which is lost",
            where=f"{record.model}@{record.alias}",
            hint="Restore its folder from a copy of the registry, or move the alias.",
        ) from error


def open_pinned(store: Store, model: str, number: int, pin: str | None, who: str) -> Version:
    """Open a version, if its manifest has the digest ``pin``; None is any.

    Args:
        who: knows the digest, as in "the alias was moved to".

    Raises:
        DigestMismatchError: it has another one.
        VersionNotFoundError, ManifestError: as `Store.open_version`.
    """
    version = store.open_version(model, number)
    found = version.digests.manifest_sha256
    if pin is not None and found != pin:
        raise DigestMismatchError(
            f"its manifest has digest {found[:12]}…, {who} {pin[:12]}…",
            where=str(version),
            hint="The version changed after publishing. Publish a new one; do not edit this one.",
        )
    return version


def _look(store: Store, model: str, alias: str) -> _AliasFiles:
    """The head first: it may be behind what is listed after it, and is never ahead of it."""
    head, problem = None, ""
    try:
        head = _read_head(store, model, alias)
    except DamageError as error:
        problem = str(error)
    sequences, strays = [], []
    folder = _folder(model, alias)
    for name in store.objects.list_names(folder):
        stem = name.removesuffix("/")
        number = parse_number(stem.removesuffix(".json")) if stem.endswith(".json") else None
        if number is None:
            strays.append(f"{folder}/{printable_name(name)}")
        else:
            sequences.append(number)
    return _AliasFiles(head, problem, sorted(sequences), strays)


def _find(store: Store, model: str, alias: str, sequence: int) -> _Stored:
    key = _key(model, alias, sequence)
    try:
        data = store.objects.read(key, MAX_RECORD_BYTES)
    except DamageError as error:
        return _Stored(sequence, "", None, f"{key}: {error.what}")
    if data is None:
        return _Stored(sequence, "", None, f"{key} is gone")
    digest = digest_bytes(data)
    try:
        record = decode_json(data, AliasRecord)
    except msgspec.DecodeError as error:
        return _Stored(sequence, digest, None, f"{key}: not an alias record: {error}")
    if (record.model, record.alias, record.sequence) != (model, alias, sequence):
        what = f"{key}: is move {record.sequence} of {record.model}@{record.alias}"
        return _Stored(sequence, digest, None, what)
    return _Stored(sequence, digest, record)


def _check_tip(
    model: str, alias: str, head: _Head | None, before: _Stored | None, tip: _Stored | None
) -> str:
    """What is wrong with the last record, as far as the head and the one before can tell."""
    if tip is not None and tip.problem:
        return tip.problem
    return _check_head(model, alias, head, [each for each in (before, tip) if each]) or (
        _check_link(model, alias, before, tip) if tip else ""
    )


def _check_head(model: str, alias: str, head: _Head | None, found: list[_Stored], settled: int = 0) -> str:
    """What the head knows better than the records, of which the first few may be settled; "" if nothing."""
    tip = found[-1] if found else None
    if head is None:
        is_expected = len(found) > 1 and all(_is_linked(each) for each in found[-2:])
        return f"{_head_key(model, alias)} is missing" if is_expected else ""
    if head.sequence > (tip.sequence if tip else 0):
        return _describe_missing(model, alias, tip.sequence + 1 if tip else 1, head.sequence)
    for each in found[settled:]:
        if each.sequence == head.sequence and each.sha256 != head.sha256 and not each.problem:
            key = _key(model, alias, each.sequence)
            is_last = each is tip
            return (
                f"{key} is not the record that was written"
                if is_last
                else f"{_head_key(model, alias)} names another record than {key}"
            )
    return ""


def _check_link(model: str, alias: str, before: _Stored | None, found: _Stored) -> str:
    """Whether ``found`` follows on ``before``; empty if it does, or is a repair."""
    record = found.record
    if record is None or record.action == "repair":
        return ""
    expected = before.sequence + 1 if before else 1
    if found.sequence != expected:
        return _describe_missing(model, alias, expected, found.sequence - 1)
    if record.schema_version < _FIRST_LINKED:
        return f"{_key(model, alias, found.sequence)} has no link" if before and _is_linked(before) else ""
    if record.previous_sha256 != (before.sha256 if before else None):
        return f"{_key(model, alias, found.sequence)} does not follow on the record before it"
    return ""


def _check_repair(model: str, alias: str, found: list[_Stored]) -> list[str]:
    """Whether the records before a repair, the last of ``found``, are what it accepted."""
    *earlier, repair = found
    assert repair.record
    if repair.record.history_sha256 == _digest_history(earlier):
        return []
    return [f"what {_key(model, alias, repair.sequence)} accepted has changed since"]


def _list_chain(model: str, alias: str, found: list[_Stored]) -> list[AliasRecord]:
    chain: list[AliasRecord] = []
    is_certain = True
    for index, each in enumerate(found):
        if each.record and each.record.action == "repair":
            is_certain = not _check_repair(model, alias, found[: index + 1])
        elif each.problem or _check_link(model, alias, found[index - 1] if index else None, each):
            is_certain = False
        chain += [each.record] if each.record and is_certain else []
    return chain


def _find_repair(found: list[_Stored]) -> int | None:
    """Index of the last repair."""
    repairs = [index for index, each in enumerate(found) if each.record and each.record.action == "repair"]
    return repairs[-1] if repairs else None


def _is_linked(found: _Stored) -> bool:
    return found.record is not None and found.record.schema_version >= _FIRST_LINKED


def _digest_history(found: list[_Stored]) -> str:
    lines = (f"{each.sequence} {each.sha256}\n" for each in found)
    return digest_bytes("".join(lines).encode())


def _add(store: Store, record: AliasRecord) -> AliasRecord:
    """Make the move; until its head is written the head is behind, which harms nobody.

    Raises:
        AliasConflictError: somebody else has made a move of this number; nothing changed.
        AfterChangeError: it has moved, and something after that failed.
    """
    model, alias = record.model, record.alias
    data = msgspec.json.format(msgspec.json.encode(record))
    late: list[Exception] = []
    try:
        if not store.objects.put_if_absent(_key(model, alias, record.sequence), data):
            raise _conflict(model, alias, record.sequence - 1)
    except AfterChangeError as error:
        late.append(error)
    try:
        _write_head(store, model, alias, _Stored(record.sequence, digest_bytes(data), record))
    except (LifecycleError, OSError) as error:
        late.append(error)
    if late:
        hint = (
            "Do not repeat the command; see to the disk. A head that is behind is written by the next move."
        )
        done = f"moved to version {record.version}"
        raise make_after_change(done, late, where=f"{model}@{alias}", hint=hint)
    return record


def _write_head(store: Store, model: str, alias: str, found: _Stored) -> None:
    """Have the head name ``found``, or whatever is the last record by then.

    A writer that was overtaken would put the head back; so each looks again after it has written.
    """
    while True:
        head = _Head(sequence=found.sequence, sha256=found.sha256)
        state = _look(store, model, alias)
        if state.head is None or state.head.sequence < found.sequence:
            store.objects.put(_head_key(model, alias), msgspec.json.format(msgspec.json.encode(head)))
            state = _look(store, model, alias)
        if state.sequences[-1:] <= [found.sequence]:
            return
        found = _find(store, model, alias, state.sequences[-1])


def _read_head(store: Store, model: str, alias: str) -> _Head | None:
    key = _head_key(model, alias)
    try:
        data = store.objects.read(key, MAX_RECORD_BYTES)
        return None if data is None else decode_json(data, _Head)
    except msgspec.DecodeError as error:
        raise DamageError(f"not the head of an alias: {error}", where=key) from error


def _folder(model: str, alias: str) -> str:
    return f"{check_name(model, 'a model')}/{ALIASES}/{check_name(alias, 'an alias')}"


def _key(model: str, alias: str, sequence: int) -> str:
    return f"{_folder(model, alias)}/{sequence}.json"


def _head_key(model: str, alias: str) -> str:
    return f"{check_name(model, 'a model')}/{HEADS}/{check_name(alias, 'an alias')}.json"


def _describe_missing(model: str, alias: str, first: int, last: int) -> str:
    keys = _key(model, alias, first) if first == last else f"{_key(model, alias, first)} to {last}.json"
    return f"{keys} {'is' if first == last else 'are'} missing"


def _damage(model: str, alias: str, what: str) -> DamageError:
    hint = (
        "Nothing was changed. Restore it from a copy of the registry, or say where the alias is to point: "
        f'`python -m registry repair {model}@{alias} VERSION --reason "…"`.'
    )
    return DamageError(what, where=f"{model}@{alias}", hint=hint)


def _conflict(model: str, alias: str, expected: int) -> AliasConflictError:
    return AliasConflictError(
        f"was moved by somebody else after move {expected}",
        where=f"{model}@{alias}",
        hint="Nothing was changed. Look where it points now, and decide again.",
    )
