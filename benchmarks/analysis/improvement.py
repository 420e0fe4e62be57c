"""Is the candidate better? One line, where the model's [gate] asks for more than "not worse". Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from timberline.benchmarks.analysis.calibration_error import bound_calibration
from timberline.benchmarks.analysis.paired import Discordance, bound_average, bound_drop
from timberline.benchmarks.analysis.predictions import Comparison, PartChange
from timberline.benchmarks.gate.settings import AccuracySettings
from timberline.registry.manifest import GateLimits
from timberline.registry.store import EVALUATION_FILE
from timberline.registry.verdict import Outcome, VerdictLine

# Marked for what they say of the candidate alone, or of its clients.
_NO_COMPARISON = frozenset({"baseline", "signature"})


def judge_improvement(
    comparison: Comparison | None,
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
        return VerdictLine(
            name="improvement",
            candidate=None,
            outcome="INCONCLUSIVE",
            reason="the two were compared on no row",
            evidence=EVALUATION_FILE,
        )
    marked = [line.name for line in lines if line.is_marked and line.name not in _NO_COMPARISON]
    measured = {name: _find(name, comparison, settings) for name in limits.improve}
    unknown = [name for name, bound in measured.items() if bound is None]
    alpha = settings.alpha_improvement / max(len(measured), 1)
    worse_at_most = {name: bound(alpha) for name, bound in measured.items() if bound is not None}
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
    told = ", ".join(f"{name} at most {most:+.4f} worse" for name, most in worse_at_most.items())
    return VerdictLine(
        name="improvement",
        candidate=float(len(better)),
        unit="measures proven better",
        outcome=outcome,
        reason=f'{why}; [gate] require = "improvement"; {told}; one-sided {1 - alpha:.2%}',
        evidence=EVALUATION_FILE,
    )


def _find(name: str, comparison: Comparison, settings: AccuracySettings) -> Callable[[float], float] | None:
    """The upper bound, by its level, of how much worse the candidate is in one measure; None without it."""
    kind, _, label = name.partition(".")
    parts = {"recall": comparison.recalls, "slices": comparison.slices}.get(kind)
    if parts is not None:
        return _bound_part(parts, label)
    bounds: dict[str, Callable[[float], float]] = {
        "accuracy": lambda alpha: _bound(comparison.pairs, alpha),
        "log_loss": lambda alpha: bound_average(
            comparison.loss_difference, comparison.loss_difference_sd, comparison.pairs.rows, alpha=alpha
        )[1],
        "calibration": lambda alpha: (
            bound_calibration(comparison.calibration, alpha_low=settings.alpha_pass, alpha_high=alpha).high
        ),
    }
    return bounds.get(name)


def _bound_part(parts: Sequence[PartChange], label: str) -> Callable[[float], float] | None:
    found = [part for part in parts if part.label == label and part.pairs.rows]
    return (lambda alpha: _bound(found[0].pairs, alpha)) if found else None


def _bound(pairs: Discordance, alpha: float) -> float:
    return bound_drop(pairs, alpha_low=alpha, alpha_high=alpha)[1]
