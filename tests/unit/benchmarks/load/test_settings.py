"""How long a window has to be."""

from __future__ import annotations

import msgspec
import pytest
from scipy.stats import binom, poisson

from timberline.benchmarks.load.settings import DEFAULT_LOAD, LoadSettings
from timberline.registry.runtime.settings import load_settings

WINDOW = load_settings(DEFAULT_LOAD, LoadSettings).window


@pytest.mark.parametrize("least", [5, 459, 3000])
def test_a_window_is_long_enough_for_its_requests(least: int) -> None:
    """Poisson arrivals may be few by chance; a window that is too short for them would be INVALID."""
    window = msgspec.structs.replace(WINDOW, min_requests=least, window_s=0.1)
    seconds = window.seconds_at(50.0)
    assert poisson.cdf(least - 1, 50.0 * seconds) < 1e-4
    assert WINDOW.seconds_at(1e6) == WINDOW.window_s


def test_the_committed_number_of_requests_is_enough_for_p99() -> None:
    """Were 1 % too late, a window without one late request would come once in a hundred."""
    assert binom.cdf(0, WINDOW.min_requests, 0.01) < 0.01
    assert binom.cdf(0, WINDOW.min_requests - 1, 0.01) >= 0.01
