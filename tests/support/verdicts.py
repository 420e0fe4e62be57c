"""Verdicts with chosen lines for tests of the documents that are made of them."""

from __future__ import annotations

import msgspec

from tests.support.manifests import build_verdict
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.verdict import Outcome, Verdict, VerdictLine, VersionDigests

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


def judged(version: int) -> VersionDigests:
    """A version with made-up digests."""
    digest = digest_bytes(b"anything")
    return VersionDigests(version=version, manifest_sha256=digest, model_sha256=digest)


def make_verdict(*lines: VerdictLine, outcome: Outcome | None = None) -> Verdict:
    """A verdict against a champion, with these lines; the outcome is the first line's if none is given."""
    given = build_verdict("tiny", judged(2), judged(1))
    said = outcome or ("PASS" if lines[0].outcome == "INFO" else lines[0].outcome)
    return msgspec.structs.replace(given, lines=lines, outcome=said)


def find_line(verdict: Verdict, name: str) -> VerdictLine:
    """The one line of that name."""
    (line,) = [line for line in verdict.lines if line.name == name]
    return line
