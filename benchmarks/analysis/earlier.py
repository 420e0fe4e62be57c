"""The candidate beside the releases before it: small losses that no single gate may block add up.

Every version that was in production lately is compared on the rows that it and the candidate were both
tested on, or, of another table, on the candidate's test rows that it has not learned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from timberline.benchmarks.analysis.fresh import (
    SCORED_FILES,
    FreshRows,
    is_reordered,
    is_same_table,
    map_classes,
)
from timberline.benchmarks.analysis.limits import InForce
from timberline.benchmarks.analysis.predictions import (
    Predictions,
    QualityComparison,
    count_change,
    keep_common,
    read_predictions,
)
from timberline.benchmarks.analysis.quality import format_p_value, line_of_drop
from timberline.benchmarks.analysis.statistics import Discordance, adjust_holm, bound_drop, p_value_beyond
from timberline.benchmarks.errors import EvidenceError
from timberline.benchmarks.settings import AccuracySettings
from timberline.registry.aliases import read_history
from timberline.registry.errors import RegistryError
from timberline.registry.manifest import Manifest
from timberline.registry.names import PRODUCTION
from timberline.registry.runs import NOISE_FILE, TrainingNoise, decode_noise
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.signature import Signature
from timberline.registry.store import EVALUATION_FILE, Store
from timberline.registry.verdict import Outcome, VerdictLine
from timberline.registry.version import Version

# Releases that could not be compared and are listed one by one; the rest is counted.
_LISTED = 3


@dataclass(frozen=True)
class Earlier:
    """A release, what changed since, and the shares of rows that it and the candidate get right.

    ``is_fresh``: both were asked again, because they learned from different tables.
    """

    version: int
    pairs: Discordance
    accuracy: float
    candidate: float
    is_fresh: bool = False


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

    The candidate is not among the others: it may have been in production before.
    """
    history = reversed(read_history(store, champion.model, PRODUCTION))
    before = dict.fromkeys(record.version for record in history)
    others = [version for version in before if version not in (champion.version, candidate.version)]
    return [champion.version, *others][:count]


def find_noise(store: Store, champion: Manifest, versions: Sequence[int]) -> tuple[TrainingNoise | None, str]:
    """How far runs of the champion's recipe differ, and where that is known from.

    Its own document, or else that of the newest of the other ``versions`` that was made by the same recipe.

    Raises:
        EvidenceError: the document is damaged.
    """
    for version in versions:
        if version != champion.version and not _has_recipe(store, champion, version):
            continue
        data = store.read_document(champion.model, version, NOISE_FILE)
        if data is None:
            continue
        where = f"{champion.model}@{version}/{NOISE_FILE}"
        try:
            noise = decode_noise(data, where)
        except RegistryError as error:
            raise EvidenceError(
                f"cannot be read: {error}", where=where, hint="Run `timberline calibrate-training` again."
            ) from error
        return noise, f"{len(noise.runs)} runs, version {version}, {digest_bytes(data)[:12]}"
    return None, ""


def _has_recipe(store: Store, champion: Manifest, version: int) -> bool:
    try:
        recipe = store.open_version(champion.model, version).manifest.lineage.recipe_digest
    except RegistryError:  # a damaged version is reported where it is compared
        return False
    return recipe is not None and recipe == champion.lineage.recipe_digest


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


def keep_champion(version: int, known: QualityComparison) -> Earlier:
    """The champion, which was compared already, as one of the releases."""
    return Earlier(version, known.pairs, known.champion.accuracy, known.candidate.accuracy, known.is_fresh)


def judge_total(releases: Releases, limits: InForce, settings: AccuracySettings) -> VerdictLine:
    """BLOCK when the drop since one of the releases is proven to be beyond the total limit.

    Tango's score test at the limit, with Holm over the releases. A drop that is proven and not beyond it
    passes with the mark WARN. INCONCLUSIVE when no release could be compared for want of rows, INVALID when
    for other reasons; INCONCLUSIVE, too, for a recipe that is too noisy.
    """
    if releases.compared:
        return _judge(releases.compared, releases.failed, limits, settings)
    return VerdictLine(
        name="accuracy_total",
        candidate=None,
        limit=-limits.total.in_force,
        unit="share of rows",
        outcome="INCONCLUSIVE" if releases.is_short else "INVALID",
        reason=f"compared with no release; {_list_failed(releases.failed)}",
        evidence=EVALUATION_FILE,
    )


def _judge(
    found: Sequence[Earlier], failed: Sequence[str], limits: InForce, settings: AccuracySettings
) -> VerdictLine:
    limit = limits.total
    beyond, too_far, fallen = (
        adjust_holm([p_value_beyond(earlier.pairs, margin) for earlier in found])
        for margin in (limit.block_above, limit.pass_below, 0.0)
    )
    is_beyond, is_too_far, is_fallen = (
        min(p_values) <= settings.alpha_total for p_values in (beyond, too_far, fallen)
    )
    # What blocks is what is shown; of several, and of none, the greatest drop.
    worst = max(
        range(len(found)), key=lambda index: (beyond[index] <= settings.alpha_total, found[index].pairs.drop)
    )
    shown, p_value = found[worst], beyond[worst] if is_beyond else fallen[worst]
    bounds = bound_drop(shown.pairs, alpha_low=settings.alpha_pass, alpha_high=settings.alpha_pass)
    text = f"a drop of more than {limit.block_above:.2%} is {'' if is_beyond else 'not '}proven"
    if is_fallen and not is_beyond:
        text = f"some drop is proven, within the limit; {text}"
    outcome: Outcome = (
        "BLOCK" if is_beyond else "INCONCLUSIVE" if limit.is_too_noisy and is_too_far else "PASS"
    )
    parts = [
        f"{text}; greatest drop since version {shown.version}, {shown.pairs.lost:,} rows lost, "
        f"{shown.pairs.gained:,} gained of {shown.pairs.rows:,}; "
        f"{'score test at the limit' if is_beyond else 'mid-p McNemar'} with Holm over "
        f"{_count(len(found))} {format_p_value(p_value)}",
        *([_list_failed(failed)] if failed else []),
    ]
    return line_of_drop(
        "accuracy_total",
        shown.pairs,
        bounds,
        outcome,
        "; ".join(parts) + limit.describe_noise(),
        shares=(shown.accuracy, shown.candidate),
        limit=limit.in_force,
        is_marked=is_fallen,
        evidence=SCORED_FILES if shown.is_fresh else EVALUATION_FILE,
    )


def _count(releases: int) -> str:
    return "1 release" if releases == 1 else f"{releases} releases"


def _list_failed(failed: Sequence[str]) -> str:
    listed = "; ".join(text[:160] for text in failed[:_LISTED])
    more = f"; and {len(failed) - _LISTED} more" if len(failed) > _LISTED else ""
    return f"not compared: {listed}{more}" if failed else "there is none"


def _compare(
    store: Store, version: int, candidate: Manifest, own: Predictions, fresh: FreshRows
) -> Earlier | None:
    """A release and the candidate on the same rows; None when none is left."""
    opened = store.open_version(candidate.model, version).verify()
    manifest = opened.manifest
    if is_same_table(manifest, candidate):
        stored = _read_stored(opened, candidate.signature)
        if not is_reordered(stored, own):
            return _count_rows(version, *keep_common(stored, own), is_fresh=False)
    asked = fresh.ask(manifest, str(version), keeps_labels_only=True)
    if asked.other is None or asked.candidate is None:
        return None
    return _count_rows(version, asked.other, asked.candidate, is_fresh=True)


def _count_rows(version: int, before: Predictions, after: Predictions, *, is_fresh: bool) -> Earlier:
    shares = float(before.correct.mean()), float(after.correct.mean())
    return Earlier(version, count_change(before, after), *shares, is_fresh)


def _read_stored(version: Version, onto: Signature) -> Predictions:
    """What it answered when it was exported, in the classes of ``onto``."""
    places = map_classes(version.manifest.signature, onto)
    stored = read_predictions(version.open_file(EVALUATION_FILE), places.size)
    return replace(stored, truth=places[stored.truth], label=places[stored.label])
