"""When requests are due, and waking up then.

The timetable is made before the load begins, so that no answer can move it. gevent's event loop sleeps in
whole milliseconds (epoll_wait), rounded up, so that every request would leave 1 ms late. A timer of the
kernel (timerfd_create(2)) is a file that becomes readable at its time, for which the loop wakes at once:
0.25 ms, most of which passes until the process gets the processor.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import numpy as np
import numpy.typing as npt

# <bits/timerfd.h> and <bits/time.h>
_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = 0o4000
_TFD_CLOEXEC = 0o2000000
_TFD_TIMER_ABSTIME = 1
_NS = 1_000_000_000


def draw_schedule(rate_rps: float, window_s: float, seed: str) -> npt.NDArray[np.float64]:
    """Poisson arrivals: due times in seconds from the window's begin, rising, all below ``window_s``.

    The gaps are independent and exponential with mean 1 / ``rate_rps``. Equal arguments give equal
    times, so that two services can be put under the same load.

    Source: the Poisson process by its interarrival times; e.g. Kingman, *Poisson Processes* (1993),
    section 4.1.
    """
    chance = np.random.default_rng(list(seed.encode()))
    # Six standard deviations more than are expected; what is still missing is drawn as well.
    expected = rate_rps * window_s
    times = np.cumsum(chance.exponential(1 / rate_rps, int(expected + 6 * expected**0.5 + 10)))
    while times[-1] < window_s:
        more = times[-1] + np.cumsum(chance.exponential(1 / rate_rps, times.size))
        times = np.concatenate([times, more])
    return times[times < window_s]


def run_timetable(
    due_s: Sequence[float],
    began_s: float,
    *,
    now: Callable[[], float],
    wait_until: Callable[[float], None],
    send: Callable[[int, float], bool],
) -> int:
    """Send request ``i`` at ``began_s + due_s[i]``, or at once if that has passed; how many were sent.

    Absolute: a late request does not delay the ones after it, and nothing is left out, so that a
    stall of the service is met by every request that was due meanwhile.

    Args:
        due_s: rising.
        began_s: on the clock of ``now``.
        now: seconds.
        wait_until: returns when the clock shows this, or later.
        send: begins request ``i``, due at this time, without waiting for its answer; False ends the run.
    """
    for number, seconds in enumerate(due_s):
        due = began_s + seconds
        if due > now():
            wait_until(due)
        if not send(number, due):
            return number
    return len(due_s)


class _TimeSpec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("it_interval", _TimeSpec), ("it_value", _TimeSpec))


class Alarm:
    """Waits for one point in time after the other; the clock is `time.perf_counter`'s.

    That is CLOCK_MONOTONIC on Linux. Elsewhere the loop's own sleep has to do.
    """

    def __init__(self) -> None:
        self._timer = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._timer = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self._timer >= 0:
            self._watcher: Any = gevent.get_hub().loop.io(self._timer, 1)  # 1: readable

    def wait_until(self, moment_s: float) -> None:
        """Let other greenlets run until the clock shows ``moment_s``."""
        if self._timer < 0:
            gevent.sleep(max(0.0, moment_s - time.perf_counter()))
            return
        seconds, nanoseconds = divmod(max(1, int(moment_s * _NS)), _NS)
        spec = _TimerSpec(_TimeSpec(0, 0), _TimeSpec(seconds, nanoseconds))
        if self._libc.timerfd_settime(self._timer, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        gevent.get_hub().wait(self._watcher)
        os.read(self._timer, 8)  # how often it went off

    def close(self) -> None:
        """Give the timer back."""
        if self._timer >= 0:
            self._watcher.close()
            os.close(self._timer)
            self._timer = -1
