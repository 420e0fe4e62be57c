"""The gate from its command line: real services, real Locust, tiny versions without TensorFlow.

Latency limits are so wide that nothing here depends on the speed of the machine.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.evaluations import ANY_SPEED, draw_evaluation, publish_judged
from tests.support.registry_tree import folder_of
from tests.support.tiny_model import (
    CLASSES,
    LEAN_COLUMNS,
    NUMERIC_ROWS,
    expect_probabilities,
    publish_lean,
)
from timberline.registry.aliases import read_alias
from timberline.registry.errors import PromotionRefusedError
from timberline.registry.manifest import Golden
from timberline.registry.promotion import promote
from timberline.registry.signature import Column, build_signature
from timberline.registry.store import MODEL_FILE, Store, open_store
from timberline.registry.verdict import VERDICT_FILE, Verdict, decode_verdict

ROOT = Path(__file__).resolve().parents[2]
# In so short a window one hiccup of the machine is much, and no restart is like the other.
QUICK = ["--window-s", "0.5", "--looks", "1"]
for setting in (
    "duet.min_pairs=10",
    "duet.warmup_pairs=5",
    "duet.max_standstill_share=1",
    "duet.max_outside_ratio=100",
    "validity.max_mean_outside_ratio=100",
    "validity.max_outside_p99_ratio=100",
    "latency.max_spread=100",
):
    QUICK += ["--set", setting]
DEADLINE_S = 120.0


@dataclasses.dataclass(frozen=True)
class Run:
    """What one command said."""

    code: int
    result: dict[str, Any]
    log: str

    def outcome_of(self, name: str) -> str:
        """The outcome of one line of the verdict."""
        (line,) = [line for line in self.result["lines"] if line["name"] == name]
        return str(line["outcome"])


@dataclasses.dataclass
class Shop:
    """A registry and a data folder of their own."""

    folder: Path

    @property
    def store(self) -> Store:
        """The registry."""
        return open_store(self.folder / "registry")

    def run(self, verb: str, *flags: str) -> Run:
        """``python -m benchmarks <verb>`` on the tiny model."""
        command = [sys.executable, "-m", "benchmarks", verb, "--model", "tiny"]
        command += ["--registry", str(self.folder / "registry"), "--data", str(self.folder / "data"), *flags]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        return Run(done.returncode, json.loads(done.stdout or "{}"), done.stderr)

    def verdict(self, version: int) -> Verdict:
        """The verdict stored with a version."""
        data = self.store.read_document("tiny", version, VERDICT_FILE)
        assert data is not None
        return decode_verdict(data)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """One shop for the whole story: the tests below run in order."""
    return Shop(tmp_path_factory.mktemp("shop"))


def test_a_first_version_is_judged_by_the_floors_and_marked(shop: Shop) -> None:
    """Without a champion nothing can be compared, and the verdict must not pretend that it was."""
    version = publish_judged(shop.store, alias="candidate")
    run = shop.run("gate", *QUICK)
    assert (run.code, run.result["outcome"], run.result["is_first"]) == (0, "PASS", True), run.log
    verdict = shop.verdict(version)
    assert verdict.is_first
    assert verdict.candidate == shop.store.open_version("tiny", version).digests
    assert "accuracy" not in {line.name for line in verdict.lines}
    promote(shop.store, "tiny", version)


def test_the_version_in_production_needs_no_verdict(shop: Shop) -> None:
    """`make release` run twice does nothing the second time."""
    run = shop.run("gate", *QUICK)
    assert (run.code, run.result["skipped"]) == (0, "version 1 is in production already"), run.log


def test_an_equal_candidate_passes_and_may_be_promoted(shop: Shop) -> None:
    """A gate that holds up equal versions gets switched off."""
    version = publish_judged(shop.store, alias="candidate")
    run = shop.run("gate", *QUICK, "--looks", "2")
    assert (run.code, run.result["outcome"]) == (0, "PASS"), run.log
    judged = ("digests", "signature", "accuracy", "recall", "accuracy_floor", "answers")
    assert {run.outcome_of(name) for name in judged} == {"PASS"}
    folder = Path(run.result["report"]).parent
    assert {"report.md", "report.json", "restart-01.csv.gz", "restart-02.csv.gz"} <= {
        path.name for path in folder.iterdir()
    }
    assert shop.store.open_version("tiny", version).verify().manifest.version == version


def test_a_passing_verdict_for_the_same_digests_is_not_earned_twice(shop: Shop) -> None:
    """Stages already done are skipped; running until green is not a way through either."""
    before = shop.verdict(2)
    run = shop.run("gate", *QUICK, "--looks", "2")
    assert run.code == 0
    assert "passed already" in run.result["skipped"]
    assert shop.verdict(2) == before


def test_a_crippled_candidate_is_blocked_and_not_promoted(shop: Shop) -> None:
    """What the gate is for: outputs in the wrong order, served fast and without an error."""
    version = publish_judged(shop.store, alias="candidate", crippled=True)
    run = shop.run("gate", *QUICK)
    assert (run.code, run.result["outcome"]) == (1, "BLOCK"), run.log
    assert {run.outcome_of("accuracy"), run.outcome_of("recall")} == {"BLOCK"}
    assert run.outcome_of("answers") == "PASS"
    with pytest.raises(PromotionRefusedError):
        promote(shop.store, "tiny", version)
    production = read_alias(shop.store, "tiny", "production")
    assert production is not None
    assert production.version == 1


def test_tampered_bytes_end_with_the_code_of_a_broken_environment(shop: Shop) -> None:
    """A script must be able to tell "the answer is no" from "there is no answer"."""
    version = publish_judged(shop.store, alias="candidate")
    path = folder_of(shop.store.open_version("tiny", version)) / MODEL_FILE
    path.write_bytes(path.read_bytes()[:-1])
    run = shop.run("gate", *QUICK)
    assert (run.code, run.result["outcome"]) == (3, "INVALID"), run.log
    assert shop.verdict(version).outcome == "INVALID"


def test_bench_measures_one_version(shop: Shop) -> None:
    """The figures of the closing note come from this command."""
    run = shop.run("bench", "--window-s", "0.5", "--users", "1,4", "--set", "duet.warmup_pairs=5")
    assert run.code == 0, run.log
    assert [load["users"] for load in run.result["loads"]] == [1, 4]
    for load in run.result["loads"]:
        assert load["requests"] > 0
        assert 0 < load["p50_ms"] <= load["p95_ms"] <= load["p99_ms"] <= load["max_ms"]
    assert run.result["ready_s"] > 0
    assert run.result["resident_bytes_ready"] > 1_000_000


def test_a_candidate_that_reads_fewer_columns_passes(tmp_path: Path) -> None:
    """Leaving a column out of features.sql is a release like any other, though clients still send it."""
    shop = Shop(tmp_path)
    demanding = (*LEAN_COLUMNS, Column(name="slope", datatype="FP64"))
    rows = tuple((*row[:3], 0.0) for row in NUMERIC_ROWS)
    known = expect_probabilities(demanding, rows)
    golden = Golden(
        rows=rows,
        class_indexes=tuple(known.argmax(axis=1).tolist()),
        probabilities=tuple(map(tuple, known.tolist())),
    )
    publish_judged(
        shop.store, alias="production", signature=build_signature(demanding, CLASSES), golden=golden
    )
    lean = publish_lean(shop.store, alias="candidate", evaluation_bytes=draw_evaluation(), gate=ANY_SPEED)

    run = shop.run("gate", *QUICK, "--looks", "2")

    assert (run.code, run.result["outcome"]) == (0, "PASS"), run.log
    assert {run.outcome_of(name) for name in ("signature", "answers", "accuracy")} == {"PASS"}
    promote(shop.store, "tiny", lean)
