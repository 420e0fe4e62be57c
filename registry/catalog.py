"""What the registry holds, in values ready to be shown: one line a version.

Damage does not stop anything here: it is a line of its own. `registry.checks` looks for it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from timberline.registry.aliases import ALIASES, AliasRecord, History, inspect_history, list_aliases
from timberline.registry.checks import TROUBLE, check_places, check_top, describe, find_contents
from timberline.registry.manifest import Interval, Manifest
from timberline.registry.names import PRODUCTION
from timberline.registry.promotion import Rollbacks, find_rolled_back, group_rollbacks
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.store import MODEL_FILE, Store
from timberline.registry.verdict import VERDICT_FILE, Judged, Outcome, decode_verdict


class VerdictSummary(msgspec.Struct, frozen=True):
    """``is_bound``: given for the digests that the version has now; ``is_sealed``: its file has a seal;
    ``is_rolled_back``: production was moved back from the version since; ``warned``: lines that are
    marked WARN."""

    outcome: Outcome
    champion: int | None
    is_bound: bool
    is_sealed: bool
    is_rolled_back: bool = False
    warned: tuple[str, ...] = ()


class VersionSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One version in a list; ``problem`` says why the other fields are missing.

    ``version`` is None where the problem is one of the model, or of something beside the models.
    ``forced`` are those of ``aliases`` that were moved here without a passing verdict.
    """

    model: str
    version: int | None = None
    created_at: str | None = None
    accuracy: Interval | None = None
    model_bytes: int | None = None
    aliases: tuple[str, ...] = ()
    forced: tuple[str, ...] = ()
    verdict: VerdictSummary | None = None
    problem: str | None = None


class VersionDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one version; ``moves`` are those of all aliases to it, the latest first."""

    aliases: tuple[str, ...]
    verdict: VerdictSummary | None
    moves: tuple[AliasRecord, ...] = ()
    problems: tuple[str, ...] = ()
    manifest: Manifest


class _Aliases(msgspec.Struct, frozen=True):
    """The histories of a model's aliases by name, and of those that cannot be read, why."""

    histories: dict[str, History]
    unreadable: dict[str, str]
    rollbacks: Rollbacks

    def names_of(self, version: int) -> tuple[str, ...]:
        """The aliases that point at ``version`` now."""
        return tuple(name for name, tip in self._tips() if tip.version == version)

    def forced_to(self, version: int) -> tuple[str, ...]:
        """Those among them whose last move forward to it was forced."""
        return tuple(name for name in self.names_of(version) if self._is_forced(name, version))

    def moves_to(self, version: int) -> tuple[AliasRecord, ...]:
        """All moves to ``version``, the latest first."""
        records = [record for history in self.histories.values() for record in history.records]
        moves = (record for record in records if record.version == version)
        return tuple(sorted(moves, key=lambda record: record.moved_at, reverse=True))

    def problems(self) -> list[str]:
        """What is wrong with any of them, a sentence each."""
        found = [finding for history in self.histories.values() for finding in history.problems]
        return [*found, *self.unreadable.values()]

    def find_lost(self, model: str, versions: list[int]) -> list[str]:
        """The aliases that point at none of ``versions``, a sentence each."""
        return [
            f"{model}@{name}: points at version {tip.version}, which is lost"
            for name, tip in self._tips()
            if tip.version not in versions
        ]

    def _tips(self) -> Iterable[tuple[str, AliasRecord]]:
        """Of a damaged alias it is not said where it points."""
        for name, history in self.histories.items():
            if history.records and not history.findings:
                yield name, history.records[-1]

    def _is_forced(self, name: str, version: int) -> bool:
        forward = [
            record
            for record in self.histories[name].records
            if record.version == version and record.action != "rollback"
        ]
        return bool(forward) and forward[-1].forced


def summarise_versions(store: Store, model: str | None = None) -> list[VersionSummary]:
    """Every version of ``model`` (of every model when None), oldest first, and a line for each damage.

    Only what a list shows is read: `registry.checks` finds the rest.

    Raises:
        VersionNotFoundError: there is nothing of ``model``.
        OSError: the registry cannot be read at all.
    """
    strays = [] if model else check_top(store)
    summaries = [VersionSummary(model=check.name, problem=check.findings) for check in strays]
    for name in [model] if model else store.models():
        try:
            summaries += _summarise_model(store, name)
        except OSError as error:
            summaries.append(VersionSummary(model=name, problem=describe(error)))
    return summaries


def read_details(store: Store, model: str, version: int) -> VersionDetails:
    """The manifest of one version, with the aliases that point at it, its moves and its verdict.

    Raises:
        VersionNotFoundError, ManifestError: as `Store.read_manifest`.
    """
    manifest = store.read_manifest(model, version)
    aliases = _read_aliases(store, model)
    problems = aliases.problems()
    verdict = None
    try:
        verdict = _read_verdict(store, model, store.identify(model, version), aliases)
    except TROUBLE as error:
        problems.append(describe(error))
    return VersionDetails(
        aliases=aliases.names_of(version),
        verdict=verdict,
        moves=aliases.moves_to(version),
        problems=tuple(problems),
        manifest=manifest,
    )


def _summarise_model(store: Store, model: str) -> list[VersionSummary]:
    contents = find_contents(store, model)
    aliases = _read_aliases(store, model)
    has_verdict = {key.split("/")[1] for key in contents.keys if key.split("/")[2:3] == [VERDICT_FILE]}
    summaries = [
        _summarise(store, model, version, aliases, str(version) in has_verdict)
        for version in contents.versions
    ]
    checks = check_places(store, model, contents)
    problems = [*aliases.problems(), *aliases.find_lost(model, contents.versions)]
    problems += [
        check.findings if check.name == model else f"{check.name}: {check.findings}" for check in checks
    ]
    return summaries + [VersionSummary(model=model, problem=problem) for problem in problems]


def _summarise(
    store: Store, model: str, version: int, aliases: _Aliases, has_verdict: bool
) -> VersionSummary:
    summary = VersionSummary(
        model=model,
        version=version,
        aliases=aliases.names_of(version),
        forced=aliases.forced_to(version),
    )
    try:
        manifest, judged = store.read_summary(model, version)
        verdict = _read_verdict(store, model, judged, aliases) if has_verdict else None
    except TROUBLE as error:
        return msgspec.structs.replace(summary, problem=describe(error))
    return msgspec.structs.replace(
        summary,
        created_at=manifest.created_at,
        accuracy=manifest.metrics.accuracy,
        model_bytes=manifest.files[MODEL_FILE].size,
        verdict=verdict,
    )


def _read_aliases(store: Store, model: str) -> _Aliases:
    histories, unreadable = {}, {}
    try:
        names = list_aliases(store, model)
    except TROUBLE as error:
        return _Aliases({}, {ALIASES: describe(error)}, {})
    for name in names:
        try:
            histories[name] = inspect_history(store, model, name)
        except TROUBLE as error:
            unreadable[name] = f"{model}@{name}: {describe(error)}"
    production = histories.get(PRODUCTION)
    return _Aliases(histories, unreadable, group_rollbacks(production.records if production else []))


def _read_verdict(store: Store, model: str, judged: Judged, aliases: _Aliases) -> VerdictSummary | None:
    data = store.read_document(model, judged.version, VERDICT_FILE)
    if data is None:
        return None
    verdict = decode_verdict(data, where=f"{model}@{judged.version}: {VERDICT_FILE}")
    void = find_rolled_back(aliases.rollbacks, judged.version, verdict, digest_bytes(data))
    return VerdictSummary(
        outcome=verdict.outcome,
        champion=verdict.champion.version if verdict.champion else None,
        is_bound=(verdict.model, verdict.candidate) == (model, judged),
        is_sealed=verdict.is_sealed,
        is_rolled_back=bool(void),
        warned=tuple(line.name for line in verdict.lines if line.is_marked),
    )
