"""Drift: what has moved shows within a window, what has not moved does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from tests.support import pet_model
from tests.support.manifests import TINY_CLASSES, build_manifest, build_metrics
from tests.support.shapes import FLAGS, SHAPES, draw_rows, profile
from timberline.inference.metrics.drift import LEAST_ROWS, Drift, Stability, bin_numbers, bin_text
from timberline.inference.metrics.shared_memory import Slot, create_private
from timberline.inference.session import Feed, Outputs
from timberline.registry.manifest import Histogram, Manifest, Prior
from timberline.registry.signature import NULL_TEXT, ClassLabel, Column, build_signature

WINDOW = 1000
LIMIT = 0.2  # what the field answers to
TRAINING_ROWS = 13_608


def build(columns: tuple[Column, ...], histograms: dict[str, Histogram], **changes: Any) -> Manifest:
    """A manifest of two classes, predicted 3:1 in training."""
    prior = Prior(method="none", training=(0.75, 0.25), deployment=(0.75, 0.25))
    metrics = msgspec.structs.replace(build_metrics(), confusion=((3, 0), (0, 1)))
    fields = {"prior": prior, "metrics": metrics, **changes}
    return build_manifest(signature=build_signature(columns, TINY_CLASSES), histograms=histograms, **fields)


def start(manifest: Manifest, window: int = WINDOW) -> tuple[Drift, Slot]:
    """A window that is published in a memory of its own."""
    drift, slot = Drift(manifest, window, lambda seconds, work: None), create_private()
    drift.show(slot)
    return drift, slot


def measure(drift: Drift, slot: Slot) -> Stability:
    """What a page would show now."""
    drift.flush()
    (group,) = slot.memory.read().values()
    return drift.compute(group.sum())


@pytest.fixture(scope="module")
def shapes() -> Manifest:
    """A version trained on every shape."""
    random = np.random.default_rng(7)
    histograms = {name: profile(draw(random, TRAINING_ROWS)) for name, draw in SHAPES.items()}
    return build(tuple(Column(name=name, datatype="FP64") for name in SHAPES), histograms)


def keep_all(drift: Drift, rows: npt.NDArray[np.float64], seed: int = 0) -> None:
    """Answer ``rows`` one by one, with classes as in training."""
    labels = (np.random.default_rng(seed).random(len(rows)) > 0.75).tolist()
    for row, label in zip(rows.tolist(), labels, strict=True):
        drift.keep_row(row, int(label))


def test_a_hundred_windows_that_have_not_moved_raise_no_alarm(shapes: Manifest) -> None:
    """An alarm that rings by chance is switched off, and then nobody hears the true one."""
    worst = 0.0
    for seed in range(100):
        drift, slot = start(shapes)
        keep_all(drift, draw_rows(1000 + seed, WINDOW), seed)
        found = measure(drift, slot)
        assert found.rows == WINDOW
        assert found.classes is not None
        worst = max(worst, found.classes, *found.features.values())
    assert worst < LIMIT


@pytest.mark.parametrize("name", [name for name in SHAPES if name not in FLAGS])
@pytest.mark.parametrize("direction", [-1, 1])
def test_a_shift_by_one_deviation_shows_within_a_thousand_rows(
    shapes: Manifest, name: str, direction: int
) -> None:
    """That is what drift is watched for; a thousand rows are some seconds of traffic."""
    drift, slot = start(shapes)
    keep_all(drift, draw_rows(1, 3 * WINDOW))
    assert measure(drift, slot).features[name] < LIMIT
    rows = draw_rows(2, WINDOW)
    at = list(SHAPES).index(name)
    rows[:, at] += direction * rows[:, at].std()
    for tenth in np.split(rows, 10):
        keep_all(drift, tenth)
        drift.flush()
    found = measure(drift, slot)
    assert found.features[name] > LIMIT
    assert all(psi < LIMIT for other, psi in found.features.items() if other != name)


def test_a_flag_that_is_set_more_often_by_one_deviation_shows(shapes: Manifest) -> None:
    """Nothing can be added to a flag; what shifts is how often it is set, by √(p (1 − p))."""
    drift, slot = start(shapes)
    rows = draw_rows(18, WINDOW)
    share = FLAGS["common"] + math.sqrt(FLAGS["common"] * (1 - FLAGS["common"]))
    rows[:, list(SHAPES).index("common")] = np.random.default_rng(19).random(WINDOW) < share
    keep_all(drift, rows)
    assert measure(drift, slot).features["common"] > LIMIT


def test_another_value_of_a_constant_column_shows(shapes: Manifest) -> None:
    """A column that was 0 in all of training has never taught the model what 1 means."""
    drift, slot = start(shapes)
    rows = draw_rows(3, WINDOW)
    rows[: WINDOW // 10, list(SHAPES).index("constant")] = 1.0
    keep_all(drift, rows)
    assert measure(drift, slot).features["constant"] > LIMIT


def test_batches_and_single_rows_count_alike(shapes: Manifest) -> None:
    """Drift is in the rows, not in how a client packs them."""
    rows = draw_rows(4, WINDOW)
    labels = (rows[:, 0] > 2800).astype(np.int64)
    single, batch = start(shapes), start(shapes)
    for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
        single[0].keep_row(row, label)
    outputs = Outputs(labels, np.zeros((len(rows), 2), np.float32))
    batch[0].keep_rows(Feed(rows, None), outputs)
    assert measure(*single) == measure(*batch)


def test_of_a_long_batch_rows_are_taken_evenly(shapes: Manifest) -> None:
    """A client's batch may be sorted; its first thousand rows would be no sample of it."""
    rows = np.sort(draw_rows(5, 10 * WINDOW), axis=0)
    drift, slot = start(shapes)
    labels = (np.arange(len(rows)) % 4 == 3).astype(np.int64)
    drift.keep_rows(Feed(rows, None), Outputs(labels, np.zeros((len(rows), 2), np.float32)))
    found = measure(drift, slot)
    assert found.rows == WINDOW
    assert max(found.features.values()) < LIMIT


def test_more_rows_than_the_window_in_one_period_are_not_kept(shapes: Manifest) -> None:
    """At 10,000 rows a second a sample tells as much, and costs a tenth."""
    drift, slot = start(shapes)
    keep_all(drift, draw_rows(6, 3 * WINDOW))
    assert len(drift._rows) == WINDOW
    assert measure(drift, slot).rows == WINDOW


def test_the_window_forgets(shapes: Manifest) -> None:
    """After a disturbance is over, its rows must not raise alarms for ever."""
    drift, slot = start(shapes)
    moved = draw_rows(8, WINDOW) + 1e6
    keep_all(drift, moved)
    assert max(measure(drift, slot).features.values()) > LIMIT
    for seed in range(3):
        keep_all(drift, draw_rows(9 + seed, WINDOW))
        drift.flush()
    found = measure(drift, slot)
    assert max(found.features.values()) < LIMIT
    assert WINDOW <= found.rows <= WINDOW * 1.2


def test_few_rows_a_second_are_kept_in_few_parts(shapes: Manifest) -> None:
    """At a row a second, counts of each second apart would be a thousand vectors."""
    drift, slot = start(shapes)
    for row in draw_rows(10, 2 * WINDOW).tolist():
        drift.keep_row(row, 0)
        drift.flush()
    assert WINDOW <= measure(drift, slot).rows <= WINDOW * 1.2
    assert len(drift._parts) <= 12


def test_too_few_rows_give_no_index(shapes: Manifest) -> None:
    """Of ten rows every column has drifted."""
    drift, slot = start(shapes)
    keep_all(drift, draw_rows(11, LEAST_ROWS - 1))
    assert measure(drift, slot) == Stability(LEAST_ROWS - 1, {}, None)
    keep_all(drift, draw_rows(12, 1))
    assert set(measure(drift, slot).features) == set(SHAPES)


def test_the_windows_of_all_processes_are_one(shapes: Manifest) -> None:
    """Four workers see a quarter of the rows each; the index is of all of them."""
    rows = draw_rows(13, WINDOW)
    whole = start(shapes)
    keep_all(whole[0], rows)
    parts = [start(shapes, WINDOW // 4) for _ in range(4)]
    labels = (np.random.default_rng(0).random(len(rows)) > 0.75).tolist()
    for number, (row, label) in enumerate(zip(rows.tolist(), labels, strict=True)):
        parts[number % 4][0].keep_row(row, int(label))
    total = np.zeros(whole[0]._binner.size)
    for drift, slot in parts:
        drift.flush()
        (group,) = slot.memory.read().values()
        total += group.sum()
    assert parts[0][0].compute(total.tolist()) == measure(*whole)


def test_a_retired_window_is_nought(shapes: Manifest) -> None:
    """A version that comes back must not begin with the drift of its first life."""
    drift, slot = start(shapes)
    keep_all(drift, draw_rows(14, WINDOW))
    drift.flush()
    drift.retire()
    (group,) = slot.memory.read().values()
    assert not any(group.sum())


def test_predicted_classes_are_measured_against_what_is_to_be_expected(shapes: Manifest) -> None:
    """A model that suddenly says one class to everything shows even if no single column does."""
    drift, slot = start(shapes)
    rows = draw_rows(15, WINDOW)
    for row in rows.tolist():
        drift.keep_row(row, 1)
    found = measure(drift, slot)
    assert found.classes is not None
    assert found.classes > LIMIT


def test_text_and_null_have_bins() -> None:
    """A category never seen, and a field that has begun to be left out, are the commonest faults upstream."""
    columns = (
        Column(name="soil", datatype="BYTES", is_nullable=True),
        Column(name="height", datatype="FP64", is_nullable=True),
    )
    soil = Histogram(counts=(600, 300, 100), categories=("clay", "sand", "peat"), nulls=0)
    random = np.random.default_rng(16)
    manifest = build(columns, {"soil": soil, "height": profile(random.normal(0, 1, 1000))})

    def ask(texts: list[str | None], is_null: npt.NDArray[np.bool_]) -> Stability:
        drift, slot = start(manifest)
        heights = [
            None if null else value for null, value in zip(is_null, random.normal(0, 1, 1000), strict=True)
        ]
        for text, height in zip(texts, heights, strict=True):
            drift.keep_row((text, height), 0)
        return measure(drift, slot)

    seen: list[str | None] = random.choice(["clay", "sand", "peat"], 1000, p=[0.6, 0.3, 0.1]).tolist()
    never = np.zeros(1000, dtype=bool)
    assert max(ask(seen, never).features.values()) < LIMIT / 4
    tenth: list[str | None] = [*seen[:900], *["loam"] * 100]
    assert ask(tenth, never).features["soil"] > LIMIT
    assert ask([*seen[:900], *[None] * 100], never).features["soil"] > LIMIT
    assert ask(seen, np.arange(1000) >= 900).features["height"] > LIMIT

    drift, slot = start(manifest)
    text = np.array([[NULL_TEXT if value is None else value] for value in tenth], dtype=object)
    numeric = np.full((1000, 1), math.nan)
    labels = np.zeros(1000, dtype=np.int64)
    drift.keep_rows(Feed(numeric, text), Outputs(labels, np.zeros((1000, 2), np.float32)))
    assert measure(drift, slot).features["soil"] == ask(tenth, never).features["soil"]


def test_a_manifest_without_tables_has_rows_only() -> None:
    """Versions of other makers may lack histograms, or have a prior of other classes."""
    classes = (*TINY_CLASSES, ClassLabel(value="3", label="Fir"))
    manifest = build_manifest(
        histograms={}, signature=build_signature((Column(name="x", datatype="FP64"),), classes)
    )
    drift, slot = start(manifest)
    for _ in range(LEAST_ROWS):
        drift.keep_row((1.0,), 2)
    assert measure(drift, slot) == Stability(LEAST_ROWS, {}, None)


def test_bins_are_about_equally_full() -> None:
    """Empty bins make an index of chance, full ones hide a shift."""
    counts = (1, 2, 3, 40, 10, 2, 30, 5, 0, 7)
    found = bin_numbers(0, Histogram(counts=counts, edges=tuple(map(float, range(11)))))
    assert found.expected == (0, 46, 10, 32, 12, 0, 0)
    assert found.edges == (0.0, 4.0, 5.0, 7.0, math.nextafter(10.0, 11.0))


def test_rare_categories_share_a_bin() -> None:
    """A column of a thousand categories would have a thousand bins of a row each."""
    names = tuple(f"c{number:02d}" for number in range(30))
    found = bin_text(0, Histogram(counts=tuple(range(30)), categories=names, nulls=4))
    assert found.names == tuple(f"c{number}" for number in range(29, 20, -1))
    assert found.expected == (*range(29, 20, -1), sum(range(21)), 4)


def test_rows_are_counted_when_a_second_is_over_a_step_at_a_turn(shapes: Manifest) -> None:
    """Binning a second's rows at once would hold the event loop up for a millisecond."""
    planned: list[tuple[float, Callable[[], None]]] = []
    drift = Drift(shapes, WINDOW, lambda seconds, work: planned.append((seconds, work)))
    keep_all(drift, draw_rows(17, WINDOW))
    ((seconds, work),) = planned
    assert seconds == 1.0
    turns = 0
    while planned:
        work = planned.pop()[1]
        work()
        turns += 1
    assert turns == 11
    assert drift._count_rows(drift._total) == WINDOW


def test_a_date_that_goes_on_is_shown_and_is_no_alarm() -> None:
    """Rows of today are later than those of training for as long as a service lives; new text is not."""
    signature = build_signature(pet_model.COLUMNS, pet_model.CLASSES)
    manifest = build_manifest(signature=signature, histograms=pet_model.HISTOGRAMS)
    found = {}
    for name, days, breed in (("same", 0, "Collie"), ("later", 9000, "Collie"), ("other", 0, "Dackel")):
        drift, slot = start(manifest)
        random = np.random.default_rng(3)
        for born in random.integers(10957, 18262, WINDOW).tolist():
            row = (breed, 9.0, born + days, born * 8e10, True, "black")
            drift.keep_row(row, 0)
        found[name] = measure(drift, slot)
    assert found["same"].features["born"] < 0.1 < LIMIT < found["later"].features["born"]
    assert found["later"].greatest == found["same"].greatest
    assert found["other"].features["breed"] > found["same"].features["breed"]


def test_the_commonest_values_of_text_have_bins_of_their_own() -> None:
    """Among a thousand values a shift from one to the next is seen, and a new one is among the others."""
    counts = tuple(range(1000, 0, -1))
    histogram = Histogram(counts=counts, categories=tuple(f"v{n:04}" for n in range(1000)))
    bins = bin_text(0, histogram)
    assert bins.names == tuple(f"v{n:04}" for n in range(9))
    assert sum(bins.expected) == sum(counts)
