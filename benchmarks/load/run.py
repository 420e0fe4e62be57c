"""The verb `load`: who is measured, where the files go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from timberline.benchmarks.gate.run import find_comparison
from timberline.benchmarks.load.measure import measure_load
from timberline.benchmarks.load.report import LoadReport, build_report
from timberline.benchmarks.load.settings import LoadSettings
from timberline.benchmarks.load.stage import Load
from timberline.benchmarks.load.tables import format_markdown
from timberline.registry.aliases import resolve
from timberline.registry.names import ModelRef
from timberline.registry.runtime.files import fresh_folder
from timberline.registry.store import Store


class LoadResult(NamedTuple):
    """The report, and the folder that it is in beside the raw observations."""

    report: LoadReport
    folder: Path


def run_load(
    store: Store,
    ref: ModelRef,
    data: Path,
    settings: LoadSettings,
    loads: Sequence[Load],
    *,
    candidate: str | None = None,
    champion: str | None = None,
) -> LoadResult:
    """Measure ``ref`` alone, or a candidate and a champion side by side when either is given.

    Args:
        store: the registry.
        ref: the version to measure alone; of two, only the model's name counts.
        data: generated data; the files go to ``load/<model>/`` in it.
        settings: see load.toml.
        loads: fixed loads; none is a sweep.
        candidate: a reference; by default the alias `candidate`.
        champion: a reference; by default the alias `production`.

    Raises:
        VersionNotFoundError: there is no such version or alias.
        BenchmarkError: the load generator or the workload failed before anything was measured.
    """
    if candidate is None and champion is None:
        arms = {"candidate": resolve(store, ref)}
        name = str(arms["candidate"])
    else:
        match = find_comparison(store, ref.model, candidate, champion)
        arms, name = match.arms, match.folder_name
    kind = "-".join(load.name for load in loads) or "sweep"
    target = data / "load" / ref.model / f"{name}-{kind}"
    with fresh_folder(target, mark="load.json") as folder:
        measured = measure_load(store, ref.model, arms, settings, loads, folder)
        versions = {arm: f"{ref.model}@{version}" for arm, version in arms.items()}
        report = build_report(versions, measured, loads, settings)
        (folder / "load.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
        (folder / "load.md").write_text(format_markdown(report), "utf-8")
    return LoadResult(report, target)
