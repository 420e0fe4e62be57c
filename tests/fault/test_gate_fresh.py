"""Whole gates between versions of different tables: services and all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.support.fresh import CLASSES, COLUMNS, TARGET, Table, draw_table, lay_out, publish_on
from tests.support.quick import quick_settings
from tests.support.tiny_model import point_alias
from tests.support.verdicts import find_line
from timberline.benchmarks.gate.run import run_gate
from timberline.benchmarks.settings import GateSettings
from timberline.registry.names import PRODUCTION
from timberline.registry.runtime.files import digest_file
from timberline.registry.signature import ClassLabel, Column
from timberline.registry.store import Store
from timberline.registry.verdict import VERDICT_FILE, Verdict, decode_verdict

OLD = draw_table(1200)
MORE = (*CLASSES, ClassLabel(value="highest", label="Highest"))
FORMS = "\n".join(
    f'[[mix]]\nrows = {rows}\nform = "{form}"'
    for rows in (1, 4)
    for form in ("json", "csv", "oip", "oip_binary")
)


def settings(folder: Path) -> GateSettings:
    """One short restart, in which every form of a request that carries text is sent."""
    workload = folder / "forms.toml"
    workload.write_text(f"seed = 1\nbodies = 40\n{FORMS}\n", "utf-8")
    quick = quick_settings()
    return msgspec.structs.replace(
        quick, duet=msgspec.structs.replace(quick.duet, workload=str(workload), window_s=1.0)
    )


def judge(store: Store, folder: Path, new: Table, *, old: Table = OLD, **candidate: Any) -> Verdict:
    """A champion of ``old``, a candidate of ``new``, whose rows lie in DATA; the verdict that was stored."""
    champion = candidate.pop("champion", {})
    publish_on(store, old, alias=PRODUCTION, **champion)
    if not (folder / "data").exists():
        lay_out(new, folder / "data")
    return judge_next(store, folder, publish_on(store, new, alias="candidate", **candidate))


def judge_next(store: Store, folder: Path, version: int) -> Verdict:
    """The verdict about a candidate whose rows lie there, as it was stored."""
    result = run_gate(store, "tiny", folder / "data", settings(folder))
    assert result.verdict is not None
    stored = store.read_document("tiny", version, VERDICT_FILE)
    assert stored is not None
    assert decode_verdict(stored) == result.verdict
    return result.verdict


def test_a_class_and_a_column_more_are_served_beside_the_champion(store: Store, tmp_path: Path) -> None:
    """Both are asked the same bodies, in every form, though they know other columns and classes."""
    new = draw_table(2400, classes=MORE).add("slope", "FP64", [0.5] * 2400)
    columns = (COLUMNS[0], Column(name="slope", datatype="FP64", default=0.0), *COLUMNS[1:])
    verdict = judge(store, tmp_path, new, columns=columns)
    for name in ("held_out_rows", "accuracy", "accuracy_total", "recall", "answers", "error_rate"):
        assert find_line(verdict, name).outcome in ("PASS", "INFO"), find_line(verdict, name)
    assert find_line(verdict, "signature").label == "WARN"
    folder = tmp_path / "data" / "gates" / "tiny" / "2-vs-1"
    for name in ("scored-champion.parquet", "scored-candidate.parquet"):
        assert verdict.evidence[name] == digest_file(folder / name)
    page = (folder / "report.html").read_text("utf-8")
    assert "highest: champion 0.00%, candidate " in page
    assert "1,200 rows" in page


def test_a_class_more_alone_is_asked_with_golden_rows_of_both(store: Store, tmp_path: Path) -> None:
    """Each is held to its own answers, which are three numbers here and four there."""
    verdict = judge(store, tmp_path, draw_table(2400, classes=MORE))
    assert find_line(verdict, "answers").outcome == "PASS"


Change = Callable[[Path], Table]


def _revise(_: Path) -> Table:
    table = replace(draw_table(1600), is_test=np.arange(1600) >= 800)
    return table.change(**{TARGET: ["high" if x == "low" else x for x in table.values[TARGET]]})


def _lose_rows(_: Path) -> Table:
    return draw_table(2400).take(np.arange(2400) % 3 > 0)


def _rename(_: Path) -> Table:
    return draw_table(1600).drop("soil").add("ground", "BYTES", draw_table(1600).values["soil"])


def _learn_all(_: Path) -> Table:
    return replace(OLD, is_test=~OLD.is_test).take(np.arange(1200) < 1100)


def _hide(folder: Path) -> Table:
    (folder / "data").mkdir()
    return draw_table(1600)


def _alter(folder: Path) -> Table:
    lay_out(draw_table(1600, seed=1), folder / "data")
    return draw_table(1600)


NO_SOIL = {"columns": COLUMNS[:3]}


@pytest.mark.parametrize(
    ("change", "changes", "outcome", "told"),
    [
        (_revise, {}, "INFO", "800 test rows of version 2; 200 left out"),
        (_rename, NO_SOIL, "INVALID", "the candidate's rows lack column soil, which version 1 knows"),
        (_learn_all, {}, "INCONCLUSIVE", "550 left out"),
        (_hide, {}, "INVALID", "the test rows of version 2 are not here"),
        (_alter, {}, "INVALID", "the test rows have the fingerprint"),
        (_lose_rows, {"champion": {"is_batch_bound": True, "precision": "int8"}}, "INFO", "0 left out"),
    ],
)
def test_each_change_of_a_table_has_its_answer(
    store: Store, tmp_path: Path, change: Change, changes: dict[str, Any], outcome: str, told: str
) -> None:
    """What cannot be compared is no PASS, and says what to do; the services are measured all the same."""
    verdict = judge(store, tmp_path, change(tmp_path), **changes)
    line = find_line(verdict, "held_out_rows")
    assert (line.outcome, told in line.reason) == (outcome, True), line
    names = {line.name for line in verdict.lines}
    assert "answers" in names
    assert ("accuracy" in names) == (outcome != "INVALID")
    if outcome == "INFO":
        assert find_line(verdict, "accuracy").champion == find_line(verdict, "accuracy").candidate
    else:
        assert verdict.outcome == outcome


def test_the_third_of_three_small_losses_is_blocked(store: Store, tmp_path: Path) -> None:
    """Each release learned from a table of its own, and is as good as the one before, within the limit."""
    publish_on(store, draw_table(1000), alias=PRODUCTION)
    told = []
    for number in (1, 2, 3):
        table = draw_table(8000 + number)
        lay_out(table, tmp_path / "data")
        version = publish_on(store, table, alias="candidate", offset=0.007 * number)
        verdict = judge_next(store, tmp_path, version)
        told.append((find_line(verdict, "accuracy").outcome, find_line(verdict, "accuracy_total").outcome))
        point_alias(store, "tiny", PRODUCTION, version)
    assert told[-1] == ("PASS", "BLOCK")
    assert verdict.outcome == "BLOCK"
    assert [total for _, total in told[:2]] == ["PASS", "PASS"]
