"""Which gates of a file count here and now, and which versions can be tested at all."""

from __future__ import annotations

import dataclasses

import pytest

from tests.support.evaluations import publish_judged
from tests.support.gate_rows import build_gate, build_restart
from timberline.benchmarks.machine import machine_class
from timberline.benchmarks.selftest.ledger import GateRow, append_rows, find_restarts, write_row
from timberline.benchmarks.selftest.run import (
    SelfTest,
    list_nightly,
    list_rejudged,
    measure_base,
    record_gate,
)
from timberline.benchmarks.selftest.scenarios import find_alarm
from timberline.benchmarks.settings import GATE_VERSION, load_gate_settings
from timberline.registry.errors import ConfigError
from timberline.registry.manifest import GateLimits


def build_own(test: SelfTest, **changes: object) -> GateRow:
    """A gate of this machine, rule and model; ``changes`` replaces fields."""
    own = {
        "machine_class": machine_class(),
        "gate_version": GATE_VERSION,
        "config_digest": test.digest_config(),
    }
    return build_gate(**(own | changes))


def test_only_gates_of_this_machine_rule_and_load_count(test: SelfTest) -> None:
    """A rate over two rules is the rate of neither."""
    others = ("machine_class", "gate_version", "config_digest")
    rows = [build_own(test), *(build_own(test, **{name: "other"}) for name in others)]
    append_rows(test.path, rows)
    assert test.read_done() == rows[:1]


def test_nightly_gates_count_over_all_calibrations(test: SelfTest) -> None:
    """Each calibration changes what gates are counted by; a machine that drifts is seen over weeks."""
    nights = [build_own(test, arm="aa_nightly", config_digest=digest) for digest in ("monday", "tuesday")]
    others = [
        build_own(test, arm="aa_nightly", machine_class="other"),
        build_own(test, arm="aa_nightly", gate_version="0"),
        build_own(test, arm="aa"),
    ]
    append_rows(test.path, [*nights, *others])
    assert list_nightly(test) == nights


def test_another_rule_load_or_model_begins_a_new_count(test: SelfTest) -> None:
    """Whatever could change a rate has to be in the digest that gates are counted by."""
    settings = load_gate_settings(overrides=["latency.alpha_pass=0.04"])
    shorter = load_gate_settings(overrides=["duet.window_s=1.0"])
    publish_judged(test.store, alias="production", crippled=True)
    changed = [
        dataclasses.replace(test, settings=settings),
        dataclasses.replace(test, settings=shorter),
        dataclasses.replace(test, version=2),
    ]
    digests = {each.digest_config() for each in (test, *changed)}
    assert len(digests) == 4


def test_a_version_below_its_own_floors_is_refused(test: SelfTest) -> None:
    """Every gate of it would be blocked before it began, and a night's false blocks would mean nothing."""
    test.check()
    version = publish_judged(test.store, alias="production", gate=GateLimits(min_accuracy=0.99))
    with pytest.raises(ConfigError, match="accuracy_floor is BLOCK for the version beside itself"):
        dataclasses.replace(test, version=version).check()


def test_a_gate_is_written_with_all_its_restarts(test: SelfTest) -> None:
    """Read back, it must count, and its restarts must be found by it."""
    restarts = [build_restart(number, slower_ms=0.04) for number in (1, 2, 3, 4)]
    row = record_gate(
        test,
        restarts,
        arm="cpu_5",
        number=1,
        seed=7,
        started_at="then",
        load_average=1.0,
        outcome="BLOCK",
        deciding="net_p50",
        marked="p50",
        seconds=30.0,
        injected_us=20.0,
    )
    base = measure_base(restarts[0])
    told = (row.base_p50_ms, row.base_service_ms, row.base_cpu_ms)
    assert told == pytest.approx((base.client_ms, base.service_ms, base.cpu_ms), rel=0.01)
    assert row.injected_share == pytest.approx(0.02 / row.base_p50_ms)
    (read,) = test.read_done()
    assert (read.outcome, read.deciding, read.marked, read.restarts) == ("BLOCK", "net_p50", "p50", 4)
    assert find_restarts(test.path).read_text("utf-8").count("\nthen,cpu_5,") == 4
    (again,) = list_rejudged(test)
    assert (again.outcome, again.restarts) == ("BLOCK", 4)


def test_restarts_of_a_gate_that_never_ended_are_no_gate(test: SelfTest) -> None:
    """Killed between the two files, the run goes on with the same number and new restarts."""
    append_rows(find_restarts(test.path), [write_row(build_restart(1), started_at="lost", arm="aa")])
    assert test.read_done() == []
    assert list_rejudged(test) == []


def test_gates_of_calibrations_take_part_in_the_alarm(test: SelfTest) -> None:
    """They are what is measured every night, when nobody runs a self-test."""
    rows = [build_own(test, arm="aa_nightly", outcome="BLOCK") for _ in range(3)]
    assert "blocked 3 times in 3" in find_alarm(rows)


@pytest.mark.parametrize(
    ("arm", "base_ms"), [("cpu_20", 0.45), ("service_20", 0.1), ("work_20", 0.2), ("aa", None)]
)
def test_an_injected_share_is_in_the_unit_of_its_arm(test: SelfTest, arm: str, base_ms: float | None) -> None:
    """What was really added, told as a share of something else, would be another regression."""
    row = record_gate(
        test,
        [build_restart(1), build_restart(2)],
        arm=arm,
        number=1,
        seed=7,
        started_at="then",
        load_average=1.0,
        outcome="BLOCK",
        deciding="",
        seconds=1.0,
        injected_us=0.0 if base_ms is None else 20.0,
    )
    assert row.injected_share == (0.0 if base_ms is None else pytest.approx(0.02 / base_ms, rel=0.01))
