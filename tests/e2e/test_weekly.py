"""The commonest release: the same recipe, a week later, on a table that has changed since."""

from __future__ import annotations

import math
import random
import shutil
from pathlib import Path

import pytest

from tests.support.makefile import ROOT, Made, Workshop
from tests.support.tables import CLASSES, HEADER, SmallTable
from timberline.registry.aliases import read_alias
from timberline.registry.manifest import Manifest
from timberline.registry.rows import SEEN_ODDS, TEST_ROWS_FILE
from timberline.registry.store import Store, open_store
from timberline.registry.verdict import VERDICT_FILE, Verdict, VerdictLine, decode_verdict

# No latency is judged here, and no figure that a network of two epochs reaches by luck.
ANY_SPEED = (
    "gate.max_p50_increase=20 gate.max_p99_increase=20 gate.max_service_p50_increase=20 "
    "gate.max_cpu_increase=20 gate.max_memory_increase=20 gate.max_start_up_increase=20 "
)
LAX = ANY_SPEED + (
    "gate.min_accuracy=0.3 gate.max_accuracy_drop=0.05 gate.max_recall_drop=0.9 gate.max_slice_drop=0.9 "
    "gate.max_log_loss_increase=0.1 gate.max_ece_increase=0.1 gate.baseline=warn "
)
SMALL = LAX + "training.epochs=2 network.widths=[48] "
SHARES = (0.6, 0.8, 1.0)


def store_of(workshop: Workshop) -> Store:
    """The registry that its commands write."""
    return open_store(workshop.registry)


def production(workshop: Workshop) -> int:
    """The version that production points at."""
    alias = read_alias(store_of(workshop), workshop.model, "production")
    assert alias is not None
    return alias.version


def read_manifest(workshop: Workshop, version: int) -> Manifest:
    """The manifest of a version."""
    return store_of(workshop).open_version(workshop.model, version).manifest


def read_lines(workshop: Workshop, version: int) -> dict[str, VerdictLine]:
    """The lines of a version's verdict, by name."""
    return {line.name: line for line in read_verdict(workshop, version).lines}


def read_verdict(workshop: Workshop, version: int) -> Verdict:
    """What the gate said of a version."""
    data = store_of(workshop).read_document(workshop.model, version, VERDICT_FILE)
    assert data is not None
    return decode_verdict(data)


def judge(workshop: Workshop, overrides: str = LAX) -> Made:
    """A release whose stages before the gate run in this process; `test_story` makes it by one command."""
    workshop.export_here(overrides=overrides)
    done = workshop.make("gate", "promote")
    print(done.output, done.log)
    return done


def require_fresh(workshop: Workshop, version: int, champion: int) -> tuple[int, int]:
    """Hold a verdict to having asked both graphs afresh about all test rows; rows judged and left out."""
    line, rows = read_lines(workshop, version)["held_out_rows"], read_manifest(workshop, version).metrics.rows
    assert line.outcome == "INFO"
    assert f"version {champion} learned from another table; both were asked afresh" in line.reason
    assert f"about the {rows:,} test rows of version {version}" in line.reason
    assert line.candidate is not None
    judged = round(line.candidate)
    assert (
        f"{rows - judged:,} left out because version {champion} trained or validated on them" in line.reason
    )
    return judged, rows - judged


def by_chance(rows: int) -> float:
    """More rows than these are left out of ``rows`` new ones in fewer than 1 of 10,000 tables."""
    expected = rows / SEEN_ODDS
    return expected + 4 * math.sqrt(expected) + 2


# Electricity, with nothing but the commands.


@pytest.fixture(scope="module")
def electricity(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workshop, list[str]]:
    """A model folder whose source is a file of the user's own, which grows; and all of its lines."""
    folder = tmp_path_factory.mktemp("weekly")
    fetched = Workshop(folder / "fetched", "electricity")
    fetched.made("fetch")
    (path,) = fetched.data.glob("raw/*/elec.csv")
    lines = path.read_text("utf-8").splitlines()
    shutil.copytree(ROOT / "models" / "electricity", folder / "models" / "electricity")
    model = folder / "models" / "electricity" / "model.toml"
    head, rest = model.read_text("utf-8").split("[source]\n")
    columns = rest[rest.index("[columns]") :]
    model.write_text(f'{head}[source]\nkind = "csv"\npath = "{folder}/elec.csv"\n\n{columns}', "utf-8")
    return Workshop(folder, "electricity", folder / "models"), lines


def write_table(workshop: Workshop, lines: list[str]) -> None:
    """Put these lines, the header first, into the place of the source."""
    (workshop.folder / "elec.csv").write_text("\n".join(lines) + "\n", "utf-8")


def test_a_table_that_grows_is_released_every_week_and_one_with_shuffled_labels_is_not(
    electricity: tuple[Workshop, list[str]],
) -> None:
    """The release that the product is for, judged on rows that are new to both."""
    workshop, (header, *lines) = electricity
    for week, share in enumerate(SHARES, 1):
        write_table(workshop, [header, *lines[: round(share * len(lines))]])
        assert judge(workshop, SMALL).code == 0
        assert production(workshop) == week
        if week == 1:
            continue
        judged, left_out = require_fresh(workshop, week, week - 1)
        assert left_out <= by_chance(judged + left_out), "the newest window is new to the champion"
        verdict = read_verdict(workshop, week)
        assert (verdict.outcome, verdict.is_first) == ("PASS", False)
        assert read_lines(workshop, week)["accuracy_total"].outcome == "PASS"

    tested = round(0.2 * len(lines))
    cells = [line.rpartition(",") for line in lines]
    labels = [label for _, _, label in cells[:-tested]]
    random.Random(0).shuffle(labels)
    wrong = [f"{values},{label}" for (values, *_), label in zip(cells, labels, strict=False)]
    write_table(workshop, [header, *wrong, *lines[-tested:]])
    assert judge(workshop, SMALL).code != 0
    assert production(workshop) == 3
    # The champion has learned none of these rows: they are the window that it was tested on.
    judged, left_out = require_fresh(workshop, 4, 3)
    assert left_out <= by_chance(judged + left_out)
    assert read_verdict(workshop, 4).outcome == "BLOCK"
    assert read_lines(workshop, 4)["accuracy"].outcome == "BLOCK"
    assert read_lines(workshop, 4)["accuracy_total"].outcome == "BLOCK"


# What else a table may have become in a week, on a small one.

COLUMNS = 'id = { type = "integer", role = "key" }\n'
SPLIT = 'kind = "hash"\nkey = ["id"]\nvalidation = 0.2\ntest = 0.3'
REST = """
[network]
kind = "mlp_ple"
widths = [16]
bins = 8
embedding_width = 4

[training]
epochs = 12
batch_rows = 64
learning_rate = 1e-2
ema_momentum = 0.9
"""
ROWS = 2000


def small_rows(count: int, *, limit: int = 50) -> list[str]:
    """Lines whose answer hangs on the height; row i is the same whatever ``count`` is."""
    drawn = random.Random(1)
    lines = []
    for i in range(count):
        height = drawn.randrange(101)
        place = drawn.choice(("north", "south"))
        answer = CLASSES[(height > limit) ^ (drawn.random() < 0.1)]
        lines.append(f"{height},{round(drawn.random(), 6)},{i % 2},{1 - i % 2},{place},true,{answer},{i}")
    return lines


def make_table(root: Path, lines: list[str], *, columns: str = COLUMNS, header: str = f"{HEADER},id") -> None:
    """The model folder ``small`` with a hash split by its key, and its table."""
    SmallTable(root, lines, split=SPLIT, columns=columns, rest=REST, header=header)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The small table, released once."""
    folder = tmp_path_factory.mktemp("released")
    make_table(folder, small_rows(ROWS))
    workshop = Workshop(folder, "small", folder / "models")
    assert judge(workshop).code == 0
    return workshop


@pytest.fixture
def small(released: Workshop, tmp_path: Path) -> Workshop:
    """A registry of the test's own with that release in production, and no table yet."""
    shutil.copytree(released.registry, tmp_path / "registry")
    return Workshop(tmp_path, "small", tmp_path / "models")


def test_rows_removed_and_labels_revised_leave_what_was_learned_from_out(small: Workshop) -> None:
    """A hash split keeps each key on its side, so that of the grown table's test rows none was learned from
    but those whose key was given to others."""
    lines = small_rows(ROWS + 1000)[300:]  # the oldest are gone
    values = [line.split(",") for line in lines]
    for cells in values[::10]:
        cells[6] = CLASSES[int(cells[0]) > 50]  # what was noise is corrected
    make_table(small.folder, [",".join(cells) for cells in values])
    assert judge(small).code == 0
    assert production(small) == 2
    judged, left_out = require_fresh(small, 2, 1)
    assert left_out <= by_chance(judged + left_out)


def test_rows_whose_keys_changed_sides_are_left_out(small: Workshop) -> None:
    """Another seed of the split tests on rows that the champion has learned from, whatever their label is."""
    values = [line.split(",") for line in small_rows(ROWS)]
    for cells in values[::10]:
        cells[6] = CLASSES[int(cells[0]) > 50]
    make_table(small.folder, [",".join(cells) for cells in values])
    judge(small, LAX + "split.seed=1")
    rows = read_manifest(small, 2).metrics.rows
    judged, left_out = require_fresh(small, 2, 1)
    assert judged + left_out == rows
    assert left_out == pytest.approx(0.7 * rows, abs=4 * (0.21 * rows) ** 0.5)


def test_a_class_and_a_column_are_added_and_the_test_rows_travel(small: Workshop) -> None:
    """The champion errs on the class that it does not know, and is asked without the column that it does
    not take; a gate that sees the registry only can say so."""
    lines = []
    for line in small_rows(ROWS + 500):
        cells = line.split(",")
        if int(cells[0]) > 90:
            cells[6] = "vast"
        lines.append(",".join([*cells, str(int(cells[0]) % 7)]))
    columns = COLUMNS + 'depth = { type = "integer", nullable = true }\n'
    make_table(small.folder, lines, columns=columns, header=f"{HEADER},id,depth")
    sql = small.models / "small" / "features.sql"
    sql.write_text(sql.read_text().replace("\nFROM raw", ", coalesce(depth, -1) AS depth_or_none\nFROM raw"))
    small.export_here(overrides=LAX + "export.test_rows=true")
    shutil.rmtree(small.data / "prepared")
    assert small.make("gate", "promote").code == 0
    manifest = read_manifest(small, 2)
    assert TEST_ROWS_FILE in manifest.files
    assert [label.value for label in manifest.signature.classes] == ["absent", "present", "vast"]
    assert "depth" in [column.name for column in manifest.signature.columns]
    judged, _ = require_fresh(small, 2, 1)
    lines_of = read_lines(small, 2)
    assert lines_of["signature"].label == "WARN"
    assert "vast" in lines_of["signature"].reason
    accuracy = lines_of["accuracy"]
    assert accuracy.champion is not None
    vast = manifest.metrics.classes["vast"].rows
    assert accuracy.champion <= 1 - 0.8 * vast / judged
    assert production(small) == 2


def test_rows_that_are_nowhere_make_it_invalid_and_say_where_they_should_be(small: Workshop) -> None:
    """Without them the candidate could be compared with nothing."""
    make_table(small.folder, small_rows(ROWS + 200))
    small.export_here(overrides=LAX)
    shutil.rmtree(small.data / "prepared")
    refused = small.make("gate", "promote")
    assert refused.code != 0
    assert read_verdict(small, 2).outcome == "INVALID"
    assert "`test_rows = true` in [export]" in read_lines(small, 2)["held_out_rows"].reason
    assert production(small) == 1


@pytest.mark.parametrize(
    ("name", "outcome", "line", "reason"),
    [
        ("height", "BLOCK", "signature", "column height was removed"),
        ("id", "INVALID", "held_out_rows", "the candidate's rows lack column id, which version 1 knows"),
    ],
)
def test_a_column_that_was_renamed_is_named(
    small: Workshop, name: str, outcome: str, line: str, reason: str
) -> None:
    """An input has clients that send it; by a key the champion knows its rows."""
    make_table(
        small.folder,
        small_rows(ROWS + 200),
        columns=COLUMNS.replace("id =", "number =") if name == "id" else COLUMNS,
        header=f"{HEADER},id".replace(name, "number"),
    )
    for file in ("model.toml", "features.sql"):
        path = small.models / "small" / file
        text = path.read_text("utf-8")
        path.write_text(
            text.replace('key = ["id"]', 'key = ["number"]') if name == "id" else text.replace(name, "number")
        )
    assert judge(small).code != 0
    assert read_verdict(small, 2).outcome == outcome
    assert reason in read_lines(small, 2)[line].reason
    assert production(small) == 1
