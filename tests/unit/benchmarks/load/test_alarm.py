"""The kernel's timer in gevent's loop."""

from __future__ import annotations

import time

import gevent

from timberline.benchmarks.load.alarm import Alarm


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
    alarm, seen = Alarm(), []
    other = gevent.spawn(seen.append, "read")
    alarm.wait_until(time.perf_counter() + 0.002)
    alarm.close()
    assert seen == ["read"]
    other.join()
