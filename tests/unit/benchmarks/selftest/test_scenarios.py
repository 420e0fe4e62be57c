"""Which candidates a self-test has, what is stated about them, and whose turn it is."""

from __future__ import annotations

import pytest

from timberline.benchmarks.selftest.scenarios import Base, choose_scenario, parse_scenario, parse_scenarios
from timberline.registry.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("aa", "<= 1%"),
        ("cpu_0", "<= 1%"),
        ("cpu_3", ""),
        ("cpu_5", ""),
        ("cpu_10", ">= 95%"),
        ("service_0", "<= 1%"),
        ("service_15", ""),
        ("service_20", ">= 95%"),
        ("work_10", ""),
        ("work_20", ">= 95%"),
        ("tail", ">= 95%"),
        ("tail_sleep", ">= 95%"),
        ("worse_0", "<= 1%"),
        ("worse_0.5", ""),
        ("worse_1", ""),
        ("worse_2", ">= 95%"),
    ],
)
def test_every_scenario_has_the_rate_that_is_stated(name: str, stated: str) -> None:
    """An observed rate is only news beside the promise; what is within a limit is promised nothing."""
    assert parse_scenario(name).stated == stated


@pytest.mark.parametrize(
    ("name", "flag", "injected_us"),
    [("cpu_5", "--cpu-us", 20.0), ("service_20", "--cpu-us", 30.0), ("work_20", "--work-us", 50.0)],
)
def test_the_injection_is_a_share_in_its_own_unit(name: str, flag: str, injected_us: float) -> None:
    """+5 % of 0.4 ms at the client is 20 µs of processor time, on the candidate alone."""
    arm, base = parse_scenario(name), Base(client_ms=0.4, service_ms=0.15, cpu_ms=0.25)
    assert arm.injected_us(base) == pytest.approx(injected_us)
    module = "timberline.benchmarks.selftest.slowed"
    assert arm.programs(injected_us, 7) == {
        "champion": (module,),
        "candidate": (module, flag, f"{injected_us:.2f}"),
    }
    assert parse_scenario("tail").injected_us(base) == parse_scenario("aa").injected_us(base) == 0.0


def test_identical_and_worse_candidates_are_served_by_the_service_itself() -> None:
    """Anything between them would be part of what is compared."""
    assert parse_scenario("aa").programs(0.0, 7) == {}
    assert parse_scenario("worse_1").programs(0.0, 7) == {}


def test_a_tail_is_drawn_from_the_gates_seed() -> None:
    """Gates that all draw one sequence are one gate, counted many times."""
    first, second = (parse_scenario("tail_sleep").programs(0.0, seed)["candidate"] for seed in (1, 2))
    assert first != second
    assert first[-2:] == ("--tail-kind", "sleep")


@pytest.mark.parametrize("name", ["", "cpu", "cpu_", "work", "service_x", "cpu_-3", "tails", "worse_x", "AA"])
def test_an_unknown_arm_is_refused(name: str) -> None:
    """A misspelt arm that ran as A/A for a night would look like a gate that finds nothing."""
    with pytest.raises(ConfigError, match="no arm"):
        parse_scenario(name)


def test_arms_may_have_numbers_of_their_own() -> None:
    """A rate of 1 % takes many more gates than one of 95 %."""
    assert parse_scenarios("aa=300,cpu_5", 100) == {"aa": 300, "cpu_5": 100}


@pytest.mark.parametrize("text", ["aa,aa", "aa=", "aa=x", "aa=-1"])
def test_arms_that_cannot_be_counted_are_refused(text: str) -> None:
    """Found before the night, not after it."""
    with pytest.raises(ConfigError):
        parse_scenarios(text, 100)


def test_arms_take_turns_and_go_on_where_they_were() -> None:
    """A busy hour spent on one arm would be that arm's rate."""
    wanted = {"aa": 4, "cpu_5": 2}
    done: list[str] = []
    while name := choose_scenario(wanted, done):
        done.append(name)
    assert done == ["aa", "cpu_5", "aa", "aa", "cpu_5", "aa"]
    assert choose_scenario({"aa": 4, "cpu_5": 3}, done) == "cpu_5"
    assert choose_scenario({"aa": 0}, []) is None
