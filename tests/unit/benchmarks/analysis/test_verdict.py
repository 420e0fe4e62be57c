"""From lines to one outcome: what is missing or broken is never a PASS."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from tests.support.verdicts import make_verdict
from timberline.benchmarks.analysis.verdict import combine_lines, describe_verdict, required_lines
from timberline.registry.manifest import GateLimits
from timberline.registry.verdict import VerdictLine

REQUIRED = required_lines(GateLimits(), is_first=False)


def line(name: str, outcome: Any) -> VerdictLine:
    """A line with nothing but its outcome."""
    return VerdictLine(name=name, candidate=None, outcome=outcome, reason="")


def lines(**outcomes: str) -> list[VerdictLine]:
    """Every required line passes, except for the given ones."""
    return [line(name, outcomes.get(name, "PASS")) for name in sorted(REQUIRED)]


def test_passes_when_every_required_line_passes() -> None:
    """The gate can open at all."""
    assert combine_lines(lines(), REQUIRED) == "PASS"


def test_information_decides_nothing() -> None:
    """Client p99 of a shared machine must not block a release."""
    assert combine_lines([*lines(), line("p99", "INFO")], REQUIRED) == "PASS"


@pytest.mark.parametrize("missing", sorted(REQUIRED))
def test_a_missing_line_is_invalid(missing: str) -> None:
    """A judgement that was not made is not a judgement that passed."""
    assert combine_lines([kept for kept in lines() if kept.name != missing], REQUIRED) == "INVALID"


def test_a_mark_changes_no_outcome_and_is_said() -> None:
    """Whoever reads only the last sentence has to meet it."""
    marked = msgspec.structs.replace(line("baseline", "PASS"), mark="WARN")
    given = [marked if kept.name == "baseline" else kept for kept in lines()]
    assert combine_lines(given, REQUIRED) == "PASS"
    assert describe_verdict(make_verdict(*given)).endswith("; to be looked at: baseline")
    assert "looked at" not in describe_verdict(make_verdict(*lines()))


def test_no_line_at_all_is_invalid() -> None:
    """An empty run is the classic false pass."""
    assert combine_lines([], REQUIRED) == "INVALID"


@pytest.mark.parametrize("name", sorted(REQUIRED))
@pytest.mark.parametrize("outcome", ["BLOCK", "INVALID", "INCONCLUSIVE", "INFO"])
def test_one_required_line_that_does_not_pass_is_enough(name: str, outcome: str) -> None:
    """Whatever the line, nothing but PASS lets a version through."""
    assert combine_lines(lines(**{name: outcome}), REQUIRED) != "PASS"


def test_the_gravest_outcome_wins() -> None:
    """A proven no is an answer even if something else could not be measured."""
    ranks = ["PASS", "INCONCLUSIVE", "INVALID", "BLOCK"]
    for one, other in itertools.product(ranks, repeat=2):
        found = combine_lines(lines(accuracy=one, p50=other), REQUIRED)
        assert found == max(one, other, key=ranks.index)


def test_a_first_version_needs_no_comparison_and_others_do() -> None:
    """A gate that forgot the champion would judge every version by the floors alone."""
    first = required_lines(GateLimits(max_log_loss=1.0), is_first=True)
    assert first == {
        "digests",
        "answers",
        "error_rate",
        "accuracy_floor",
        "baseline",
        "log_loss_ceiling",
        "p50_ceiling",
        "model_size",
        "parity",
    }
    assert REQUIRED - first == {
        "fairness",
        "signature",
        "accuracy",
        "accuracy_total",
        "recall",
        "log_loss",
        "calibration",
        "net_p50",
        "service_p50",
        "net_p99",
        "net_tail",
        "p50",
        "cpu_per_request",
        "memory",
        "start_up",
    }


def test_slices_have_to_pass_where_there_are_any() -> None:
    """A slice that a model folder names is never skipped."""
    asked = required_lines(GateLimits(slices={"low": "height < 3"}), is_first=False)
    assert asked - REQUIRED == {"slices"}


def test_slices_of_a_first_version_are_compared_with_nothing() -> None:
    """A required line that nobody can make would keep every first version out."""
    limits = GateLimits(slices={"low": "height < 3"})
    assert "slices" not in required_lines(limits, is_first=True)


def test_a_line_that_is_not_required_can_still_stop_a_release() -> None:
    """What was judged and did not pass is not forgotten for being optional; what informs is."""
    for outcome in ("BLOCK", "INVALID", "INCONCLUSIVE"):
        assert combine_lines([*lines(), line("client_p99", outcome)], REQUIRED) == outcome
    assert combine_lines([*lines(), line("client_p99", "PASS")], REQUIRED) == "PASS"
