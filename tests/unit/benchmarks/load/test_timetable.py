"""The timetable of an open loop: Poisson, repeatable, absolute."""

from __future__ import annotations

import time

import gevent
import numpy as np
import pytest
from scipy.stats import chi2, kstest

from timberline.benchmarks.load.timetable import Alarm, draw_schedule, run_timetable


def test_gaps_are_exponential_and_independent() -> None:
    """Arrivals in step (gaps all alike) meet no queue, and arrivals in bunches make one: both lie."""
    due = draw_schedule(200.0, 100.0, "1")
    gaps = np.diff(due, prepend=0.0)
    assert kstest(gaps * 200.0, "expon").pvalue > 0.01
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 3 / np.sqrt(gaps.size)


def test_counts_are_poisson() -> None:
    """Variance and mean of the requests in a second are equal; a fixed rate would have none."""
    counts = np.histogram(draw_schedule(50.0, 400.0, "2"), bins=400, range=(0.0, 400.0))[0]
    # Index of dispersion: (n - 1) s^2 / mean is chi-squared with n - 1 degrees of freedom.
    dispersion = (counts.size - 1) * counts.var(ddof=1) / counts.mean()
    low, high = chi2.ppf([0.005, 0.995], counts.size - 1)
    assert low < dispersion < high
    assert counts.mean() == pytest.approx(50.0, abs=3 * np.sqrt(50.0 / 400))


def test_equal_seeds_are_equal_loads() -> None:
    """Champion and candidate get the very same arrivals; another round gets others."""
    one, same, other = (draw_schedule(100.0, 5.0, seed) for seed in ("7-1", "7-1", "7-2"))
    np.testing.assert_array_equal(one, same)
    assert one.tolist() != other.tolist()


@pytest.mark.parametrize(("rate", "window"), [(0.5, 1.0), (3.0, 2.0), (5000.0, 0.2)])
def test_due_times_rise_within_the_window(rate: float, window: float) -> None:
    """Whatever the rate: a rare request may not be due after the window, a dense one not before the last."""
    for seed in range(20):
        due = draw_schedule(rate, window, str(seed))
        assert np.all(np.diff(due) >= 0)
        assert due.size == 0 or 0 < due[0] <= due[-1] < window


class Clock:
    """A clock that only moves when somebody waits or works."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        """What it shows."""
        return self.seconds

    def wait_until(self, moment: float) -> None:
        """Wait exactly."""
        assert moment > self.seconds
        self.seconds = moment


def test_a_stall_delays_no_request_that_is_due_after_it() -> None:
    """Sleeping for the gap after each send would push the whole rest back: that is a closed loop again."""
    clock, sent = Clock(), []

    def send(number: int, due: float) -> bool:
        sent.append((number, due, clock.seconds))
        if number == 1:
            clock.seconds += 0.45  # the generator or the machine stalls
        return True

    due_s = [0.1, 0.2, 0.3, 0.5, 0.8]
    count = run_timetable(due_s, 1000.0, now=clock.now, wait_until=clock.wait_until, send=send)
    assert count == 5
    assert [due for _, due, _ in sent] == [1000.0 + seconds for seconds in due_s]
    lags = [at - due for _, due, at in sent]
    # Both requests that were due meanwhile go out at once, late and counted so; the last is in time.
    assert lags == pytest.approx([0.0, 0.0, 0.35, 0.15, 0.0])


def test_a_run_that_is_over_sends_no_more() -> None:
    """A service that is drowning need not be held under."""
    clock = Clock()
    count = run_timetable(
        [0.1, 0.2, 0.3],
        1000.0,
        now=clock.now,
        wait_until=clock.wait_until,
        send=lambda number, _: number < 1,
    )
    assert count == 1


def test_an_alarm_never_goes_off_early_and_never_misses() -> None:
    """Early would bunch arrivals; a moment that is over already must not wait for ever."""
    alarm = Alarm()
    for ahead_s in (0.004, 0.0003, 0.0, -1.0):
        moment = time.perf_counter() + ahead_s
        alarm.wait_until(moment)
        assert time.perf_counter() >= moment
    alarm.close()


def test_others_run_while_one_waits() -> None:
    """The answers to requests in flight are read meanwhile; else the generator would be the queue."""
    alarm = Alarm()
    seen: list[str] = []
    other = gevent.spawn(seen.append, "read")
    alarm.wait_until(time.perf_counter() + 0.002)
    alarm.close()
    assert seen == ["read"]
    other.join()
