"""When requests are due: a timetable made before the load begins, which no answer can move."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt


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
