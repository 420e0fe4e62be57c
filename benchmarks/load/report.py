"""What a load measurement says: figures with intervals, made of its windows. Pure but for the date."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from timberline.benchmarks.load.compare import Figure, compare_rounds
from timberline.benchmarks.load.measure import Measured, SweepResult
from timberline.benchmarks.load.settings import LoadSettings
from timberline.benchmarks.load.stage import Load
from timberline.benchmarks.load.window import WindowResult
from timberline.benchmarks.machine import describe_machine
from timberline.registry.runtime.documents import utc_now
from timberline.registry.runtime.stages import digest_value

RATE_FIGURE = "highest rate"


class LoadFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of one load, or of the sweep; ``late_share`` by arm, over all its requests."""

    name: str
    figures: tuple[Figure, ...]
    late_share: dict[str, float] = {}


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """A measurement as it is kept.

    - ``versions``: ``model@version`` by arm.
    - ``problem``: why it is INVALID; "" when it is not.
    - ``is_below``: the candidate's highest rate is proven below the share of the champion's that the
      settings ask for; None when that was not measured.
    - ``is_censored``: the load generator gave up before a service did; rates are at least what is said.
    """

    versions: dict[str, str]
    settings: LoadSettings
    config_digest: str
    machine: dict[str, str]
    created_at: str
    loads: tuple[LoadFigures, ...]
    is_below: bool | None
    is_censored: bool
    problem: str
    sweeps: tuple[SweepResult, ...]
    windows: tuple[WindowResult, ...]


def build_report(
    versions: Mapping[str, str], measured: Measured, loads: Sequence[Load], settings: LoadSettings
) -> LoadReport:
    """Judge a measurement and put it into words; no figures are made of an INVALID one."""
    problem, figures = measured.problem, tuple[LoadFigures, ...]()
    is_censored = any(sweep.is_censored for sweep in measured.sweeps)
    if not problem and is_censored and "champion" in versions:
        problem = "the load generator gave up before both services did: their rates cannot be compared"
    if not problem:
        figures = tuple(_figure_out(load, measured, versions, settings) for load in loads)
        if not loads:
            figures = (_figure_out_sweep(measured.sweeps, versions, settings),)
    ratio = figures[0].figures[0].ratio if figures and not loads else None
    return LoadReport(
        versions=dict(versions),
        settings=settings,
        config_digest=digest_value(settings),
        machine=describe_machine(),
        created_at=utc_now(),
        loads=figures,
        is_below=None if ratio is None else ratio.high < settings.compare.min_rate_share,
        is_censored=is_censored,
        problem=problem,
        sweeps=measured.sweeps,
        windows=measured.windows,
    )


def _figure_out(
    load: Load, measured: Measured, versions: Iterable[str], settings: LoadSettings
) -> LoadFigures:
    windows = [w for w in measured.windows if w.number in measured.counted]
    of_load = [w for w in windows if (w.rate_rps, w.users) == (load.rate_rps, load.users)]
    by_arm = {arm: [w for w in of_load if w.arm == arm] for arm in versions}
    wanted = [("p50", "ms", "p50_ms"), ("p95", "ms", "p95_ms"), ("p99", "ms", "p99_ms")]
    if load.rate_rps is None:
        wanted.append(("rate", "1/s", "requests_per_s"))
    figures = tuple(
        compare_rounds(
            name,
            unit,
            {arm: [getattr(window, field) for window in seen] for arm, seen in by_arm.items()},
            settings.compare,
        )
        for name, unit, field in wanted
    )
    late = {
        arm: sum(w.late_share * w.scheduled for w in seen) / sum(w.scheduled for w in seen)
        for arm, seen in by_arm.items()
    }
    return LoadFigures(name=load.name, figures=figures, late_share=late)


def _figure_out_sweep(
    sweeps: Sequence[SweepResult], versions: Iterable[str], settings: LoadSettings
) -> LoadFigures:
    rounds = {arm: [s.held_rps or 0.0 for s in sweeps if s.arm == arm] for arm in versions}
    figure = compare_rounds(RATE_FIGURE, "1/s", rounds, settings.compare, is_stepped=True)
    return LoadFigures(name="sweep", figures=(figure,))
