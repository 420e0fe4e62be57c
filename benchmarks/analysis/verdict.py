"""Lines → one outcome. Pure; what is missing is never a PASS."""

from __future__ import annotations

from collections.abc import Sequence

from timberline.registry.manifest import GateLimits
from timberline.registry.verdict import Outcome, Verdict, VerdictLine


def blank_line(name: str, outcome: Outcome, reason: str, evidence: str = "") -> VerdictLine:
    """A line without figures: something could not be measured, or is a matter of yes and no."""
    return VerdictLine(name=name, candidate=None, outcome=outcome, reason=reason, evidence=evidence)


def required_lines(limits: GateLimits, *, is_first: bool) -> frozenset[str]:
    """The names of the lines that have to pass before a verdict may."""
    names = {"digests", "answers", "error_rate", "accuracy_floor", "baseline", "p50_ceiling", "model_size"}
    names.add("parity")
    if limits.max_log_loss is not None:
        names.add("log_loss_ceiling")
    if not is_first:
        names |= {"signature", "accuracy", "accuracy_total", "recall", "log_loss", "calibration"}
        names |= {"fairness", "net_p50", "service_p50", "net_p99", "net_tail", "p50", "cpu_per_request"}
        names |= {"memory", "start_up"}
        if limits.slices:
            names.add("slices")
        if limits.require == "improvement":
            names.add("improvement")
    return frozenset(names)


def combine_lines(lines: Sequence[VerdictLine], required: frozenset[str]) -> Outcome:
    """The outcome of the whole.

    BLOCK before INVALID: one proven no is an answer, whatever else could not be found out.
    INVALID before INCONCLUSIVE: a measurement that failed shows nothing, one that was too short shows
    something. PASS only when every required line is there and passed.
    """
    outcomes = [line.outcome for line in lines]
    if "BLOCK" in outcomes:
        return "BLOCK"
    if "INVALID" in outcomes or required - {line.name for line in lines}:
        return "INVALID"
    judged = {line.outcome for line in lines if line.name in required}
    if judged == {"PASS"} and "INCONCLUSIVE" not in outcomes:
        return "PASS"
    return "INCONCLUSIVE"


def find_gravest(lines: Sequence[VerdictLine]) -> tuple[Outcome, str]:
    """The gravest outcome of some lines, and the names of those that have it, joined by ``+``; "" of PASS."""
    names = {outcome: [line.name for line in lines if line.outcome == outcome] for outcome in _GRAVEST_FIRST}
    outcome = next((outcome for outcome in _GRAVEST_FIRST if names[outcome]), _GRAVEST_FIRST[-1])
    return outcome, "" if outcome == "PASS" else "+".join(names[outcome])


_GRAVEST_FIRST: tuple[Outcome, ...] = ("BLOCK", "INVALID", "INCONCLUSIVE", "PASS")


def describe_verdict(verdict: Verdict) -> str:
    """One sentence for people; it names the lines that are marked."""
    marked = [line.name for line in verdict.lines if line.is_marked]
    text = _MEANINGS["FIRST" if verdict.is_first and verdict.outcome == "PASS" else verdict.outcome]
    return f"{text}; to be looked at: {', '.join(marked)}" if marked else text


_MEANINGS = {
    "FIRST": "no version is in production yet: the candidate keeps the absolute floors",
    "PASS": "the candidate is proven not to be worse than the limits allow",
    "BLOCK": "the candidate is proven to be worse than the limits allow",
    "INCONCLUSIVE": "neither better nor worse could be proven; nothing unproven is promoted",
    "INVALID": "the measurement cannot be believed; nothing was decided about the candidate",
}
