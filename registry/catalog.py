"""What the registry holds, in values ready to be shown: one line a version, one finding a fault."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from registry.aliases import AliasRecord, list_aliases
from registry.errors import DigestMismatchError, RegistryError, VersionNotFoundError
from registry.manifest import Interval, Manifest
from registry.names import ModelRef
from registry.store import MODEL_FILE, Store
from registry.verdict import VERDICT_FILE, Outcome, decode_verdict


class VerdictSummary(msgspec.Struct, frozen=True):
    """``is_bound``: given for the digests that the version has now; ``is_sealed``: its file has a seal."""

    outcome: Outcome
    champion: int | None
    is_bound: bool
    is_sealed: bool


class VersionSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One version in a list; ``problem`` says why the other fields are missing."""

    model: str
    version: int
    created_at: str | None = None
    accuracy: Interval | None = None
    model_bytes: int | None = None
    aliases: tuple[str, ...] = ()
    verdict: VerdictSummary | None = None
    problem: str | None = None


class VersionDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one version."""

    aliases: tuple[str, ...]
    verdict: VerdictSummary | None
    manifest: Manifest


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The result of verifying one version or alias, by its name; no findings means whole."""

    name: str
    is_whole: bool
    findings: str = ""


def summarise_versions(store: Store, model: str | None = None) -> list[VersionSummary]:
    """Every version of ``model`` (of every model when None), oldest first; damaged ones with their problem.

    Raises:
        VersionNotFoundError: ``model`` has no version.
    """
    summaries = []
    for name in [model] if model else store.models():
        aliases = list_aliases(store, name)
        summaries += [_summarise(store, name, version, aliases) for version in _versions(store, name)]
    return summaries


def read_details(store: Store, model: str, version: int) -> VersionDetails:
    """The manifest of one version, with the aliases that point at it and its verdict."""
    manifest = store.read_manifest(model, version)
    aliases = _names_of(list_aliases(store, model), version)
    return VersionDetails(aliases=aliases, verdict=_read_verdict(store, model, version), manifest=manifest)


def check_versions(store: Store, ref: ModelRef | None, version: int | None = None) -> list[Check]:
    """Verify ``version`` of a model, or all versions and aliases of it, or (``ref`` None) all there is."""
    if ref and version:
        return [_check_version(store, ref.model, version)]
    checks = []
    for model in [ref.model] if ref else store.models():
        checks += [_check_version(store, model, version) for version in _versions(store, model)]
        checks += [_check_alias(store, record) for record in list_aliases(store, model)]
    return checks


def _versions(store: Store, model: str) -> list[int]:
    versions = store.versions(model)
    if not versions:
        known = ", ".join(store.models()) or "none"
        raise VersionNotFoundError(f"no model {model!r}", where=store.location, hint=f"There are: {known}.")
    return versions


def _summarise(store: Store, model: str, version: int, aliases: Iterable[AliasRecord]) -> VersionSummary:
    names = _names_of(aliases, version)
    try:
        manifest = store.read_manifest(model, version)
        verdict = _read_verdict(store, model, version)
    except RegistryError as error:
        return VersionSummary(model=model, version=version, aliases=names, problem=str(error))
    return VersionSummary(
        model=model,
        version=version,
        created_at=manifest.created_at,
        accuracy=manifest.metrics.accuracy,
        model_bytes=manifest.files[MODEL_FILE].size,
        aliases=names,
        verdict=verdict,
    )


def _names_of(aliases: Iterable[AliasRecord], version: int) -> tuple[str, ...]:
    return tuple(record.alias for record in aliases if record.version == version)


def _read_verdict(store: Store, model: str, version: int) -> VerdictSummary | None:
    data = store.read_document(model, version, VERDICT_FILE)
    if data is None:
        return None
    verdict = decode_verdict(data, where=f"{model}@{version}: {VERDICT_FILE}")
    return VerdictSummary(
        outcome=verdict.outcome,
        champion=verdict.champion.version if verdict.champion else None,
        is_bound=(verdict.model, verdict.candidate) == (model, store.identify(model, version)),
        is_sealed=verdict.is_sealed,
    )


def _check_version(store: Store, model: str, version: int) -> Check:
    name = str(ModelRef(model, version))
    try:
        store.verify(model, version)
    except DigestMismatchError as error:
        return Check(name=name, is_whole=False, findings=error.what)
    except RegistryError as error:
        return Check(name=name, is_whole=False, findings=str(error))
    return Check(name=name, is_whole=True)


def _check_alias(store: Store, record: AliasRecord) -> Check:
    """An alias pins the manifest it was moved to; a version swapped behind it is found here."""
    name = str(ModelRef(record.model, alias=record.alias))
    try:
        digest = store.identify(record.model, record.version).manifest_sha256
    except RegistryError as error:
        return Check(name=name, is_whole=False, findings=str(error))
    if digest != record.manifest_sha256:
        told = f"manifest.json of version {record.version} is not the one it was moved to"
        return Check(name=name, is_whole=False, findings=told)
    return Check(name=name, is_whole=True)
