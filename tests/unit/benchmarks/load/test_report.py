"""What is said of a load measurement, to people and to machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_rel

from timberline.benchmarks.errors import EvidenceError
from timberline.benchmarks.load.measure import Load, Measured, SweepResult, read_loads
from timberline.benchmarks.load.report import (
    LoadReport,
    build_report,
    compare_rounds,
    format_load,
    format_markdown,
)
from timberline.benchmarks.load.settings import DEFAULT_LOAD, LoadSettings
from timberline.benchmarks.load.window import Result, WindowResult
from timberline.registry.errors import ConfigError
from timberline.registry.runtime.settings import load_settings

SETTINGS = load_settings(DEFAULT_LOAD, LoadSettings, overrides=["compare.rounds=2"])
BOTH = {"champion": "tiny@1", "candidate": "tiny@2"}
LOAD = Load(rate_rps=200.0)


def window(number: int, arm: str, p50_ms: float, **changes: Any) -> WindowResult:
    """A window of the open load whose other figures do not matter."""
    result: Result = "met"
    given: dict[str, Any] = {
        "round": (number + 1) // 2,
        "number": number,
        "arm": arm,
        "rate_rps": 200.0,
        "users": 0,
        "result": result,
        "problem": "",
        "scheduled": 600,
        "right": 600,
        "refused": 0,
        "requests_per_s": 200.0,
        "p50_ms": p50_ms,
        "p95_ms": 3.0,
        "p99_ms": 4.0,
        "max_ms": 9.0,
        "late_share": 0.01,
        "lag_p50_ms": 0.2,
        "lag_p99_ms": 1.0,
        "cpu_share": 0.2,
        "observations": f"window-{number:03}.csv.gz",
    }
    return WindowResult(**(given | changes))


WINDOWS = (
    window(1, "champion", 1.0),
    window(2, "candidate", 50.0, result="invalid", problem="the load generator lags"),
    window(3, "candidate", 2.0, round=1),
    window(4, "candidate", 2.0, round=2),
    window(5, "champion", 1.0, round=2),
)


def measure(**changes: Any) -> Measured:
    """Two rounds of the open load, one window of which had to be repeated."""
    given = {"windows": WINDOWS, "counted": (1, 3, 4, 5), "sweeps": (), "problem": ""}
    return Measured(**(given | changes))


def sweep(*held: tuple[str, int, float], is_censored: bool = False) -> tuple[SweepResult, ...]:
    """What arms held, by arm and round."""
    return tuple(
        SweepResult(round=number, arm=arm, held_rps=rate, missed_rps=rate * 1.05, is_censored=is_censored)
        for arm, number, rate in held
    )


def report(measured: Measured, loads: Sequence[Load] = (LOAD,)) -> LoadReport:
    """Of champion and candidate."""
    return build_report(BOTH, measured, loads, SETTINGS)


def test_windows_that_say_nothing_are_not_counted_but_told() -> None:
    """50 ms of a spoilt window would be the candidate's worst; its being there is part of the report."""
    said = report(measure())
    ratio = said.loads[0].figures[0].ratio
    assert ratio is not None
    assert ratio.mean == pytest.approx(2.0)
    assert said.loads[0].late_share == {"champion": pytest.approx(0.01), "candidate": pytest.approx(0.01)}
    for text in (format_load(said), format_markdown(said)):
        assert "1 of 5 windows are not valid and were not counted, such as number 2" in text
        assert "2.000 (2.000–2.000)" in text
    assert "`window-005.csv.gz`" in format_markdown(said)


def test_an_invalid_measurement_has_no_figures() -> None:
    """Whoever reads only the table must not find numbers in it."""
    said = report(measure(problem="round 2, candidate: no right answer"))
    assert said.loads == ()
    assert "INVALID: round 2, candidate: no right answer" in format_load(said)
    assert "INVALID" in format_markdown(said)


@pytest.mark.parametrize(
    ("candidate", "is_below", "message"),
    [((500.0, 505.0), True, "is proven below"), ((1010.0, 990.0), False, "is not proven below")],
)
def test_a_candidate_is_judged_by_its_highest_rate(
    candidate: tuple[float, float], is_below: bool, message: str
) -> None:
    """Half the rate is a no; the same within the noise is none."""
    held = sweep(
        ("champion", 1, 1000.0),
        ("candidate", 1, candidate[0]),
        ("candidate", 2, candidate[1]),
        ("champion", 2, 1000.0),
    )
    said = report(measure(windows=(), counted=(), sweeps=held), loads=())
    assert said.is_below is is_below
    assert message in format_load(said)


def test_equal_steps_of_a_sweep_prove_nothing_by_being_equal() -> None:
    """Both rounds may end on the same step; 0.88 of the rate is then no sure no, as a step is 7 % wide."""
    rates = {"champion": 1000.0, "candidate": 880.0}
    held = sweep(*((arm, number, rate) for number in (1, 2) for arm, rate in rates.items()))
    said = report(measure(windows=(), counted=(), sweeps=held), loads=())
    assert said.is_below is False
    ratio = said.loads[0].figures[0].ratio
    assert ratio is not None
    assert ratio.low < 0.85 < ratio.mean < 0.90 < ratio.high


def test_rates_that_the_load_generator_limits_are_not_compared() -> None:
    """Two services beyond its reach look equal, whatever one of them has lost."""
    held = sweep(*((arm, number, 2000.0) for arm in BOTH for number in (1, 2)), is_censored=True)
    measured = measure(windows=(), counted=(), sweeps=held)
    said = report(measured, loads=())
    assert (said.is_below, said.loads) == (None, ())
    assert "cannot be compared" in said.problem
    alone = [one for one in held if one.arm == "candidate"]
    measured = msgspec.structs.replace(measured, sweeps=tuple(alone))
    of_one = build_report({"candidate": "tiny@2"}, measured, (), SETTINGS)
    assert of_one.problem == ""
    assert "holds at least this rate" in format_load(of_one)


def test_a_report_survives_its_file() -> None:
    """load.json is read by whoever draws the curve."""
    said = report(measure())
    assert msgspec.json.decode(msgspec.json.encode(said), type=LoadReport) == said


def test_loads_come_from_the_command_line() -> None:
    """And what is no load is wrong use, told before anything is started."""
    assert [load.name for load in read_loads(rates="50,200.5", users=None)] == ["50rps", "200rps"]
    assert read_loads(rates=None, users="1,16") == [Load(users=1), Load(users=16)]
    assert read_loads(rates=None, users=None) == []
    for wrong in ("fast", "0", "-3", "inf", "nan"):
        with pytest.raises(ConfigError):
            read_loads(rates=wrong, users=None)


RULES = load_settings(DEFAULT_LOAD, LoadSettings).compare
CHAMPION = (4.1, 3.8, 5.0, 4.4, 3.9)
CANDIDATE = (4.6, 4.1, 5.1, 5.0, 4.5)


def test_the_ratio_is_paired_within_rounds() -> None:
    """A busy round falls on both arms; unpaired, its spread would drown the difference."""
    figure = compare_rounds("p50", "ms", {"champion": CHAMPION, "candidate": CANDIDATE}, RULES)
    paired = ttest_rel(np.log(CANDIDATE), np.log(CHAMPION))
    expected = paired.confidence_interval(1 - 2 * RULES.alpha)
    assert figure.ratio is not None
    assert math.log(figure.ratio.mean) == pytest.approx(np.mean(np.log(CANDIDATE) - np.log(CHAMPION)))
    assert (math.log(figure.ratio.low), math.log(figure.ratio.high)) == pytest.approx(tuple(expected))


def test_one_version_alone_has_no_ratio() -> None:
    """Its interval is Student's, of the logarithms."""
    figure = compare_rounds("p99", "ms", {"candidate": CANDIDATE}, RULES)
    logs = np.log(CANDIDATE)
    error = student.isf(RULES.alpha, 4) * logs.std(ddof=1) / math.sqrt(5)
    assert figure.ratio is None
    assert figure.arms["candidate"].high == pytest.approx(math.exp(logs.mean() + error))


def test_equal_steps_are_not_certainty() -> None:
    """A sweep that ends on the same step in every round has found a step, not a number."""
    rounds = {"champion": (800.0, 810.0), "candidate": (800.0, 810.0)}
    figure = compare_rounds("rate", "1/s", rounds, RULES, is_stepped=True)
    assert figure.ratio is not None
    assert figure.ratio.low < 0.97
    assert figure.ratio.high > 1.03


def test_a_rate_of_zero_is_no_figure() -> None:
    """Its logarithm would make everything infinite."""
    with pytest.raises(EvidenceError):
        compare_rounds("rate", "1/s", {"candidate": (0.0, 10.0)}, RULES)
