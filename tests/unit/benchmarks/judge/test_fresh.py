"""Versions of different tables: which rows are asked, what is answered, and what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.config import load_gate_settings
from benchmarks.judge.evidence import StaticEvidence, judge_static
from registry.store import Store, open_store
from registry.verdict import VerdictLine
from tests.support.fresh import draw_table, lay_out, publish_on

SETTINGS = load_gate_settings().accuracy


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty registry."""
    return open_store(tmp_path / "registry")


def judge(store: Store, data: Path, champion: int, candidate: int) -> StaticEvidence:
    """Judge two published versions; answers are kept in ``data``."""
    numbers = {"champion": champion, "candidate": candidate}
    versions = {arm: store.read_manifest("tiny", version) for arm, version in numbers.items()}
    data.mkdir(exist_ok=True)
    return judge_static(store, versions, SETTINGS, data=data, folder=data)


def find(evidence: StaticEvidence, name: str) -> VerdictLine:
    """The line of that name."""
    (line,) = [line for line in evidence.lines if line.name == name]
    return line


def test_a_table_that_grew_is_judged_on_rows_that_the_champion_never_saw(
    store: Store, tmp_path: Path
) -> None:
    """The release of every week: half of the champion's rows test the candidate, and it learned from none."""
    old, new = draw_table(1200), draw_table(2000)
    champion = publish_on(store, old, alias="production")
    candidate = publish_on(store, new)
    lay_out(new, tmp_path / "data")
    evidence = judge(store, tmp_path / "data", champion, candidate)
    assert {line.outcome for line in evidence.lines} <= {"PASS", "INFO"}
