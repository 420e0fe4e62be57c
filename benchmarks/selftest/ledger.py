"""Gates of a self-test as rows of two CSV files, one row a gate and one row a restart; and judged again.

A gate's rows are on disk before the next gate begins. A process killed while it writes leaves a torn
last line, which the next one drops; restarts without their gate's row are of a gate that never ended. Stored
gates are re-evaluated with the current rules by `rejudge`.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import fcntl
import io
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from timberline.benchmarks.analysis.latency import judge_latencies, judge_resources
from timberline.benchmarks.analysis.verdict import find_gravest
from timberline.benchmarks.errors import BenchmarkError, EvidenceError
from timberline.benchmarks.measure.duet import build_arm
from timberline.benchmarks.measure.records import CONTRASTS, ArmRun, Contrasts, Restart, read_observations
from timberline.benchmarks.settings import GateSettings
from timberline.registry.manifest import GateLimits
from timberline.registry.runtime.documents import decode_json
from timberline.registry.runtime.files import lacks_locks

Row = TypeVar("Row", bound=msgspec.Struct)


class GateRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One gate.

    ``started_at`` names it. ``injected_us`` is processor time added to every request of the candidate,
    ``injected_share`` that as a share of ``base_p50_ms``: the champion's client p50 in this very gate,
    less the waits for a processor that others had, so that a busy machine makes no regression larger; or of
    ``base_service_ms`` or ``base_cpu_ms``, its net time in the service and its processor time a request.
    ``deciding`` names the lines that the outcome comes from, ``marked`` those that passed with a mark;
    ``net_p50`` to ``cpu_per_request`` are means over the restarts.
    """

    started_at: str
    machine_class: str
    gate_version: str
    config_digest: str
    model: str
    arm: str
    number: int
    seed: int
    injected_us: float
    injected_share: float
    outcome: str
    deciding: str
    marked: str
    restarts: int
    seconds: float
    load_average: float
    base_p50_ms: float
    base_service_ms: float
    base_cpu_ms: float
    champion_p50_ms: float
    candidate_p50_ms: float
    net_p50: float
    service_p50: float
    net_p99: float
    net_tail: float
    client_p50: float
    client_p99: float
    cpu_per_request: float


class RestartRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One restart of the gate ``started_at``; NaN where a service's times are not known."""

    started_at: str
    arm: str
    restart: int
    pairs: int
    problem: str
    net_p50: float
    service_p50: float
    net_p99: float
    net_tail: float
    client_p50: float
    client_p99: float
    cpu_per_request: float
    champion_p50_ms: float
    candidate_p50_ms: float
    champion_net_p50_ms: float
    candidate_net_p50_ms: float
    champion_net_p99_ms: float
    candidate_net_p99_ms: float
    champion_client_net_p50_ms: float
    candidate_client_net_p50_ms: float
    champion_client_net_p99_ms: float
    candidate_client_net_p99_ms: float
    champion_cpu_ms: float
    candidate_cpu_ms: float
    champion_lost_share: float
    candidate_lost_share: float
    champion_ready_s: float
    candidate_ready_s: float
    champion_resident_bytes: int
    candidate_resident_bytes: int


def find_restarts(path: Path) -> Path:
    """Where the restarts of the gates in ``path`` are."""
    return path.with_name(f"{path.stem}-restarts.csv")


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a file, without a torn last line; none when there is no file.

    Raises:
        EvidenceError: the file has other columns, or a value that none can have.
    """
    if not path.is_file():
        return []
    whole = path.read_bytes()
    text = whole[: whole.rfind(b"\n") + 1].decode(errors="replace")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        return [msgspec.convert(row, kind, strict=False) for row in reader]
    except (msgspec.ValidationError, csv.Error) as error:
        raise EvidenceError(
            f"line {reader.line_num} is no row of this program: {error}",
            where=str(path),
            hint="Move the file away, or give another one with --csv.",
        ) from error


def append_rows(path: Path, rows: Sequence[msgspec.Struct]) -> None:
    """Put rows behind those that are there, on disk when it returns; drops a torn last line first."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, type(rows[0]).__struct_fields__, lineterminator="\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        whole = file.read()
        file.truncate(whole.rfind(b"\n") + 1)
        if b"\n" not in whole:
            writer.writeheader()
        for row in rows:
            writer.writerow({name: _show(value) for name, value in msgspec.structs.asdict(row).items()})
        file.write(text.getvalue().encode())
        file.flush()
        os.fsync(file.fileno())


def append_in_batches(path: Path, rows: Iterable[msgspec.Struct], size: int) -> None:
    """Append rows as they are made, ``size`` with each write; a process that is killed loses no more."""
    fresh = iter(rows)
    while batch := list(itertools.islice(fresh, size)):
        append_rows(path, batch)


def _show(value: object) -> object:
    """A value on one line; six digits of a measured one are more than it is worth."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return " ".join(value.split()) if isinstance(value, str) else value


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other runs from writing to ``path``; ends with the process, however that ends.

    Raises:
        BenchmarkError: another run has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchmarkError(
                "is being written by another run", where=str(path), hint="Wait for it, or give another --csv."
            ) from None
        except OSError as error:
            if not lacks_locks(error):
                raise
            raise BenchmarkError(
                f"its file system has no file locks ({error.strerror}); two runs would mix their rows",
                where=str(path),
                hint="Give a --csv on a local disk.",
            ) from error
        yield


class _StoredRestart(msgspec.Struct):
    """A restart in report.json; what else is there is of no interest here."""

    number: int
    pairs: int
    problem: str
    observations: str
    ready_s: dict[str, float]
    resident_bytes: dict[str, int]
    cpu_s: dict[str, float | None]


class _Report(msgspec.Struct):
    restarts: list[_StoredRestart]


def read_restarts(folder: Path) -> list[Restart]:
    """The restarts of the gate that left its report and raw observations in ``folder``.

    Raises:
        EvidenceError: the report or the observations of a restart that was believed are missing.
    """
    path = folder / "report.json"
    try:
        stored = decode_json(path.read_bytes(), _Report).restarts
    except (OSError, msgspec.DecodeError) as error:
        raise EvidenceError(f"report cannot be read: {error}", where=str(path)) from error
    return [_read_restart(restart, folder) for restart in stored]


def _read_restart(stored: _StoredRestart, folder: Path) -> Restart:
    if stored.problem:
        return Restart(stored.number, stored.pairs, {}, stored.problem)
    seen = read_observations(folder / stored.observations)
    arms = {
        arm: dataclasses.replace(
            build_arm([o for o in seen if o.arm == arm], stored.ready_s[arm], stored.resident_bytes[arm]),
            cpu_s=_or_nan(stored.cpu_s[arm]),
        )
        for arm in ("candidate", "champion")
    }
    return Restart(stored.number, stored.pairs, arms)


def write_row(restart: Restart, *, started_at: str, arm: str) -> RestartRow:
    """One restart of the gate ``started_at``; NaN and 0 stand for what a failed restart does not have."""
    contrasts = {} if restart.problem else dataclasses.asdict(restart.contrasts)
    return msgspec.convert(
        {
            "started_at": started_at,
            "arm": arm,
            "restart": restart.number,
            "pairs": restart.pairs,
            "problem": restart.problem[:200],
            **{name: _or_nan(contrasts.get(name)) for name in CONTRASTS},
            **_describe(restart.arms, "champion"),
            **_describe(restart.arms, "candidate"),
        },
        RestartRow,
    )


def _describe(arms: Mapping[str, ArmRun], role: str) -> dict[str, float]:
    run = arms.get(role) or _NO_RUN
    net, client = _p50_and_p99(run.net_ms), _p50_and_p99(run.client_net_ms)
    return {
        f"{role}_p50_ms": run.p50_ms if run.latencies_ms else math.nan,
        f"{role}_net_p50_ms": net[0],
        f"{role}_net_p99_ms": net[1],
        f"{role}_client_net_p50_ms": client[0],
        f"{role}_client_net_p99_ms": client[1],
        f"{role}_cpu_ms": run.cpu_ms,
        f"{role}_lost_share": run.lost_share,
        f"{role}_ready_s": run.ready_s,
        f"{role}_resident_bytes": run.resident_bytes,
    }


# Of a restart that failed.
_NO_RUN = ArmRun((), ready_s=math.nan, resident_bytes=0, lost_share=math.nan)


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
    found = {name: None if math.isnan(fields[name]) else fields[name] for name in CONTRASTS}
    contrasts = msgspec.convert(found, Contrasts)
    arms = {role: _rebuild(fields, role) for role in ("champion", "candidate")}
    return Restart(row.restart, row.pairs, arms, recorded=contrasts)


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


def rejudge(
    gates: Sequence[GateRow], restarts: Sequence[RestartRow], limits: GateLimits, settings: GateSettings
) -> list[GateRow]:
    """Re-evaluate stored gates with the current rules.

    Only latency, memory and start-up are judged: gates that something else decided show nothing
    of them. A gate whose restarts ended before the current rule is sure is INCONCLUSIVE,
    even if more of them would have decided it; a rule that looks longer is judged too hard.
    """
    by_gate: dict[str, list[Restart]] = {}
    for row in restarts:
        by_gate.setdefault(row.started_at, []).append(read_row(row))
    judged = [gate for gate in gates if by_gate.get(gate.started_at) and not gate.arm.startswith("worse")]
    return [_rejudge(gate, by_gate[gate.started_at], limits, settings) for gate in judged]


def _rejudge(
    gate: GateRow, restarts: Sequence[Restart], limits: GateLimits, settings: GateSettings
) -> GateRow:
    outcome, deciding, used = judge_restarts(restarts, limits, settings)
    return msgspec.structs.replace(
        gate,
        outcome=outcome,
        deciding=deciding,
        restarts=used,
        seconds=gate.seconds * used / len(restarts),
    )


def judge_restarts(
    restarts: Sequence[Restart], limits: GateLimits, settings: GateSettings
) -> tuple[str, str, int]:
    """Outcome, deciding lines and restarts used, looking when the rule looks."""
    outcome, deciding, used = "INCONCLUSIVE", "restarts", len(restarts)
    for look in settings.duet.looks:
        seen = restarts[:look]
        if any(restart.problem for restart in seen):
            return "INVALID", "answers", len(seen)
        if len(seen) < look:
            break
        lines = (*judge_latencies(seen, limits, settings), *judge_resources(seen, limits, settings))
        (outcome, deciding), used = find_gravest(lines), look
        if outcome != "INCONCLUSIVE":
            break
    return outcome, deciding, used
