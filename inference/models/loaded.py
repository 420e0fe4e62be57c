"""The versions that the settings name, and where their aliases have moved to since."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Literal, NamedTuple

from timberline.inference.config import ServiceConfig
from timberline.inference.errors import NotReadyError
from timberline.inference.metrics.counters import ServiceMetrics
from timberline.inference.models.routing import Lineup
from timberline.inference.models.targets import Place, Role, parse_models
from timberline.inference.models.traffic import ColumnChoice, Replay, Shadow, Split, parse_share
from timberline.inference.models.trial import Trial, TrialRunner, may_heal
from timberline.inference.models.versions import LiveVersion, load_version
from timberline.registry.aliases import AliasRecord, inspect_history, open_reference, read_alias
from timberline.registry.errors import DigestMismatchError, LifecycleError
from timberline.registry.runtime.logs import log_event
from timberline.registry.store import MODEL_FILE, Store
from timberline.registry.version import Version

_logger = logging.getLogger("inference.models.loaded")


Outcome = Literal["swapped", "refused"]


class Swap(NamedTuple):
    """What came of one move of an alias."""

    outcome: Outcome
    model: str
    role: Role
    from_version: int | None
    to_version: int
    seconds: float


class Change(NamedTuple):
    """What a look at the registry came to: who answers from now on, and what is to be counted."""

    lineup: Lineup
    swaps: Sequence[Swap]


class Fleet:
    """Loads what the settings name, and follows the aliases among it.

    Belongs to one thread at a time: to the one that loads at the start, then to the watcher's; only `stop`
    is for others. What it does may take a minute; what it gives out is finished, and never changed
    afterwards.

    Args:
        open_registry: finds the registry as it is now; called for each look.
        config: the service's settings.
        metrics: where loads and shadowed rows are counted.
        trials: loads a version in another process first; None to load it here at once.
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
    ) -> None:
        refs = parse_models(config.model)
        canary = parse_share(config.canary, refs[0].model, setting="canary")
        shadow = parse_share(config.shadow, refs[0].model, setting="shadow")
        self._open_registry = open_registry
        self._config = config
        self._metrics = metrics
        self._trials = trials
        self._clock = clock
        self._watch_s = config.watch_s
        # The window is the service's; each worker has its part, and at least a row if there is any.
        self._drift_rows = -(-config.drift_window_rows // config.workers)
        self._seed = os.getpid()  # so that workers draw differently
        self._main = [Place("main", ref) for ref in refs]
        self._canary = Place("canary", canary.ref) if canary else None
        self._shadow = Place("shadow", shadow.ref) if shadow else None
        self._places = [place for place in (*self._main, self._canary, self._shadow) if place]
        self._split = Split(canary.share, config.canary_header, self._seed) if canary else None
        self._shadow_share = shadow.share if shadow else 0.0
        self._replay = Replay() if shadow else None
        self._off: dict[Role, str] = {}  # why canary or shadow are off, as the log tells already
        self._lineup: Lineup | None = None
        self.has_seen_all = True  # the last look has found out where every alias points

    @property
    def place_count(self) -> int:
        """How many versions the start may have to load."""
        return len(self._places)

    @property
    def is_movable(self) -> bool:
        """Whether any version stands behind an alias; pinned ones never move."""
        return any(place.alias for place in self._places)

    def load(self, *, falls_back: bool = False) -> Lineup:
        """Load everything for the start.

        Args:
            falls_back: where an alias names a version that is refused, take the one before it. That is what
                the other workers answer with; one that joins them must not fail where they go on.

        Raises:
            LifecycleError: a main version or a pinned one is not there, or must not be served. The
                alias of a canary or shadow may be absent or name a version that is refused: the
                main version serves without.
        """
        store = self._open_registry()
        for place in self._places:
            if place.role == "main" or place.alias is None:
                self._open(store, place, falls_back)
            else:
                self._follow(store, place)
        self._lineup = self._line_up()
        return self._lineup

    def look(self) -> Change | None:
        """Ask where every alias points, load what is new, and tell what to publish; None for no news.

        The registry is opened anew, and all of a look is about the tree that was found then: the
        link in front of it may be switched in between.
        """
        self.has_seen_all = True
        try:
            store = self._open_registry()
        except (OSError, LifecycleError) as error:
            self.has_seen_all = False
            for place in self._places:
                place.warn_once("registry not readable", str(error))
            return None
        swaps = [swap for place in self._places if place.alias and (swap := self._follow(store, place))]
        if any(swap.outcome == "swapped" for swap in swaps):
            self._lineup = self._line_up()
        assert self._lineup is not None
        return Change(self._lineup, swaps) if swaps else None

    def stop(self) -> None:
        """End the trial that is under way; from any thread."""
        if self._trials is not None:
            self._trials.stop()

    def close(self) -> None:
        """End the shadow's thread."""
        if self._replay is not None:
            self._replay.close()

    def _open(self, store: Store, place: Place, falls_back: bool) -> None:
        # Looked up before the version is: a move in between is followed by the first look.
        model = place.ref.model
        record = read_alias(store, model, place.alias) if place.alias else None
        # What the move pins is compared as the version is taken, where there may be another to take.
        opened: Version | None = None
        if record is None:
            opened = open_reference(store, place.ref)
            version = opened.manifest.version
        else:
            version = record.version
        earlier = self._list_earlier(store, place, version) if falls_back else []
        place.settle(record)
        while place.live is None:
            move = record if record is not None and record.version == version else None
            started = self._clock()
            try:
                # Where there is nothing to fall back to, a trial would only make the start longer.
                place.live = self._take(store, model, version, move, is_tried=bool(earlier), opened=opened)
            except (OSError, LifecycleError) as error:
                if not earlier:
                    raise
                if move is not None and may_heal(error):
                    place.postpone(move, error, self._watch_s, self._clock())
                    place.settled = None
                else:
                    place.log_refusal(version, error)
                version, opened = earlier.pop(0), None
            else:
                self._metrics.observe_load(model, self._clock() - started)

    def _list_earlier(self, store: Store, place: Place, version: int) -> list[int]:
        """The other versions that the alias named before ``version``, latest first, each once."""
        history = inspect_history(store, place.ref.model, place.alias).records if place.alias else []
        named = dict.fromkeys(record.version for record in reversed(history))
        return [earlier for earlier in named if earlier != version]

    def _follow(self, store: Store, place: Place) -> Swap | None:
        """Bring ``place`` to where its alias points; whatever goes wrong, its version stays.

        A version that must not be served is not tried again until the alias moves. What later
        bytes of the registry may mend is tried again after a while: a copy of it may be under way.
        """
        started = self._clock()
        record = self._read_move(store, place)
        if record is None or (place.retry and place.retry.record == record and started < place.retry.due):
            return None
        before, outcome = place.live, self._replace(store, place, record)
        if outcome is None:
            return None
        from_version = before.version if before else None
        seconds = round(self._clock() - started, 3)
        return Swap(outcome, record.model, place.role, from_version, record.version, seconds)

    def _read_move(self, store: Store, place: Place) -> AliasRecord | None:
        """Where the alias points now, if that is another move than the last one settled.

        Another record under the same number is another move: the tree behind a link was switched.
        """
        assert place.alias is not None
        try:
            record = read_alias(store, place.ref.model, place.alias)
        except (OSError, LifecycleError) as error:
            self.has_seen_all = False
            place.warn_once("alias not readable", str(error))
            return None
        if record is None and place.live is not None:
            self.has_seen_all = False
            place.warn_once("alias gone", "there is no move of it in the registry")
        if record is None or record == place.settled:
            place.retry = None
            place.trouble = "" if record else place.trouble
            return None
        return record

    def _replace(self, store: Store, place: Place, record: AliasRecord) -> Outcome | None:
        """Put the version of ``record`` in its place; None if there is nothing new to tell of it."""
        before = place.live
        try:
            wanted = partial(self._is_wanted, store, place, record)
            place.live = self._take(
                store, record.model, record.version, record, is_tried=True, is_wanted=wanted
            )
        except NotReadyError:
            return None
        except Exception as error:  # the edge towards what somebody published
            if may_heal(error):
                return "refused" if place.postpone(record, error, self._watch_s, self._clock()) else None
            was_counted = place.settle(record)
            place.log_refusal(record.version, error)
            return None if was_counted else "refused"
        place.settle(record)
        place.trouble = ""
        if place.live is before:
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
        """The version: from another place if it is there, as when a canary is promoted, else loaded.

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
        for place in self._places:
            live = place.live
            if live is None or (live.model, live.version) != (model, version):
                continue
            if pinned in (None, live.manifest_sha256):
                return live
        opened = opened or store.open_version(model, version)
        digest = opened.digests.manifest_sha256
        if pinned is not None and digest != pinned:
            raise DigestMismatchError(
                f"its manifest has digest {digest[:12]}…, the alias was moved to {pinned[:12]}…",
                where=f"{model}@{version}",
                hint="The version changed after the move. Publish a new one; do not edit this one.",
            )
        opened.check_size(MODEL_FILE)  # what is still being copied is not worth a process
        if is_tried and self._trials is not None:
            trial = self._describe(store, model, version, digest, move.sequence if move else 0)
            self._trials.check(trial, is_wanted)
        return load_version(opened, max_rows=self._config.max_rows, drift_rows=self._drift_rows)

    def _is_wanted(self, store: Store, place: Place, record: AliasRecord) -> bool:
        """Whether the alias still is where ``record`` moved it; what cannot be read has not moved."""
        assert place.alias is not None
        try:
            return read_alias(store, record.model, place.alias) in (record, None)
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
        )

    def _retire(self, live: LiveVersion) -> None:
        """Have the log tell when the last request of a version has ended, and its memory is free."""
        if any(place.live is live for place in self._places):
            return
        told = weakref.finalize(
            live.session, log_event, _logger, "retired", model=live.model, version=live.version
        )
        told.atexit = False  # what is live at the end of the process is not retired

    def _line_up(self) -> Lineup:
        main = [place.live for place in self._main if place.live is not None]
        canary = self._canary.live if self._canary and self._is_on(self._canary, main[0]) else None
        shadow = self._shadow.live if self._shadow and self._is_on(self._shadow, main[0]) else None
        if shadow is not None:
            main[0] = replace(main[0], shadow=self._build_shadow(main[0], shadow))
        return Lineup.of(main, canary, self._split)

    def _is_on(self, place: Place, main: LiveVersion) -> bool:
        """Whether a second version has something to do beside ``main``; a change is told in the log."""
        why = place.find_obstacle(main)
        if self._off.get(place.role, "") != why:
            self._off[place.role] = why
            log_event(_logger, f"{place.role} {'off' if why else 'on'}", ref=str(place.ref), why=why or None)
        return not why

    def _build_shadow(self, main: LiveVersion, shadow: LiveVersion) -> Shadow:
        assert self._replay is not None
        versions = (main.model, str(main.version), str(shadow.version))

        def count(outcome: str, rows: int) -> None:
            self._metrics.count("shadow_rows", *versions, outcome, by=rows)

        columns = ColumnChoice(main.manifest.signature.columns, shadow.manifest.signature.columns)
        return Shadow(shadow.session, columns, self._shadow_share, self._replay, count, self._seed)
