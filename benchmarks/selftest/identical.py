"""A version beside itself, in as many restarts as one likes: what identical processes differ by."""

from __future__ import annotations

from pathlib import Path

from timberline.benchmarks.analysis.statistics import Restart
from timberline.benchmarks.errors import BenchmarkError
from timberline.benchmarks.gate.settings import DuetSettings
from timberline.benchmarks.measure.duet import open_duet
from timberline.benchmarks.measure.workload import draw_bodies, load_workload
from timberline.registry.store import Store


def run_identical(
    store: Store, model: str, version: int, settings: DuetSettings, folder: Path, count: int
) -> list[Restart]:
    """``count`` restarts of two processes of one version; raw observations and logs go to ``folder``.

    Raises:
        BenchmarkError: a restart cannot be believed; that of identical processes is never left out, for
            what is left would differ by less than they do.
    """
    manifest = store.open_version(model, version).manifest
    versions = {"champion": manifest, "candidate": manifest}
    bodies = draw_bodies(load_workload(settings.workload), versions)
    restarts = []
    with open_duet(store.location, versions, bodies, settings, folder, {}) as duet:
        for number in range(1, count + 1):
            restart = duet.run_restart(number)
            if restart.problem:
                raise BenchmarkError(
                    restart.problem,
                    where=f"restart {number} of {model}@{version} beside itself",
                    hint="Measure again; if it comes again, the machine cannot be measured on.",
                )
            restarts.append(restart)
    return restarts
