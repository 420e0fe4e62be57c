"""Who may move `production`: which evidence a version needs, and the way back.

Evidence is a sealed verdict bound to the version's very digests, to the champion that is in
production right now, and to the documents beside it. Evidence can be overruled (``force``), in the
open; integrity cannot: a version whose bytes are not its manifest's is never promoted.
"""

from __future__ import annotations

from registry.aliases import AliasRecord, move_alias, read_alias, read_history
from registry.errors import ConfigError, PromotionRefusedError, RegistryError
from registry.ground.files import digest_bytes
from registry.names import PRODUCTION
from registry.store import Store
from registry.verdict import VERDICT_FILE, Judged, Verdict, decode_verdict
from registry.verification import DOCUMENTS


def find_objections(verdict: Verdict, model: str, candidate: Judged, champion: Judged | None) -> list[str]:
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


def find_exchanged(store: Store, model: str, version: int, verdict: Verdict) -> list[str]:
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
        DigestMismatchError: the version is damaged; nothing changed, forced or not.
        AliasConflictError: somebody else moved `production` meanwhile; this call changed nothing.
        ConfigError: forced without a reason.
    """
    if force and not (reason or "").strip():
        raise ConfigError("--force without a reason", where=f"{model}@{version}", hint='Add --reason "…".')
    current = read_alias(store, model, PRODUCTION)
    store.verify(model, version)
    if current and current.version == version and not force:
        return current
    data = store.read_document(model, version, VERDICT_FILE)
    if not force:
        _check_evidence(store, model, version, data, current)
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
    verdict is asked for: the version was in production before. Its bytes are verified.

    Raises:
        PromotionRefusedError: there is no version to go back to; nothing changed.
        DigestMismatchError: that version is damaged; nothing changed.
        AliasConflictError: somebody else moved `production` meanwhile; this call changed nothing.
    """
    history = read_history(store, model, PRODUCTION)
    line = succession(history)
    if len(line) < 2:
        raise PromotionRefusedError(
            f"there is no version before {line[0]}" if line else "no version is in production",
            where=f"{model}@{PRODUCTION}",
            hint="Nothing was changed.",
        )
    store.verify(model, line[-2])
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
            hint=f"Nothing was changed. Run `python -m registry promote {model}@{version}`.",
        )
    current = read_alias(store, model, alias)
    expected = current.sequence if current else None
    return move_alias(store, model, alias, version, expected=expected, reason=reason)


def succession(history: list[AliasRecord]) -> list[int]:
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


def _check_evidence(
    store: Store, model: str, version: int, data: bytes | None, current: AliasRecord | None
) -> None:
    where = f"{model}@{version}"
    hint = f"Nothing was changed. Run `make gate MODEL={model}`, or overrule with --force --reason."
    if data is None:
        raise PromotionRefusedError("has no verdict of the gate", where=where, hint=hint)
    try:
        verdict = decode_verdict(data)
    except RegistryError as error:
        raise PromotionRefusedError(error.what, where=f"{where}: {VERDICT_FILE}", hint=hint) from error
    champion = store.identify(model, current.version) if current else None
    objections = find_objections(verdict, model, store.identify(model, version), champion)
    objections += find_exchanged(store, model, version, verdict)
    if objections:
        raise PromotionRefusedError("; ".join(objections), where=where, hint=hint)


def _describe(model: str, judged: Judged) -> str:
    digests = f"manifest {judged.manifest_sha256[:12]}…, model {judged.model_sha256[:12]}…"
    return f"{model}@{judged.version} ({digests})"


def _blocking_lines(verdict: Verdict) -> str:
    told = [f"{line.name}: {line.reason}" for line in verdict.lines if line.outcome not in ("PASS", "INFO")]
    return f" ({'; '.join(told)})" if told else ""
