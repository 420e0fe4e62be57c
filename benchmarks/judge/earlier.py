"""The candidate beside the releases before it: small losses that no single gate may block add up.

Every version that was in production lately is compared on the rows that it and the candidate were both
tested on, or, of another table, on the candidate's test rows that it has not learned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from benchmarks.config import AccuracySettings
from benchmarks.errors import EvidenceError
from benchmarks.judge.accuracy import say_p
from benchmarks.judge.fresh import FreshRows, is_same_table
from benchmarks.judge.paired import (
    Discordance,
    adjust_holm,
    bound_drop,
    p_value_beyond,
    p_value_of_drop,
)
from benchmarks.judge.predictions import Comparison, Predictions, count_change, keep_common, read_predictions
from benchmarks.judge.scoring import map_classes
from registry.aliases import read_history
from registry.errors import RegistryError
from registry.manifest import GateLimits, Manifest
from registry.names import PRODUCTION
from registry.signature import Signature
from registry.store import EVALUATION_FILE, Store
from registry.verdict import VerdictLine

# Releases that could not be compared and are told one by one; the rest is counted.
_TOLD = 3


@dataclass(frozen=True)
class Earlier:
    """A release, what changed since, and the shares of rows that it and the candidate get right."""

    version: int
    pairs: Discordance
    accuracy: float
    candidate: float


@dataclass(frozen=True)
class Releases:
    """Those that were compared, newest first, and a sentence for each that could not be.

    ``is_short``: those that could not be have learned from every row, and nothing else was in the way.
    """

    compared: tuple[Earlier, ...]
    failed: tuple[str, ...] = ()
    is_short: bool = True


def list_releases(store: Store, champion: Manifest, candidate: Manifest, count: int) -> list[int]:
    """The champion and what was in production before, newest first, each once, at most ``count``.

    The candidate is not among them: it may have been in production before.
    """
    history = reversed(read_history(store, champion.model, PRODUCTION))
    versions = [champion.version, *(record.version for record in history)]
    return [version for version in dict.fromkeys(versions) if version != candidate.version][:count]


def compare_releases(
    store: Store, versions: Sequence[int], candidate: Manifest, own: Predictions, fresh: FreshRows
) -> Releases:
    """The candidate beside each of these versions, one after the other.

    Args:
        store: where they are.
        versions: what it is compared with.
        candidate: what is compared.
        own: its evaluation.
        fresh: its test rows, for those that learned from another table.
    """
    found, failed, is_short = [], [], True
    for version in versions:
        try:
            earlier = _compare(store, version, candidate, own, fresh)
        except (EvidenceError, RegistryError, OSError) as error:
            is_short = False
            failed.append(f"version {version}: {error}")
            continue
        if earlier is None:
            failed.append(f"version {version}: no row is left that it has not learned from")
        else:
            found.append(earlier)
    return Releases(tuple(found), tuple(failed), is_short)


def keep_champion(version: int, known: Comparison) -> Earlier:
    """The champion, which was compared already, as one of the releases."""
    return Earlier(version, known.pairs, known.champion.accuracy, known.candidate.accuracy)


def judge_total(releases: Releases, limits: GateLimits, settings: AccuracySettings) -> VerdictLine:
    """BLOCK when the drop since one of the releases is proven to be beyond the total limit.

    Tango's score test at the limit, with Holm over the releases. A drop that is proven and not beyond it
    passes with the mark WARN. INCONCLUSIVE when no release could be compared for want of rows, INVALID when
    for other reasons.
    """
    stated = limits.max_accuracy_drop_total
    limit = limits.max_accuracy_drop if stated is None else stated
    if releases.compared:
        return _judge(releases.compared, releases.failed, limit, settings)
    return VerdictLine(
        name="accuracy_total",
        candidate=None,
        limit=-limit,
        unit="share of rows",
        outcome="INCONCLUSIVE" if releases.is_short else "INVALID",
        reason=f"compared with no release; {_say_failed(releases.failed)}",
        evidence=EVALUATION_FILE,
    )


def _judge(
    found: Sequence[Earlier], failed: Sequence[str], limit: float, settings: AccuracySettings
) -> VerdictLine:
    beyond = adjust_holm([_p_beyond(earlier.pairs, limit) for earlier in found])
    fallen = adjust_holm([p_value_of_drop(earlier.pairs) for earlier in found])
    is_beyond = min(beyond) <= settings.alpha_total
    is_fallen = min(fallen) <= settings.alpha_total
    # What blocks is what is shown; of several, and of none, the greatest drop.
    worst = max(
        range(len(found)), key=lambda index: (beyond[index] <= settings.alpha_total, found[index].pairs.drop)
    )
    shown, p_value = found[worst], beyond[worst] if is_beyond else fallen[worst]
    rise, fall = bound_drop(shown.pairs, alpha_low=settings.alpha_pass, alpha_high=settings.alpha_pass)
    if is_beyond:
        said = f"a drop of more than {limit:.2%} is proven"
    else:
        said = "a drop is proven, but none " if is_fallen else "no drop "
        said += f"of more than {limit:.2%}" + ("" if is_fallen else " is proven")
    line = VerdictLine(
        name="accuracy_total",
        candidate=shown.candidate,
        champion=shown.accuracy,
        difference=0.0 - shown.pairs.drop,
        low=-fall,
        high=-rise,
        limit=-limit,
        unit="share of rows",
        outcome="BLOCK" if is_beyond else "PASS",
        reason="; ".join(
            [
                f"{said}; greatest drop since version {shown.version}, {shown.pairs.lost:,} rows lost, "
                f"{shown.pairs.gained:,} gained of {shown.pairs.rows:,}; "
                f"{'score test at the limit' if is_beyond else 'mid-p McNemar'} with Holm over "
                f"{_count(len(found))} {say_p(p_value)}",
                *([_say_failed(failed)] if failed else []),
            ]
        ),
        evidence=EVALUATION_FILE,
    )
    return msgspec.structs.replace(line, mark="WARN") if is_fallen and not is_beyond else line


def _p_beyond(pairs: Discordance, limit: float) -> float:
    return p_value_beyond(pairs, limit) if limit else p_value_of_drop(pairs)


def _count(releases: int) -> str:
    return "1 release" if releases == 1 else f"{releases} releases"


def _say_failed(failed: Sequence[str]) -> str:
    told = "; ".join(text[:160] for text in failed[:_TOLD])
    more = f"; and {len(failed) - _TOLD} more" if len(failed) > _TOLD else ""
    return f"not compared: {told}{more}" if failed else "there is none"


def _compare(
    store: Store, version: int, candidate: Manifest, own: Predictions, fresh: FreshRows
) -> Earlier | None:
    """A release and the candidate on the same rows; None when none is left."""
    manifest = store.verify(candidate.model, version)
    if is_same_table(manifest, candidate):
        before, after = _read_stored(store, manifest, candidate.signature, own)
    else:
        asked = fresh.ask(manifest, str(version))
        if asked.other is None or asked.candidate is None:
            return None
        before, after = asked.other, asked.candidate
    pairs = count_change(before, after)
    return Earlier(version, pairs, float(before.correct.mean()), float(after.correct.mean()))


def _read_stored(
    store: Store, manifest: Manifest, onto: Signature, own: Predictions
) -> tuple[Predictions, Predictions]:
    """What it and the candidate answered when they were exported, on the rows of both."""
    places = map_classes(manifest.signature, onto)
    folder = store.open_folder(manifest.model, manifest.version)
    stored = read_predictions(folder / EVALUATION_FILE, places.size)
    stored = replace(stored, truth=places[stored.truth], label=places[stored.label])
    before, after = keep_common(stored, own)
    if not np.array_equal(before.truth, after.truth):
        raise EvidenceError("its table has the same rows in another order", where=EVALUATION_FILE)
    return before, after
