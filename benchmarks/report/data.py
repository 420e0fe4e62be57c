"""report.json: everything that was judged, and with what, for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from timberline.benchmarks.settings import GateSettings
from timberline.registry.runtime.documents import encode_document
from timberline.registry.verdict import Verdict

if TYPE_CHECKING:  # they bring scipy and pyarrow along, which a skipped gate need not wait for
    from timberline.benchmarks.analysis.predictions import QualityComparison
    from timberline.benchmarks.measure.records import Restart


def write_report(
    verdict: Verdict,
    restarts: Sequence[Restart],
    comparison: QualityComparison | None,
    settings: GateSettings,
) -> bytes:
    """report.json: the verdict, what every restart and class gave, and the settings, as JSON."""
    tree = {
        "verdict": verdict,
        "settings": settings,
        "restarts": [_restart(restart) for restart in restarts],
        "recalls": [] if comparison is None else comparison.recalls,
    }
    return encode_document(tree)


def _restart(restart: Restart) -> dict[str, object]:
    return {
        "number": restart.number,
        "pairs": restart.pairs,
        "problem": restart.problem,
        "load_generator_cpu_share": restart.cpu_share,
        "observations": f"restart-{restart.number:02}.csv.gz",
        "p50_ms": {arm: run.p50_ms for arm, run in restart.arms.items() if run.latencies_ms},
        "ready_s": {arm: run.ready_s for arm, run in restart.arms.items()},
        # NaN, which is null in JSON, where it cannot be read.
        "cpu_s": {arm: run.cpu_s for arm, run in restart.arms.items()},
        "resident_bytes": {arm: run.resident_bytes for arm, run in restart.arms.items()},
    }
