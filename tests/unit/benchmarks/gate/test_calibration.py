"""The stored spread of a class of machine: read back as written, never taken for another class's."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from timberline.benchmarks.gate.calibration import (
    Calibration,
    apply_calibration,
    find_calibration,
    load_calibration,
    store_calibration,
)
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.errors import ConfigError

KNOWN = Calibration(
    machine_class="linux-x86_64-2cpu-amd-epyc-7b13",
    measured_at="2026-11-22T08:00:00+00:00",
    model='forest"cover@1',
    workload="single_rows",
    window_s=4.0,
    restarts=24,
    nu0=9.5,
    net_p50=0.0059,
    net_p99=0.096,
    net_tail=0.15,
    client_p50=0.05,
    client_p99=0.1,
    memory=0.001,
    start_up=1e-05,
    service_p50=0.0131,
    cpu_per_request=0.0172,
)


def test_a_calibration_reads_back_as_it_was_written(tmp_path: Path) -> None:
    """A digit lost on the way would make the gate judge by a spread that nobody measured."""
    path = store_calibration(tmp_path / "calibrations", KNOWN)
    assert path == find_calibration(tmp_path / "calibrations", KNOWN.machine_class)
    assert load_calibration(tmp_path / "calibrations", KNOWN.machine_class) == KNOWN


def test_a_class_that_was_never_calibrated_has_none(tmp_path: Path) -> None:
    """The gate then takes the committed spread and must not take another machine's."""
    store_calibration(tmp_path, KNOWN)
    assert load_calibration(tmp_path, "linux-x86_64-64cpu") is None
    assert load_calibration(tmp_path / "absent", KNOWN.machine_class) is None


def test_a_calibration_copied_from_another_class_is_refused(tmp_path: Path) -> None:
    """A quiet machine's spread on a noisy one would make every release a regression."""
    data = store_calibration(tmp_path, KNOWN).read_bytes()
    find_calibration(tmp_path, "other").write_bytes(data)
    with pytest.raises(ConfigError, match=r"is about linux-x86_64-2cpu-amd-epyc-7b13, expected other"):
        load_calibration(tmp_path, "other")


@pytest.mark.parametrize("damage", ["net_p50 = 0", "net_p51 = 1.0", "net_p50 = ["])
def test_a_damaged_calibration_is_an_error_and_not_a_default(tmp_path: Path, damage: str) -> None:
    """A spread of 0 would prove anything, and falling back in silence would hide it."""
    path = store_calibration(tmp_path, KNOWN)
    path.write_text(path.read_text("utf-8").replace("net_p50 = 0.0059", damage), "utf-8")
    with pytest.raises(ConfigError):
        load_calibration(tmp_path, KNOWN.machine_class)


def test_a_calibration_of_a_quiet_hour_leaves_room_for_a_loud_one() -> None:
    """Restarts that differ as identical processes do under load would else be INVALID for ever."""
    settings = load_gate_settings()
    committed, most = settings.latency.s0, settings.latency.max_spread
    quiet = msgspec.structs.replace(KNOWN, client_p50=1e-4)
    used = apply_calibration(settings, quiet).latency
    assert used.s0.client_p50 == pytest.approx(committed.client_p50 / most)
    for name in ("net_p50", "service_p50", "cpu_per_request"):
        assert getattr(used.s0, name) == getattr(KNOWN, name)
    assert (used.s0.memory, used.nu0) == (committed.memory, KNOWN.nu0)
    assert apply_calibration(settings, None) == settings


def test_a_calibration_from_before_a_contrast_was_known_is_used_for_the_others(tmp_path: Path) -> None:
    """Who calibrated last week must not be stopped today; what is missing is taken from the settings."""
    path = store_calibration(tmp_path, KNOWN)
    old = [line for line in path.read_text("utf-8").splitlines() if line[:5] not in {"servi", "cpu_p"}]
    path.write_text("\n".join(old), "utf-8")
    known = load_calibration(tmp_path, KNOWN.machine_class)
    settings = load_gate_settings()
    s0 = apply_calibration(settings, known).latency.s0
    committed = settings.latency.s0
    assert (s0.service_p50, s0.cpu_per_request) == (committed.service_p50, committed.cpu_per_request)
    assert s0.net_p50 == KNOWN.net_p50
    assert known is not None
    store_calibration(tmp_path, known)
    assert load_calibration(tmp_path, KNOWN.machine_class) == known


def test_every_field_is_in_the_file(tmp_path: Path) -> None:
    """People read these files, and a field that only the program knows is one they cannot check."""
    written = store_calibration(tmp_path, KNOWN).read_text("utf-8")
    assert all(f"\n{name} = " in written for name in msgspec.structs.asdict(KNOWN))
