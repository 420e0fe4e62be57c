"""The candidate beside its own baselines on the same rows → one line of the verdict. Pure.

A model that does no better than its largest class, or than logistic regression on the same features,
may be served, but nobody should do so without knowing.
"""

from __future__ import annotations

import msgspec

from timberline.benchmarks.analysis.accuracy import say_p
from timberline.benchmarks.analysis.paired import Discordance, adjust_holm, bound_drop, p_value_of_drop
from timberline.benchmarks.analysis.predictions import Predictions, count_against_baseline
from timberline.benchmarks.gate.settings import AccuracySettings
from timberline.registry.manifest import GateLimits
from timberline.registry.store import EVALUATION_FILE
from timberline.registry.verdict import VerdictLine


def judge_baseline(own: Predictions, limits: GateLimits, settings: AccuracySettings) -> VerdictLine:
    """BLOCK when the candidate is proven worse than one of them; marked WARN when not proven better than all.

    Worse: mid-p McNemar with Holm over the baselines. Better: Tango's bound of every one of them excludes 0;
    all have to, so the level needs no share for each. With ``limits.baseline`` "warn" a proven no passes
    with the mark. A version without its baselines' answers is INVALID. The difference is candidate minus the
    baseline that is right most often.
    """
    pairs = {name: count_against_baseline(own, name) for name in own.baselines}
    if not pairs:
        return VerdictLine(
            name="baseline",
            candidate=None,
            outcome="INVALID",
            reason="held-out predictions lack the baselines' answers; export the candidate's run again",
            evidence=EVALUATION_FILE,
        )
    p_value = min(adjust_holm([p_value_of_drop(found) for found in pairs.values()]))
    best = max(pairs, key=lambda name: pairs[name].drop)
    is_worse = p_value <= settings.alpha_baseline
    is_better = all(_bound(found, settings)[1] < 0 for found in pairs.values())
    rise, fall = _bound(pairs[best], settings)
    line = VerdictLine(
        name="baseline",
        candidate=float(own.correct.mean()),
        difference=0.0 - pairs[best].drop,
        low=-fall,
        high=-rise,
        limit=0.0,
        unit="share of rows",
        outcome="BLOCK" if is_worse and limits.baseline == "block" else "PASS",
        reason=(
            f"{_say(is_worse=is_worse, is_better=is_better)} {_list(own)}; against {best}: "
            f"{pairs[best].lost:,} rows lost, {pairs[best].gained:,} gained of {pairs[best].rows:,}; mid-p "
            f"McNemar with Holm over {len(pairs)} baselines {say_p(p_value)}; Tango's bounds, "
            f"one-sided {1 - settings.alpha_pass:.0%}"
            + ('; [gate] baseline = "warn"' if limits.baseline == "warn" else "")
        ),
        evidence=EVALUATION_FILE,
    )
    is_marked = line.outcome == "PASS" and not is_better
    return msgspec.structs.replace(line, mark="WARN") if is_marked else line


def _bound(pairs: Discordance, settings: AccuracySettings) -> tuple[float, float]:
    return bound_drop(pairs, alpha_low=settings.alpha_pass, alpha_high=settings.alpha_pass)


def _say(*, is_worse: bool, is_better: bool) -> str:
    if is_worse:
        return "proven worse than a baseline of the same rows:"
    return "proven better than" if is_better else "not proven better than"


def _list(own: Predictions) -> str:
    shares = {name: float((labels == own.truth).mean()) for name, labels in own.baselines.items()}
    return ", ".join(f"{name} ({share:.2%})" for name, share in shares.items())
