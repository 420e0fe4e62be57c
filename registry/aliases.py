"""Movable names of versions: compare-and-swap, and an append-only history.

An alias is a log of records: the one with the greatest number is the alias, the others are its history. A
move adds the next number unless another move has: that is the swap.

The records are a chain: each carries the SHA-256 of the one before. The head names the last one, and is
written after it. So a record that is missing, planted or edited is found, the first and the last ones too.
The head may be behind the records (a move that was killed between the two) but never ahead of them. A damaged
alias is repaired by one more record, which states what it accepts (`repair_alias`); no record is removed.

Made in a folder, records are ``<model>/aliases/<alias>/<n>.json`` and the head is
``<model>/heads/<alias>.json``. Made in a bucket, they are ``<model>/aliases/<alias>/log/<n, 9 digits>.json``
and ``<model>/aliases/<alias>/head.json``.

An alias keeps the layout that it was made with, wherever it is copied to. In a bucket its names sort by
number, and the head is moved by compare-and-swap: who wants to know where the alias points asks for the head
and the records around it, and lists nothing; who waits for a move asks for the head alone.

This guards against damage and carelessness. It holds no secret: who may write the registry can write
another chain.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec

from timberline.registry.errors import (
    AfterChangeError,
    AliasConflictError,
    DamageError,
    DigestMismatchError,
    LifecycleError,
    RegistryError,
    VersionNotFoundError,
    make_after_change,
)
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
from timberline.registry.objects import printable_name
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
# Of a record's number in a bucket.
_DIGITS = 9


class AliasRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One move of an alias: where to, by whom, when and why.

    ``manifest_sha256`` pins what the version was at that moment, ``verdict_sha256`` the evidence
    that the move rested on (None when it rested on none). ``sequence`` counts up from 1 and is the
    order; ``moved_at`` (ISO 8601, UTC) is for people. ``previous_sha256`` is the SHA-256 of the
    record before, None for the first one and in ``schema_version`` 1. ``history_sha256`` stands in a
    repair only: of everything before it, as it was found and accepted. ``nonce`` is random, so that two
    writers never write the same bytes; None before ``schema_version`` 3.
    """

    schema_version: Literal[1, 2, 3] = 3
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
    nonce: str | None = None


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
    """The last record at the time of writing; a later one may be there by now.

    ``nonce`` is random, as a bucket's tags are digests; None in ``schema_version`` 1.
    """

    schema_version: Literal[1, 2] = 2
    sequence: Number
    sha256: Sha256
    nonce: str | None = None


def read_alias(store: Store, model: str, alias: str) -> AliasRecord | None:
    """Where the alias points now, or None if it never pointed anywhere.

    The last record is compared with the head and the record before it; `inspect_history` compares all.

    Raises:
        DamageError: it is not certain where it points; there is no fallback.
        OSError: the registry cannot be read.
    """
    if store.objects.is_remote and (record := _read_tip(store, model, alias)):
        return record
    files = _Alias.open(store, model, alias)
    listed = files.list_files()
    found = files.read_records(listed.sequences[-2:])
    if not found and not listed.head and not listed.head_problem:
        return None
    before, tip = [None, None, *found][-2:]
    problem = listed.head_problem or (tip.problem if tip else "") or files.check_head(listed.head, found)
    if tip and not problem:
        problem = (
            files.check_repair(files.read_records(listed.sequences))
            if _is_repair(tip)
            else files.check_link(before, tip)
        )
    if problem or tip is None or tip.record is None:
        raise files.damage(problem)
    if store.objects.is_remote and (listed.head is None or listed.head.sequence < tip.sequence):
        # Who only reads may not be allowed to write, or read from a server that must not be written to.
        with contextlib.suppress(OSError, RegistryError):
            files.write_head(tip)
    return tip.record


def _read_tip(store: Store, model: str, alias: str) -> AliasRecord | None:
    """The last record of an alias by its head, without a list; None where that leaves any doubt."""
    files = _Alias.open_made_in_bucket(store, model, alias)
    try:
        head = files.read_head()
    except DamageError:
        return None
    if head is None:
        return None
    keys = [files.key(sequence) for sequence in range(max(head.sequence - 1, 1), head.sequence + 2)]
    *read, later = store.objects.read_many(keys, MAX_RECORD_BYTES)
    if later is not None or any(isinstance(each, Exception) for each in read):
        return None
    found = [files.decode(head.sequence - len(read) + 1 + place, data) for place, data in enumerate(read)]
    before, tip = [None, *found][-2:]
    if tip is None or _is_repair(tip) or tip.problem:
        return None
    return None if files.check_head(head, found) or files.check_link(before, tip) else tip.record


def read_head_tag(store: Store, model: str, alias: str, seen: str = "") -> str:
    """The tag of the alias's head in a bucket, which changes with every move; "" while there is none.

    One conditional request; one more where there is no head, or an alias that was made in a folder. A move
    that was killed before its head has no tag yet: `read_alias` finds it.

    Args:
        seen: the tag that the caller knows.

    Raises:
        OSError: the registry cannot be read.
    """
    for layout in (_Alias.open_made_in_bucket, _Alias.open_made_in_folder):
        key = layout(store, model, alias).head_key
        if found := store.objects.read_tagged(key, seen, MAX_RECORD_BYTES):
            return found.tag
    return ""


def inspect_history(store: Store, model: str, alias: str) -> History:
    """Every move of the alias that can be read, and every damage of the chain, a sentence each.

    What lies before the last repair is settled, if it still is as it was found then.

    Raises:
        OSError: the registry cannot be read.
    """
    files = _Alias.open(store, model, alias)
    listed = files.list_files()
    found = files.read_records(listed.sequences)
    start = max((index for index, each in enumerate(found) if _is_repair(each)), default=0)
    findings = [listed.head_problem]
    if found and _is_repair(found[start]):
        findings.append(files.check_repair(found[: start + 1]))
    for index in range(start, len(found)):
        before = found[index - 1] if index else None
        findings.append(found[index].problem or files.check_link(before, found[index]))
    if not listed.head_problem:
        findings.append(files.check_head(listed.head, found, start))
    return History(
        [each.record for each in found if each.record],
        list(dict.fromkeys(filter(None, findings))),
        files.list_chain(found),
        [f"{stray} is no record of an alias" for stray in listed.strays],
    )


def read_whole_history(store: Store, model: str, alias: str) -> History:
    """The history of an alias that is not damaged.

    Raises:
        DamageError: the history is damaged; says where.
        OSError: the registry cannot be read.
    """
    history = inspect_history(store, model, alias)
    if history.findings:
        raise _Alias.open(store, model, alias).damage("; ".join(history.findings))
    return history


def read_history(store: Store, model: str, alias: str) -> list[AliasRecord]:
    """Every move of the alias, oldest first; errors as of `read_whole_history`."""
    return read_whole_history(store, model, alias).records


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

    This is the bare move: `registry.promotion` knows which evidence `production` needs.

    Args:
        expected: the ``sequence`` that the caller saw; None when there was no such alias.

    Raises:
        AliasConflictError: another move came first; nothing changed.
        VersionNotFoundError: no such version is published.
        DamageError: the alias or the version is damaged; nothing changed.
        AfterChangeError: it has moved, and something after that failed.
    """
    files = _Alias.open(store, model, alias)
    current = read_alias(store, model, alias)
    if (current.sequence if current else None) != expected:
        raise files.conflict(expected or 0)
    before = files.read_record(current.sequence) if current else None
    if before:  # so that the head is at most one move behind
        files.write_head(before)
    return files.append(
        version,
        sequence=(expected or 0) + 1,
        action=action,
        reason=reason,
        forced=forced,
        verdict_sha256=verdict_sha256,
        previous_sha256=before.sha256 if before else None,
    )


def repair_alias(store: Store, model: str, alias: str, version: int, *, reason: str) -> AliasRecord | None:
    """Point a damaged alias at ``version``, and accept its history as it is found now.

    Recorded like a forced move. The damaged records stay where they are: further damage to them is
    found, and so is every move that is lost after this one.

    Returns:
        The move; None if the alias is not damaged, and nothing was changed.

    Raises:
        DamageError: ``version`` is damaged; or a repair cannot settle what it found: where the
            alias's folder or head should be, or among its records. Nothing was changed.
        AliasConflictError: another move or repair came first; nothing changed.
        AfterChangeError: it has moved, and something after that failed.
    """
    files = _Alias.open(store, model, alias)
    listed = files.list_files()
    found = files.read_records(listed.sequences)
    history = inspect_history(store, model, alias)
    if history.strays:
        hint = "Nothing was changed. Remove it, and repair what is left."
        raise DamageError("; ".join(history.strays), where=str(files), hint=hint)
    if not history.findings:
        return None
    store.objects.read(
        files.head_key, MAX_RECORD_BYTES
    )  # raises if it is no regular file, which cannot be replaced
    known = listed.head.sequence if listed.head else 0
    sequence = max([known, *listed.sequences]) + 1
    if sequence > MAX_NUMBER:
        raise files.damage(f"{files.key(sequence - 1)} leaves no number for another move")
    accepted = _digest_history(found)
    return files.append(
        version, sequence=sequence, action="repair", reason=reason, forced=True, history_sha256=accepted
    )


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
    versions = store.versions(ref.model)
    aliases = ", ".join(list_aliases(store, ref.model)) or "none"
    hint = f"There are versions: {describe_newest(versions)}; aliases: {aliases}."
    if versions:
        hint += f" Name one of them, as in {ref.model}@{versions[-1]}."
    raise VersionNotFoundError(
        f"no alias {ref.alias or default!r} in {store.location}", where=ref.model, hint=hint
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
        who: states the digest, as in "the alias was moved to".

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


class _Listed(NamedTuple):
    """The files of an alias; ``head_problem`` is why ``head`` cannot be read, or empty."""

    head: _Head | None
    head_problem: str
    sequences: list[int]
    strays: list[str]


class _Stored(NamedTuple):
    """What is stored as a record: its digest ("" if it is no regular file), and what is wrong with it."""

    sequence: int
    sha256: str
    record: AliasRecord | None
    problem: str = ""

    @property
    def is_linked(self) -> bool:
        """Whether it names the record that it follows."""
        return self.record is not None and self.record.schema_version >= _FIRST_LINKED


class _Alias(NamedTuple):
    """The records and the head of one alias. A check answers with a sentence; "" when nothing is wrong.

    ``folder`` is the key of the records' folder, ``digits`` the least that a record's number is written with.
    """

    store: Store
    model: str
    alias: str
    folder: str
    head_key: str
    digits: int

    @classmethod
    def open(cls, store: Store, model: str, alias: str) -> _Alias:
        """The alias in the layout that it was made with; a new one in that of the store.

        Raises:
            OSError, DamageError: its folder cannot be read.
        """
        in_folder = cls.open_made_in_folder(store, model, alias)
        in_bucket = cls.open_made_in_bucket(store, model, alias)
        objects = store.objects
        if not objects.is_remote:
            try:
                if objects.find_size(in_bucket.folder) is None:
                    return in_folder
            except DamageError:  # on the way there; whoever reads it meets it again
                return in_folder
        elif objects.find_size(in_bucket.head_key) is not None:
            return in_bucket
        names = objects.list_names(in_folder.folder)
        if any(_parse_record(name) for name in names):
            return in_folder
        if objects.is_remote and not names and objects.find_size(in_folder.head_key) is not None:
            return in_folder
        return in_bucket if objects.is_remote or "log/" in names else in_folder

    @classmethod
    def open_made_in_folder(cls, store: Store, model: str, alias: str) -> _Alias:
        """The alias as if it were made in a folder; nothing is asked."""
        model, alias = check_name(model, "a model"), check_name(alias, "an alias")
        return cls(store, model, alias, f"{model}/{ALIASES}/{alias}", f"{model}/{HEADS}/{alias}.json", 1)

    @classmethod
    def open_made_in_bucket(cls, store: Store, model: str, alias: str) -> _Alias:
        """The alias as if it were made in a bucket; nothing is asked."""
        model, alias = check_name(model, "a model"), check_name(alias, "an alias")
        folder = f"{model}/{ALIASES}/{alias}"
        return cls(store, model, alias, f"{folder}/log", f"{folder}/head.json", _DIGITS)

    def __str__(self) -> str:
        return f"{self.model}@{self.alias}"

    @property
    def is_made_in_bucket(self) -> bool:
        """Whether it has the layout of a bucket."""
        return self.digits > 1

    @property
    def _own_folder(self) -> str:
        return f"{self.model}/{ALIASES}/{self.alias}"

    def key(self, sequence: int) -> str:
        """The key of a record."""
        return f"{self.folder}/{sequence:0{self.digits}}.json"

    def list_files(self) -> _Listed:
        """Read the head first: it may be behind what is listed after it, and is never ahead of it."""
        head, problem = None, ""
        try:
            head = self.read_head()
        except DamageError as error:
            problem = str(error)
        sequences, strays = [], []
        for key in self._list_keys():
            number = _parse_record(key.removeprefix(f"{self.folder}/"))
            if number is None or key.removesuffix("/") != self.key(number):
                beside = key.removeprefix(f"{self._own_folder}/")
                strays.append(f"{self._own_folder}/{printable_name(beside)}")
            else:
                sequences.append(number)
        return _Listed(head, problem, sorted(sequences), strays)

    def _list_keys(self) -> list[str]:
        """What lies where records may; in the layout of a bucket also what lies beside their folder."""
        objects = self.store.objects
        if not self.is_made_in_bucket:
            return [f"{self.folder}/{name}" for name in objects.list_names(self.folder)]
        return [key for key in objects.list_keys(self._own_folder) if key != self.head_key]

    def read_head(self) -> _Head | None:
        """What the head names; None if there is none.

        Raises:
            DamageError: it is no head.
        """
        data = self.store.objects.read(self.head_key, MAX_RECORD_BYTES)
        return None if data is None else self._decode_head(data)

    def _decode_head(self, data: bytes) -> _Head:
        try:
            return decode_json(data, _Head)
        except msgspec.DecodeError as error:
            raise DamageError(f"not the head of an alias: {error}", where=self.head_key) from error

    def read_records(self, sequences: Sequence[int]) -> list[_Stored]:
        """The records of these numbers."""
        keys = [self.key(sequence) for sequence in sequences]
        read = self.store.objects.read_many(keys, MAX_RECORD_BYTES)
        return [self.decode(sequence, data) for sequence, data in zip(sequences, read, strict=True)]

    def read_record(self, sequence: int) -> _Stored:
        """The record of this number, or what is wrong with it."""
        return self.read_records([sequence])[0]

    def decode(self, sequence: int, data: bytes | OSError | RegistryError | None) -> _Stored:
        """What was read as the record of this number.

        Raises:
            OSError: it could not be read.
        """
        key = self.key(sequence)
        if isinstance(data, DamageError):
            return _Stored(sequence, "", None, f"{key}: {data.what}")
        if isinstance(data, Exception):
            raise data
        if data is None:
            return _Stored(sequence, "", None, f"{key} is gone")
        digest = digest_bytes(data)
        try:
            record = decode_json(data, AliasRecord)
        except msgspec.DecodeError as error:
            return _Stored(sequence, digest, None, f"{key}: not an alias record: {error}")
        if (record.model, record.alias, record.sequence) != (self.model, self.alias, sequence):
            what = f"{key}: is move {record.sequence} of {record.model}@{record.alias}"
            return _Stored(sequence, digest, None, what)
        return _Stored(sequence, digest, record)

    def check_head(self, head: _Head | None, found: list[_Stored], settled: int = 0) -> str:
        """Compare the head with the last records; the first ``settled`` of ``found`` are skipped."""
        last = found[-1].sequence if found else 0
        if head is None:
            is_expected = len(found) > 1 and all(each.is_linked for each in found[-2:])
            return f"{self.head_key} is missing" if is_expected else ""
        if head.sequence > last:
            return self._describe_missing(last + 1, head.sequence)
        for each in found[settled:]:
            if each.sequence == head.sequence and each.sha256 != head.sha256 and not each.problem:
                if each.sequence == last:
                    return f"{self.key(last)} is not the record that was written"
                return f"{self.head_key} names another record than {self.key(each.sequence)}"
        return ""

    def check_link(self, before: _Stored | None, found: _Stored) -> str:
        """Whether ``found`` follows on ``before``; a repair follows on no single record."""
        record = found.record
        if record is None or _is_repair(found):
            return ""
        expected = before.sequence + 1 if before else 1
        if found.sequence != expected:
            return self._describe_missing(expected, found.sequence - 1)
        if not found.is_linked:
            return f"{self.key(found.sequence)} has no link" if before and before.is_linked else ""
        if record.previous_sha256 != (before.sha256 if before else None):
            return f"{self.key(found.sequence)} does not follow on the record before it"
        return ""

    def check_repair(self, found: list[_Stored]) -> str:
        """Whether the records before a repair, the last of ``found``, are what it accepted."""
        *earlier, repair = found
        assert repair.record
        if repair.record.history_sha256 == _digest_history(earlier):
            return ""
        return f"what {self.key(repair.sequence)} accepted has changed since"

    def list_chain(self, found: list[_Stored]) -> list[AliasRecord]:
        """The records that follow on one another, or on a repair; see `History`."""
        chain: list[AliasRecord] = []
        is_certain = True
        for index, each in enumerate(found):
            if _is_repair(each):
                is_certain = not self.check_repair(found[: index + 1])
            elif each.problem or self.check_link(found[index - 1] if index else None, each):
                is_certain = False
            chain += [each.record] if each.record and is_certain else []
        return chain

    def append(
        self,
        version: int,
        *,
        sequence: int,
        action: Action,
        reason: str,
        forced: bool,
        verdict_sha256: str | None = None,
        previous_sha256: str | None = None,
        history_sha256: str | None = None,
    ) -> AliasRecord:
        """Make the move. Until its head is written the head is behind, which is allowed."""
        record = AliasRecord(
            model=self.model,
            alias=self.alias,
            sequence=sequence,
            version=version,
            manifest_sha256=self.store.open_version(self.model, version).digests.manifest_sha256,
            action=action,
            moved_at=utc_now("milliseconds"),
            moved_by=name_user(),
            reason=reason,
            forced=forced,
            verdict_sha256=verdict_sha256,
            previous_sha256=previous_sha256,
            history_sha256=history_sha256,
            nonce=secrets.token_hex(16),
        )
        data = msgspec.json.format(msgspec.json.encode(record))
        late: list[Exception] = []
        try:
            if not self.store.objects.put_if_absent(self.key(sequence), data):
                raise self.conflict(sequence - 1)
        except AfterChangeError as error:
            late.append(error)
        try:
            self.write_head(_Stored(sequence, digest_bytes(data), record))
        except (LifecycleError, OSError) as error:
            late.append(error)
        if late:
            hint = "Do not repeat the command; see to the disk. The next move writes a head that is behind."
            raise make_after_change(f"moved to version {version}", late, where=str(self), hint=hint)
        return record

    def write_head(self, found: _Stored) -> None:
        """Have the head name ``found``, or whatever is the last record by then."""
        while later := self._advance_head(found):
            found = later

    def _advance_head(self, found: _Stored) -> _Stored | None:
        """Have the head name ``found`` or a later record; a record that is later still, if there is one."""
        objects = self.store.objects
        head = _Head(sequence=found.sequence, sha256=found.sha256, nonce=secrets.token_hex(16))
        data = msgspec.json.format(msgspec.json.encode(head))
        if self.is_made_in_bucket:
            while not self._swap_head(found.sequence, data):
                pass
            later = self.read_record(found.sequence + 1)
            return later if later.sha256 else None
        # A writer that was overtaken would put the head back; so each looks again after it has written.
        listed = self.list_files()
        if listed.head is None or listed.head.sequence < found.sequence:
            objects.put(self.head_key, data)
            listed = self.list_files()
        last = listed.sequences[-1:]
        return None if last <= [found.sequence] else self.read_record(last[0])

    def _swap_head(self, sequence: int, data: bytes) -> bool:
        """Compare and swap, if the head is behind ``sequence``; False if another writer came first."""
        objects = self.store.objects
        tagged = objects.read_tagged(self.head_key, most_bytes=MAX_RECORD_BYTES)
        if tagged is None:
            return objects.put_if_absent(self.head_key, data)
        with contextlib.suppress(DamageError):
            if self._decode_head(tagged.data).sequence >= sequence:
                return True
        return objects.put_if_same(self.head_key, data, tagged.tag)

    def _describe_missing(self, first: int, last: int) -> str:
        return (
            f"{self.key(first)} is missing"
            if first == last
            else f"{self.key(first)} to {last}.json are missing"
        )

    def damage(self, what: str) -> DamageError:
        """The error of an alias that has to be repaired."""
        hint = (
            "Nothing was changed. Restore it from a copy of the registry, or say where the alias is to "
            f'point: `timberline repair {self} VERSION --reason "…"`.'
        )
        return DamageError(what, where=str(self), hint=hint)

    def conflict(self, expected: int) -> AliasConflictError:
        """The error of a move that came too late."""
        return AliasConflictError(
            f"another move came first, after move {expected}",
            where=str(self),
            hint="Nothing was changed. Look where it points now, and decide again.",
        )


def _parse_record(name: str) -> int | None:
    """``7.json`` or ``000000007.json`` → 7; None for every other name."""
    stem = name.removesuffix("/").removesuffix(".json")
    if not name.removesuffix("/").endswith(".json"):
        return None
    return parse_number(stem.lstrip("0") if len(stem) == _DIGITS else stem)


def _is_repair(found: _Stored) -> bool:
    return found.record is not None and found.record.action == "repair"


def _digest_history(found: list[_Stored]) -> str:
    lines = (f"{each.sequence} {each.sha256}\n" for each in found)
    return digest_bytes("".join(lines).encode())
