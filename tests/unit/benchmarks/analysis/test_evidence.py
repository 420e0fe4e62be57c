"""Two versions in a registry → the lines that need no running service."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from tests.support.evaluations import ANY_SPEED, draw_evaluation, encode_evaluation, publish_judged
from tests.support.manifests import build_manifest
from tests.support.registry_tree import folder_of
from tests.support.tiny_model import CLASSES, NUMERIC_COLUMNS
from timberline.benchmarks.analysis.evidence import StaticEvidence, judge_parity, judge_static
from timberline.benchmarks.analysis.verdict import required_lines
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.manifest import GateLimits, ParityTensor
from timberline.registry.runs import (
    NOISE_FILE,
    NOISE_SCHEMA_VERSION,
    RunQuality,
    TrainingNoise,
    encode_noise,
)
from timberline.registry.signature import Column, build_signature
from timberline.registry.store import Store
from timberline.registry.verdict import VerdictLine

SETTINGS = load_gate_settings().accuracy
# What running services are asked for; everything else is known beforehand.
MEASURED = {"answers", "error_rate", "fairness", "p50_ceiling", "model_size"}
MEASURED |= {"net_p50", "service_p50", "net_p99", "net_tail", "p50", "cpu_per_request"}
MEASURED |= {"memory", "start_up"}


def judge(
    store: Store, *, candidate: dict[str, Any], champion: dict[str, Any] | None = None
) -> StaticEvidence:
    """Publish a champion and a candidate and judge them; changes are of their manifests or predictions."""
    versions = {
        arm: store.open_version("tiny", publish_judged(store, alias=alias, **changes))
        for arm, alias, changes in (
            ("champion", "production", champion or {}),
            ("candidate", "candidate", candidate),
        )
    }
    return judge_static(store, versions, SETTINGS)


def outcomes(evidence: StaticEvidence) -> dict[str, str]:
    """Line → outcome."""
    return {line.name: line.outcome for line in evidence.lines}


def lineage(**changes: str) -> Any:
    """The lineage of a test's version, changed."""
    return msgspec.structs.replace(build_manifest().lineage, **changes)


def predict(rows: range, *, wrong: range = range(0)) -> bytes:
    """Predictions of source rows, right but for some; the truth follows from the row."""
    numbers = np.array(rows)
    truth = numbers % 3
    label = np.where(np.isin(numbers, np.array(wrong)), (truth + 1) % 3, truth)
    return encode_evaluation(truth, label, rows=numbers)


def test_equal_versions_pass_every_line_and_each_names_its_evidence(store: Store) -> None:
    """A line that nobody can trace back to a file is a claim."""
    limits = msgspec.structs.replace(ANY_SPEED, slices={"even": "rings > 0"}, max_log_loss=1.0)
    truth = np.arange(9_000) % 3
    told = encode_evaluation(truth, truth, slices={"even": truth == 0})
    evidence = judge(
        store, candidate={"gate": limits, "evaluation_bytes": told}, champion={"evaluation_bytes": told}
    )
    found = outcomes(evidence)
    assert set(found.values()) == {"PASS"}
    assert set(found) == required_lines(limits, is_first=False) - MEASURED
    files = {line.name: line.evidence for line in evidence.lines}
    assert {name for name, file in files.items() if file == "manifest.json"} == {
        "digests",
        "parity",
        "signature",
    }
    assert {file for name, file in files.items()} == {"manifest.json", "evaluation.parquet"}


def test_a_first_version_is_judged_alone(store: Store) -> None:
    """There is nothing to compare with, and its parity still has to hold."""
    version = publish_judged(store, alias="candidate")
    evidence = judge_static(store, {"candidate": store.open_version("tiny", version)}, SETTINGS)
    assert set(outcomes(evidence)) == required_lines(ANY_SPEED, is_first=True) - MEASURED
    assert set(outcomes(evidence).values()) == {"PASS"}
    assert evidence.comparison is None


def test_two_splits_of_one_table_are_judged_on_the_rows_of_both(store: Store) -> None:
    """A new split must not cost the comparison; the rows that both were tested on trained neither."""
    evidence = judge(
        store,
        champion={"evaluation_bytes": predict(range(9_000))},
        candidate={
            "evaluation_bytes": predict(range(2_000, 12_000), wrong=range(9_000, 9_900)),
            "lineage": lineage(test_fingerprint="22" * 16),
        },
    )
    (line,) = [line for line in evidence.lines if line.name == "accuracy"]
    assert line.outcome == "PASS"
    assert line.reason.startswith(
        "other test rows than the champion's: judged on the 7,000 that both have "
        "(champion 9,000, candidate 10,000); "
    )
    assert evidence.comparison is not None
    assert evidence.comparison.pairs.lost == 0  # its mistakes are on rows that the champion never saw


def test_an_overlap_too_small_to_tell_is_not_a_pass(store: Store) -> None:
    """Two random fifths share a twenty-fifth; that is rarely enough, and then it is said."""
    evidence = judge(
        store,
        champion={"evaluation_bytes": predict(range(3_000))},
        candidate={
            "evaluation_bytes": predict(range(2_900, 6_000)),
            "lineage": lineage(test_fingerprint="22" * 16),
        },
    )
    assert outcomes(evidence)["accuracy"] == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("changed", "rows", "told"),
    [
        ({"test_fingerprint": "22" * 16, "data_fingerprint": "33" * 16}, range(6_000), "has no seen_rows"),
        ({"test_fingerprint": "22" * 16}, range(6_000, 9_000), "none in common"),
        ({"test_fingerprint": "22" * 16}, range(1, 9_001, 2), "true class of row"),
    ],
)
def test_rows_that_cannot_be_the_same_are_not_compared(
    store: Store, changed: dict[str, str], rows: range, told: str
) -> None:
    """Row 7 of another table is another row; so is that of the same table in another order."""
    numbers = np.array(rows)
    truth = (numbers + (told == "true class of row")) % 3
    evidence = judge(
        store,
        champion={"evaluation_bytes": predict(range(6_000))},
        candidate={
            "evaluation_bytes": encode_evaluation(truth, truth, rows=numbers),
            "lineage": lineage(**changed),
        },
    )
    (line,) = [line for line in evidence.lines if line.name == "held_out_rows"]
    assert line.outcome == "INVALID"
    assert told in line.reason
    assert line.evidence == "evaluation.parquet"
    assert "accuracy" not in outcomes(evidence)


def test_a_slice_that_the_predictions_lack_is_invalid(store: Store) -> None:
    """The manifest promises it, so something other than the exporter wrote this file."""
    limits = GateLimits(min_accuracy=0.5, slices={"low": "rings < 5"})
    evidence = judge(store, candidate={"gate": limits, "evaluation_bytes": draw_evaluation()})
    (line,) = [line for line in evidence.lines if line.name == "held_out_rows"]
    assert (line.outcome, "lack slice_low" in line.reason) == ("INVALID", True)


def tensor(worst: float, *, atol: float = 1e-5, rtol: float = 0.0) -> ParityTensor:
    """Parity of ten rows."""
    return ParityTensor(rows=10, worst_absolute_error=worst, worst_row=3, atol=atol, rtol=rtol)


@pytest.mark.parametrize(
    ("parity", "outcome"),
    [
        ({"probabilities": tensor(1e-5)}, "PASS"),
        ({"probabilities": tensor(1.1e-5)}, "BLOCK"),
        ({"probabilities": tensor(float("nan"))}, "BLOCK"),
        ({"probabilities": tensor(1e-6), "label": tensor(0.1)}, "BLOCK"),
        # A feature of a million is right to 0.06 in 32 bits; its bound is relative, its value unknown.
        ({"probabilities": tensor(1e-6), "features": tensor(0.05, atol=1e-8, rtol=2.4e-7)}, "PASS"),
        ({"features": tensor(0.0)}, "INVALID"),
        ({}, "INVALID"),
    ],
)
def test_parity_is_held_to_its_bound(parity: dict[str, ParityTensor], outcome: str) -> None:
    """The graph must be the network that was evaluated, or every other line is about something else."""
    versions = {arm: build_manifest(parity=parity) for arm in ("champion", "candidate")}
    told = judge_parity(versions)
    assert told.outcome == outcome
    assert told.evidence == "manifest.json"


def test_parity_shows_both_versions_beside_the_bound() -> None:
    """How close to the bound, and whether that is new."""
    told = judge_parity(
        {
            "champion": build_manifest(parity={"probabilities": tensor(2e-6)}),
            "candidate": build_manifest(parity={"probabilities": tensor(3e-6), "label": tensor(0.0)}),
        }
    )
    assert (told.champion, told.candidate, told.limit) == (2e-6, 3e-6, 1e-5)
    assert "champion: probabilities 2e-06; candidate: probabilities 3e-06, label 0" in told.reason


def test_bytes_that_are_not_the_manifests_end_it(store: Store) -> None:
    """Nothing else is looked into, and no service is started on them."""
    versions = {
        arm: store.open_version("tiny", publish_judged(store, alias=alias))
        for arm, alias in (("champion", "production"), ("candidate", "candidate"))
    }
    graph = folder_of(versions["candidate"]) / "model.onnx"
    graph.chmod(0o644)
    graph.write_bytes(graph.read_bytes() + b"\0")
    evidence = judge_static(store, versions, SETTINGS)
    assert outcomes(evidence) == {"digests": "INVALID"}
    assert (evidence.can_run, evidence.comparison) == (False, None)
    assert "model.onnx" in evidence.lines[0].reason
    assert evidence.lines[0].evidence == "manifest.json"


def test_signatures_that_do_not_fit_end_the_comparison(store: Store) -> None:
    """The candidate's own floors are judged; nothing is started, since nothing fits both."""
    column = Column(name="bark", datatype="FP64")
    signature = build_signature((*NUMERIC_COLUMNS, column), CLASSES)
    evidence = judge(store, candidate={"signature": signature})
    found = outcomes(evidence)
    assert (found.pop("signature"), set(found.values())) == ("BLOCK", {"PASS"})
    assert "accuracy_floor" in found
    assert not {"accuracy", "recall", "log_loss"} & found.keys()
    (line,) = [line for line in evidence.lines if line.name == "signature"]
    assert line.reason == "column bark is new and required"
    assert (evidence.can_run, evidence.comparison) == (False, None)


def test_what_was_compared_is_handed_on(store: Store) -> None:
    """The report shows its confusion and its parts; rows of both splits are told when they differ only."""
    evidence = judge(store, candidate={})
    assert evidence.can_run
    assert evidence.comparison is not None
    assert (evidence.comparison.pairs.rows, evidence.comparison.test_rows) == (6_000, None)
    assert evidence.comparison.confusion.classes == tuple(label.value for label in CLASSES)
    names = [line.name for line in evidence.lines]
    assert names[:4] == ["digests", "parity", "signature", "accuracy_floor"]


def test_lines_are_about_the_candidate(store: Store) -> None:
    """Swapped, a gate would promote what is worse."""
    evidence = judge(store, champion={"evaluation_bytes": draw_evaluation(wrong=0.3)}, candidate={})
    (line,) = [line for line in evidence.lines if line.name == "accuracy"]
    assert line.candidate is not None
    assert line.champion is not None
    assert line.candidate > 0.88
    assert line.champion < 0.75
    (floor,) = [line for line in evidence.lines if line.name == "accuracy_floor"]
    assert floor.candidate == line.candidate


@pytest.mark.parametrize(("worst", "outcome"), [(3e-5, "PASS"), (3.1e-5, "BLOCK")])
def test_the_bound_of_parity_is_the_sum_of_both_tolerances(worst: float, outcome: str) -> None:
    """|c - r| <= atol + rtol |r|, with a probability of 1 for r."""
    told = judge_parity({"candidate": build_manifest(parity={"probabilities": tensor(worst, rtol=2e-5)})})
    assert told.limit == pytest.approx(3e-5)
    assert (told.outcome, told.candidate, told.champion) == (outcome, worst, None)
    assert ("beyond the bound: probabilities" in told.reason) == (outcome == "BLOCK")


def test_parity_that_is_not_known_shows_nothing() -> None:
    """A 0 in its place would look like a perfect graph."""
    told = judge_parity({"candidate": build_manifest(parity={}), "champion": build_manifest(parity={})})
    assert (told.candidate, told.champion, told.limit) == (None, None, None)
    assert told.reason.startswith("no parity of the probabilities is known; ")


def test_breaks_are_told_one_after_the_other(store: Store) -> None:
    """All of them, so that they are mended in one go."""
    columns = (*NUMERIC_COLUMNS[1:], Column(name="bark", datatype="FP64"))
    evidence = judge(store, candidate={"signature": build_signature(columns, CLASSES)})
    (line,) = [line for line in evidence.lines if line.name == "signature"]
    assert line.reason == f"column {NUMERIC_COLUMNS[0].name} was removed; column bark is new and required"


def test_lines_about_parts_stand_together(store: Store) -> None:
    """Recall and slices share one level, and are read side by side."""
    truth = np.arange(900) % 3
    told = encode_evaluation(truth, truth, slices={"even": truth == 0})
    limits = msgspec.structs.replace(ANY_SPEED, slices={"even": "rings > 0"})
    evidence = judge(
        store, candidate={"gate": limits, "evaluation_bytes": told}, champion={"evaluation_bytes": told}
    )
    names = [line.name for line in evidence.lines]
    assert names.index("accuracy") < names.index("recall") == names.index("slices") - 1
    assert names.index("slices") < names.index("log_loss") < names.index("calibration")


RECIPE = {"lineage": lineage(recipe_digest="ab" * 32)}


def publish_noise(store: Store, version: int, *accuracies: float) -> None:
    """Runs of a recipe with these accuracies, beside a version."""
    runs = tuple(
        RunQuality(seed=seed, accuracy=accuracy, log_loss=0.5, ece=0.01, recalls={})
        for seed, accuracy in enumerate(accuracies)
    )
    noise = TrainingNoise(
        schema_version=NOISE_SCHEMA_VERSION,
        model="tiny",
        version=version,
        recipe="ab" * 32,
        test_fingerprint="cd" * 32,
        rows=9_000,
        measured_at="2026-01-01T00:00:00+00:00",
        runs=runs,
    )
    store.open_version("tiny", version).write_document(NOISE_FILE, encode_noise(noise))


def judge_worse(store: Store, champion: dict[str, Any]) -> VerdictLine:
    """The line of accuracy for a candidate that loses 0.7 % of 90,000 rows; 0.5 % may be lost."""
    limits = msgspec.structs.replace(ANY_SPEED, max_accuracy_drop=0.005)
    worse = {"evaluation_bytes": predict(range(90_000), wrong=range(630)), "gate": limits}
    evidence = judge(store, champion=champion, candidate=worse)
    (line,) = [line for line in evidence.lines if line.name == "accuracy"]
    return line


@pytest.mark.parametrize(
    ("accuracies", "outcome"),
    [((0.8, 0.8, 0.8), "BLOCK"), ((0.8, 0.8003, 0.7997), "BLOCK"), ((0.8, 0.801, 0.8), "INCONCLUSIVE")],
)
def test_the_noise_beside_an_earlier_release_of_the_recipe_counts(
    store: Store, accuracies: tuple[float, ...], outcome: str
) -> None:
    """A recipe is calibrated once and released every week."""
    rows: dict[str, Any] = {"evaluation_bytes": predict(range(90_000))}
    first = publish_judged(store, alias="production", **rows, **RECIPE)
    publish_noise(store, first, *accuracies)
    line = judge_worse(store, rows | RECIPE)
    assert line.outcome == outcome
    assert (f"(3 runs, version {first}, " in line.reason) == (accuracies != (0.8, 0.8, 0.8))


def test_the_noise_of_another_recipe_says_nothing(store: Store) -> None:
    """A recipe that was noisy once would let every later one pass."""
    rows: dict[str, Any] = {"evaluation_bytes": predict(range(90_000))}
    other = publish_judged(store, alias="production", **rows, lineage=lineage(recipe_digest="ef" * 32))
    publish_noise(store, other, 0.8, 0.801, 0.8)
    line = judge_worse(store, rows | RECIPE)
    assert (line.outcome, "runs, version" in line.reason) == ("BLOCK", False)


def test_noise_that_cannot_be_read_is_no_noise_and_no_pass(store: Store) -> None:
    """The stated limits alone would judge otherwise than what the owner measured."""
    rows: dict[str, Any] = {"evaluation_bytes": predict(range(90_000))}
    first = publish_judged(store, alias="production", **rows, **RECIPE)
    store.open_version("tiny", first).write_document(NOISE_FILE, b"{}")
    equal = {"gate": ANY_SPEED, **rows}
    found = outcomes(judge(store, champion=rows | RECIPE, candidate=equal))
    assert found["held_out_rows"] == "INVALID"
    assert "accuracy" not in found
