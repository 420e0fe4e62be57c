"""What can go wrong while measuring; a "no" of the gate is no error but a verdict."""

from __future__ import annotations

from timberline.registry.errors import LifecycleError


class BenchmarkError(LifecycleError):
    """A measurement could not be made or cannot be believed; the gate turns it into INVALID."""


class WorkloadError(BenchmarkError):
    """A workload is empty, or asks for what the versions under test cannot be asked."""


class ServiceStartError(BenchmarkError):
    """A service under test did not come up, or is not the version that was asked for."""


class EvidenceError(BenchmarkError):
    """Held-out predictions are missing, damaged, or not about the same rows."""
