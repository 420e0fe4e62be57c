"""One version's past: how good it was, what the gate decided, when it was in production.

Everything is read from the registry; nothing is measured. What is missing or damaged is None, and
``problem`` holds the reason: a history with a hole is still a history.

Every candidate was measured beside its champion in one run, so the ratio is free of the machine, its
neighbours and its year. The product of the ratios along the champions is therefore a latency index
that no change of machine distorts, which a stored baseline is. The price: its error grows with every
link, because the variances of the logarithms add up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from timberline.registry.aliases import AliasRecord, read_history
from timberline.registry.errors import RegistryError
from timberline.registry.manifest import Interval
from timberline.registry.names import PRODUCTION
from timberline.registry.objects import ask_each
from timberline.registry.store import MODEL_FILE, Store
from timberline.registry.verdict import VERDICT_FILE, Outcome, Verdict, VerdictLine, decode_verdict
from timberline.registry.version import Version

# The verdict's upper bound is a one-sided 95 % one, or a stricter one where the gate may look several
# times, at a t with a few degrees of freedom. Read as a plain normal 95 % bound it gives a standard
# error that is too large, by 40 % with the levels of gates.toml, and never too small unless
# `alpha_pass` was set above 5 %.
_BOUND_QUANTILE = 1.6449
_TWO_SIDED_95 = 1.9600


@dataclass(frozen=True)
class Link:
    """``version`` takes ``ratio`` times as long as ``champion``, at most ``high`` times."""

    version: int
    champion: int
    ratio: float
    high: float

    @property
    def log_error(self) -> float:
        """Standard error of ln(ratio)."""
        return standard_error(math.log(self.ratio), math.log(self.high))


@dataclass(frozen=True)
class LatencyIndex:
    """How long a version takes, as a multiple of ``root``'s time, with its 95 % interval.

    Indexes of different roots are not comparable. ``path`` holds the links from the root to here, as
    (version, variance of the logarithm of its ratio); it is empty for the root itself.
    """

    root: int
    path: tuple[tuple[int, float], ...]
    value: float
    low: float
    high: float

    @property
    def log_error(self) -> float:
        """Standard error of ln(value)."""
        return math.sqrt(sum(variance for _, variance in self.path))


def standard_error(value: float, high: float) -> float:
    """The standard error behind a one-sided upper bound of a verdict; rather too large than too small."""
    return max(0.0, high - value) / _BOUND_QUANTILE


def chain_ratios(links: Sequence[Link], first: Iterable[int] = ()) -> dict[int, LatencyIndex]:
    """The index of every version that is linked to another, by version.

    Args:
        links: in the order they were measured. A champion that no earlier link leads to (its own
            verdict is missing, or was given later) is the root of a new chain.
        first: versions that were judged without a champion; roots too, also when nothing follows.
    """
    indexes = {version: _root(version) for version in first}
    for link in links:
        champion = indexes.setdefault(link.champion, _root(link.champion))
        # A verdict given again later, against a champion that came after, must not close a circle.
        if link.version not in indexes:
            indexes[link.version] = _append(champion, link)
    return indexes


def _root(version: int) -> LatencyIndex:
    return LatencyIndex(root=version, path=(), value=1.0, low=1.0, high=1.0)


def _append(champion: LatencyIndex, link: Link) -> LatencyIndex:
    path = (*champion.path, (link.version, link.log_error**2))
    value = champion.value * link.ratio
    spread = math.exp(_TWO_SIDED_95 * math.sqrt(sum(variance for _, variance in path)))
    return LatencyIndex(root=champion.root, path=path, value=value, low=value / spread, high=value * spread)


# Lines whose difference the gate measured side by side in one run: these can be believed over years.
PAIRED_LINES = (
    "p50",
    "net_p50",
    "service_p50",
    "net_p99",
    "net_tail",
    "client_p99",
    "cpu_per_request",
    "accuracy",
    "log_loss",
    "memory",
    "start_up",
)


@dataclass(frozen=True, kw_only=True)
class Release:
    """One version's past, oldest field first.

    Attributes:
        version: its number.
        created_at: ISO 8601, UTC; like all times here.
        accuracy: on its test rows, 0 to 1, with the 95 % interval.
        log_loss: on the same rows, nats.
        model_bytes: size of model.onnx.
        test_fingerprint: which rows these were; accuracies on other rows are not to be compared.
        outcome: what the gate decided about these very bytes; None when it has not.
        champion: the version it was judged against; None also for a first one.
        judged_at: when.
        machine: the class of machine that it was judged on.
        lines: what was measured side by side with the champion, of `PAIRED_LINES`.
        latency: client p50 as a multiple of the first version's; None when nothing links it.
        promoted_at: when `production` first pointed here; None when it never did.
        rolled_back_at: when `production` was last taken away by a rollback, unless it came back.
        is_forced: its last promotion overruled the gate; for ``forced_reason``.
        is_production: `production` points here now.
        problem: what could not be read, and why; empty when everything could.
    """

    version: int
    created_at: str | None = None
    accuracy: Interval | None = None
    log_loss: float | None = None
    model_bytes: int | None = None
    test_fingerprint: str | None = None
    outcome: Outcome | None = None
    champion: int | None = None
    judged_at: str | None = None
    machine: dict[str, str] = field(default_factory=dict)
    lines: tuple[VerdictLine, ...] = ()
    latency: LatencyIndex | None = None
    promoted_at: str | None = None
    rolled_back_at: str | None = None
    is_forced: bool = False
    forced_reason: str = ""
    is_production: bool = False
    problem: str = ""

    def line(self, name: str) -> VerdictLine | None:
        """What was measured under this name, or None."""
        return next((line for line in self.lines if line.name == name), None)

    @property
    def p50(self) -> VerdictLine | None:
        """Client p50 over the champion's: ``difference`` is the ratio, ``low`` and ``high`` bound it."""
        return self.line("p50")


def read_releases(store: Store, model: str) -> tuple[Release, ...]:
    """Every version of ``model``, oldest first; empty when there is none.

    Damage is reported in ``problem`` and never raised: a gate that draws the history must not fail for it.
    """
    releases = ask_each(
        store.objects, lambda version: _read_release(store, model, version), store.versions(model)
    )
    try:
        moves = read_history(store, model, PRODUCTION)
    except (RegistryError, OSError) as error:
        return tuple(_add_problem(release, f"promotions unknown: {error}") for release in _chain(releases))
    return tuple(_add_moves(release, moves) for release in _chain(releases))


def judge_release(releases: Sequence[Release], verdict: Verdict) -> tuple[Release, ...]:
    """The same releases once ``verdict``, which is not stored yet, is that of its candidate."""
    judged = [
        _add_verdict(release, verdict) if release.version == verdict.candidate.version else release
        for release in releases
    ]
    return tuple(_chain(judged))


def _read_release(store: Store, model: str, version: int) -> Release:
    try:
        opened = store.open_version(model, version)
    except (RegistryError, OSError) as error:
        return Release(version=version, problem=str(error))
    manifest = opened.manifest
    release = Release(
        version=version,
        created_at=manifest.created_at,
        accuracy=manifest.metrics.accuracy,
        log_loss=manifest.metrics.log_loss,
        model_bytes=manifest.files[MODEL_FILE].size,
        test_fingerprint=manifest.lineage.test_fingerprint,
    )
    try:
        verdict = _read_verdict(store, opened)
    except (RegistryError, OSError) as error:
        return _add_problem(release, str(error))
    return release if verdict is None else _add_verdict(release, verdict)


def _read_verdict(store: Store, version: Version) -> Verdict | None:
    manifest, where = version.manifest, f"{version}: {VERDICT_FILE}"
    data = store.read_document(manifest.model, manifest.version, VERDICT_FILE)
    if data is None:
        return None
    verdict = decode_verdict(data, where=where)
    if (verdict.model, verdict.candidate) != (manifest.model, version.digests):
        raise RegistryError(
            "the verdict is for other bytes",
            where=where,
            hint="Run the gate again for this version.",
        )
    return verdict


def _add_verdict(release: Release, verdict: Verdict) -> Release:
    return replace(
        release,
        outcome=verdict.outcome,
        champion=verdict.champion.version if verdict.champion else None,
        judged_at=verdict.created_at,
        machine=verdict.machine,
        lines=tuple(
            line for line in verdict.lines if line.name in PAIRED_LINES and line.difference is not None
        ),
    )


def _add_moves(release: Release, moves: list[AliasRecord]) -> Release:
    to_here = [move for move in moves if move.version == release.version]
    if not to_here:
        return release
    last = to_here[-1]
    after = next((move for move in moves if move.sequence > last.sequence), None)
    return replace(
        release,
        promoted_at=to_here[0].moved_at,
        rolled_back_at=after.moved_at if after and after.action == "rollback" else None,
        is_forced=last.forced,
        forced_reason=last.reason if last.forced else "",
        is_production=moves[-1] is last,
    )


def _add_problem(release: Release, problem: str) -> Release:
    return replace(release, problem="; ".join(filter(None, [release.problem, problem])))


def _chain(releases: list[Release]) -> list[Release]:
    links = [
        Link(release.version, release.champion, line.difference, line.high)
        for release in sorted(releases, key=lambda release: release.judged_at or "")
        if (line := release.p50) and release.champion and line.difference and line.high
    ]
    first = [release.version for release in releases if release.outcome and release.champion is None]
    indexes = chain_ratios(links, first)
    return [replace(release, latency=indexes.get(release.version)) for release in releases]
