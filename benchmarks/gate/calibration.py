"""What is known of a class of machines: how far identical processes differ from restart to restart.

One TOML file a class, written by ``timberline calibrate`` and read by the gate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from timberline.benchmarks.measure.records import CONTRASTS
from timberline.benchmarks.settings import GateSettings
from timberline.registry.errors import ConfigError
from timberline.registry.runtime.files import write_atomically
from timberline.registry.runtime.settings import load_settings
from timberline.registry.runtime.working_copy import refresh, share_file

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The spread between restarts of identical processes on one class of machine, and how it was found.

    ``net_p50`` to ``cpu_per_request`` are standard deviations about 0 of the contrasts of the same names:
    the first as a share of the client p50, the others of logarithms of ratios; None in files from before
    there was such a contrast, or where it cannot be measured. ``nu0`` is how many degrees of freedom they
    count for. ``measured_at`` is UTC, ISO 8601; ``window_s`` the seconds of load a restart, so that
    another window is known to be another spread.
    """

    machine_class: str
    measured_at: str
    model: str
    workload: str
    window_s: Positive
    restarts: Count
    nu0: Positive
    net_p50: Positive
    net_p99: Positive
    net_tail: Positive
    client_p50: Positive
    client_p99: Positive
    memory: Positive
    start_up: Positive
    service_p50: Positive | None = None
    cpu_per_request: Positive | None = None


def apply_calibration(settings: GateSettings, known: Calibration | None) -> GateSettings:
    """The settings with the measured spreads of the latencies in the place of the committed ones.

    None becomes less than 1 / ``max_spread`` of the committed one: a machine that was calibrated in a
    quiet hour may have a loud one, and what identical processes differ by there must not be taken for
    something that cannot be. Memory and start-up keep theirs, which are wide on purpose: they are to
    find a leak, not a page.
    """
    if known is None:
        return settings
    latency = settings.latency
    spreads = {
        name: max(spread, getattr(latency.s0, name) / latency.max_spread)
        for name in CONTRASTS
        if (spread := getattr(known, name)) is not None
    }
    s0 = msgspec.structs.replace(latency.s0, **spreads)
    return msgspec.structs.replace(
        settings, latency=msgspec.structs.replace(latency, s0=s0, nu0=min(known.nu0, latency.nu0))
    )


def find_calibration(folder: Path, machine_class: str) -> Path:
    """Where the calibration of a class of machine is kept in ``folder``."""
    return folder / f"{machine_class}.toml"


def load_calibration(folder: Path, machine_class: str) -> Calibration | None:
    """The stored calibration of a class of machine, or None when it was never calibrated.

    Raises:
        ConfigError: the file is damaged, or is about another class: it was copied.
    """
    path = find_calibration(folder, machine_class)
    refresh(path)
    if not path.is_file():
        return None
    known = load_settings(path, Calibration)
    if known.machine_class != machine_class:
        raise ConfigError(
            f"is about {known.machine_class}, expected {machine_class}",
            where=str(path),
            hint="Spreads hold for their own class of machine: run `timberline calibrate` here.",
        )
    return known


def store_calibration(folder: Path, calibration: Calibration) -> Path:
    """Write a calibration so that a reader sees the old one or the new one; returns its path."""
    path = find_calibration(folder, calibration.machine_class)
    lines = ["# Written by `timberline calibrate`: identical processes, side by side."]
    for name, value in msgspec.structs.asdict(calibration).items():
        if value is not None:  # a JSON string is a TOML string
            text = msgspec.json.encode(value).decode() if isinstance(value, str) else repr(value)
            lines.append(f"{name} = {text}")
    write_atomically(path, ("\n".join(lines) + "\n").encode())
    share_file(path)
    return path
