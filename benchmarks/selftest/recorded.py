"""Restarts of a gate: from its folder to rows of a CSV file, and back to what a rule can judge again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from timberline.benchmarks.analysis.statistics import ArmRun, Contrasts, Restart
from timberline.benchmarks.errors import EvidenceError
from timberline.benchmarks.measure.duet import build_arm
from timberline.benchmarks.measure.records import read_observations
from timberline.benchmarks.selftest.ledger import RestartRow
from timberline.registry.runtime.documents import decode_json


class _Told(msgspec.Struct):
    """A restart in report.json; what else is there is of no interest here."""

    number: int
    pairs: int
    problem: str
    observations: str
    ready_s: dict[str, float]
    resident_bytes: dict[str, int]
    cpu_s: dict[str, float | None]


class _Report(msgspec.Struct):
    restarts: list[_Told]


def read_restarts(folder: Path) -> list[Restart]:
    """The restarts of the gate that left its report and raw observations in ``folder``.

    Raises:
        EvidenceError: the report or the observations of a restart that was believed are missing.
    """
    path = folder / "report.json"
    try:
        told = decode_json(path.read_bytes(), _Report).restarts
    except (OSError, msgspec.DecodeError) as error:
        raise EvidenceError(f"report cannot be read: {error}", where=str(path)) from error
    return [_read_restart(restart, folder) for restart in told]


def _read_restart(told: _Told, folder: Path) -> Restart:
    if told.problem:
        return Restart(told.number, told.pairs, {}, told.problem)
    seen = read_observations(folder / told.observations)
    arms = {
        arm: dataclasses.replace(
            build_arm([o for o in seen if o.arm == arm], told.ready_s[arm], told.resident_bytes[arm]),
            cpu_s=_or_nan(told.cpu_s[arm]),
        )
        for arm in ("candidate", "champion")
    }
    return Restart(told.number, told.pairs, arms)


def write_row(restart: Restart, *, started_at: str, arm: str) -> RestartRow:
    """One restart of the gate ``started_at``; NaN and 0 stand for what a failed restart does not have."""
    contrasts = None if restart.problem else restart.contrasts
    return msgspec.convert(
        {
            "started_at": started_at,
            "arm": arm,
            "restart": restart.number,
            "pairs": restart.pairs,
            "problem": restart.problem[:200],
            "net_p50": _or_nan(contrasts.net_p50 if contrasts else None),
            "net_p99": _or_nan(contrasts.net_p99 if contrasts else None),
            "net_tail": _or_nan(contrasts.net_tail if contrasts else None),
            "client_p50": _or_nan(contrasts.client_p50 if contrasts else None),
            "client_p99": _or_nan(contrasts.client_p99 if contrasts else None),
            "service_p50": _or_nan(contrasts.service_p50 if contrasts else None),
            "cpu_per_request": _or_nan(contrasts.cpu_per_request if contrasts else None),
            **_describe(restart.arms, "champion"),
            **_describe(restart.arms, "candidate"),
        },
        RestartRow,
    )


def _describe(arms: Mapping[str, ArmRun], role: str) -> dict[str, float]:
    run = arms.get(role)
    net = _p50_and_p99(run.net_ms if run else ())
    client = _p50_and_p99(run.client_net_ms if run else ())
    return {
        f"{role}_p50_ms": run.p50_ms if run else math.nan,
        f"{role}_net_p50_ms": net[0],
        f"{role}_net_p99_ms": net[1],
        f"{role}_client_net_p50_ms": client[0],
        f"{role}_client_net_p99_ms": client[1],
        f"{role}_cpu_ms": run.cpu_ms if run else math.nan,
        f"{role}_lost_share": run.lost_share if run else math.nan,
        f"{role}_ready_s": run.ready_s if run else math.nan,
        f"{role}_resident_bytes": run.resident_bytes if run else 0,
    }


def _p50_and_p99(times_ms: Sequence[float]) -> tuple[float, float]:
    if not times_ms:
        return math.nan, math.nan
    p50, p99 = np.quantile(times_ms, [0.50, 0.99])
    return float(p50), float(p99)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def read_row(row: RestartRow) -> Restart:
    """A restart with the contrasts and percentiles of the recorded one, for a rule that asks for no other."""
    if row.problem:
        return Restart(row.restart, row.pairs, {}, row.problem)
    fields = msgspec.structs.asdict(row)
    contrasts = Contrasts(
        net_p50=_or_none(row.net_p50),
        net_p99=_or_none(row.net_p99),
        client_p50=row.client_p50,
        client_p99=_or_none(row.client_p99),
        net_tail=_or_none(row.net_tail),
        service_p50=_or_none(row.service_p50),
        cpu_per_request=_or_none(row.cpu_per_request),
    )
    arms = {role: _rebuild(fields, role) for role in ("champion", "candidate")}
    return Restart(row.restart, row.pairs, arms, recorded=contrasts)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _rebuild(row: Mapping[str, float], role: str) -> ArmRun:
    return ArmRun(
        latencies_ms=(row[f"{role}_p50_ms"],),
        ready_s=row[f"{role}_ready_s"],
        resident_bytes=int(row[f"{role}_resident_bytes"]),
        net_ms=_times_with(row[f"{role}_net_p50_ms"]),
        client_net_ms=_times_with(row[f"{role}_client_net_p50_ms"]),
        lost_share=row[f"{role}_lost_share"],
        cpu_s=row[f"{role}_cpu_ms"] / 1e3,  # of the one request that stands for all
    )


def _times_with(p50: float) -> tuple[float, ...]:
    return () if math.isnan(p50) else (p50,)
