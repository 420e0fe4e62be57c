"""The committed rules of the gate, cut to seconds: for tests that are not about how long it measures."""

from __future__ import annotations

from typing import Any

import msgspec

from timberline.benchmarks.settings import GateSettings, load_gate_settings

QUICK: dict[str, Any] = {"looks": (1,), "window_s": 0.3, "min_pairs": 5, "warmup_pairs": 2}
# In so short a window one hiccup of the machine is much; what is found by it has tests of its own.
QUICK |= {"max_standstill_share": 1.0, "max_outside_ratio": 100.0}
ANY_WAIT = {"max_mean_outside_ratio": 100.0, "max_outside_p99_ratio": 100.0}


def quick_settings() -> GateSettings:
    """The committed rules, with one short restart."""
    settings = load_gate_settings()
    return msgspec.structs.replace(
        settings,
        duet=msgspec.structs.replace(settings.duet, **QUICK),
        validity=msgspec.structs.replace(settings.validity, **ANY_WAIT),
    )
