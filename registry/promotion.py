"""Moving `production`: the evidence that a version needs, and the way back.

Evidence is a sealed verdict bound to the version's very digests, to the champion that is in
production right now, and to the documents beside it. Evidence can be overruled (``force``), in the
open; integrity cannot: a version whose bytes are not its manifest's is never promoted.
"""

from __future__ import annotations

import datetime
from itertools import pairwise

from timberline.registry.aliases import (
    AliasRecord,
    move_alias,
    open_pinned,
    open_target,
    read_alias,
    read_history,
    read_whole_history,
    repair_alias,
)
from timberline.registry.errors import ConfigError, PromotionRefusedError, RegistryError
from timberline.registry.names import PRODUCTION
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.store import Store
from timberline.registry.verdict import VERDICT_FILE, Verdict, VersionDigests, decode_verdict
from timberline.registry.version import DOCUMENTS, Version


def find_objections(
    verdict: Verdict, model: str, candidate: VersionDigests, champion: VersionDigests | None
) -> list[str]:
    """Why ``verdict`` does not let ``candidate`` follow ``champion``, a sentence each; empty if it does.

    Args:
        candidate: the version to promote, with its digests as they are now.
        champion: the version in production now, likewise; None when there is none.
    """
    objections = []
    if not verdict.is_sealed:
        objections.append(f"the verdict is of schema_version {verdict.schema_version}, which has no seal")
    if verdict.outcome != "PASS":
        objections.append(f"the verdict is {verdict.outcome}{_blocking_lines(verdict)}")
    if (verdict.model, verdict.candidate) != (model, candidate):
        objections.append(
            "the verdict is for other bytes: "
            f"{_describe(verdict.model, verdict.candidate)}, this is {_describe(model, candidate)}"
        )
    if verdict.champion != champion:
        then = "no champion" if verdict.champion is None else _describe(model, verdict.champion)
        now = "nothing" if champion is None else _describe(model, champion)
        objections.append(f"the verdict was given against {then}, in production is {now}")
    return objections


def find_mismatched_documents(store: Store, model: str, version: int, verdict: Verdict) -> list[str]:
    """Documents beside ``model@version`` that are not those of ``verdict``, a sentence each.

    Only what is stored with a version is looked at; raw observations stay where the gate ran.
    """
    objections = []
    for name in sorted(verdict.evidence.keys() & set(DOCUMENTS)):
        data = store.read_document(model, version, name)
        if data is None:
            objections.append(f"{name}, which the verdict rests on, is missing")
        elif digest_bytes(data) != verdict.evidence[name]:
            objections.append(f"{name} is not the one that the verdict rests on")
    return objections


def find_all_objections(
    store: Store, verdict: Verdict, data: bytes, candidate: Version, champion: Version | None
) -> list[str]:
    """Why the stored ``verdict`` does not let ``candidate`` follow ``champion``, a sentence each.

    Args:
        data: the verdict's file.
        champion: the version in production now; None when there is none.

    Raises:
        DamageError: the history of `production` is damaged.
    """
    model, version = candidate.manifest.model, candidate.manifest.version
    history = read_history(store, model, PRODUCTION)
    return [
        *find_objections(verdict, model, candidate.digests, champion.digests if champion else None),
        *find_mismatched_documents(store, model, version, verdict),
        *find_rolled_back(group_rollbacks(history), version, verdict.created_at, digest_bytes(data)),
    ]


# Version (None: unknown) → the rollbacks from it: the move before (None: lost), and the rollback.
Rollbacks = dict[int | None, list[tuple[AliasRecord | None, AliasRecord]]]


def group_rollbacks(history: list[AliasRecord]) -> Rollbacks:
    """The rollbacks in the history of `production`, oldest first, by the version that they left."""
    groups: Rollbacks = {}
    for before, record in pairwise([None, *history]):
        assert record
        if record.action == "rollback":
            known = before if before and before.sequence == record.sequence - 1 else None
            groups.setdefault(known.version if known else None, []).append((known, record))
    return groups


def find_rolled_back(rollbacks: Rollbacks, version: int, created_at: str, digest: str) -> list[str]:
    """Why a rollback voids a verdict, a sentence; empty if none does.

    A gate that ran before production was moved back from ``version`` did not find what was wrong with it.

    Args:
        version: that the verdict is about.
        created_at: when it was given.
        digest: of the verdict's file.
    """
    # Where the record before was lost, it may have been this version.
    for before, record in [*rollbacks.get(version, []), *rollbacks.get(None, [])]:
        was_used = before is not None and before.verdict_sha256 == digest
        if was_used or not _is_later(created_at, record.moved_at):
            which = f"version {version}" if before else "an unknown version"
            return [
                f"the verdict was given {created_at}, and production was moved back from "
                f"{which} {record.moved_at} ({record.reason})"
            ]
    return []


def _is_later(instant: str, than: str) -> bool:
    """Compare two times in ISO 8601; an invalid time is not later."""
    try:
        return datetime.datetime.fromisoformat(instant) > datetime.datetime.fromisoformat(than)
    except (ValueError, TypeError):
        return False


def promote(
    store: Store, model: str, version: int, *, force: bool = False, reason: str | None = None
) -> AliasRecord:
    """Point `production` at ``version`` if the evidence allows it.

    A version that is in production already stays there, and no move is recorded unless it is forced:
    services try a version that they refused once for each move.

    Args:
        force: move without a passing verdict; ``reason`` is then required, and both are recorded.

    Returns:
        The move, or the move that put ``version`` into production before.

    Raises:
        PromotionRefusedError: the evidence is missing, says no or was tampered with; nothing changed.
        DamageError: the version or the history of `production` is damaged; nothing changed, forced or not.
        AliasConflictError: another move of `production` came first; this call changed nothing.
        ConfigError: forced without a reason.
    """
    if force:
        _require_reason("--force", reason, f"{model}@{version}")
    current = read_alias(store, model, PRODUCTION)
    candidate = store.open_version(model, version).verify()
    champion = open_target(store, current) if current and not force else None
    if current and champion and current.version == version:
        return current
    data = store.read_document(model, version, VERDICT_FILE)
    if not force:
        _check_evidence(store, candidate, data, champion)
    return move_alias(
        store,
        model,
        PRODUCTION,
        version,
        expected=current.sequence if current else None,
        reason=reason or "the gate passed",
        forced=force,
        action="promote",
        verdict_sha256=digest_bytes(data) if data else None,
    )


def rollback(store: Store, model: str, *, reason: str | None = None) -> AliasRecord:
    """Point `production` at the version it pointed to before the last promotion.

    Each call goes one promotion further back; a rollback is not something to roll back to. No
    verdict is asked for: the version was in production before. Its bytes are verified, and are those
    that were in production then.

    Raises:
        PromotionRefusedError: there is no version to go back to; nothing changed.
        DamageError: that version or the history is damaged; nothing changed.
        AliasConflictError: another move of `production` came first; this call changed nothing.
    """
    history = read_whole_history(store, model, PRODUCTION).chain
    line = production_lineage(history)
    if len(line) < 2:
        raise PromotionRefusedError(
            f"there is no version before {line[0]}" if line else "no version is in production",
            where=f"{model}@{PRODUCTION}",
            hint="Nothing was changed.",
        )
    pin = [record.manifest_sha256 for record in history if record.version == line[-2]][-1]
    open_pinned(store, model, line[-2], pin, "in production was").verify()
    return move_alias(
        store,
        model,
        PRODUCTION,
        line[-2],
        expected=history[-1].sequence,
        reason=reason or f"rolled back from version {line[-1]}",
        action="rollback",
    )


def set_alias(store: Store, model: str, alias: str, version: int, *, reason: str) -> AliasRecord:
    """Point any alias but `production` at ``version``, wherever it points now.

    Raises:
        PromotionRefusedError: the alias is `production`, which moves by evidence only.
    """
    if alias == PRODUCTION:
        raise PromotionRefusedError(
            "is not set by hand",
            where=f"{model}@{PRODUCTION}",
            hint=f"Nothing was changed. Run `timberline promote {model}@{version}`.",
        )
    current = read_alias(store, model, alias)
    expected = current.sequence if current else None
    return move_alias(store, model, alias, version, expected=expected, reason=reason)


def repair(store: Store, model: str, alias: str, version: int, *, reason: str | None) -> AliasRecord | None:
    """Point a damaged alias at ``version``, and accept its history as it is; recorded like ``force``.

    Returns:
        The move; None if nothing is wrong with the alias, and nothing was changed.

    Raises:
        DamageError: the version is damaged; or what lies where the alias's folder should be is no folder.
        ConfigError: there is no reason.
    """
    reason = _require_reason("repair", reason, f"{model}@{alias}")
    store.open_version(model, version).verify()
    return repair_alias(store, model, alias, version, reason=reason)


def write_off(store: Store, model: str, version: int, *, reason: str | None) -> str:
    """`Store.repair`, which requires a reason.

    Raises:
        ConfigError: there is none.
    """
    return store.repair(model, version, reason=_require_reason("repair", reason, f"{model}@{version}"))


def _require_reason(what: str, reason: str | None, where: str) -> str:
    if not (reason or "").strip():
        raise ConfigError(f"{what} without a reason", where=where, hint='Add --reason "…".')
    return str(reason)


def production_lineage(history: list[AliasRecord]) -> list[int]:
    """The versions that a rollback can walk back through; the last one is in production now.

    Moves forward push, rollbacks pop: 1, 2, 3, back to 2 leaves 1, 2.
    """
    line: list[int] = []
    for record in history:
        if record.action == "rollback":
            del line[-1:]
        elif not line or line[-1] != record.version:
            line.append(record.version)
    return line


def _check_evidence(store: Store, candidate: Version, data: bytes | None, champion: Version | None) -> None:
    model, where = candidate.manifest.model, str(candidate)
    hint = f"Nothing was changed. Run `timberline gate {model}`, or overrule with --force --reason."
    if data is None:
        raise PromotionRefusedError("has no verdict of the gate", where=where, hint=hint)
    try:
        verdict = decode_verdict(data)
    except RegistryError as error:
        raise PromotionRefusedError(error.what, where=f"{where}: {VERDICT_FILE}", hint=hint) from error
    if objections := find_all_objections(store, verdict, data, candidate, champion):
        raise PromotionRefusedError("; ".join(objections), where=where, hint=hint)


def _describe(model: str, judged: VersionDigests) -> str:
    digests = f"manifest {judged.manifest_sha256[:12]}…, model {judged.model_sha256[:12]}…"
    return f"{model}@{judged.version} ({digests})"


def _blocking_lines(verdict: Verdict) -> str:
    lines = [line for line in verdict.lines if line.outcome not in ("PASS", "INFO")]
    return f" ({'; '.join(f'{line.name}: {line.reason}' for line in lines)})" if lines else ""
