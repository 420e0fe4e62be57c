"""The report says what the verdict says."""

from __future__ import annotations

import msgspec

from tests.support.manifests import build_verdict
from tests.support.verdicts import RATIO, judged, make_verdict
from timberline.benchmarks.measure.records import ArmRun, Restart
from timberline.benchmarks.report.data import write_report
from timberline.benchmarks.report.terminal import format_table
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.verdict import Verdict


def test_a_first_verdict_says_so() -> None:
    """Floors alone are a weaker promise than a comparison."""
    assert "no version is in production yet" in format_table(build_verdict("tiny", judged(1)))


def test_the_terminal_table_carries_every_reason() -> None:
    """Who is refused wants to know why without opening a file."""
    assert RATIO.reason in format_table(make_verdict(RATIO))


def test_json_holds_verdict_restarts_and_settings() -> None:
    """The machine-readable report is complete: it can be judged again with other levels."""
    given = make_verdict(RATIO)
    restart = Restart(number=1, pairs=2, arms={"candidate": ArmRun((0.4, 0.5), 1.2, 80_000_000)})
    tree = msgspec.json.decode(write_report(given, [restart], None, load_gate_settings()))
    assert msgspec.convert(tree["verdict"], Verdict) == given
    assert tree["restarts"][0]["p50_ms"] == {"candidate": 0.45}
    assert tree["restarts"][0]["observations"] == "restart-01.csv.gz"
    assert tree["settings"]["latency"]["nu0"] == 10
