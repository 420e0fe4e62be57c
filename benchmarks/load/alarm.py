"""Wake up at a point in time, to within what the kernel can.

gevent's event loop sleeps in whole milliseconds (epoll_wait), rounded up, so that every request would
leave 1 ms late. A timer of the kernel (timerfd_create(2)) is a file that becomes readable at its time,
for which the loop wakes at once: 0.25 ms, most of which is the processor being given to us.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Any

import gevent

# <bits/timerfd.h> and <bits/time.h>
_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = 0o4000
_TFD_CLOEXEC = 0o2000000
_TFD_TIMER_ABSTIME = 1
_NS = 1_000_000_000


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
