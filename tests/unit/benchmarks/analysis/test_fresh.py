"""Versions of different tables: which rows are asked, what is answered, and what cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.fresh import (
    CLASSES,
    COLUMNS,
    LIMITS,
    TARGET,
    Table,
    build_graph,
    draw_table,
    lay_out,
    publish_on,
)
from tests.support.registry_tree import folder_of
from timberline.benchmarks.analysis.evidence import StaticEvidence, judge_static
from timberline.benchmarks.analysis.raw_rows import RawRows, read_batches
from timberline.benchmarks.analysis.verdict import combine_lines, required_lines
from timberline.benchmarks.errors import EvidenceError
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.rows import SEEN_FILE, StoredColumn
from timberline.registry.signature import ClassLabel, Column, build_signature
from timberline.registry.store import EVALUATION_FILE, MODEL_FILE, Store
from timberline.registry.verdict import VerdictLine

SETTINGS = load_gate_settings().accuracy
OLD = draw_table(1200)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """DATA, which holds the answers, too."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def judge(
    store: Store,
    data: Path,
    new: Table,
    *,
    old: Table = OLD,
    champion: dict[str, Any] | None = None,
    **candidate: Any,
) -> StaticEvidence:
    """Publish a champion of ``old`` and a candidate of ``new``, whose rows go to ``data``, and judge them."""
    numbers = {
        "champion": publish_on(store, old, alias="production", **(champion or {})),
        "candidate": publish_on(store, new, **candidate),
    }
    if not (data / "prepared").exists():
        lay_out(new, data)
    versions = {arm: store.open_version("tiny", version) for arm, version in numbers.items()}
    return judge_static(store, versions, SETTINGS, data=data, folder=data)


def find(evidence: StaticEvidence, name: str) -> VerdictLine:
    """The line of that name."""
    (line,) = [line for line in evidence.lines if line.name == name]
    return line


def combine(evidence: StaticEvidence) -> str:
    """The outcome, if everything that services are started for passes."""
    required = required_lines(LIMITS, is_first=False)
    told = {line.name for line in evidence.lines}
    others = [
        VerdictLine(name=name, candidate=None, outcome="PASS", reason="measured")
        for name in ("answers", "error_rate", "p50_ceiling", "model_size", "fairness", "net_p50", "net_p99")
    ]
    others += [
        VerdictLine(name=name, candidate=None, outcome="PASS", reason="measured")
        for name in required - told - {line.name for line in others}
        if name not in ("accuracy", "accuracy_total", "recall", "log_loss", "calibration")
    ]
    return combine_lines([*evidence.lines, *others], required)


def resplit(table: Table, test_rows: range) -> Table:
    """With other rows to be tested on, which is what a split by time does to a table that grew."""
    return replace(table, is_test=np.isin(np.arange(table.is_test.size), np.array(test_rows)))


def test_a_table_that_grew_is_judged_on_what_the_champion_never_saw(store: Store, data: Path) -> None:
    """The release of every week."""
    evidence = judge(store, data, draw_table(2000))
    assert {line.outcome for line in evidence.lines} == {"PASS", "INFO"}
    assert evidence.comparison is not None
    assert evidence.comparison.pairs.rows == 1000
    line = find(evidence, "held_out_rows")
    assert (line.outcome, line.candidate, line.unit) == ("INFO", 1000, "rows")
    assert "about the 1,000 test rows of version 2; 0 left out because version 1" in line.reason
    assert {find(evidence, name).evidence for name in ("accuracy", "accuracy_total", "held_out_rows")} == {
        "scored-*.parquet"
    }
    assert combine(evidence) == "PASS"


def test_rows_that_the_champion_learned_from_are_left_out(store: Store, data: Path) -> None:
    """It would know their answers by heart; that the new split tests on them is no fault of either."""
    new = resplit(draw_table(2000), range(1000, 2000))
    learned = np.flatnonzero(~OLD.is_test)
    evidence = judge(store, data, new)
    line = find(evidence, "held_out_rows")
    left_out = np.isin(np.arange(1000, 2000), learned).sum()
    assert left_out == 100
    assert (line.candidate, f"{left_out} left out because version 1 trained" in line.reason) == (900, True)
    rows = pq.read_table(data / "scored-champion.parquet")["row"].to_numpy()
    assert set(rows) == set(range(1000, 2000)) - set(learned)


def test_rows_are_left_out_by_chance_only_as_often_as_is_said(store: Store, data: Path) -> None:
    """Hashes of few bits cost rows and never let one in that was learned from."""
    new = resplit(draw_table(2400), range(1000, 2400))
    evidence = judge(store, data, new, champion={"span": 600 * 20})
    line = find(evidence, "held_out_rows")
    learned = set(np.flatnonzero(~OLD.is_test))
    rows = set(pq.read_table(data / "scored-champion.parquet")["row"].to_numpy())
    unseen = set(range(1000, 2400)) - learned
    assert rows < unseen
    by_chance = len(unseen - rows)
    assert 40 < by_chance < 90  # a twentieth of 1,300; SD 8
    assert f"{100 + by_chance} left out" in line.reason
    told = int(line.reason.split("(about ")[1].split(" ")[0])
    assert abs(told - 1300 / 20) < 4


def test_a_revised_label_is_the_truth_and_hides_no_row_that_was_learned_from(
    store: Store, data: Path
) -> None:
    """Labels are revised because the old ones were wrong; who learned a row under its old label knows it."""
    new = resplit(OLD, range(600, 1200))
    revised = [("high" if value == "low" else value) for value in OLD.values[TARGET]]
    evidence = judge(store, data, new.change(**{TARGET: revised}))
    line = find(evidence, "held_out_rows")
    assert (line.candidate, "300 left out" in line.reason) == (300, True)
    counts = evidence.comparison.confusion if evidence.comparison else None
    assert counts is not None
    assert counts.champion == counts.candidate
    assert sum(counts.champion[0]) == 0  # no row's truth is low any more
    assert counts.champion[2][0] > 50  # and both still call such rows low


def test_a_class_that_was_added_is_an_error_of_the_champion(store: Store, data: Path) -> None:
    """It cannot name what it never heard of, and gives it no probability."""
    more = (*CLASSES, ClassLabel(value="highest", label="Highest"))
    evidence = judge(store, data, draw_table(2400, classes=more))
    line = find(evidence, "signature")
    assert (line.outcome, line.label, evidence.can_run) == ("PASS", "WARN", True)
    assert line.reason.endswith("new, behind the others: class highest")
    assert evidence.comparison is not None
    confusion = evidence.comparison.confusion
    assert confusion.classes == ("low", "middle", "high", "highest")
    assert confusion.champion[3][3] == 0
    assert confusion.candidate[3][3] == sum(confusion.champion[3]) > 20
    gained = [part.pairs.gained for part in evidence.comparison.recalls]
    assert gained[3] == confusion.candidate[3][3]
    answers = pq.read_table(data / "scored-champion.parquet")
    assert set(answers["p_3"].to_pylist()) == {0.0}
    assert combine(evidence) == "PASS"


def test_classes_in_front_of_the_old_ones_block(store: Store, data: Path) -> None:
    """The champion's clients would take one class for another."""
    more = (ClassLabel(value="a", label="A"), *CLASSES)
    evidence = judge(store, data, draw_table(1400, classes=more))
    line = find(evidence, "signature")
    assert (line.outcome, evidence.can_run) == ("BLOCK", False)
    assert line.reason.endswith("list the new ones last in [target]")
    assert "accuracy" not in {line.name for line in evidence.lines}


def test_a_column_that_was_added_is_not_asked_of_the_champion(store: Store, data: Path) -> None:
    """It gets the columns of its own signature, and knows rows by its own columns."""
    new = resplit(draw_table(1600), range(800, 1600)).add("slope", "FP64", [0.5] * 1600)
    columns = (*COLUMNS, Column(name="slope", datatype="FP64", default=0.0))
    evidence = judge(store, data, new, columns=columns)
    assert find(evidence, "signature").label == "PASS"
    line = find(evidence, "held_out_rows")
    assert (line.candidate, "200 left out" in line.reason) == (600, True)
    assert find(evidence, "accuracy").outcome == "PASS"


def test_a_column_that_was_renamed_blocks_where_clients_send_it(store: Store, data: Path) -> None:
    """Their bodies would be refused."""
    new = draw_table(1600).add("width", "FP64", draw_table(1600).values["height"]).drop("height")
    del new.values["height"]
    columns = (Column(name="width", datatype="FP64", is_nullable=True), *COLUMNS[1:])
    evidence = judge(store, data, new, columns=columns)
    line = find(evidence, "signature")
    assert (line.outcome, line.reason) == ("BLOCK", "column height was removed")


def test_a_key_that_rows_were_known_by_and_are_no_more_is_named(store: Store, data: Path) -> None:
    """No client sends a key, so nothing blocks; but the champion could not tell what it learned from."""
    old = OLD.add("plot", "INT64", list(range(1200)), is_key=True)
    new = draw_table(1600).add("field", "INT64", list(range(1600)), is_key=True)
    evidence = judge(store, data, new, old=old)
    assert find(evidence, "signature").outcome == "PASS"
    line = find(evidence, "held_out_rows")
    assert (line.outcome, evidence.comparison) == ("INVALID", None)
    assert "the candidate's rows lack column plot, which version 1 knows" in line.reason
    assert combine(evidence) == "INVALID"


def test_a_key_that_is_text_now_is_the_same_key(store: Store, data: Path) -> None:
    """A number is known by its value, however it is stored."""
    old = OLD.add("plot", "INT64", list(range(1200)), is_key=True)
    new = draw_table(1600).add("plot", "BYTES", [str(n) for n in range(1600)], is_key=True)
    evidence = judge(store, data, resplit(new, range(800, 1600)), old=old)
    line = find(evidence, "held_out_rows")
    assert (line.candidate, "200 left out" in line.reason) == (600, True)


def test_a_column_that_is_ignored_now_is_named(store: Store, data: Path) -> None:
    """Clients may go on sending it, but no row has it any more; the hint says how to keep it."""
    new = draw_table(1600).drop("soil")
    evidence = judge(store, data, new, columns=COLUMNS[:3])
    assert find(evidence, "signature").outcome == "PASS"
    line = find(evidence, "held_out_rows")
    assert line.outcome == "INVALID"
    assert "lack column soil, which version 1 knows" in line.reason
    assert "an ignored one is not kept" in line.reason


@pytest.mark.parametrize(
    ("datatype", "values", "outcome"),
    [
        ("FP64", [0.0] * 1600, "INFO"),
        ("BYTES", ["0.5"] * 1600, "INFO"),
        ("BYTES", ["0.5"] * 1599 + ["half"], "INVALID"),
    ],
)
def test_a_column_of_another_type_is_cast_or_named(
    store: Store, data: Path, datatype: str, values: list[Any], outcome: str
) -> None:
    """A number that is written as text is a number; text that is none cannot be asked of the champion."""
    new = replace(draw_table(1600), is_test=np.ones(1600, bool)).drop("rings").add("rings", datatype, values)
    evidence = judge(store, data, new, columns=(COLUMNS[0], *COLUMNS[2:]))
    line = find(evidence, "held_out_rows")
    assert line.outcome == outcome, line.reason
    if outcome == "INVALID":
        assert "column rings of the candidate's rows is not of the type that version 1 knows" in line.reason


def test_what_was_text_and_is_a_number_is_named(store: Store, data: Path) -> None:
    """A number has many texts; which of them the champion learned is not known."""
    new = draw_table(1600).drop("soil").add("soil", "FP64", [1.0] * 1600)
    evidence = judge(store, data, new, columns=COLUMNS[:3])
    assert "column soil of the candidate's rows is not of the type" in find(evidence, "held_out_rows").reason


def test_rows_that_the_champions_service_refuses_are_left_out_and_counted(store: Store, data: Path) -> None:
    """A column that was never NULL is now: the champion has no answer, not even a wrong one."""
    strict = (msgspec.structs.replace(COLUMNS[0], is_nullable=False), *COLUMNS[1:])
    heights = draw_table(2400).values["height"]
    new = draw_table(2400).change(height=[None if row % 60 == 1 else x for row, x in enumerate(heights)])
    evidence = judge(store, data, new, champion={"columns": strict})
    line = find(evidence, "held_out_rows")
    assert (line.outcome, line.candidate) == ("INFO", 1200 - 40)
    assert "; 40 because it takes no NULL where they have one; 1,160 are judged" in line.reason
    assert find(evidence, "accuracy").outcome == "PASS"
    rows = pq.read_table(data / "scored-champion.parquet")["row"].to_numpy()
    assert not np.any(rows % 60 == 1)


def test_rows_that_were_removed_are_missed_by_nobody(store: Store, data: Path) -> None:
    """Whoever asked to be forgotten is neither tested on nor counted."""
    new = draw_table(2400).take(np.arange(2400) % 3 > 0)
    evidence = judge(store, data, new)
    line = find(evidence, "held_out_rows")
    assert (line.outcome, line.candidate) == ("INFO", new.is_test.sum())
    assert find(evidence, "accuracy").outcome == "PASS"


def test_when_every_row_was_learned_from_nothing_is_decided(store: Store, data: Path) -> None:
    """A proof on rows that the champion knows by heart would block every candidate."""
    new = replace(OLD, is_test=~OLD.is_test).take(np.arange(1200) < 1100)
    evidence = judge(store, data, new)
    line = find(evidence, "held_out_rows")
    assert (line.outcome, line.candidate) == ("INCONCLUSIVE", 0)
    assert "550 left out" in line.reason
    assert line.reason.endswith("none is left to judge")
    for name in ("accuracy", "accuracy_total", "recall", "log_loss", "calibration"):
        assert find(evidence, name).outcome == "INCONCLUSIVE"
    assert "rows needed: 2,160 at least, there are 0" in find(evidence, "accuracy").reason
    assert combine(evidence) == "INCONCLUSIVE"


@pytest.mark.parametrize("left", [1, 2, 14])
def test_few_rows_are_judged_and_prove_nothing(store: Store, data: Path, left: int) -> None:
    """A week without new rows: the line says how many there are and how many it takes."""
    new = replace(OLD, is_test=~OLD.is_test)
    new = replace(new, is_test=new.is_test | (np.cumsum(~new.is_test) <= left) & ~new.is_test)
    evidence = judge(store, data, new.take(np.arange(1200) < 1199), gate=LIMITS)
    assert evidence.comparison is not None
    assert evidence.comparison.pairs.rows == left
    line = find(evidence, "accuracy")
    assert line.outcome == "INCONCLUSIVE"
    assert f"rows needed: 2,160, these {left} can exclude " in line.reason
    assert {find(evidence, name).outcome for name in ("recall", "log_loss", "calibration")} == {"PASS"}
    assert combine(evidence) == "INCONCLUSIVE"


def test_rows_travel_with_the_version(store: Store, data: Path) -> None:
    """A gate on another machine has no table."""
    (data / "prepared").mkdir()
    evidence = judge(store, data, draw_table(1600), brings_rows=True)
    assert find(evidence, "held_out_rows").candidate == 800


def test_rows_that_are_not_here_are_asked_for(store: Store, data: Path) -> None:
    """Both ways out are said."""
    (data / "prepared").mkdir()
    line = find(judge(store, data, draw_table(1600)), "held_out_rows")
    assert line.outcome == "INVALID"
    assert "the test rows of version 2 are not here" in line.reason
    assert "--data" in line.reason
    assert "test_rows = true" in line.reason


@pytest.mark.parametrize("change", ["value", "missing", "column", "bytes"])
def test_rows_that_are_not_the_candidates_are_refused(store: Store, data: Path, change: str) -> None:
    """The table was prepared again since; its rows say nothing about this version."""
    new = draw_table(1600)
    path = lay_out(new, data)
    rows = pq.read_table(path)
    if change == "value":
        heights = rows["height"].to_pylist()
        changed = [*heights[:-1], 1.25]
        rows = rows.set_column(rows.column_names.index("height"), "height", pa.array(changed, pa.float64()))
    elif change == "missing":
        rows = rows.slice(1)
    elif change == "column":
        rows = rows.drop_columns(["height"])
    pq.write_table(rows, path)
    if change == "bytes":
        path.write_bytes(path.read_bytes()[:-100])
    line = find(judge(store, data, new), "held_out_rows")
    assert line.outcome == "INVALID"
    told = {"column": "lack column height", "bytes": "the test rows cannot be read"}
    assert told.get(change, "the test rows have the fingerprint") in line.reason


def test_a_row_that_changed_places_is_found_out(store: Store, data: Path) -> None:
    """The fingerprint does not know which number a row has; the evaluation does."""
    new = draw_table(1600)
    path = lay_out(new, data)
    rows = pq.read_table(path)
    numbers = rows["__row__"].to_pylist()
    swapped = pa.array([numbers[1] + 1, *numbers[1:]], pa.int64())
    pq.write_table(rows.set_column(0, "__row__", swapped), path)
    line = find(judge(store, data, new), "held_out_rows")
    assert (line.outcome, "evaluation.parquet is not about the test rows" in line.reason) == ("INVALID", True)


def test_answers_that_are_not_the_graphs_are_refused(store: Store, data: Path) -> None:
    """Floors were judged on them."""
    new = draw_table(1600)
    other = publish_on(store, new, offset=0.1)
    stolen = (folder_of(store.open_version("tiny", other)) / EVALUATION_FILE).read_bytes()
    line = find(judge(store, data, new, extra={EVALUATION_FILE: stolen}), "held_out_rows")
    assert line.outcome == "INVALID"
    assert "evaluation.parquet is not this graph's" in line.reason


@pytest.mark.parametrize(
    ("champion", "told"),
    [
        ({"extra": {MODEL_FILE: b"not ONNX"}}, "tiny@1: ONNX Runtime refuses the graph"),
        ({"extra": {MODEL_FILE: build_graph(COLUMNS[:3], 3)}}, "tiny@1: the graph does not answer: "),
        (
            {"signature": build_signature(COLUMNS, CLASSES[:2])},
            "tiny@1: the graph does not answer with its 2 classes",
        ),
    ],
)
def test_a_graph_that_cannot_be_asked_is_named(
    store: Store, data: Path, champion: dict[str, Any], told: str
) -> None:
    """Its digests are right, so somebody published it so; the gate must not end in a traceback."""
    line = find(judge(store, data, draw_table(1600), champion=champion), "held_out_rows")
    assert line.outcome == "INVALID"
    assert line.reason.startswith(told)


def test_a_champion_of_an_earlier_release_says_what_to_do(store: Store, data: Path) -> None:
    """Nobody knows what it learned from."""
    line = find(judge(store, data, draw_table(1600), champion={"has_seen": False}), "held_out_rows")
    assert line.outcome == "INVALID"
    assert line.reason.startswith(f"tiny@1: has no {SEEN_FILE}")
    assert "Export or train it again before its table changes" in line.reason


@pytest.mark.parametrize("content", ["bytes", "no metadata", "other schema"])
def test_what_a_champion_learned_from_has_to_be_readable(store: Store, data: Path, content: str) -> None:
    """Digests are right, so somebody published it so."""
    path = data / "seen"
    rows = pa.table({"hash": pa.array([1], pa.int64())})
    about = b'{"schema_version":99,"columns":[],"target":"x","rows":1,"span":1,"false_positive_rate":0}'
    if content == "other schema":
        rows = rows.replace_schema_metadata({b"timberline": about})
    pq.write_table(rows, path)
    damaged = b"nothing" if content == "bytes" else path.read_bytes()
    line = find(
        judge(store, data, draw_table(1600), champion={"extra": {SEEN_FILE: damaged}}), "held_out_rows"
    )
    assert line.outcome == "INVALID"
    told = "schema_version 99" if content == "other schema" else f"{SEEN_FILE} cannot be read"
    assert told in line.reason


def test_an_int8_graph_gets_a_row_at_a_time(store: Store, data: Path) -> None:
    """Its answer to a row depends on the rows beside it; the service asks it row by row."""
    evidence = judge(store, data, draw_table(1600), champion={"is_batch_bound": True, "precision": "int8"})
    assert find(evidence, "accuracy").champion == 1.0
    again = judge(store, data, draw_table(1600), champion={"is_batch_bound": True})
    assert (find(again, "accuracy").champion or 0) < 0.9


def test_slices_are_those_of_the_candidate(store: Store, data: Path) -> None:
    """Its evaluation says which rows are in them; the champion may never have heard of them."""
    limits = msgspec.structs.replace(LIMITS, slices={"wet": "is_wet"})
    new = resplit(draw_table(1600), range(800, 1600))
    evidence = judge(store, data, new, gate=limits, champion={"offset": 0.3})
    assert evidence.comparison is not None
    (part,) = evidence.comparison.slices
    kept = set(range(800, 1600)) - set(np.flatnonzero(~OLD.is_test))
    assert part.pairs.rows == sum(bool(new.values["is_wet"][row]) for row in kept)
    assert find(evidence, "slices").outcome == "PASS"


def test_features_that_a_prior_has_seen_are_said_and_left_in(store: Store, data: Path) -> None:
    """Without their labels nothing was learned by heart."""
    evidence = judge(
        store,
        data,
        draw_table(1600),
        champion={"lineage": {"unlabelled_splits": ("validation", "test")}},
        lineage={"unlabelled_splits": ("test",)},
    )
    line = find(evidence, "held_out_rows")
    assert line.candidate == 800
    assert line.reason.endswith(
        "version 1 has seen the features, without labels, of its validation and test rows; "
        "version 2 has seen the features, without labels, of its test rows"
    )


def test_answers_are_kept_so_that_the_verdict_can_be_worked_out_again(store: Store, data: Path) -> None:
    """The columns of an evaluation, in the candidate's classes."""
    judge(store, data, draw_table(1600))
    for arm in ("champion", "candidate"):
        kept = pq.read_table(data / f"scored-{arm}.parquet")
        assert kept.column_names == ["row", "class_index", "label_index", "p_0", "p_1", "p_2"]
        assert kept.num_rows == 800
    own = pq.read_table(folder_of(store.open_version("tiny", 2)) / EVALUATION_FILE)
    assert kept["label_index"].equals(own["label_index"])
    assert np.allclose(kept["p_1"].to_numpy(), own["p_1"].to_numpy(), atol=1e-6)


def test_the_same_table_is_compared_as_it_was_answered(store: Store, data: Path) -> None:
    """Nothing is asked afresh, and no rows are needed."""
    evidence = judge(store, data, OLD)
    assert "held_out_rows" not in {line.name for line in evidence.lines}
    assert find(evidence, "accuracy").evidence == EVALUATION_FILE
    assert not list(data.glob("scored-*"))


def test_the_same_rows_in_another_order_are_asked_afresh(store: Store, data: Path) -> None:
    """The fingerprint knows no order; row numbers, and so the stored answers, mean other rows."""
    order = np.random.default_rng(1).permutation(1200).tolist()
    values = {name: [column[row] for row in order] for name, column in OLD.values.items()}
    new = replace(OLD, values=values)
    evidence = judge(store, data, new)
    line = find(evidence, "held_out_rows")
    learned = {row for row in range(1200) if not OLD.is_test[row]}
    kept = [row for place, row in enumerate(order) if OLD.is_test[place] and row not in learned]
    assert line.candidate == len(kept)
    assert "version 1 learned from the same rows in another order" in line.reason
    assert find(evidence, "accuracy").champion == 1.0


def test_text_and_null_reach_the_graph_as_in_the_service(store: Store, data: Path) -> None:
    """A champion that saw zeros, or nothing, in their place would answer otherwise than it did."""
    evidence = judge(store, data, draw_table(1600).change(soil=[None, "clay"] * 800))
    old = pq.read_table(folder_of(store.open_version("tiny", 1)) / EVALUATION_FILE)
    assert old.num_rows == 600
    assert find(evidence, "accuracy").champion == find(evidence, "accuracy").candidate


def test_a_column_that_was_another_moment_is_not_compared() -> None:
    """Days and microseconds are both whole numbers, and one version would be asked about 1970."""
    born = StoredColumn(name="born", datatype="INT64", moment="date")
    rows = RawRows(Path("never_read.parquet"), "rows", {"born": born})
    other = StoredColumn(name="born", datatype="INT64", moment="timestamp")
    with pytest.raises(EvidenceError, match="column born of the candidate's rows is not of the type"):
        list(read_batches(rows, [other], 1))
