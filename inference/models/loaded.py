"""The versions that the settings name, and where their aliases have moved to since."""

from __future__ import annotations

import contextlib
import logging
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Literal, NamedTuple

from timberline.inference.config import ServiceConfig
from timberline.inference.errors import NotReadyError, RegistryUnreachableError
from timberline.inference.metrics.counters import ServiceMetrics
from timberline.inference.models.recall import Recollection, spell
from timberline.inference.models.routing import RoutingTable
from timberline.inference.models.traffic import ColumnChoice, Replay, Shadow, Split, parse_share
from timberline.inference.models.trial import Trial, TrialRunner, may_heal
from timberline.inference.models.versions import LiveVersion, load_version
from timberline.registry.aliases import (
    AliasRecord,
    inspect_history,
    open_reference,
    read_alias,
    read_head_tag,
)
from timberline.registry.cache import Cache
from timberline.registry.errors import ConfigError, DigestMismatchError, LifecycleError
from timberline.registry.names import PRODUCTION, ModelRef
from timberline.registry.runtime.logs import log_event
from timberline.registry.store import MODEL_FILE, Store, read_entry
from timberline.registry.version import MANIFEST_FILE, Version, key_of_version

_logger = logging.getLogger("inference.models.loaded")

Role = Literal["main", "canary", "shadow"]
Outcome = Literal["swapped", "refused"]

_REFUSED = "version refused"
_HINT_UNREACHABLE = (
    "See that the bucket answers and that this account may read it, and start again. A service that has "
    "started once starts without the bucket, if --cache-dir is a folder that is still there then."
)
# Between two attempts at a version that may still become whole.
_LONGEST_PAUSE_S = 60.0


def parse_models(text: str) -> list[ModelRef]:
    """Read ``name``, ``name@alias`` or ``name@7``, several with commas between, each model once.

    Raises:
        ConfigError: one of them is none of these, or a model is named twice.
    """
    refs = [ModelRef.parse(part.strip()) for part in text.split(",")]
    for index, ref in enumerate(refs):
        if ref.model in {other.model for other in refs[:index]}:
            raise ConfigError(
                f"model {ref.model} is named twice",
                where="model",
                hint=f"A second version of it is a canary: --canary {ref.version or _alias_of(ref)}=0.1.",
            )
    return refs


@dataclass
class Retry:
    """A move that could not be followed yet: what was wrong may be mended, as when a copy is under way."""

    record: AliasRecord
    code: str  # of the error at the last attempt, which is logged already
    is_counted: bool  # as a refusal
    pause_s: float
    due: float  # of the next attempt, by the clock of `LoadedModels`


@dataclass
class TrafficTarget:
    """One reference of the settings, and the version that stands behind it now."""

    role: Role
    ref: ModelRef
    live: LiveVersion | None = None
    settled: AliasRecord | None = None  # the alias's move that was last followed, or refused for good
    retry: Retry | None = None
    trouble: str = ""  # which is logged already
    is_unconfirmed: bool = False  # it comes from the cache, and the registry has not been asked since

    @property
    def alias(self) -> str | None:
        """The alias to watch; None where the version is pinned."""
        return None if self.ref.version is not None else _alias_of(self.ref)

    def find_obstacle(self, main: LiveVersion) -> str:
        """Why a canary or shadow has nothing to do beside ``main``; empty if it has."""
        if self.live is None:
            return "there is no version to serve behind it"
        if self.live.version == main.version:
            return f"it is version {main.version}, which answers already"
        if self.role == "shadow" and not _can_shadow(self.live, main):
            return f"its columns or classes are not those of version {main.version}"
        return ""

    def warn_once(self, event: str, why: str) -> None:
        """Log trouble when it begins; until it is over, every look meets it again."""
        if self.trouble != event:
            self.trouble = event
            log_event(_logger, event, logging.WARNING, ref=str(self.ref), why=why[:300])

    def postpone(self, record: AliasRecord, error: Exception, first_pause_s: float, now: float) -> bool:
        """Have a move tried again, each time after twice the pause; whether it is to be counted as refused.

        A registry that cannot be read refuses nothing. What is known of a move is logged once.
        """
        is_refusal = isinstance(error, LifecycleError)
        code = error.code if isinstance(error, LifecycleError) else ""
        last = self.retry if self.retry is not None and self.retry.record == record else None
        if not is_refusal:
            self.warn_once("registry not readable", str(error))
        elif last is None or last.code != code:
            self.log_refusal(record.version, error)
        pause_s = min(last.pause_s * 2, _LONGEST_PAUSE_S) if last else first_pause_s
        was_counted = last is not None and last.is_counted
        self.retry = Retry(record, code, was_counted or is_refusal, pause_s, now + pause_s)
        return is_refusal and not was_counted

    def settle(self, record: AliasRecord | None) -> bool:
        """Have a move not tried again; whether it was counted as refused before."""
        last, self.retry = self.retry, None
        self.settled = record
        return last is not None and last.record == record and last.is_counted

    def log_refusal(self, version: int, error: Exception) -> None:
        """Log why a version is not served."""
        fields = {"model": self.ref.model, "version": version, "role": self.role}
        if isinstance(error, LifecycleError):
            log_event(_logger, _REFUSED, logging.ERROR, **fields, code=error.code, why=str(error))
        else:
            why = str(error)[:300]
            _logger.exception(_REFUSED, extra={"fields": {**fields, "code": "unexpected", "why": why}})


def _can_shadow(live: LiveVersion, main: LiveVersion) -> bool:
    """Whether the version can be asked the rows of ``main``, and its answers be compared."""
    shadow, answering = live.manifest.signature, main.manifest.signature
    classes = [[label.value for label in signature.classes] for signature in (shadow, answering)]
    return classes[0] == classes[1] and ColumnChoice(answering.columns, shadow.columns).is_possible


def _alias_of(ref: ModelRef) -> str:
    return ref.alias or PRODUCTION


class Swap(NamedTuple):
    """What came of one move of an alias."""

    outcome: Outcome
    model: str
    role: Role
    from_version: int | None
    to_version: int
    seconds: float


# Models and versions.
Versions = frozenset[tuple[str, int]]


class Change(NamedTuple):
    """What a look at the registry came to: who answers from now on, and what is to be counted.

    ``unconfirmed`` come from the cache, as the registry could not be asked.
    """

    table: RoutingTable
    swaps: Sequence[Swap]
    unconfirmed: Versions = frozenset()


class LoadedModels:
    """Loads what the settings name, and follows the aliases among it.

    Belongs to one thread at a time: to the one that loads at the start, then to the watcher's; only `stop`
    is for others. What it does may take a minute; what it gives out is finished, and never changed
    afterwards.

    Args:
        open_registry: finds the registry as it is now; called for each look.
        config: the service's settings.
        metrics: where loads and shadowed rows are counted.
        trials: loads a version in another process first; None to load it here at once.
        cache: of a bucket; without one the service does not start while the bucket is not there.
        notes: what it starts with then.
        clock: in seconds, never going back.

    Raises:
        ConfigError: the settings name models, canary or shadow in a way that cannot be read.
    """

    def __init__(
        self,
        open_registry: Callable[[], Store],
        config: ServiceConfig,
        metrics: ServiceMetrics,
        trials: TrialRunner | None = None,
        clock: Callable[[], float] = monotonic,
        cache: Cache | None = None,
        notes: Recollection | None = None,
    ) -> None:
        refs = parse_models(config.model)
        canary = parse_share(config.canary, refs[0].model, setting="canary")
        shadow = parse_share(config.shadow, refs[0].model, setting="shadow")
        self._open_registry = open_registry
        self._config = config
        self._metrics = metrics
        self._trials = trials
        self._clock = clock
        self._watch_s = config.watch_every_s
        self._cache = cache or Cache(None)
        self._notes = notes or Recollection(self._cache, config.registry)
        self._outage: OSError | None = None  # of a bucket, found at the start
        # The window is the service's; each worker has its part, and at least a row if there is any.
        self._drift_rows = -(-config.drift_window_rows // config.workers)
        self._seed = os.getpid()  # so that workers draw differently
        self._main = [TrafficTarget("main", ref) for ref in refs]
        self._canary = TrafficTarget("canary", canary.ref) if canary else None
        self._shadow = TrafficTarget("shadow", shadow.ref) if shadow else None
        self._targets = [target for target in (*self._main, self._canary, self._shadow) if target]
        self._split = Split(canary.share, config.canary_header, self._seed) if canary else None
        self._shadow_share = shadow.share if shadow else 0.0
        self._replay = Replay() if shadow else None
        self._off: dict[Role, str] = {}  # why canary or shadow are off, as logged
        self._table: RoutingTable | None = None
        self.has_seen_all = True  # the last look has found out where every alias points

    @property
    def target_count(self) -> int:
        """How many versions the start may have to load."""
        return len(self._targets)

    @property
    def is_movable(self) -> bool:
        """Whether any version stands behind an alias; pinned ones never move."""
        return any(target.alias for target in self._targets)

    @property
    def is_remote(self) -> bool:
        """Whether the registry is a bucket."""
        return self._config.is_remote

    @property
    def unconfirmed(self) -> Versions:
        """What comes from the cache, as the registry could not be asked."""
        return frozenset((t.live.model, t.live.version) for t in self._targets if t.live and t.is_unconfirmed)

    @property
    def is_retry_due(self) -> bool:
        """Whether a move that could not be followed is to be tried again."""
        return any(target.retry and target.retry.due <= self._clock() for target in self._targets)

    def load(self, *, falls_back: bool = False, outage: OSError | None = None) -> RoutingTable:
        """Load everything for the start.

        A bucket that cannot be asked is as the cache remembers it.

        Args:
            falls_back: where an alias names a version that is refused, take the one before it. That is what
                the other workers answer with; one that joins them must not fail where they go on.
            outage: why the bucket need not be asked.

        Raises:
            RegistryUnreachableError: it cannot be asked, and there is nothing in the cache.
            LifecycleError: a main version or a pinned one is not there, or must not be served. The
                alias of a canary or shadow may be absent or name a version that is refused: the
                main version serves without.
        """
        store = self._open_registry()
        self._outage = outage
        for target in self._targets:
            if target.role != "main" and target.alias is not None:
                self._begin_to_follow(store, target)
            elif store.objects.is_remote:
                self._open_or_recall(store, target, falls_back)
            else:
                self._open(store, target, falls_back)
        self._table = self._build_table()
        return self._table

    def _begin_to_follow(self, store: Store, target: TrafficTarget) -> None:
        if self._outage is None:
            self._follow(store, target)
        elif self._notes.find(target.ref) is not None:
            with contextlib.suppress(LifecycleError):  # the main version serves without
                self._recall(store, target, self._outage)

    def _open_or_recall(self, store: Store, target: TrafficTarget, falls_back: bool) -> None:
        """Load from a bucket; if that cannot be asked, what the cache has of it."""
        if self._outage is not None and self._notes.find(target.ref) is not None:
            with contextlib.suppress(RegistryUnreachableError):  # it may answer again
                self._recall(store, target, self._outage)
                return
        try:
            self._open(store, target, falls_back)
        except OSError as error:
            self._outage = error
            self._recall(store, target, error)

    def _recall(self, store: Store, target: TrafficTarget, outage: OSError) -> None:
        """Load what stood behind a reference when the bucket was last asked.

        Raises:
            RegistryUnreachableError: that is not known, or not in the cache.
        """
        found = self._notes.find(target.ref)
        try:
            if found is None:
                raise FileNotFoundError("there is no note of it")
            opened = store.open_known(target.ref.model, found.version, found.manifest_sha256)
            target.live = self._take(
                store, target.ref.model, found.version, found.record, is_tried=False, opened=opened
            )
        except OSError as error:
            place = f"in the cache {self._notes.place}" if self._notes.place else "as there is no cache"
            raise RegistryUnreachableError(
                f"{store.location} cannot be asked, and there is nothing to start with {place}: {outage}",
                where=spell(target.ref),
                hint=_HINT_UNREACHABLE,
            ) from error
        target.settle(found.record)
        target.is_unconfirmed = True
        log_event(
            _logger,
            "started from the cache",
            logging.WARNING,
            ref=spell(target.ref),
            version=found.version,
            confirmed_at=found.confirmed_at,
            why=str(outage)[:300],
        )

    def look(self) -> Change | None:
        """Ask where every alias points, load what is new, and return what to publish; None if nothing is new.

        The registry is opened anew, and all of a look is about the tree that was found then: the
        link in front of it may be switched in between.
        """
        self.has_seen_all = True
        try:
            store = self._open_registry()
        except (OSError, LifecycleError) as error:
            self.has_seen_all = False
            for target in self._targets:
                target.warn_once("registry not readable", str(error))
            return None
        before = self.unconfirmed
        swaps = [swap for target in self._targets if target.alias and (swap := self._follow(store, target))]
        for target in self._targets:
            if target.is_unconfirmed and target.alias is None:
                self._confirm_pinned(store, target)
        if any(swap.outcome == "swapped" for swap in swaps):
            self._table = self._build_table()
        assert self._table is not None
        after = self.unconfirmed
        return Change(self._table, swaps, after) if swaps or before != after else None

    def ask_tags(self, seen: Mapping[str, str]) -> dict[str, str]:
        """The tag of the head of each alias that is followed, by its name; one conditional request for each.

        Args:
            seen: the tags that the caller knows.

        Raises:
            OSError: the bucket cannot be asked.
        """
        store = self._open_registry()
        tags = {}
        for target in self._targets:
            if target.alias is not None:
                name = spell(target.ref)
                try:
                    tags[name] = read_head_tag(store, target.ref.model, target.alias, seen.get(name, ""))
                except LifecycleError as error:  # an answer too, of which a look tells
                    tags[name] = error.code
        if not tags:  # pinned versions only, of which one comes from the cache
            ref = self._targets[0].ref
            assert ref.version is not None
            store.objects.find_size(f"{key_of_version(ref.model, ref.version)}/{MANIFEST_FILE}")
        return tags

    def find_move(self) -> bool:
        """Whether an alias points elsewhere than this process knows; each is looked at whole.

        A move whose promoter was killed has no head that would show it.

        Raises:
            OSError: the bucket cannot be asked.
        """
        store = self._open_registry()
        return any(self._has_moved(store, target) for target in self._targets if target.alias)

    def _has_moved(self, store: Store, target: TrafficTarget) -> bool:
        assert target.alias is not None
        try:
            record = read_alias(store, target.ref.model, target.alias)
        except LifecycleError:  # of which a look tells
            return not target.trouble
        known = (target.settled, target.retry.record if target.retry else None)
        if record == target.settled and target.live is not None and record is not None:
            self._keep(store, target, record)
        return record is not None and record not in known

    def _confirm_pinned(self, store: Store, target: TrafficTarget) -> None:
        """Ask for the version that came from the cache, once the bucket is there again."""
        assert target.live is not None
        assert target.ref.version is not None
        try:
            found = store.open_version(target.ref.model, target.ref.version).digests.manifest_sha256
        except (OSError, LifecycleError) as error:
            self.has_seen_all = False
            target.warn_once("version not confirmed", str(error))
            return
        if found == target.live.manifest_sha256:
            self._confirm(target)
        else:
            target.warn_once("version not confirmed", f"its manifest has digest {found[:12]}… now")

    def _confirm(self, target: TrafficTarget) -> None:
        if target.is_unconfirmed:
            target.is_unconfirmed = False
            version = target.live.version if target.live else None
            log_event(_logger, "version confirmed", ref=spell(target.ref), version=version)

    def _keep(self, store: Store, target: TrafficTarget, record: AliasRecord | None) -> None:
        """Note what was found, for a start without the bucket."""
        if store.objects.is_remote and target.live is not None:
            self._notes.keep(target.ref, target.live.manifest, target.live.manifest_sha256, record)

    def stop(self) -> None:
        """End the trial that is under way; from any thread."""
        if self._trials is not None:
            self._trials.stop()

    def close(self) -> None:
        """End the shadow's thread."""
        if self._replay is not None:
            self._replay.close()

    def _open(self, store: Store, target: TrafficTarget, falls_back: bool) -> None:
        # Looked up before the version is: a move in between is followed by the first look.
        model = target.ref.model
        record = read_alias(store, model, target.alias) if target.alias else None
        # What the move pins is compared as the version is taken, where there may be another to take.
        opened: Version | None = None
        if record is None:
            opened = self._open_named(store, target.ref)
            version = opened.manifest.version
        else:
            version = record.version
        earlier = self._list_earlier(store, target, version) if falls_back else []
        target.settle(record)
        while target.live is None:
            move = record if record is not None and record.version == version else None
            started = self._clock()
            try:
                # Where there is nothing to fall back to, a trial would only make the start longer.
                target.live = self._take(store, model, version, move, is_tried=bool(earlier), opened=opened)
            except (OSError, LifecycleError) as error:
                if not earlier or (store.objects.is_remote and isinstance(error, OSError)):
                    raise
                if move is not None and may_heal(error):
                    target.postpone(move, error, self._watch_s, self._clock())
                    target.settled = None
                else:
                    target.log_refusal(version, error)
                version, opened = earlier.pop(0), None
            else:
                self._metrics.observe_load(model, self._clock() - started)
                self._keep(store, target, move)

    def _open_named(self, store: Store, ref: ModelRef) -> Version:
        """What a reference names; a pinned version of a bucket by its manifest's digest, for the cache."""
        if ref.version is None or not store.objects.is_remote:
            return open_reference(store, ref)
        pin = ref.manifest_sha256
        if pin is None:
            entry = read_entry(store.objects, ref.model, ref.version)
            pin = entry.manifest_sha256 if entry else None
        if pin is None:
            pin = store.open_version(ref.model, ref.version).digests.manifest_sha256
        return store.open_known(ref.model, ref.version, pin)

    def _list_earlier(self, store: Store, target: TrafficTarget, version: int) -> list[int]:
        """The other versions that the alias named before ``version``, latest first, each once."""
        history = inspect_history(store, target.ref.model, target.alias).records if target.alias else []
        named = dict.fromkeys(record.version for record in reversed(history))
        return [earlier for earlier in named if earlier != version]

    def _follow(self, store: Store, target: TrafficTarget) -> Swap | None:
        """Bring ``target`` to where its alias points; whatever goes wrong, its version stays.

        A version that must not be served is not tried again until the alias moves. What later
        bytes of the registry may mend is tried again after a while: a copy of it may be under way.
        """
        started = self._clock()
        record = self._read_move(store, target)
        if record is None or (target.retry and target.retry.record == record and started < target.retry.due):
            return None
        before, outcome = target.live, self._replace(store, target, record)
        if outcome is None:
            return None
        from_version = before.version if before else None
        seconds = round(self._clock() - started, 3)
        return Swap(outcome, record.model, target.role, from_version, record.version, seconds)

    def _read_move(self, store: Store, target: TrafficTarget) -> AliasRecord | None:
        """Where the alias points now, if that is another move than the last one settled.

        Another record under the same number is another move: the tree behind a link was switched.
        """
        assert target.alias is not None
        try:
            record = read_alias(store, target.ref.model, target.alias)
        except (OSError, LifecycleError) as error:
            self.has_seen_all = False
            target.warn_once("alias not readable", str(error))
            return None
        if record is None and target.live is not None:
            self.has_seen_all = False
            target.warn_once("alias gone", "there is no move of it in the registry")
        if record is not None:
            self._confirm(target)
        if record is None or record == target.settled:
            target.retry = None
            target.trouble = "" if record else target.trouble
            return None
        return record

    def _replace(self, store: Store, target: TrafficTarget, record: AliasRecord) -> Outcome | None:
        """Put the version of ``record`` in its target; None if nothing is to be counted."""
        before = target.live
        try:
            wanted = (
                _HeadUnmoved(store, record, self._watch_s, self._clock)
                if store.objects.is_remote
                else partial(self._is_wanted, store, target, record)
            )
            target.live = self._take(
                store, record.model, record.version, record, is_tried=True, is_wanted=wanted
            )
        except NotReadyError:
            return None
        except Exception as error:  # the edge towards published files
            if may_heal(error):
                return "refused" if target.postpone(record, error, self._watch_s, self._clock()) else None
            was_counted = target.settle(record)
            target.log_refusal(record.version, error)
            return None if was_counted else "refused"
        target.settle(record)
        target.trouble = ""
        self._keep(store, target, record)
        if target.live is before:
            return None
        if before is not None:
            self._retire(before)
        return "swapped"

    def _take(
        self,
        store: Store,
        model: str,
        version: int,
        move: AliasRecord | None,
        *,
        is_tried: bool,
        is_wanted: Callable[[], bool] = lambda: True,
        opened: Version | None = None,
    ) -> LiveVersion:
        """The version: from another target if it is there, as when a canary is promoted, else loaded.

        Args:
            move: of the alias to this version, if that is what asks for it.
            is_tried: whether another process loads it first.
            is_wanted: whether it still is, asked while that lasts.
            opened: the version, if the caller has opened it already.

        Raises:
            DigestMismatchError: its manifest is not the one that the alias was moved to; or as
                `load_version` and `inference.models.trial.TrialRunner.check`.
        """
        pinned = move.manifest_sha256 if move else None
        for target in self._targets:
            live = target.live
            if live is None or (live.model, live.version) != (model, version):
                continue
            if pinned in (None, live.manifest_sha256):
                return live
        is_remote = store.objects.is_remote
        if opened is None:
            # Of a bucket by its digest: the cache may have it, and it is what the ledger would be asked for.
            known = pinned if is_remote else None
            opened = store.open_known(model, version, known) if known else store.open_version(model, version)
        digest = opened.digests.manifest_sha256
        if pinned is not None and digest != pinned:
            raise DigestMismatchError(
                f"its manifest has digest {digest[:12]}…, the alias was moved to {pinned[:12]}…",
                where=f"{model}@{version}",
                hint="The version changed after the move. Publish a new one; do not edit this one.",
            )
        if not is_remote:  # whose objects are whole
            opened.check_size(MODEL_FILE)  # what is still being copied is not worth a process
        if is_tried and self._trials is not None:
            trial = self._describe(store, model, version, digest, move.sequence if move else 0)
            self._trials.check(trial, is_wanted)
        config = self._config
        return load_version(
            opened, max_rows=config.max_rows, drift_rows=self._drift_rows, warns=config.warnings
        )

    def _is_wanted(self, store: Store, target: TrafficTarget, record: AliasRecord) -> bool:
        """Whether the alias still is where ``record`` moved it; what cannot be read has not moved."""
        assert target.alias is not None
        try:
            return read_alias(store, record.model, target.alias) in (record, None)
        except (OSError, LifecycleError):
            return True

    def _describe(self, store: Store, model: str, version: int, digest: str, sequence: int) -> Trial:
        return Trial(
            registry=store.location,
            model=model,
            version=version,
            manifest_sha256=digest,
            sequence=sequence,
            max_rows=self._config.max_rows,
            parent_pid=os.getpid(),
            timeout_s=self._config.load_timeout_s,
            memory_bytes=self._config.load_memory_bytes,
            cache_dir=str(self._cache.folder or ""),
            cache_bytes=self._cache.most_bytes if self._cache.folder else 0,
        )

    def _retire(self, live: LiveVersion) -> None:
        """Log when the last request of a version has ended, and its memory is free."""
        if any(target.live is live for target in self._targets):
            return
        retired = weakref.finalize(
            live.session, log_event, _logger, "retired", model=live.model, version=live.version
        )
        retired.atexit = False  # what is live at the end of the process is not retired

    def _build_table(self) -> RoutingTable:
        main = [target.live for target in self._main if target.live is not None]
        canary = self._canary.live if self._canary and self._is_on(self._canary, main[0]) else None
        shadow = self._shadow.live if self._shadow and self._is_on(self._shadow, main[0]) else None
        if shadow is not None:
            main[0] = replace(main[0], shadow=self._build_shadow(main[0], shadow))
        return RoutingTable.of(main, canary, self._split)

    def _is_on(self, target: TrafficTarget, main: LiveVersion) -> bool:
        """Whether a second version has something to do beside ``main``; a change is logged."""
        why = target.find_obstacle(main)
        if self._off.get(target.role, "") != why:
            self._off[target.role] = why
            log_event(
                _logger, f"{target.role} {'off' if why else 'on'}", ref=str(target.ref), why=why or None
            )
        return not why

    def _build_shadow(self, main: LiveVersion, shadow: LiveVersion) -> Shadow:
        assert self._replay is not None
        versions = (main.model, str(main.version), str(shadow.version))

        def count(outcome: str, rows: int) -> None:
            self._metrics.count("shadow_rows", *versions, outcome, by=rows)

        columns = ColumnChoice(main.manifest.signature.columns, shadow.manifest.signature.columns)
        return Shadow(shadow.session, columns, self._shadow_share, self._replay, count, self._seed)


class _HeadUnmoved:
    """Whether the alias of ``record`` is still where it was, asked of a bucket now and then.

    What cannot be read has not moved.
    """

    def __init__(self, store: Store, record: AliasRecord, every_s: float, clock: Callable[[], float]) -> None:
        self._store = store
        self._record = record
        self._every_s = every_s
        self._clock = clock
        self._due = clock() + every_s
        self._tag = ""

    def __call__(self) -> bool:
        if self._clock() < self._due:
            return True
        self._due = self._clock() + self._every_s
        try:
            tag = read_head_tag(self._store, self._record.model, self._record.alias, self._tag)
            if tag == self._tag:
                return True
            self._tag = tag
            return read_alias(self._store, self._record.model, self._record.alias) in (self._record, None)
        except (OSError, LifecycleError):
            return True
