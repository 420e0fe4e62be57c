"""Held-out predictions → lines of the verdict. Pure.

A line's difference is candidate minus champion, so a drop is negative; bounds are one-sided.

- Accuracy, floors and the version's own baselines.
- Classes and slices: one part can be lost for a gain elsewhere. Lack of proof blocks nothing there, since a
  rare class never has the rows; the reason tells it.
- Log-loss and calibration see what accuracy does not: a model that is as often right and no longer knows how
  sure to be. They block what is proven and keep nothing waiting, except for a recipe that is too noisy; the
  level is split evenly between the two.
- Improvement, where the model's [gate] asks for more than "not worse".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import msgspec
from scipy.stats import norm

from timberline.benchmarks.analysis.limits import InForce, Limit
from timberline.benchmarks.analysis.predictions import (
    PartChange,
    Predictions,
    Quality,
    QualityComparison,
    bound_calibration,
    count_against_baseline,
)
from timberline.benchmarks.analysis.statistics import (
    Bounds,
    Discordance,
    adjust_holm,
    blockable_drop,
    bound_average,
    bound_drop,
    bound_proportion,
    p_value_beyond,
    p_value_of_drop,
    power_to_block,
    provable_margin,
    rows_to_block,
    rows_to_prove,
)
from timberline.benchmarks.analysis.verdict import blank_line
from timberline.benchmarks.settings import AccuracySettings
from timberline.registry.manifest import GateLimits
from timberline.registry.store import EVALUATION_FILE
from timberline.registry.verdict import Outcome, VerdictLine


def judge_floors(quality: Quality, limits: GateLimits, settings: AccuracySettings) -> tuple[VerdictLine, ...]:
    """The absolute floors: PASS only when the bound, not just the estimate, keeps the limit."""
    alpha = settings.alpha_pass
    low, high = bound_proportion(quality.correct, quality.rows, alpha=alpha)
    lines = [
        VerdictLine(
            name="accuracy_floor",
            candidate=quality.accuracy,
            low=low,
            high=high,
            limit=limits.min_accuracy,
            unit="share of rows",
            outcome="PASS" if low >= limits.min_accuracy else _short(high < limits.min_accuracy),
            reason=f"Wilson bounds, one-sided {1 - alpha:.0%}, {quality.rows:,} rows",
            evidence=EVALUATION_FILE,
        )
    ]
    if limits.max_log_loss is not None:
        low, high = bound_average(quality.loss, quality.loss_sd, quality.rows, alpha=alpha)
        lines.append(
            VerdictLine(
                name="log_loss_ceiling",
                candidate=quality.loss,
                low=low,
                high=high,
                limit=limits.max_log_loss,
                unit="nats",
                outcome="PASS" if high <= limits.max_log_loss else _short(low > limits.max_log_loss),
                reason=f"Student's bounds, one-sided {1 - alpha:.0%}, {quality.rows:,} rows",
                evidence=EVALUATION_FILE,
            )
        )
    return tuple(lines)


def _short(is_proven: bool) -> Outcome:
    """The outcome of a line that did not pass: a proven no, or not enough rows to tell."""
    return "BLOCK" if is_proven else "INCONCLUSIVE"


def judge_drop(comparison: QualityComparison, limits: InForce, settings: AccuracySettings) -> VerdictLine:
    """BLOCK: a drop beyond the limit is proven. PASS: it is excluded; marked WARN when some drop is proven.

    Proven by Tango's lower bound, excluded by his upper one; a drop at all by mid-p McNemar. The reason names
    what these rows can find whatever the outcome.
    """
    pairs, limit = comparison.pairs, limits.accuracy
    rise, fall = bound_drop(pairs, alpha_low=settings.alpha_block, alpha_high=settings.alpha_pass)
    p_value = p_value_of_drop(pairs)
    is_worse = p_value <= settings.alpha_block
    outcome: Outcome
    if rise > limit.block_above:
        outcome, why = "BLOCK", f"a drop of more than {limit.block_above:.2%} is proven"
    elif fall < limit.pass_below:
        outcome, why = "PASS", f"a drop of {limit.pass_below:.2%} is excluded"
    elif limit.is_too_noisy:
        outcome, why = "INCONCLUSIVE", limit.describe()
    else:
        outcome, why = "INCONCLUSIVE", _describe_unproven(pairs, limit.pass_below, settings)
    if is_worse and outcome == "PASS":
        why = f"some drop is proven, within the limit; {why}"
    return line_of_drop(
        "accuracy",
        pairs,
        (rise, fall),
        outcome,
        f"{_describe_rows(comparison)}{why}; {pairs.lost:,} rows lost, {pairs.gained:,} gained of "
        f"{pairs.rows:,}; mid-p McNemar {format_p_value(p_value)}; Tango's bounds, one-sided "
        f"{1 - settings.alpha_pass:.0%} and {1 - settings.alpha_block:.2%}; "
        f"{describe_power(pairs, limit.block_above, settings)}{limit.describe_noise()}",
        shares=(comparison.champion.accuracy, comparison.candidate.accuracy),
        limit=limit.in_force,
        is_marked=is_worse,
    )


def line_of_drop(
    name: str,
    pairs: Discordance,
    bounds: tuple[float, float],
    outcome: Outcome,
    reason: str,
    *,
    shares: tuple[float | None, float],
    limit: float,
    is_marked: bool,
    unit: str = "share of rows",
    evidence: str = EVALUATION_FILE,
) -> VerdictLine:
    """The line about a drop; its figures are candidate minus champion, so with the other sign.

    Args:
        name: of the line.
        pairs: the rows that only one of the two got right.
        bounds: lower and upper bound of the drop.
        outcome: of the line.
        reason: why.
        shares: of rows that champion and candidate get right.
        limit: the largest drop that is allowed.
        is_marked: whether a line that passed is marked WARN: something is proven to be worse.
        unit: of the shares.
        evidence: the file that they come from.
    """
    rise, fall = bounds
    return VerdictLine(
        name=name,
        candidate=shares[1],
        champion=shares[0],
        difference=0.0 - pairs.drop,
        low=-fall,
        high=-rise,
        limit=0.0 - limit,
        unit=unit,
        outcome=outcome,
        reason=reason,
        evidence=evidence,
        mark="WARN" if is_marked and outcome == "PASS" else msgspec.UNSET,
    )


def _describe_rows(comparison: QualityComparison) -> str:
    if comparison.test_rows is None:
        return ""
    before, after = comparison.test_rows
    return (
        f"other test rows than the champion's: judged on the {comparison.pairs.rows:,} that both have "
        f"(champion {before:,}, candidate {after:,}); "
    )


def _describe_unproven(pairs: Discordance, margin: float, settings: AccuracySettings) -> str:
    alpha, power = settings.alpha_pass, settings.power
    needed = (
        f"{rows_to_prove(pairs.rate, margin, alpha=alpha, power=power):,}"
        if margin
        else "no number of rows proves a drop below 0"
    )
    provable = provable_margin(pairs.rate, pairs.rows, alpha=alpha, power=power)
    return (
        f"a drop of {margin:.2%} is not excluded; rows needed: {needed}, these {pairs.rows:,} can "
        f"exclude {provable:.2%} if there is no drop"
    )


def describe_power(pairs: Discordance, limit: float, settings: AccuracySettings) -> str:
    """Which drop these rows block, and how many block one of twice the limit; "underpowered" when too few."""
    alpha, power = settings.alpha_block, settings.power
    smallest = blockable_drop(pairs.rate, limit, pairs.rows, alpha=alpha, power=power)
    blocks = f"smallest drop blocked with power {power:.0%}: {smallest:.2%}"
    drop = 2 * limit
    if not 0 < drop < 1:
        return blocks
    needed = rows_to_block(pairs.rate, drop, limit, alpha=alpha, power=power)
    has = power_to_block(pairs.rate, drop, limit, pairs.rows, alpha=alpha)
    short = (
        f"underpowered, a drop of {drop:.2%} is blocked with power {has:.0%} only; " if has < power else ""
    )
    return f"{short}rows to block a drop of {drop:.2%}: {needed:,}, there are {pairs.rows:,}; {blocks}"


def format_p_value(p_value: float) -> str:
    """A p-value as people read it."""
    return f"p = {p_value:.3g}" if p_value >= 1e-15 else "p < 1e-15"


# Parts without power that are listed one by one; the rest is counted.
_LISTED = 4


def judge_recalls(comparison: QualityComparison, limits: InForce, settings: AccuracySettings) -> VerdictLine:
    """BLOCK when the recall of a class is proven to have fallen beyond its limit."""
    return _judge_parts("recall", "class", comparison.recalls, comparison, limits, settings)


def judge_slices(comparison: QualityComparison, limits: InForce, settings: AccuracySettings) -> VerdictLine:
    """BLOCK when the accuracy in a slice is proven to have fallen beyond the limit.

    INCONCLUSIVE when a slice has no row, which an export refuses: the rows left to compare are few.
    """
    empty = [part.label for part in comparison.slices if not part.pairs.rows]
    if empty:
        return VerdictLine(
            name="slices",
            candidate=None,
            limit=-limits.slices.in_force,
            unit="share of the slice's rows",
            outcome="INCONCLUSIVE",
            reason=f"no row is left of slice {', '.join(empty)[:80]}",
            evidence=EVALUATION_FILE,
        )
    return _judge_parts("slices", "slice", comparison.slices, comparison, limits, settings)


@dataclass(frozen=True)
class _Tested:
    """A class or slice with its limit, and Holm-adjusted p-values of a drop beyond three limits.

    ``beyond`` what blocks, ``beyond_stated`` what the recipe's noise may not hide, ``at_all`` 0.
    """

    part: PartChange
    limit: Limit
    beyond: float
    beyond_stated: float
    at_all: float


_BLOCK_ABOVE: Callable[[Limit], float] = attrgetter("block_above")
_PASS_BELOW: Callable[[Limit], float] = attrgetter("pass_below")


def _test_parts(comparison: QualityComparison, limits: InForce) -> dict[int, _Tested]:
    """By identity of the part. Classes and slices share one level: both ask whether some rows got worse."""
    family = [(part, limits.of_class(part.label)) for part in comparison.recalls]
    family += [(part, limits.slices) for part in comparison.slices if part.pairs.rows]
    adjusted = (
        adjust_holm([p_value_beyond(part.pairs, choose(limit)) for part, limit in family])
        for choose in (_BLOCK_ABOVE, _PASS_BELOW, lambda _: 0.0)
    )
    return {
        id(part): _Tested(part, limit, *p_values)
        for (part, limit), *p_values in zip(family, *adjusted, strict=True)
    }


def _judge_parts(
    name: str,
    kind: str,
    parts: Sequence[PartChange],
    comparison: QualityComparison,
    limits: InForce,
    settings: AccuracySettings,
) -> VerdictLine:
    tested = _test_parts(comparison, limits)
    mine, alpha = [tested[id(part)] for part in parts], settings.alpha_recall
    fallen = [one for one in mine if one.beyond <= alpha]
    noisy = [one for one in mine if one.limit.is_too_noisy and one.beyond_stated <= alpha]
    lower = [one for one in mine if one.at_all <= alpha]
    worst = max(
        fallen or noisy or mine, key=lambda one: (one.part.pairs.drop - one.limit.in_force, -one.at_all)
    )
    pairs, limit = worst.part.pairs, worst.limit
    bounds = bound_drop(pairs, alpha_low=alpha / len(tested), alpha_high=settings.alpha_pass)
    return line_of_drop(
        name,
        pairs,
        bounds,
        "BLOCK" if fallen else "INCONCLUSIVE" if noisy else "PASS",
        f"worst {kind}: {worst.part.label}, {pairs.rows:,} rows; a drop beyond {limit.block_above:.1%}: "
        f"{format_p_value(worst.beyond)} by Tango's score, any drop: {format_p_value(worst.at_all)} by "
        f"mid-p McNemar, with Holm over {len(tested)} classes and slices"
        + _name_parts(f"fallen beyond the limit: {kind}", fallen)
        + _name_parts(f"proven lower, within the limit: {kind}", [one for one in lower if one not in fallen])
        + _describe_weak_parts(kind, mine, alpha / len(tested), settings.power)
        + limit.describe_noise(),
        shares=(worst.part.champion, worst.part.candidate),
        limit=limit.in_force,
        is_marked=bool(lower),
        unit=f"share of the {kind}'s rows",
    )


def _name_parts(what: str, parts: Sequence[_Tested]) -> str:
    return f"; {what} {', '.join(one.part.label for one in parts)[:80]}" if parts else ""


def _describe_weak_parts(kind: str, parts: Sequence[_Tested], alpha: float, power: float) -> str:
    """Which parts could fall by twice the limit without being found, at Holm's first step."""
    asked = [one for one in parts if 0 < 2 * one.limit.block_above < 1]
    powers = [(_power(one, alpha), one) for one in asked]
    weak = sorted((pair for pair in powers if pair[0] < power), key=lambda pair: pair[0])
    if not asked:
        return ""
    if not weak:
        needed = max(_needed(one, alpha, power) for one in asked)
        fewest = min(one.part.pairs.rows for one in asked)
        return f"; rows to block a drop of twice the limit: {needed:,} at most, there are {fewest:,} or more"
    text = "; ".join(
        f"{one.part.label} (power {has:.0%}, rows to block it: {_needed(one, alpha, power):,}, there are "
        f"{one.part.pairs.rows:,}, which block {_blocks(one, alpha, power):.1%})"
        for has, one in weak[:_LISTED]
    )
    more = f"; and {len(weak) - _LISTED} more" if len(weak) > _LISTED else ""
    return f"; underpowered for a drop of twice the limit in {kind} {text}{more}"


def _power(one: _Tested, alpha: float) -> float:
    pairs, limit = one.part.pairs, one.limit.block_above
    return power_to_block(pairs.rate, 2 * limit, limit, pairs.rows, alpha=alpha)


def _needed(one: _Tested, alpha: float, power: float) -> int:
    limit = one.limit.block_above
    return rows_to_block(one.part.pairs.rate, 2 * limit, limit, alpha=alpha, power=power)


def _blocks(one: _Tested, alpha: float, power: float) -> float:
    pairs = one.part.pairs
    return blockable_drop(pairs.rate, one.limit.block_above, pairs.rows, alpha=alpha, power=power)


def judge_log_loss(comparison: QualityComparison, limits: InForce, settings: AccuracySettings) -> VerdictLine:
    """BLOCK when the lower bound of the mean of -ln q(truth) + ln p(truth) exceeds the limit.

    q is the candidate's probability and p the champion's, of the same row; both at least 1e-7.
    """
    rows, mean, sd = comparison.pairs.rows, comparison.loss_difference, comparison.loss_difference_sd
    low, _ = bound_average(mean, sd, rows, alpha=settings.alpha_probabilities / 2)
    _, high = bound_average(mean, sd, rows, alpha=settings.alpha_pass)
    bounds = Bounds(mean, low, high, sd / rows**0.5, rows)
    losses = comparison.champion.loss, comparison.candidate.loss
    how = "paired, Student's"
    return _judge_increase("log_loss", "nats", losses, bounds, how, limits.log_loss, settings)


def judge_calibration(
    comparison: QualityComparison, limits: InForce, settings: AccuracySettings
) -> VerdictLine:
    """BLOCK when the lower bound of the increase of the calibration error exceeds the limit."""
    change = comparison.calibration
    bounds = bound_calibration(
        change, alpha_low=settings.alpha_probabilities / 2, alpha_high=settings.alpha_pass
    )
    errors = change.champion_error, change.candidate_error
    how = "paired, bootstrap"
    return _judge_increase("calibration", "", errors, bounds, how, limits.calibration, settings)


def _judge_increase(
    name: str,
    unit: str,
    values: tuple[float, float],
    bounds: Bounds,
    how: str,
    limit: Limit,
    settings: AccuracySettings,
) -> VerdictLine:
    """The line about an increase; ``values`` of champion and candidate, ``how`` the bounds were found."""
    alpha, most, low = settings.alpha_probabilities / 2, limit.block_above, bounds.low
    is_above = limit.is_too_noisy and low > limit.pass_below
    outcome: Outcome = "BLOCK" if low > most else "INCONCLUSIVE" if is_above else "PASS"
    proven = "is proven" if low > most else "is not proven"
    some = "; some increase is proven, within the limit" if 0 < low <= most else ""
    blocked = most + float(norm.isf(alpha) + norm.ppf(settings.power)) * bounds.sd
    return VerdictLine(
        name=name,
        candidate=values[1],
        champion=values[0],
        difference=bounds.mean,
        low=low,
        high=bounds.high,
        limit=limit.in_force,
        unit=unit,
        outcome=outcome,
        reason=(
            f"an increase of more than {most:.3g} {unit or 'ECE'} {proven}{some}; {how} bounds, one-sided "
            f"{1 - alpha:.3%} and {1 - settings.alpha_pass:.0%}; smallest increase blocked with power "
            f"{settings.power:.0%}: {blocked:.4f}{limit.describe_noise('.3g')}"
        ),
        evidence=EVALUATION_FILE,
        mark="WARN" if outcome == "PASS" and low > 0 else msgspec.UNSET,
    )


def judge_baseline(own: Predictions, limits: GateLimits, settings: AccuracySettings) -> VerdictLine:
    """BLOCK when the candidate is proven worse than one of them; marked WARN when not proven better than all.

    Worse: mid-p McNemar with Holm over the baselines. Better: Tango's bound of every one of them excludes 0;
    all have to, so the level needs no share for each. With ``limits.baseline`` "warn" a proven no passes
    with the mark. A version without its baselines' answers is INVALID. The difference is candidate minus the
    baseline that is right most often.
    """
    pairs = {name: count_against_baseline(own, name) for name in own.baselines}
    if not pairs:
        reason = "held-out predictions lack the baselines' answers; export the candidate's run again"
        return blank_line("baseline", "INVALID", reason, EVALUATION_FILE)
    p_value = min(adjust_holm([p_value_of_drop(found) for found in pairs.values()]))
    alpha, best = settings.alpha_pass, max(pairs, key=lambda name: pairs[name].drop)
    bounds = {name: bound_drop(found, alpha_low=alpha, alpha_high=alpha) for name, found in pairs.items()}
    is_worse = p_value <= settings.alpha_baseline
    is_better = all(fall < 0 for _, fall in bounds.values())
    text = "proven better than" if is_better else "not proven better than"
    if is_worse:
        text = "proven worse than a baseline of the same rows:"
    shares = {name: float((labels == own.truth).mean()) for name, labels in own.baselines.items()}
    return line_of_drop(
        "baseline",
        pairs[best],
        bounds[best],
        "BLOCK" if is_worse and limits.baseline == "block" else "PASS",
        f"{text} {', '.join(f'{name} ({share:.2%})' for name, share in shares.items())}; "
        f"against {best}: {pairs[best].lost:,} rows lost, {pairs[best].gained:,} gained of "
        f"{pairs[best].rows:,}; mid-p McNemar with Holm over {len(pairs)} baselines "
        f"{format_p_value(p_value)}; Tango's bounds, one-sided {1 - alpha:.0%}"
        + ('; [gate] baseline = "warn"' if limits.baseline == "warn" else ""),
        shares=(None, float(own.correct.mean())),
        limit=0.0,
        is_marked=not is_better,
    )


# Marked for the candidate alone, or for its clients.
_NO_COMPARISON = frozenset({"baseline", "signature"})


def judge_improvement(
    comparison: QualityComparison | None,
    lines: Sequence[VerdictLine],
    limits: GateLimits,
    settings: AccuracySettings,
) -> VerdictLine:
    """PASS when one of ``limits.improve`` is proven better and none of ``lines`` is marked as worse.

    BLOCK when one is: "only better" leaves no room within a limit. INCONCLUSIVE when nothing is proven
    better, or there is no row to compare, INVALID when a named class or slice is not there. Each of
    ``improve`` gets its share of the level (Bonferroni); the upper bound of its change for the worse has to
    be below 0.
    """
    if comparison is None:
        return blank_line("improvement", "INCONCLUSIVE", "the two were compared on no row", EVALUATION_FILE)
    marked = [line.name for line in lines if line.is_marked and line.name not in _NO_COMPARISON]
    alpha = settings.alpha_improvement / max(len(limits.improve), 1)
    bounds = {name: _bound_worsening(name, alpha, comparison, settings) for name in limits.improve}
    unknown = [name for name, bound in bounds.items() if bound is None]
    worse_at_most = {name: bound for name, bound in bounds.items() if bound is not None}
    better = [name for name, most in worse_at_most.items() if most < 0]
    outcome: Outcome
    if unknown:
        outcome, why = "INVALID", f"[gate] improve names what is not there: {', '.join(unknown)[:200]}"
    elif marked:
        outcome, why = "BLOCK", f"proven worse: {', '.join(marked)}"
    elif better:
        outcome, why = "PASS", f"proven better: {', '.join(better)}"
    else:
        outcome, why = "INCONCLUSIVE", "nothing is proven better"
    text = ", ".join(f"{name} at most {most:+.4f} worse" for name, most in worse_at_most.items())
    return VerdictLine(
        name="improvement",
        candidate=float(len(better)),
        unit="measures proven better",
        outcome=outcome,
        reason=f'{why}; [gate] require = "improvement"; {text}; one-sided {1 - alpha:.2%}',
        evidence=EVALUATION_FILE,
    )


def _bound_worsening(
    name: str, alpha: float, comparison: QualityComparison, settings: AccuracySettings
) -> float | None:
    """The upper bound of how much worse the candidate is in one quantity; None where there is none."""
    pairs = {f"recall.{part.label}": part.pairs for part in comparison.recalls}
    pairs |= {f"slices.{part.label}": part.pairs for part in comparison.slices if part.pairs.rows}
    pairs["accuracy"] = comparison.pairs
    if name in pairs:
        return bound_drop(pairs[name], alpha_low=alpha, alpha_high=alpha)[1]
    if name == "log_loss":
        mean, sd = comparison.loss_difference, comparison.loss_difference_sd
        return bound_average(mean, sd, comparison.pairs.rows, alpha=alpha)[1]
    if name == "calibration":
        calibration = comparison.calibration
        return bound_calibration(calibration, alpha_low=settings.alpha_pass, alpha_high=alpha).high
    return None
