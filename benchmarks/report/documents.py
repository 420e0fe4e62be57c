"""One gate → all its documents."""

from __future__ import annotations

from timberline.benchmarks.report.data import write_report
from timberline.benchmarks.report.junit import write_junit
from timberline.benchmarks.report.markdown import write_markdown
from timberline.benchmarks.report.page import write_page
from timberline.benchmarks.report.record import PAGE_FILE, Record


def write_documents(record: Record) -> dict[str, bytes]:
    """The documents by file name; equal records give equal bytes."""
    return {
        PAGE_FILE: write_page(record),
        "report.md": write_markdown(record.verdict),
        "junit.xml": write_junit(record.verdict),
        "report.json": write_report(record.verdict, record.restarts, record.comparison, record.settings),
    }
