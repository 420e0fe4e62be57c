"""report.json holds what the verdict was made from."""

from __future__ import annotations

import msgspec

from tests.support.verdicts import RATIO, make_verdict
from timberline.benchmarks.measure.records import ArmRun, Restart
from timberline.benchmarks.report.documents import write_json
from timberline.benchmarks.report.record import GateRecord
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.verdict import Verdict


def test_json_holds_verdict_restarts_and_settings() -> None:
    """The machine-readable report is complete: it can be judged again with other levels."""
    given = make_verdict(RATIO)
    restart = Restart(number=1, pairs=2, arms={"candidate": ArmRun((0.4, 0.5), 1.2, 80_000_000)})
    tree = msgspec.json.decode(write_json(GateRecord(given, (restart,), None, load_gate_settings())))
    assert msgspec.convert(tree["verdict"], Verdict) == given
    assert tree["restarts"][0]["p50_ms"] == {"candidate": 0.45}
    assert tree["restarts"][0]["observations"] == "restart-01.csv.gz"
    assert tree["settings"]["latency"]["nu0"] == 10
