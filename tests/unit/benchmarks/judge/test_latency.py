"""Restarts → lines, on made-up times."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks.config import DEFAULT_GATES, load_gate_settings
from benchmarks.judge.latency import judge_answers, judge_latencies, judge_p50_ceiling
from benchmarks.judge.measure import ArmRun, Restart
from benchmarks.judge.resources import judge_resources
from registry.errors import ConfigError
from registry.manifest import GateLimits
from registry.verdict import VerdictLine

SETTINGS = load_gate_settings(DEFAULT_GATES)
LIMITS = GateLimits()
# A tenth of a client's millisecond is in the service; two requests in a hundred take three times as long.
NET = (0.1,) * 98 + (0.3,) * 2


def arm(p50: float = 1.0, net: float = 1.0, tail: float = 1.0, **changes: object) -> ArmRun:
    """An arm with a client p50 of ``p50`` ms; net times are ``net`` times NET, the tail ``tail`` times."""
    times = tuple(ms * net * (tail if ms > 0.2 else 1.0) for ms in NET)
    known: dict[str, object] = {
        "latencies_ms": (p50,),
        "ready_s": 0.5,
        "resident_bytes": 80,
        "net_ms": times,
        "client_net_ms": tuple(0.9 + ms for ms in times),
    }
    return ArmRun(**known | changes)  # type: ignore[arg-type]


def restarts(count: int, candidate: ArmRun, *, problem: str = "") -> list[Restart]:
    """Restarts that are all alike."""
    return [
        Restart(number, 500, {"champion": arm(), "candidate": candidate}, problem=problem)
        for number in range(1, count + 1)
    ]


def judge(count: int, candidate: ArmRun, limits: GateLimits = LIMITS) -> dict[str, VerdictLine]:
    """The lines of latency by name."""
    return {line.name: line for line in judge_latencies(restarts(count, candidate), limits, SETTINGS)}


@pytest.mark.parametrize(
    ("ratio", "count", "outcome"),
    [
        (1.00, 4, "PASS"),
        (0.80, 4, "PASS"),
        (1.08, 4, "INCONCLUSIVE"),
        (1.06, 40, "PASS"),  # between margin and limit either may be proven first
        (1.10, 8, "INCONCLUSIVE"),
        (1.10, 16, "BLOCK"),
        (1.12, 4, "INCONCLUSIVE"),  # the first look blocks only what is overwhelming
        (1.20, 8, "BLOCK"),
        (1.30, 4, "BLOCK"),
    ],
)
def test_client_p50_is_judged_by_bounds_of_restarts(ratio: float, count: int, outcome: str) -> None:
    """A pass needs an upper bound, a block a lower one; between them more restarts are asked for."""
    assert judge(count, arm(p50=ratio))["p50"].outcome == outcome


@pytest.mark.parametrize(
    ("net", "count", "outcome"),
    # net is a tenth of the client's p50: 1.3 adds 3 % to it.
    [(0.5, 4, "PASS"), (1.0, 4, "PASS"), (1.2, 4, "PASS"), (1.2, 8, "BLOCK"), (1.3, 4, "BLOCK")],
)
def test_net_p50_finds_what_the_client_cannot_see(net: float, count: int, outcome: str) -> None:
    """Three percent of the client's p50 are lost in its noise, not in the service's own time."""
    lines = judge(count, arm(net=net))
    assert lines["net_p50"].outcome == outcome
    assert lines["net_p50"].difference == pytest.approx((net - 1) / 10)
    assert lines["p50"].outcome == "PASS"


@pytest.mark.parametrize(("tail", "outcome"), [(1.0, "PASS"), (1.05, "PASS"), (1.2, "BLOCK"), (2.0, "BLOCK")])
def test_net_p99_finds_a_slow_tail(tail: float, outcome: str) -> None:
    """One request in a hundred that got slower moves no median."""
    lines = judge(8, arm(tail=tail))
    assert lines["net_p99"].outcome == outcome
    assert lines["net_p50"].outcome == lines["p50"].outcome == "PASS"


def test_net_tail_finds_what_hits_one_request_in_a_hundred() -> None:
    """A p99 is a coin at exactly one in a hundred; half of the restarts would see nothing."""
    one_slow = (0.1,) * 94 + (0.3,) * 5
    lines = judge(4, arm(net_ms=(*one_slow, 5.0)))
    assert lines["net_tail"].outcome == "BLOCK"
    assert judge(4, arm(net_ms=(*one_slow, 0.3)))["net_tail"].outcome == "BLOCK"
    assert judge(4, arm())["net_tail"].outcome == "PASS"


def test_client_p99_finds_a_tail_outside_of_the_handler() -> None:
    """What is slow before or after the handler is in no time that the service tells."""
    lines = judge(8, arm(client_net_ms=(1.0,) * 98 + (2.0,) * 2))
    assert lines["client_p99"].outcome == "BLOCK"
    assert lines["net_p99"].outcome == "PASS"


def test_a_kernel_without_run_queue_times_leaves_one_line_out() -> None:
    """Elsewhere than on Linux the others must do, and the report shows that one is missing."""
    lines = [
        Restart(n, 500, {"champion": arm(client_net_ms=()), "candidate": arm(client_net_ms=())})
        for n in range(1, 9)
    ]
    judged = judge_latencies(lines, LIMITS, SETTINGS)
    assert [line.name for line in judged] == ["net_p50", "net_p99", "net_tail", "p50"]
    assert {line.outcome for line in judged} == {"PASS"}


def test_a_service_that_does_not_tell_its_times_is_invalid() -> None:
    """Half of the evidence is missing; the other half must not pass alone."""
    lines = judge(8, arm(net_ms=()))
    assert (lines["net_p50"].outcome, lines["net_p99"].outcome) == ("INVALID", "INVALID")


def test_restarts_that_differ_too_much_are_invalid() -> None:
    """A mean over two kinds of restarts says nothing about either."""
    mixed = [
        Restart(number, 500, {"champion": arm(), "candidate": arm(p50=p50)})
        for number, p50 in enumerate((0.7, 1.0, 0.7, 1.0), 1)
    ]
    early = {line.name: line for line in judge_latencies(mixed, LIMITS, SETTINGS)}["p50"]
    assert early.outcome == "INCONCLUSIVE"
    assert "restarts differ" in early.reason
    late = {line.name: line for line in judge_latencies(mixed * 10, LIMITS, SETTINGS)}["p50"]
    assert late.outcome == "INVALID"


def test_a_wider_limit_widens_the_margin_that_blocks() -> None:
    """Who allows 100 % must not be blocked for 6 %."""
    generous = GateLimits(max_p50_increase=1.0, max_p99_increase=8.0)
    slower = arm(p50=1.06, net=1.6)
    assert judge(8, slower)["net_p50"].outcome == "BLOCK"
    assert {line.outcome for line in judge(8, slower, generous).values()} == {"PASS"}


@pytest.mark.parametrize("count", [0, 1, 3, 5, 13, 41])
def test_restarts_between_looks_are_not_judged(count: int) -> None:
    """The level is spent over the planned looks; another look would be a free one."""
    assert {line.outcome for line in judge(count, arm()).values()} == {"INVALID"}
    assert judge_p50_ceiling(restarts(count, arm()), LIMITS, SETTINGS).outcome == "INVALID"


@pytest.mark.parametrize(("ceiling", "outcome"), [(0.1, "BLOCK"), (1.0, "INCONCLUSIVE"), (10.0, "PASS")])
def test_the_ceiling_is_judged_by_bounds_too(ceiling: float, outcome: str) -> None:
    """A first version has no champion to hide behind."""
    limits = GateLimits(max_p50_ms=ceiling)
    assert judge_p50_ceiling(restarts(8, arm()), limits, SETTINGS).outcome == outcome


@pytest.mark.parametrize(
    ("changes", "memory", "start_up"),
    [
        ({}, "PASS", "PASS"),
        ({"resident_bytes": 100, "ready_s": 0.7}, "PASS", "PASS"),  # worse, and allowed
        ({"resident_bytes": 160}, "BLOCK", "PASS"),
        ({"ready_s": 5.0}, "PASS", "BLOCK"),
    ],
)
def test_memory_and_start_up_block_what_is_proven(
    changes: dict[str, object], memory: str, start_up: str
) -> None:
    """A release that no longer fits its container, or its platform's patience, is a regression."""
    lines = judge_resources(restarts(8, arm(**changes)), LIMITS, SETTINGS)
    assert {line.name: line.outcome for line in lines} == {"memory": memory, "start_up": start_up}


def test_one_bad_restart_makes_the_answers_invalid() -> None:
    """Sparse errors are the ones that averages swallow."""
    told = judge_answers([*restarts(2, arm()), *restarts(1, arm(), problem="1 failed requests")])
    assert told.outcome == "INVALID"
    assert "1 failed requests" in told.reason


def test_nothing_measured_is_invalid() -> None:
    """No data, no pass."""
    assert judge_answers([]).outcome == "INVALID"


def test_looks_must_rise(tmp_path: Path) -> None:
    """A look that comes before the one before it spends a level twice."""
    path = tmp_path / "gates.toml"
    path.write_text(DEFAULT_GATES.read_text("utf-8"), "utf-8")
    with pytest.raises(ConfigError, match=r"\[8, 4\]"):
        load_gate_settings(path, overrides=["duet.looks=[8, 4]"])


def test_the_levels_sum_to_one_percent() -> None:
    """Each line is one more chance to block a good release; together they get one percent."""
    latency, accuracy = SETTINGS.latency, SETTINGS.accuracy
    own = [getattr(latency, key) for key in msgspec.structs.asdict(latency) if _is_level(key)]
    others = [getattr(accuracy, key) for key in msgspec.structs.asdict(accuracy) if _is_level(key)]
    assert sum(own) + latency.alpha_resources + sum(others) <= 0.01 + 1e-12


def _is_level(key: str) -> bool:
    return key.startswith("alpha_") and key != "alpha_pass"


def test_the_committed_margins_are_the_published_ones() -> None:
    """They were chosen on recordings; a change here is a decision, not a tweak."""
    latency = SETTINGS.latency
    assert latency.net_p50_margin * LIMITS.max_p50_increase == pytest.approx(0.01)
    assert latency.net_p50_limit * LIMITS.max_p50_increase == pytest.approx(0.05)
    assert latency.p99_margin * LIMITS.max_p99_increase == pytest.approx(0.02)
    assert latency.client_p50_margin * LIMITS.max_p50_increase == pytest.approx(0.05)
