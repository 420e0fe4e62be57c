"""The candidate beside the releases before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support.evaluations import encode_evaluation, publish_judged
from tests.support.fresh import CLASSES, LIMITS, draw_table, lay_out, publish_on
from tests.support.manifests import build_manifest
from tests.support.registry_tree import folder_of
from tests.support.tiny_model import CLASSES as TINY_CLASSES
from tests.support.tiny_model import NUMERIC_COLUMNS
from timberline.benchmarks.analysis.earlier import list_releases
from timberline.benchmarks.analysis.evidence import StaticEvidence, judge_static
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.aliases import move_alias, read_alias
from timberline.registry.manifest import Manifest
from timberline.registry.names import PRODUCTION
from timberline.registry.signature import build_signature
from timberline.registry.store import Store
from timberline.registry.verdict import VerdictLine

SETTINGS = load_gate_settings().accuracy
ROWS = 20_000


def release(store: Store, wrong: int, *, alias: str = PRODUCTION, **changes: Any) -> int:
    """Publish a version that errs in the first ``wrong`` rows of the one table, and point ``alias`` at it."""
    truth = np.arange(ROWS) % 3
    label = np.where(np.arange(ROWS) < wrong, (truth + 1) % 3, truth)
    given: dict[str, Any] = {"evaluation_bytes": encode_evaluation(truth, label), "gate": LIMITS}
    return publish_judged(store, alias=alias, **(given | changes))


def judge(store: Store, candidate: int, data: Path | None = None) -> StaticEvidence:
    """Beside what is in production."""
    record = read_alias(store, "tiny", PRODUCTION)
    assert record is not None
    numbers = {"champion": record.version, "candidate": candidate}
    versions = {arm: store.open_version("tiny", version) for arm, version in numbers.items()}
    return judge_static(store, versions, SETTINGS, data=data, folder=data)


def find(evidence: StaticEvidence, name: str = "accuracy_total") -> VerdictLine:
    """The line of that name."""
    (line,) = [line for line in evidence.lines if line.name == name]
    return line


def test_small_losses_add_up_and_are_stopped(store: Store) -> None:
    """Each is within the limit, so that each alone passes; three of them are not."""
    release(store, 0)
    told = []
    for number in (1, 2, 3):
        version = release(store, 60 * number, alias="candidate")  # 0.3 % each
        evidence = judge(store, version)
        assert find(evidence, "accuracy").outcome == "PASS"
        told.append(find(evidence))
        move(store, version)
    assert [line.label for line in told] == ["WARN", "WARN", "BLOCK"]
    line = told[-1]
    assert "a drop of more than 0.50% is proven; greatest drop since version 1, 180 rows lost" in line.reason
    assert "Holm over 3 releases" in line.reason
    assert line.difference == pytest.approx(-0.009)
    assert line.candidate == pytest.approx(0.991)
    assert (line.champion, line.limit) == (1.0, -0.005)


def move(store: Store, version: int) -> None:
    """Point production at a version."""
    record = read_alias(store, "tiny", PRODUCTION)
    sequence = record.sequence if record else None
    move_alias(store, "tiny", PRODUCTION, version, expected=sequence, reason="a test")


def test_losses_across_growing_tables_add_up_too(store: Store, tmp_path: Path) -> None:
    """No two of the releases have a table in common; each is asked about what the last one is tested on."""
    for number in range(3):
        publish_on(store, draw_table(1000 + number), alias=PRODUCTION, offset=0.012 * number)
    table = draw_table(8000)
    version = publish_on(store, table, offset=0.036)
    lay_out(table, tmp_path)
    line = find(judge(store, version, tmp_path))
    assert line.outcome == "BLOCK"
    assert "greatest drop since version 1" in line.reason
    assert "Holm over 3 releases" in line.reason
    assert line.evidence == "scored-*.parquet"
    kept = pq.read_table(tmp_path / "scored-1.parquet")  # of twelve releases, whole answers are a burden
    assert kept.column_names == ["row", "class_index", "label_index"]
    lost = pq.read_table(tmp_path / "scored-candidate.parquet").join(kept, "row", right_suffix="_1")
    wrong = (lost["label_index"].to_numpy() != lost["class_index"].to_numpy()) & (
        lost["label_index_1"].to_numpy() == lost["class_index"].to_numpy()
    )
    assert f"{wrong.sum()} rows lost" in line.reason


def test_the_only_release_is_the_champion(store: Store) -> None:
    """It is compared once, and both lines say the same of it."""
    release(store, 30)
    evidence = judge(store, release(store, 30, alias="candidate"))
    line = find(evidence)
    assert (line.outcome, line.label, line.difference) == ("PASS", "PASS", 0.0)
    assert "Holm over 1 release " in line.reason
    assert "a drop of more than 0.50% is not proven" in line.reason


def test_a_total_limit_of_its_own_is_kept(store: Store) -> None:
    """Who releases every day may allow less in all than at once."""
    release(store, 0)
    limits = msgspec.structs.replace(LIMITS, max_accuracy_drop_total=0.001)
    evidence = judge(store, release(store, 60, alias="candidate", gate=limits))
    assert find(evidence, "accuracy").outcome == "PASS"
    assert (find(evidence).outcome, find(evidence).limit) == ("BLOCK", -0.001)


def test_what_cannot_be_compared_is_named_and_the_rest_is(store: Store) -> None:
    """A release that was damaged, or knows what the candidate does not, is no reason to compare with none."""
    release(store, 0)  # 1: damaged below
    other = build_signature(NUMERIC_COLUMNS, (*TINY_CLASSES[:2], CLASSES[0]))
    release(store, 0, signature=other)  # 2: another class
    lineage = msgspec.structs.replace(build_manifest().lineage, data_fingerprint="77" * 16)
    release(store, 0, lineage=lineage)  # 3: of another table, by an earlier release of the program
    release(store, 10)  # 4: the champion
    graph = folder_of(store.open_version("tiny", 1)) / "model.onnx"
    graph.chmod(0o644)
    graph.write_bytes(graph.read_bytes() + b"\0")
    line = find(judge(store, release(store, 20, alias="candidate")))
    assert line.outcome == "PASS"
    assert "Holm over 1 release " in line.reason
    told = line.reason.split("not compared: ")[1]
    assert "version 3: tiny@3: has no seen_rows.parquet" in told
    assert "version 2: signature: the candidate lacks class low" in told
    assert "version 1: " in told
    assert "model.onnx" in told


def test_a_release_that_knows_every_row_is_said_to(store: Store, tmp_path: Path) -> None:
    """It is no fault of the candidate, and no reason to leave the others out."""
    table = draw_table(2000)
    publish_on(store, draw_table(2002).take(np.arange(2002) < 2001), alias=PRODUCTION)  # 1
    everything = draw_table(2002)
    everything.is_test[:] = False
    everything.is_test[2001] = True
    publish_on(store, everything, alias=PRODUCTION)  # 2 learned from all of them
    publish_on(store, draw_table(1000), alias=PRODUCTION)  # 3: the champion
    version = publish_on(store, table)
    lay_out(table, tmp_path)
    line = find(judge(store, version, tmp_path))
    assert line.outcome == "PASS"
    assert "Holm over 2 releases" in line.reason
    assert "not compared: version 2: no row is left that it has not learned from" in line.reason


def manifest(version: int) -> Manifest:
    """Of a version that need not be there."""
    return build_manifest(version=version)


def test_releases_are_the_last_ones_each_once(store: Store) -> None:
    """What was rolled back and came again is one release; the candidate is not its own predecessor."""
    for _ in range(5):
        release(store, 0)
    for version in (2, 4, 3):
        move(store, version)
    assert list_releases(store, manifest(3), manifest(5), 12) == [3, 4, 2, 1]
    assert list_releases(store, manifest(3), manifest(6), 3) == [3, 4, 2]
    assert list_releases(store, manifest(3), manifest(3), 12) == [3, 4, 2, 5, 1]
    assert list_releases(store, manifest(1), manifest(6), 12) == [1, 3, 4, 2, 5]  # --champion tiny@1


def test_rows_of_both_splits_are_compared_and_no_others(store: Store) -> None:
    """A split that moved: the other rows were learned from by one of the two."""
    release(store, 0)
    lineage = msgspec.structs.replace(build_manifest().lineage, test_fingerprint="22" * 16)
    numbers = np.arange(10_000, 30_000)
    moved = encode_evaluation(numbers % 3, numbers % 3, rows=numbers)
    line = find(judge(store, release(store, 0, alias="candidate", evaluation_bytes=moved, lineage=lineage)))
    assert "0 rows lost, 0 gained of 10,000" in line.reason
