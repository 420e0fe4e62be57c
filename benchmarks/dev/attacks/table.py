"""The table of attacks: waits of honest clients, memory, bounds kept or not.

Pure but for the files that it reads and writes: numbers in, rows out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from timberline.benchmarks.dev.attacks.attackers import AttackOutcome
from timberline.benchmarks.dev.clients import HonestOutcome
from timberline.benchmarks.dev.service.report import (
    Target,
    TargetResult,
    check_targets,
    decode_targets,
    summarise,
)
from timberline.benchmarks.load.report import lay_out

DEFAULT_BOUNDS = Path(__file__).with_name("bounds.toml")
_MIB = 1024 * 1024
_HEADS = (
    *("attack", "sent MB", "answers", "cut", "s", "CPU s", "waited s"),
    *("p50 ms", "p99 ms", "worst ms", "not 200", "peak MiB", "after MiB", "bound"),
)
# What a figure is called in a cell, where its own name is too long.
_SHORT = {
    "p99_ms": "p99",
    "worst_ms": "worst",
    "failed": "not 200",
    "peak_bodies": "peak",
    "kept_bodies": "kept",
}
# Statuses that a cell has room for, the most frequent first.
_MOST_STATUSES = 3


class Honest(msgspec.Struct, frozen=True, kw_only=True):
    """What honest clients noticed of one attack.

    - ``p50_ms``, ``p99_ms``: of both clients, while the attack went on. A client that waits asks
      less, so that a long wait would hide in a percentile of requests: as many are added as would
      have been asked in the meantime (`correct`).
    - ``worst_ms``: until the service had recovered.
    - ``failed``: requests with another outcome than 200.
    """

    requests: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    failed: int
    outcomes: dict[str, int]


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of all the service's processes: resident before and after, and the most in between."""

    before_bytes: int
    peak_bytes: int
    after_bytes: int


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One attack on a fresh service.

    ``server_cpu_s`` counts the honest clients' requests as well; ``server_wait_s`` is the time in which
    the service's processes could have worked, but other programs or one another had the core.
    """

    attack: str
    bounds: str
    done: AttackOutcome
    seconds: float
    server_cpu_s: float
    server_wait_s: float
    honest: Honest
    memory: Memory
    judged: tuple[TargetResult, ...]

    @property
    def is_over(self) -> bool:
        """Whether a bound was not kept."""
        return any(each.is_met is False for each in self.judged)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole table, and what it was measured with."""

    model: str
    version: int
    max_body_bytes: int
    pause_s: float
    machine: dict[str, float | str]
    rows: tuple[Row, ...]
    left_out: dict[str, str]


Bounds = Mapping[str, Mapping[str, Target]]


def load_bounds(path: Path = DEFAULT_BOUNDS) -> Bounds:
    """Targets by kind of attack and figure.

    Raises:
        ConfigError: the file is not one of bounds.
    """
    return decode_targets(path, dict[str, dict[str, Target]])


def correct(waits_s: npt.NDArray[np.float64], interval_s: float) -> npt.NDArray[np.float64]:
    """``waits_s`` and those of the requests that were not asked because their client was waiting.

    A wait of w stands for w − i, w − 2i, … as well, i being the usual interval: HdrHistogram's
    correction for coordinated omission (``recordValueWithExpectedInterval``).
    """
    missed = [np.arange(wait - interval_s, interval_s, -interval_s) for wait in waits_s if wait > interval_s]
    return np.concatenate([waits_s, *missed])


def describe_honest(waits: HonestOutcome, done: AttackOutcome, pause_s: float) -> Honest:
    """What both clients saw from the attack's begin on; a request that was asked before it counts too."""
    during: list[npt.NDArray[np.float64]] = []
    worst_s = 0.0
    outcomes: Counter[str] = Counter()
    for visits in (waits.kept, waits.anew):
        asked_at, waited = np.array(visits.asked_at_s), np.array(visits.waits_s)
        is_late = asked_at + waited >= done.began_at_s
        outcomes.update(o for o, is_one in zip(visits.outcomes, is_late, strict=True) if is_one)
        worst_s = max(worst_s, float(waited[is_late].max(initial=0.0)))
        during.append(waited[is_late & (asked_at <= done.ended_at_s)])
    corrected = correct(np.concatenate(during), pause_s)
    p50, p99 = (np.quantile(corrected, [0.5, 0.99]) * 1e3).tolist() if len(corrected) else (0.0, 0.0)
    return Honest(
        requests=outcomes.total(),
        p50_ms=p50,
        p99_ms=p99,
        worst_ms=worst_s * 1e3,
        failed=outcomes.total() - outcomes["200"],
        outcomes=dict(outcomes),
    )


def check_bounds(
    bounds: Mapping[str, Target], done: AttackOutcome, honest: Honest, memory: Memory, max_body_bytes: int
) -> tuple[TargetResult, ...]:
    """The figures of one row against the bounds of its kind."""
    answers = sum(done.statuses.values())
    refused = sum(count for status, count in done.statuses.items() if status.startswith("4"))
    figures: dict[str, float] = {
        "p99_ms": honest.p99_ms,
        "worst_ms": honest.worst_ms,
        "failed": honest.failed,
        "extra_answers": max(0, answers - done.requests),
        "not_refused": max(0, done.requests - refused - done.cut),
        "unanswered": done.requests - done.statuses.get("200", 0),
        "peak_bodies": (memory.peak_bytes - memory.before_bytes) / max_body_bytes,
        "kept_bodies": (memory.after_bytes - memory.before_bytes) / max_body_bytes,
    }
    return check_targets(bounds, {name: summarise([value]) for name, value in figures.items()})


def format_attacks(report: Report) -> str:
    """The table for a terminal."""
    machine = report.machine
    lines = [
        f"{report.model}@{report.version}, bodies of at most {report.max_body_bytes / _MIB:g} MiB; "
        f"server on core {machine['server_core']}, clients on core {machine['client_core']}, "
        f"load average {machine['load_average_before']:.1f}",
        "",
        *_lay_out(report.rows),
        "",
        *_list_bounds(report.rows),
    ]
    lines += [f"not measured: {name}: {why}" for name, why in report.left_out.items()]
    return "\n".join(lines)


def _lay_out(rows: Sequence[Row]) -> list[str]:
    """The table; what is over its bound stands behind it, as it may be long."""
    lines = lay_out([_HEADS, *(_cells(row) for row in rows)])
    verdicts = [_describe_verdict(row) for row in rows]
    return [
        lines[0],
        *(f"{line}  {verdict}".rstrip() for line, verdict in zip(lines[1:], verdicts, strict=True)),
    ]


def _describe_verdict(row: Row) -> str:
    over = [f"{_shorten(each.name)} {each.value:,.4g}" for each in row.judged if each.is_met is False]
    return f"OVER: {', '.join(over)}" if over else ("ok" if row.judged else "")


def _cells(row: Row) -> tuple[str, ...]:
    honest, memory = row.honest, row.memory
    first = next(iter(row.judged), None)
    return (
        row.attack,
        f"{row.done.sent_bytes / 1e6:,.1f}",
        _describe_statuses(row.done.statuses),
        f"{row.done.cut:,}",
        f"{row.seconds:.1f}",
        f"{row.server_cpu_s:.2f}",
        f"{row.server_wait_s:.2f}",
        f"{honest.p50_ms:.2f}",
        f"{honest.p99_ms:,.1f}",
        f"{honest.worst_ms:,.1f}",
        f"{honest.failed:,}",
        f"{memory.peak_bytes / _MIB:,.0f}",
        f"{memory.after_bytes / _MIB:,.0f}",
        f"{_shorten(first.name)} {first.bound}" if first else "–",
    )


def _shorten(figure: str) -> str:
    return _SHORT.get(figure, figure.replace("_", " "))


def _describe_statuses(statuses: Mapping[str, int]) -> str:
    common = Counter(statuses).most_common(_MOST_STATUSES)
    return ", ".join(f"{status} × {count:,}" for status, count in common) or "none"


def _list_bounds(rows: Sequence[Row]) -> list[str]:
    """Every bound that a row was held against, once."""
    listed = {(row.bounds, each.text): each.bound for row in rows for each in row.judged}
    return [f"{bounds}: {text} {bound}" for (bounds, text), bound in listed.items()]
