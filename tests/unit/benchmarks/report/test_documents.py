"""The report says what the verdict says."""

from __future__ import annotations

import msgspec

from benchmarks.config import load_gate_settings
from benchmarks.judge.measure import ArmRun, Restart
from benchmarks.report.data import write_report
from benchmarks.report.markdown import write_markdown
from benchmarks.report.terminal import format_table
from registry.ground.files import digest_bytes
from registry.verdict import Judged, Verdict, VerdictLine
from tests.support.manifests import build_verdict

DIGEST = digest_bytes(b"anything")


def judged(version: int) -> Judged:
    """A version with made-up digests."""
    return Judged(version=version, manifest_sha256=DIGEST, model_sha256=DIGEST)


def verdict(*lines: VerdictLine) -> Verdict:
    """A verdict against a champion, with these lines and the first one's outcome."""
    given = build_verdict("tiny", judged(2), judged(1))
    return msgspec.structs.replace(given, lines=lines, outcome=lines[0].outcome)


RATIO = VerdictLine(
    name="p50",
    candidate=0.42,
    champion=0.4,
    difference=1.05,
    low=0.98,
    high=1.12,
    limit=1.1,
    unit="ms, ratio",
    outcome="INCONCLUSIVE",
    reason="10% slower is not excluded | 4 restarts",
)


def test_every_line_is_one_row_of_the_table() -> None:
    """A pipe or a line break in a reason must not break the table of a pull-request comment."""
    text = write_markdown(verdict(RATIO, RATIO)).decode()
    rows = [row for row in text.splitlines() if row.startswith("| INCONCLUSIVE")]
    assert (
        rows
        == [
            "| INCONCLUSIVE | p50 | 0.4 ms | 0.42 ms | × 1.050 | × 0.980 to × 1.120 | × 1.100 | "
            "10% slower is not excluded \\| 4 restarts |"
        ]
        * 2
    )


def test_the_title_names_versions_and_outcome() -> None:
    """The first line is often the only one that is read."""
    assert (
        write_markdown(verdict(RATIO)).decode().startswith("# Gate: tiny@2 against version 1: INCONCLUSIVE")
    )


def test_a_first_verdict_says_so() -> None:
    """Floors alone are a weaker promise than a comparison."""
    first = build_verdict("tiny", judged(1))
    assert "first version, judged by the floors alone" in write_markdown(first).decode()
    assert "no version is in production yet" in format_table(first)


def test_the_terminal_table_carries_every_reason() -> None:
    """Who is refused wants to know why without opening a file."""
    assert RATIO.reason in format_table(verdict(RATIO))


def test_json_holds_verdict_restarts_and_settings() -> None:
    """The machine-readable report is complete: it can be judged again with other levels."""
    given = verdict(RATIO)
    restart = Restart(number=1, pairs=2, arms={"candidate": ArmRun((0.4, 0.5), 1.2, 80_000_000)})
    tree = msgspec.json.decode(write_report(given, [restart], None, load_gate_settings()))
    assert msgspec.convert(tree["verdict"], Verdict) == given
    assert tree["restarts"][0]["p50_ms"] == {"candidate": 0.45}
    assert tree["restarts"][0]["observations"] == "restart-01.csv.gz"
    assert tree["settings"]["latency"]["nu0"] == 10
