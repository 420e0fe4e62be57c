"""The documents of a gate, and of these report.json, which programs read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timberline.benchmarks.report.junit import write_junit
from timberline.benchmarks.report.markdown import write_markdown
from timberline.benchmarks.report.page import write_page
from timberline.benchmarks.report.record import PAGE_FILE, GateRecord
from timberline.registry.runtime.documents import encode_document

if TYPE_CHECKING:  # imports scipy, and a skipped gate should not wait for it
    from timberline.benchmarks.measure.records import Restart


def write_documents(record: GateRecord) -> dict[str, bytes]:
    """The documents by file name; equal records give equal bytes."""
    return {
        PAGE_FILE: write_page(record),
        "report.md": write_markdown(record.verdict),
        "junit.xml": write_junit(record.verdict),
        "report.json": write_json(record),
    }


def write_json(record: GateRecord) -> bytes:
    """report.json: the verdict, the settings, and the figures of every restart and class."""
    tree = {
        "verdict": record.verdict,
        "settings": record.settings,
        "restarts": [_restart(restart) for restart in record.restarts],
        "recalls": [] if record.comparison is None else record.comparison.recalls,
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
        # NaN where it cannot be read; JSON has null for it.
        "cpu_s": {arm: run.cpu_s for arm, run in restart.arms.items()},
        "resident_bytes": {arm: run.resident_bytes for arm, run in restart.arms.items()},
    }
