"""What the registry remembers of every version."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.manifests import publish_tiny
from tests.support.releases import publish_release
from timberline.benchmarks.history.releases import judge_release, read_releases
from timberline.registry.promotion import promote, rollback
from timberline.registry.store import open_store
from timberline.registry.verdict import VERDICT_FILE, decode_verdict


def test_a_release_tells_what_its_manifest_verdict_and_promotion_say(tmp_path: Path) -> None:
    """One row of the history is put together from three files; each has to land in its place."""
    store = open_store(tmp_path)
    for ratio in (None, 1.1):
        promote(store, "tiny", publish_release(store, ratio))
    first, second = read_releases(store, "tiny")
    assert (first.version, first.outcome, first.champion, first.problem) == (1, "PASS", None, "")
    assert (second.champion, second.is_production, first.is_production) == (1, True, False)
    assert second.accuracy is not None
    assert second.accuracy.value == 0.75
    assert second.p50 is not None
    assert second.p50.difference == 1.1
    assert second.latency is not None
    assert second.latency.value == pytest.approx(1.1)
    assert second.promoted_at is not None
    assert second.model_bytes == len(b"not ONNX")


def test_one_version_without_a_verdict_is_a_history(tmp_path: Path) -> None:
    """The day a model is first published, the table must not fail."""
    store = open_store(tmp_path)
    publish_tiny(store)
    (release,) = read_releases(store, "tiny")
    assert (release.outcome, release.promoted_at, release.latency, release.problem) == (None, None, None, "")
    assert read_releases(store, "unheard_of") == ()


def test_rollbacks_and_forced_promotions_are_marked(tmp_path: Path) -> None:
    """Somebody who looks back wants to see first where the rule was overruled and what came back."""
    store = open_store(tmp_path)
    promote(store, "tiny", publish_release(store))
    promote(store, "tiny", publish_release(store, 1.3, "BLOCK"), force=True, reason="an old client needs it")
    rollback(store, "tiny")
    promote(store, "tiny", publish_release(store, 0.9))
    first, second, third = read_releases(store, "tiny")
    assert (second.is_forced, second.forced_reason) == (True, "an old client needs it")
    assert second.rolled_back_at is not None
    assert (first.rolled_back_at, first.is_production, third.is_production) == (None, False, True)
    assert third.champion == 1
    assert third.latency is not None
    assert third.latency.value == pytest.approx(0.9)


@pytest.mark.parametrize("damage", [b"{", b'{"schema_version": 99}'])
def test_a_damaged_verdict_leaves_a_release_that_says_so(tmp_path: Path, damage: bytes) -> None:
    """One unreadable file must not cost the history of all the others, nor pass for silence."""
    store = open_store(tmp_path)
    version = publish_release(store)
    store.open_version("tiny", version).write_document(VERDICT_FILE, damage)
    (release,) = read_releases(store, "tiny")
    assert release.outcome is None
    assert "verdict.json" in release.problem
    assert release.accuracy is not None


def test_a_verdict_for_other_bytes_is_not_this_release_s(tmp_path: Path) -> None:
    """A verdict copied from a neighbour would give this version a past that it does not have."""
    store = open_store(tmp_path)
    publish_release(store)
    other = publish_tiny(store, model_bytes=b"other bytes")
    data = store.read_document("tiny", 1, VERDICT_FILE)
    assert data is not None
    store.open_version("tiny", other).write_document(VERDICT_FILE, data)
    release = read_releases(store, "tiny")[-1]
    assert release.outcome is None
    assert "other bytes" in release.problem


def test_a_damaged_manifest_and_a_damaged_alias_are_told_and_not_raised(tmp_path: Path) -> None:
    """The history is drawn by the gate, which has to go on when an old version is damaged."""
    store = open_store(tmp_path)
    promote(store, "tiny", publish_release(store))
    publish_release(store)
    (tmp_path / "tiny" / "2" / "manifest.json").write_text("{")
    (tmp_path / "tiny" / "aliases" / "production" / "1.json").write_text("{")
    first, second = read_releases(store, "tiny")
    assert "promotions unknown" in first.problem
    assert (second.version, second.created_at) == (2, None)
    assert "it was published with" in second.problem


def test_a_verdict_that_is_not_stored_yet_can_be_looked_at_in_its_place(tmp_path: Path) -> None:
    """The page of a gate is written before its verdict, and shows it among the others."""
    store = open_store(tmp_path)
    promote(store, "tiny", publish_release(store))
    version = publish_release(store, 1.2, "BLOCK")
    data = store.read_document("tiny", version, VERDICT_FILE)
    assert data is not None
    (tmp_path / "tiny" / "2" / VERDICT_FILE).unlink()
    before = read_releases(store, "tiny")
    after = judge_release(before, decode_verdict(data))
    assert (before[1].outcome, before[1].latency) == (None, None)
    assert (after[0], after[1].outcome, after[1].champion) == (before[0], "BLOCK", 1)
    assert after[1].latency is not None
    assert after[1].latency.value == pytest.approx(1.2)
