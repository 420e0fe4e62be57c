"""Records of gates like those that the gate itself makes, without running or judging anything.

Intervals and outcomes are rough ones; what is tested with these is how they are shown.

record = build_record(slower=0.1)          # a candidate that takes 10 % of the client's p50 longer
record = build_record(restarts=4, is_first=True)
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from tests.support.evaluations import encode_evaluation
from timberline.benchmarks.analysis.predictions import (
    Predictions,
    QualityComparison,
    compare_predictions,
    read_predictions,
)
from timberline.benchmarks.history.releases import Release
from timberline.benchmarks.measure.records import ArmRun, Restart
from timberline.benchmarks.report.record import GateRecord
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.manifest import Interval
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.verdict import VERDICT_SCHEMA_VERSION, Outcome, Verdict, VerdictLine, VersionDigests

CLASSES = ("Spruce/Fir", "Lodgepole Pine", "Ponderosa Pine", "Willow", "Aspen", "Douglas-fir", "Krummholz")
_RANKS: tuple[Outcome, ...] = ("BLOCK", "INVALID", "INCONCLUSIVE", "PASS")
# As long as the longest that the gate writes: units and reasons have to fit a phone, too.
_LONG_LINE = VerdictLine(
    name="resources_of_the_whole_process",
    candidate=0.7456,
    champion=0.7388,
    difference=1.007,
    low=0.924,
    high=1.097,
    unit="ms outside the service, ratio",
    outcome="INFO",
    reason="worst errors are within their bounds; " * 6,
    evidence="evaluation.parquet",
)


def build_record(
    *,
    restarts: int = 8,
    pairs: int = 600,
    slower: float = 0.0,
    stalled: float = 0.0,
    worse: float = 0.0,
    problem: str = "",
    is_first: bool = False,
    releases: int = 0,
    seed: int = 0,
) -> GateRecord:
    """One gate of ``forest_cover``.

    Args:
        restarts: how many; the latencies are judged only at a look.
        pairs: requests of each arm in a restart.
        slower: what the candidate's every request takes longer, as a share of the client's p50.
        stalled: share of the candidate's requests that take 5 ms longer.
        worse: share of rows that the candidate alone gets wrong.
        problem: of the last restart.
        is_first: there is no champion.
        releases: length of the history, which ends with version 13, the candidate; at most 13.
        seed: of all randomness.
    """
    settings, chance = load_gate_settings(), np.random.default_rng(seed)
    arms = ("candidate",) if is_first else ("candidate", "champion")
    measured = [
        _draw_restart(chance, number, pairs, arms, slower=slower, stalled=stalled)
        for number in range(1, restarts + 1)
    ]
    if problem:
        measured[-1] = dataclasses.replace(measured[-1], problem=problem)
    comparison = None if is_first else _draw_comparison(chance, worse)
    lines = [] if comparison is None else [_accuracy_line(comparison)]
    lines += [_answers_line(measured, problem), _LONG_LINE]
    if measured and not problem:
        lines += [_ceiling_line(measured)] + ([] if is_first else _latency_lines(measured))
    outcome = next(outcome for outcome in _RANKS if outcome in {line.outcome for line in lines})
    return GateRecord(
        build_page_verdict(lines, outcome, is_first=is_first),
        tuple(measured),
        comparison,
        settings,
        _draw_history(chance, releases),
    )


def build_page_verdict(
    lines: Sequence[VerdictLine], outcome: Outcome, *, is_first: bool = False, model: str = "forest_cover"
) -> Verdict:
    """A verdict with these lines and made-up digests."""
    return Verdict(
        schema_version=VERDICT_SCHEMA_VERSION,
        outcome=outcome,
        model=model,
        candidate=_judged(13),
        champion=None if is_first else _judged(12),
        is_first=is_first,
        lines=tuple(lines),
        gate_version="2",
        config_digest=digest_bytes(b"rules"),
        machine={"cpu_count": "2", "system": "Linux"},
        created_at="2026-11-22T10:00:00+00:00",
        report="report.html",
    )


def _accuracy_line(comparison: QualityComparison) -> VerdictLine:
    pairs = comparison.pairs
    error = 2 * math.sqrt(pairs.rate / pairs.rows)
    return VerdictLine(
        name="accuracy",
        candidate=comparison.candidate.accuracy,
        champion=comparison.champion.accuracy,
        difference=-pairs.drop,
        low=-pairs.drop - error,
        high=-pairs.drop + error,
        limit=-0.005,
        unit="share of rows",
        outcome=_decide(pairs.drop - error, pairs.drop + error, 0.005),
        reason=f"{pairs.lost:,} rows lost, {pairs.gained:,} gained of {pairs.rows:,}",
    )


def _answers_line(restarts: Sequence[Restart], problem: str) -> VerdictLine:
    bad = problem or ("" if restarts else "nothing was measured")
    return VerdictLine(
        name="answers",
        candidate=float(sum(restart.pairs for restart in restarts)),
        unit="pairs",
        outcome="INVALID" if bad else "PASS",
        reason=bad or "all answers right",
    )


def _ceiling_line(restarts: Sequence[Restart]) -> VerdictLine:
    values = [restart.arms["candidate"].p50_ms for restart in restarts]
    return VerdictLine(
        name="p50_ceiling",
        candidate=float(np.mean(values)),
        low=min(values),
        high=max(values),
        limit=50.0,
        unit="ms",
        outcome="PASS",
        reason=f"{len(values)} restarts",
        evidence="restart-*.csv.gz",
    )


def _latency_lines(restarts: Sequence[Restart]) -> list[VerdictLine]:
    contrasts = [restart.contrasts for restart in restarts]
    measured = {
        ("net_p50", "ms, share of client p50", 0.01, 0.05): [c.net_p50 or 0.0 for c in contrasts],
        ("service_p50", "ms, ratio", 0.03, 0.15): [math.expm1(c.service_p50 or 0.0) for c in contrasts],
        ("net_p99", "ms, ratio", 0.02, 0.2): [math.expm1(c.net_p99 or 0.0) for c in contrasts],
        ("net_tail", "ms, ratio", 0.02, 0.2): [math.expm1(c.net_tail or 0.0) for c in contrasts],
        ("p50", "ms, ratio", 0.05, 0.1): [math.expm1(c.client_p50) for c in contrasts],
        ("client_p99", "ms, ratio", 0.02, 0.2): [math.expm1(c.client_p99 or 0.0) for c in contrasts],
        ("cpu_per_request", "ms, ratio", 0.03, 0.15): [
            math.expm1(c.cpu_per_request or 0.0) for c in contrasts
        ],
    }
    return [
        _latency_line(name, unit, changes, margin, limit)
        for (name, unit, margin, limit), changes in measured.items()
    ]


def _latency_line(name: str, unit: str, changes: Sequence[float], margin: float, limit: float) -> VerdictLine:
    mean, error = float(np.mean(changes)), 2.5 * float(np.std(changes)) / math.sqrt(len(changes)) + 0.002
    zero = 1.0 if unit.endswith("ratio") else 0.0
    outcome = _decide(mean - error, mean + error, limit)
    return VerdictLine(
        name=name,
        candidate=0.1 * (1 + mean),
        champion=0.1,
        difference=zero + mean,
        low=zero + mean - error,
        high=zero + mean + error,
        limit=zero + limit,
        unit=unit,
        outcome=outcome,
        mark="WARN" if outcome == "PASS" and mean - error > margin else msgspec.UNSET,
        reason=f"{len(changes)} restarts, moderated SD {np.std(changes):.4f}",
        evidence="restart-*.csv.gz",
    )


def _decide(low: float, high: float, limit: float) -> Outcome:
    return "BLOCK" if low > limit else "PASS" if high < limit else "INCONCLUSIVE"


def _judged(version: int) -> VersionDigests:
    parts = (digest_bytes(f"{part} {version}".encode()) for part in ("manifest", "model"))
    return VersionDigests(version=version, manifest_sha256=next(parts), model_sha256=next(parts))


def _draw_restart(
    chance: np.random.Generator,
    number: int,
    pairs: int,
    arms: Sequence[str],
    *,
    slower: float,
    stalled: float,
) -> Restart:
    """Both arms in one noisy moment: the net time spreads little, the client's time much."""
    noise = chance.lognormal(0, 0.25)
    runs = {}
    for arm in arms:
        net = 0.09 * chance.lognormal(0, 0.12, pairs) * chance.lognormal(0, 0.01)
        net += 0.1 * chance.lognormal(0, 1, pairs) * (chance.random(pairs) < 0.04)
        client = (net + 0.3 * chance.lognormal(0, 0.3, pairs) * chance.lognormal(0, 0.02)) * noise
        waits = chance.random(pairs) < 0.05
        client[waits] += chance.lognormal(0.5, 1, int(waits.sum()))
        if arm == "candidate":
            more = slower * 0.42 + 5.0 * (chance.random(pairs) < stalled)
            net, client = net + more, client + more
        runs[arm] = ArmRun(
            latencies_ms=tuple(client.tolist()),
            ready_s=float(1.5 + chance.random() / 4),
            resident_bytes=82_000_000 + int(chance.integers(0, 400_000)),
            net_ms=tuple(net.tolist()),
            client_net_ms=tuple((net + (client - net) / noise).tolist()),
            cpu_s=float(net.sum() * chance.lognormal(0.7, 0.01)) / 1e3,
        )
    return Restart(number, pairs, runs, cpu_share=0.5)


def _draw_comparison(chance: np.random.Generator, worse: float, rows: int = 20_000) -> QualityComparison:
    truth = chance.choice(len(CLASSES), rows, p=[0.36, 0.49, 0.06, 0.01, 0.015, 0.03, 0.035])
    near = (truth + chance.choice([1, -1], rows)) % len(CLASSES)
    champion = np.where(chance.random(rows) < 0.1, near, truth)
    # As many rows are gained as lost, apart from those that are worse.
    moves = np.where(champion == truth, 0.005 + worse, 0.045)
    candidate = np.where(chance.random(rows) < moves, np.where(champion == truth, near, truth), champion)
    with tempfile.TemporaryDirectory() as folder:
        before, after = (_read(Path(folder), truth, label) for label in (champion, candidate))
    return compare_predictions(before, after, CLASSES)


def _read(folder: Path, truth: npt.NDArray[np.int64], label: npt.NDArray[np.int64]) -> Predictions:
    path = folder / "evaluation.parquet"
    path.write_bytes(encode_evaluation(truth, label, classes=len(CLASSES)))
    return read_predictions(path, len(CLASSES))


def _draw_history(chance: np.random.Generator, count: int) -> tuple[Release, ...]:
    """What the registry holds before this gate: the last version has no verdict yet."""
    outcomes: tuple[Outcome, ...] = ("PASS", "PASS", "PASS", "BLOCK", "PASS", "INCONCLUSIVE")
    champion, releases = None, []
    for version in range(14 - count, 14):
        accuracy = 0.9 + 0.0004 * version + float(chance.normal(0, 0.001))
        outcome = outcomes[version % len(outcomes)] if version < 13 else None
        slower = 0.15 if version == 8 else 0.0
        ratio = _latency_line("p50", "ms, ratio", chance.normal(slower, 0.01, 8).tolist(), 0.05, 0.1)
        is_live = outcome == "PASS"
        releases.append(
            Release(
                version=version,
                created_at=f"2026-10-{version:02}T10:00:00+00:00",
                accuracy=Interval(value=accuracy, low=accuracy - 0.003, high=accuracy + 0.003),
                outcome=outcome,
                champion=champion,
                judged_at=f"2026-10-{version:02}T10:30:00+00:00" if outcome else None,
                lines=(ratio,) if champion and outcome else (),
                promoted_at=f"2026-10-{version:02}T11:00:00+00:00" if is_live else None,
            )
        )
        champion = version if is_live else champion
    return tuple(releases)
