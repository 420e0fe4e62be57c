"""Restarts → lines, on made-up times."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.support.manifests import build_manifest
from timberline.benchmarks.analysis.latency import (
    Criterion,
    bound_at_look,
    judge_criterion,
    judge_latencies,
    judge_model_size,
    judge_p50_ceiling,
    judge_resources,
    report_service,
)
from timberline.benchmarks.analysis.statistics import bound_mean, look_levels
from timberline.benchmarks.analysis.validity import judge_answers
from timberline.benchmarks.measure.records import ArmRun, Restart
from timberline.benchmarks.settings import DEFAULT_GATES, load_gate_settings
from timberline.registry.errors import ConfigError
from timberline.registry.manifest import FileDigest, GateLimits, Manifest
from timberline.registry.verdict import VerdictLine

SETTINGS = load_gate_settings(DEFAULT_GATES)
LIMITS = GateLimits()
# A tenth of a client's millisecond is in the service; two requests in a hundred take three times as long.
NET = (0.1,) * 98 + (0.3,) * 2


def arm(p50: float = 1.0, net: float = 1.0, tail: float = 1.0, cpu: float = 1.0, **changes: Any) -> ArmRun:
    """An arm with a client p50 of ``p50`` ms; net times are ``net`` times NET, the tail ``tail`` times.

    Its process computes ``cpu`` times 0.2 ms a request.
    """
    times = tuple(ms * net * (tail if ms > 0.2 else 1.0) for ms in NET)
    known: dict[str, Any] = {
        "latencies_ms": (p50,),
        "ready_s": 0.5,
        "resident_bytes": 80,
        "net_ms": times,
        "client_net_ms": tuple(0.9 + ms for ms in times),
        "cpu_s": cpu * 0.2e-3,
    }
    return ArmRun(**known | changes)


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
        (1.06, 40, "PASS"),
        (1.10, 16, "INCONCLUSIVE"),
        (1.10, 40, "INCONCLUSIVE"),  # exactly at the limit nothing can be proven
        (1.12, 4, "INCONCLUSIVE"),  # the first look blocks only what is overwhelming
        (1.12, 40, "BLOCK"),
        (1.20, 8, "BLOCK"),
        (1.30, 4, "BLOCK"),
    ],
)
def test_client_p50_is_judged_by_bounds_of_restarts(ratio: float, count: int, outcome: str) -> None:
    """A pass needs an upper bound, a block a lower one; between them more restarts are asked for."""
    assert judge(count, arm(p50=ratio))["p50"].outcome == outcome


@pytest.mark.parametrize(
    ("net", "count", "outcome"),
    # net is a tenth of the client's p50: 1.8 adds 8 % to it.
    [
        (0.5, 4, "PASS"),
        (1.0, 4, "PASS"),
        (1.3, 4, "PASS"),
        (1.6, 4, "INCONCLUSIVE"),
        (1.6, 8, "BLOCK"),
        (1.8, 4, "BLOCK"),
    ],
)
def test_net_p50_finds_what_the_client_cannot_see(net: float, count: int, outcome: str) -> None:
    """Six percent of the client's p50 are lost in its noise, not in the service's own time."""
    lines = judge(count, arm(net=net))
    assert lines["net_p50"].outcome == outcome
    assert lines["net_p50"].difference == pytest.approx((net - 1) / 10)
    assert lines["p50"].outcome == "PASS"


# Each contrast between its margin and its limit, so that both are proven within the looks there are.
WITHIN: dict[str, dict[str, float]] = {
    "net_p50": {"net": 1.3},
    "service_p50": {"net": 1.1},
    "net_p99": {"tail": 1.1},
    "p50": {"p50": 1.075},
    "client_p99": {"tail": 1.4},
    "cpu_per_request": {"cpu": 1.1},
}


@pytest.mark.parametrize("name", sorted(WITHIN))
def test_a_proven_increase_within_the_limit_passes_with_a_mark(name: str) -> None:
    """The limit is what a model allows; a second, stricter one beside it would be a limit nobody set."""
    told = judge(40, arm(**WITHIN[name]))[name]
    assert (told.outcome, told.label) == ("PASS", "WARN"), told.reason
    assert "is excluded, one of more than" in told.reason
    assert judge(40, arm())[name].label == "PASS"


@pytest.mark.parametrize("worse", [{"net": 1.1}, {"tail": 1.15}, {"cpu": 1.05}])
def test_a_line_is_marked_from_its_margin_on_and_never_instead_of_a_block(worse: dict[str, float]) -> None:
    """Whatever the increase, a mark is on lines that pass alone."""
    lines = judge(40, arm(**worse)).values()
    assert any(line.is_marked for line in lines)
    assert {line.outcome for line in lines if line.is_marked} == {"PASS"}
    slower = judge(40, arm(p50=3.0, net=3.0, tail=3.0, cpu=3.0)).values()
    assert [line.name for line in slower if line.is_marked] == []
    assert {line.outcome for line in slower} == {"BLOCK"}


@pytest.mark.parametrize(
    ("net", "count", "outcome"),
    [(1.0, 4, "PASS"), (1.05, 4, "PASS"), (1.18, 4, "INCONCLUSIVE"), (1.18, 8, "BLOCK"), (1.2, 4, "BLOCK")],
)
def test_service_p50_finds_what_is_small_beside_the_clients_own_time(
    net: float, count: int, outcome: str
) -> None:
    """A service a fifth slower costs a client of 1 ms only 2 %, and a fast client much more."""
    lines = judge(count, arm(net=net))
    assert lines["service_p50"].outcome == outcome
    assert lines["service_p50"].difference == pytest.approx(net)
    assert lines["p50"].outcome == "PASS"
    assert lines["net_p50"].outcome == "PASS"


@pytest.mark.parametrize(
    ("cpu", "count", "outcome"),
    [(0.5, 4, "PASS"), (1.0, 4, "PASS"), (1.15, 40, "INCONCLUSIVE"), (1.2, 8, "BLOCK"), (1.4, 4, "BLOCK")],
)
def test_cpu_per_request_finds_work_outside_of_the_requests(cpu: float, count: int, outcome: str) -> None:
    """A thread that computes beside the answers slows no request here, and takes more machines."""
    lines = judge(count, arm(cpu=cpu))
    assert lines["cpu_per_request"].outcome == outcome
    assert lines["cpu_per_request"].difference == pytest.approx(cpu)
    assert {line.outcome for name, line in lines.items() if name != "cpu_per_request"} == {"PASS"}


@pytest.mark.parametrize("cpu_s", [math.nan, 0.0])
def test_processor_time_that_could_not_be_read_is_invalid(cpu_s: float) -> None:
    """What is missing is never a PASS; and of some restarts alone it would be those that could be read."""
    lines = judge(8, arm(cpu_s=cpu_s))
    told = lines["cpu_per_request"]
    assert told.outcome == "INVALID"
    assert told.reason == "the processor time of the service could not be read"
    some = [*restarts(7, arm()), Restart(8, 500, {"champion": arm(), "candidate": arm(cpu_s=cpu_s)})]
    lines = {line.name: line for line in judge_latencies(some, LIMITS, SETTINGS)}
    assert lines["cpu_per_request"].outcome == "INVALID"
    assert lines["service_p50"].outcome == "PASS"


@pytest.mark.parametrize(
    ("tail", "outcome"),
    [(1.0, "PASS"), (1.1, "PASS"), (1.2, "INCONCLUSIVE"), (1.3, "BLOCK"), (2.0, "BLOCK")],
)
def test_net_p99_finds_a_slow_tail(tail: float, outcome: str) -> None:
    """One request in a hundred that got slower moves no median."""
    lines = judge(8, arm(tail=tail))
    assert lines["net_p99"].outcome == outcome
    assert {lines[name].outcome for name in ("net_p50", "service_p50", "p50", "cpu_per_request")} == {"PASS"}


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
    told = ["net_p50", "service_p50", "net_p99", "net_tail", "p50", "cpu_per_request"]
    assert [line.name for line in judged] == told
    assert {line.outcome for line in judged} == {"PASS"}


def test_a_service_that_does_not_tell_its_times_is_invalid() -> None:
    """Half of the evidence is missing; the other half must not pass alone."""
    lines = judge(8, arm(net_ms=()))
    assert {lines[name].outcome for name in ("net_p50", "service_p50", "net_p99")} == {"INVALID"}


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


def test_a_wider_limit_is_what_blocks_and_marks() -> None:
    """Who allows 100 % must be neither blocked nor warned for 6 %."""
    generous = GateLimits(
        max_p50_increase=1.0, max_p99_increase=8.0, max_service_p50_increase=4.0, max_cpu_increase=4.0
    )
    slower = arm(p50=1.06, net=1.7, cpu=1.7)
    lines = judge(8, slower)
    blocking = {"net_p50", "service_p50", "net_p99", "net_tail", "cpu_per_request"}
    assert {name for name, line in lines.items() if line.outcome == "BLOCK"} == blocking
    assert {line.label for line in judge(8, slower, generous).values()} == {"PASS"}


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
    changes: dict[str, Any], memory: str, start_up: str
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
    # The others are not of a wrong BLOCK by chance: of a wrong PASS, and of what equal recipes differ by.
    return key.startswith("alpha_") and key not in {"alpha_pass", "alpha_improvement", "alpha_noise"}


def test_the_committed_margins_are_the_published_ones() -> None:
    """They were chosen on recordings; a change here is a decision, not a tweak."""
    latency = SETTINGS.latency
    assert latency.net_p50_margin * LIMITS.max_p50_increase == pytest.approx(0.01)
    assert latency.net_p50_limit * LIMITS.max_p50_increase == pytest.approx(0.05)
    assert latency.p99_margin * LIMITS.max_p99_increase == pytest.approx(0.02)
    assert latency.client_p50_margin * LIMITS.max_p50_increase == pytest.approx(0.05)
    assert latency.service_margin * LIMITS.max_service_p50_increase == pytest.approx(0.03)
    assert latency.service_margin * LIMITS.max_cpu_increase == pytest.approx(0.03)


def spread_arm(scale: float, tail: float, ready_s: float, resident_bytes: int) -> ArmRun:
    """An arm of 200 requests, no two alike, in no order; the slowest take ``tail`` times as long."""
    net = [scale * (0.1 + n / 1000) * (tail if n >= 190 else 1.0) for n in range(200)]
    outside = [0.9 + n / 500 for n in range(200)]
    mixed = [7 * n % 200 for n in range(200)]
    return ArmRun(
        latencies_ms=tuple(net[n] + outside[n] + 0.3 for n in mixed),
        ready_s=ready_s,
        resident_bytes=resident_bytes,
        net_ms=tuple(net[n] for n in mixed),
        client_net_ms=tuple(net[n] + outside[n] for n in mixed),
        cpu_s=(sum(net) + 0.01 * resident_bytes) / 1e3,
    )


# Four restarts that differ in everything.
UNLIKE = [
    Restart(
        number,
        200,
        {
            "champion": spread_arm(1.0 + number / 100, 2.0, 0.5 + number / 10, 80 + number),
            "candidate": spread_arm(1.05 + number / 50, 2.0 + number / 40, 0.6 + number / 10, 90 + number**2),
        },
    )
    for number in range(1, 5)
]
# As docs/reference/gate.md says of [latency] and of [gate] in model.toml: α, s0 and limit of each line.
RULES = {
    "net_p50": (0.00025, 0.007, 0.05),
    "service_p50": (0.0005, 0.014, math.log(1.15)),
    "net_p99": (0.00075, 0.04, math.log(1.2)),
    "net_tail": (0.00075, 0.1, math.log(1.2)),
    "p50": (0.0005, 0.05, math.log(1.1)),
    "client_p99": (0.00075, 0.05, math.log(1.2)),
    "cpu_per_request": (0.0005, 0.018, math.log(1.15)),
    "memory": (0.00025, 0.02, math.log(1.5)),
    "start_up": (0.00025, 0.2, math.log(2.0)),
}
UNITS = {"net_p50": "ms, share of client p50", "memory": "bytes, ratio", "start_up": "s, ratio"}


SHOWN: dict[str, Callable[[ArmRun], float]] = {
    "net_p50": lambda run: float(np.median(run.net_ms)),
    "service_p50": lambda run: float(np.median(run.net_ms)),
    "net_p99": lambda run: float(np.quantile(run.net_ms, 0.99)),
    "net_tail": lambda run: float(np.mean(sorted(run.net_ms)[190:])),
    "p50": lambda run: float(np.median(run.latencies_ms)),
    "client_p99": lambda run: float(np.quantile(run.client_net_ms, 0.99)),
    "cpu_per_request": lambda run: 5 * run.cpu_s,  # ms, of 200 requests
    "memory": lambda run: run.resident_bytes,
    "start_up": lambda run: run.ready_s,
}


def read_contrast(name: str, restart: Restart) -> float:
    """The contrast of one restart as docs/explanation/gate-statistics.md defines it, from the raw times."""
    champion, candidate = (restart.arms[side] for side in ("champion", "candidate"))
    before, after = SHOWN[name](champion), SHOWN[name](candidate)
    if name == "net_p50":
        return (after - before) / float(np.median(champion.client_net_ms))
    return math.log(after / before)


@pytest.mark.parametrize("name", sorted(RULES))
def test_each_line_is_told_with_its_own_figures(name: str) -> None:
    """Level, spread, limit, shown medians and unit of each; one line's must not be another's."""
    lines = (*judge_latencies(UNLIKE, LIMITS, SETTINGS), *judge_resources(UNLIKE, LIMITS, SETTINGS))
    (told,) = [line for line in lines if line.name == name]
    alpha, s0, limit = RULES[name]
    values = [read_contrast(name, restart) for restart in UNLIKE]
    looks = SETTINGS.duet.looks
    block, accept = (0.2, 0.7, 0.775, 0.85, 1.0), (0.4, 0.7, 0.775, 0.85, 1.0)
    levels = look_levels(looks, alpha, block)[0], look_levels(looks, 0.05, accept)[0]
    bounds = bound_mean(values, s0=s0, nu0=10, alpha_low=levels[0], alpha_high=levels[1])
    show = float if name == "net_p50" else math.exp
    assert told.difference == pytest.approx(show(bounds.mean))
    assert (told.low, told.high) == pytest.approx((show(bounds.low), show(bounds.high)), rel=1e-4)
    assert told.limit == pytest.approx(show(limit))
    for side, shown in (("candidate", told.candidate), ("champion", told.champion)):
        second, third = sorted(SHOWN[name](restart.arms[side]) for restart in UNLIKE)[1:3]
        assert shown == pytest.approx((second + third) / 2), side
    assert told.unit == UNITS.get(name, "ms, ratio")
    assert told.evidence == "restart-*.csv.gz"
    assert f"4 restarts (look 1 of 5), moderated SD {bounds.sd:.4f}" in told.reason
    assert told.outcome != "INVALID"


@pytest.mark.parametrize(
    ("p50", "said"),
    [(1.0, "an increase of 10.0% is excluded"), (1.08, "an increase of 10.0% is not excluded")],
)
def test_a_line_says_which_increase_was_excluded(p50: float, said: str) -> None:
    """The number in the sentence is that of the limit, not of its logarithm."""
    assert judge(4, arm(p50=p50))["p50"].reason.startswith(said)


def test_a_line_says_which_increase_was_proven() -> None:
    """What blocks is the limit, what marks is the margin; the tail passes since nothing was proven."""
    assert judge(4, arm(p50=1.3))["p50"].reason.startswith("an increase of more than 10.0% is proven")
    assert judge(4, arm(net=1.8))["net_p50"].reason.startswith("an increase of more than 5.0% is proven")
    told = judge(8, arm(net=1.3))["net_p50"].reason
    assert told.startswith("an increase of 5.0% is excluded, one of more than 1.0% is proven; ")
    told = judge(4, arm())["net_tail"].reason
    assert told.startswith("no increase of more than 20.0% is proven")


def test_one_restart_is_a_look_where_it_is_planned() -> None:
    """Its spread is the stored one alone."""
    settings = load_gate_settings(overrides=["duet.looks=[1]"])
    lines = judge_latencies(restarts(1, arm()), LIMITS, settings)
    assert {line.name: line.outcome for line in lines} == dict.fromkeys(
        ("net_p50", "service_p50", "net_p99", "net_tail", "p50", "client_p99", "cpu_per_request"), "PASS"
    )


def test_restarts_that_differ_too_much_say_by_how_much() -> None:
    """Three stored spreads are the limit, and the measured one is told beside the stored one."""
    mixed = [
        Restart(number, 500, {"champion": arm(), "candidate": arm(p50=p50)})
        for number, p50 in enumerate((0.7, 1.0, 0.7, 1.0), 1)
    ]
    spread = abs(math.log(0.7)) / math.sqrt(3)
    told = {line.name: line for line in judge_latencies(mixed, LIMITS, SETTINGS)}["p50"].reason
    assert told.startswith(f"restarts differ by an SD of {spread:.3f}, identical ones by 0.050; ")
    wide = load_gate_settings(overrides=[f"latency.max_spread={spread / 0.05 + 0.01}"])
    told = {line.name: line for line in judge_latencies(mixed, LIMITS, wide)}["p50"].reason
    assert "restarts differ" not in told


def test_a_service_that_once_did_not_tell_its_times_is_invalid() -> None:
    """Seven restarts of eight are no look, and would be judged as if the eighth had not been."""
    silent = [*restarts(7, arm()), Restart(8, 500, {"champion": arm(), "candidate": arm(net_ms=())})]
    lines = {line.name: line for line in judge_latencies(silent, LIMITS, SETTINGS)}
    for name in ("net_p50", "service_p50", "net_p99", "net_tail"):
        assert lines[name].outcome == "INVALID"
        assert lines[name].reason == "the service did not report its times"
    both = [*restarts(4, arm()), Restart(5, 500, {"champion": arm(), "candidate": arm(net_ms=())})]
    lines = {line.name: line for line in judge_latencies(both, LIMITS, SETTINGS)}
    assert lines["net_p50"].outcome == "INVALID", "four of five told it, and four would be a look"


def test_restarts_between_looks_say_how_many_there_are() -> None:
    """A gate that ended early is told apart from one that failed."""
    for line in (*judge(5, arm()).values(), judge_p50_ceiling(restarts(5, arm()), LIMITS, SETTINGS)):
        assert line.reason == "5 complete restarts are too few to judge"
    assert judge_p50_ceiling(restarts(5, arm()), LIMITS, SETTINGS).name == "p50_ceiling"


def test_the_ceiling_is_told_with_its_figures() -> None:
    """The candidate alone; its champion is in no figure of this line."""
    told = judge_p50_ceiling(UNLIKE, GateLimits(max_p50_ms=7.0), SETTINGS)
    values = [math.log(np.median(restart.arms["candidate"].latencies_ms)) for restart in UNLIKE]
    looks = SETTINGS.duet.looks
    low = look_levels(looks, 0.0005, (0.2, 0.7, 0.775, 0.85, 1.0))[0]
    high = look_levels(looks, 0.05, (0.4, 0.7, 0.775, 0.85, 1.0))[0]
    bounds = bound_mean(values, s0=0.05, nu0=10, alpha_low=low, alpha_high=high)
    assert told.candidate == pytest.approx(math.exp(bounds.mean))
    assert (told.low, told.high) == pytest.approx((math.exp(bounds.low), math.exp(bounds.high)), rel=1e-4)
    assert (told.champion, told.limit, told.unit) == (None, 7.0, "ms")
    assert (told.name, told.outcome, told.evidence) == ("p50_ceiling", "PASS", "restart-*.csv.gz")


def test_the_answers_are_counted_in_pairs() -> None:
    """How much was asked is part of what "all were right" means."""
    told = judge_answers(restarts(3, arm()))
    assert (told.name, told.candidate, told.unit, told.outcome) == ("answers", 1500.0, "pairs", "PASS")
    assert "all answers right in 3 restarts" in told.reason
    bad = judge_answers([*restarts(2, arm()), Restart(7, 0, {}, problem="a clock jumped")])
    assert (bad.candidate, bad.reason) == (1000.0, "restart 7: a clock jumped")


@pytest.mark.parametrize("is_first", [True, False])
def test_tails_of_the_client_are_told_and_decide_nothing(is_first: bool) -> None:
    """Over all requests of all restarts; a line that is INFO is in no verdict."""
    arms = ("candidate",) if is_first else ("champion", "candidate")
    times = {"candidate": 2.0, "champion": 1.0}
    runs = [
        Restart(
            number,
            100,
            {
                side: arm(latencies_ms=tuple(times[side] * (n + 100 * number) for n in range(1, 101)))
                for side in arms
            },
        )
        for number in range(2)
    ]
    p95, p99 = report_service(runs, dict.fromkeys(arms, build_manifest()))
    for told, name, share in ((p95, "p95", 0.95), (p99, "p99", 0.99)):
        pooled = 1 + 199 * share  # of 1, 2, … 200
        assert (told.name, told.unit, told.outcome) == (name, "ms", "INFO")
        assert told.candidate == pytest.approx(2 * pooled)
        assert told.champion == (None if is_first else pytest.approx(pooled))
        assert told.difference == (None if is_first else pytest.approx(pooled))
        assert told.evidence == "restart-*.csv.gz"


@pytest.mark.parametrize(("size", "outcome"), [(99, "PASS"), (100, "PASS"), (101, "BLOCK")])
def test_the_size_of_the_graph_has_a_limit_of_its_own(size: int, outcome: str) -> None:
    """Of the candidate's manifest, in bytes; the champion's size is shown beside it."""

    def publish(size: int) -> Manifest:
        files = {"model.onnx": FileDigest(sha256="00" * 32, size=size)}
        return build_manifest(files=files, gate=GateLimits(max_model_bytes=100))

    told = judge_model_size({"candidate": publish(size), "champion": publish(70)})
    assert (told.name, told.outcome, told.unit) == ("model_size", outcome, "bytes")
    assert (told.candidate, told.champion, told.difference, told.limit) == (size, 70, size - 70, 100)
    assert told.evidence == "manifest.json"
    alone = judge_model_size({"candidate": publish(size)})
    assert (alone.outcome, alone.candidate, alone.champion, alone.difference) == (outcome, size, None, None)


def test_a_bound_that_touches_margin_or_limit_decides_nothing() -> None:
    """Blocked is what is above the limit, passed what is below it, marked what is above the margin."""
    values = (0.01, 0.03, 0.02, 0.04)
    bounds = bound_at_look(values, 0.05, 0.001, SETTINGS)
    assert bounds is not None
    medians = {"champion": 1.0, "candidate": 1.0}
    low, high = bounds.low, bounds.high
    for limit, margin, label in (
        (low, 0.0, "INCONCLUSIVE"),
        (high, 0.0, "INCONCLUSIVE"),
        (np.nextafter(low, -1), 0.0, "BLOCK"),
        (np.nextafter(high, 1), low, "PASS"),
        (np.nextafter(high, 1), float(np.nextafter(low, -1)), "WARN"),
        (low, None, "PASS"),
        (np.nextafter(low, -1), None, "BLOCK"),
    ):
        criterion = Criterion("x", "ms", values, medians, 0.05, 0.001, float(limit), margin)
        assert judge_criterion(criterion, SETTINGS).label == label
