"""`timberline export` on small real runs: what is published, skipped, refused, and left alone."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from onnx import numpy_helper

from tests.support.ended import starting
from tests.support.registry_tree import folder_of
from tests.support.runs import CODED, RunPlan, build_run, make_seen
from tests.support.service import running_service
from timberline.exporter.__main__ import main
from timberline.exporter.compiler.compile import build_feature_graph
from timberline.exporter.compiler.text import TEXT_OPSET
from timberline.exporter.errors import ExportError, ParityInputError
from timberline.exporter.export import export_run, publish_verified
from timberline.exporter.graph.compose import compose_graph
from timberline.exporter.graph.convert import KerasNetwork
from timberline.exporter.graph.runtime import open_session
from timberline.exporter.inputs import ExportInputs, ReleaseSettings, load_inputs, load_release_settings
from timberline.exporter.parity.compare import load_tolerances
from timberline.exporter.parity.rows import rows_to_feeds
from timberline.registry.aliases import read_alias
from timberline.registry.errors import AfterChangeError, ConfigError, StageError
from timberline.registry.manifest import GateLimits
from timberline.registry.rows import SEEN_KEY
from timberline.registry.runs import ExportSettings, Fitted, find_run
from timberline.registry.signature import (
    CATEGORIES_OUTPUT,
    FIRST_CODE,
    NULL_CODE,
    UNKNOWN_CODE,
    Column,
    SourceTable,
    UnreadRole,
)
from timberline.registry.store import MODEL_FILE, Store, open_store
from timberline.training.features import parse_features

SETTINGS = ReleaseSettings(export=ExportSettings(golden_rows=12))
# What tells a person or a program which columns to send.
_PAGES = (("/", "text/html"), ("/openapi.json", "*/*"), ("/v2/models/tiny", "*/*"))
PLANS = {
    "mixed": RunPlan(),
    "binary": RunPlan(
        model="binary",
        columns=(Column(name="a", datatype="FP64"), Column(name="b", datatype="FP64")),
        features_sql="SELECT a, b, a - b AS difference FROM raw",
        classes=("0", "1"),
    ),
}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Data folders by plan, each built once; read-only to tests."""
    folders: dict[str, Path] = {}

    def build(plan: str) -> Path:
        if plan not in folders:
            folders[plan] = tmp_path_factory.mktemp(plan)
            build_run(folders[plan], PLANS[plan])
        return folders[plan]

    return build


@pytest.fixture
def data(built: Callable[[str], Path]) -> Path:
    """The data folder of the mixed plan."""
    return built("mixed")


@pytest.fixture
def inputs(data: Path) -> ExportInputs:
    """What the mixed plan's run is exported from."""
    return load_inputs(data, "tiny", SETTINGS)


def run_main(data: Path, registry: Path, *more: str) -> int:
    folder = registry.parent / "models" / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.toml").write_text("[export]\ngolden_rows = 12\n")
    places = {"models": folder.parent, "data": data, "registry": registry}
    flags = [word for name, place in places.items() for word in (f"--{name}", str(place))]
    return main(["export", "--model", "tiny", *flags, *more])


@pytest.mark.parametrize(("plan", "model"), [("mixed", "tiny"), ("binary", "binary")])
def test_published_version_is_whole_and_answers_raw_rows_as_its_golden_rows_say(
    built: Callable[[str], Path], tmp_path: Path, plan: str, model: str
) -> None:
    """This is the whole promise: raw values in (NULL, text and flags included), known answers out."""
    store = open_store(tmp_path / "registry")

    result = export_run(load_inputs(built(plan), model, SETTINGS), store)

    manifest = store.open_version(model, 1).verify().manifest
    assert (result.outcome, result.version) == ("published", 1)
    assert result.row is not None
    assert result.row.microseconds > 0
    assert set(manifest.files) == {"model.onnx", "evaluation.parquet", "seen_rows.parquet"}
    session = open_session((folder_of(store.open_version(model, 1)) / "model.onnx").read_bytes(), threads=1)
    feeds = rows_to_feeds(manifest.golden.rows, manifest.signature.columns)
    assert {spec.name for spec in manifest.signature.inputs} == set(feeds)
    probabilities, label = session.run(None, feeds)
    np.testing.assert_allclose(probabilities, manifest.golden.probabilities, atol=manifest.golden.atol)
    assert probabilities.shape == (12, len(manifest.signature.classes))
    assert label.tolist() == probabilities.argmax(axis=1).tolist()


def test_text_and_null_reach_the_network_and_the_version_says_what_it_knows(
    tmp_path: Path, store: Store
) -> None:
    """Raw text in, known answers out; a service finds unknown values by the codes beside them."""
    build_run(tmp_path / "data", CODED)
    result = export_run(load_inputs(tmp_path / "data", "coded", SETTINGS), store)
    assert result.parity is not None
    assert result.parity["features"].worst_absolute_error == 0.0
    version = store.open_version("coded", 1)
    manifest = version.manifest
    assert [(known.feature, known.values) for known in manifest.categories] == [("colour", 1), ("place", 21)]
    assert manifest.constants == CODED.fitted.constants
    assert [spec.name for spec in manifest.signature.outputs] == ["probabilities", "label"]
    session = open_session(version.read_file(MODEL_FILE), threads=1)
    rows = [(1.0, "blue", "there"), (None, None, "place 3"), (None, "green", "nowhere")]
    feeds = rows_to_feeds(rows, manifest.signature.columns)
    probabilities, codes = session.run(["probabilities", CATEGORIES_OUTPUT], feeds)
    assert np.isfinite(probabilities).all()
    assert codes.tolist() == [
        [FIRST_CODE, FIRST_CODE + 20],
        [NULL_CODE, FIRST_CODE + 3],
        [UNKNOWN_CODE, UNKNOWN_CODE],
    ]


def test_functions_of_text_take_the_operator_set_that_has_them_and_are_exported_once(
    tmp_path: Path, store: Store
) -> None:
    """Whoever writes SQL asks for no operator set, and the same run is no new version because of it."""
    sql = "SELECT height, lower(trim(place)) AS place_small, colour LIKE 'b%' AS is_b FROM raw"
    plan = replace(
        CODED, features_sql=sql, fitted=Fitted(vocabularies={"place_small": ("here", "there", "place 1")})
    )
    build_run(tmp_path / "data", plan)
    inputs = load_inputs(tmp_path / "data", "coded", SETTINGS)
    assert inputs.export.opset < TEXT_OPSET
    result = export_run(inputs, store)
    assert result.parity is not None
    assert result.parity["features"].worst_absolute_error == 0.0
    version = store.open_version("coded", 1)
    assert version.manifest.opset == TEXT_OPSET
    assert export_run(inputs, store).outcome == "skipped"
    session = open_session(version.read_file(MODEL_FILE), threads=1)
    rows = [(1.0, "blue", " HERE "), (None, None, "Place 1"), (None, "green", "nowhere")]
    feeds = rows_to_feeds(rows, version.manifest.signature.columns)
    (codes,) = session.run([CATEGORIES_OUTPUT], feeds)
    assert codes.tolist() == [[FIRST_CODE], [FIRST_CODE + 2], [UNKNOWN_CODE]]


def test_null_that_a_network_does_not_fill_is_refused(tmp_path: Path, store: Store) -> None:
    """Its answer would be NaN, and every such row of a client an error."""
    columns = (Column(name="count", datatype="INT64", is_nullable=True),)
    build_run(tmp_path / "data", RunPlan(columns=columns, features_sql="SELECT count FROM raw"))
    with pytest.raises(ParityInputError, match="NaN"):
        export_run(load_inputs(tmp_path / "data", "tiny", SETTINGS), store)
    assert store.models() == []


def test_parity_covers_every_test_row_and_is_kept_in_the_manifest(inputs: ExportInputs, store: Store) -> None:
    """A sample would miss the one row whose feature sits on a threshold."""
    export_run(inputs, store)

    parity = store.open_version("tiny", 1).manifest.parity
    assert {name: tensor.rows for name, tensor in parity.items()} == {
        "features": 400,
        "probabilities": 400,
        "label": 400,
    }
    assert all(tensor.worst_absolute_error <= tensor.atol for tensor in parity.values())


def test_evaluation_holds_the_test_split_in_source_order(
    data: Path, inputs: ExportInputs, store: Store
) -> None:
    """The gate compares candidate and champion row by row: the same rows in the same order."""
    export_run(inputs, store)

    evaluation = pq.read_table(folder_of(store.open_version("tiny", 1)) / "evaluation.parquet")
    test = pq.read_table(data / "prepared/tiny/test.parquet")
    assert evaluation["row"].to_pylist() == test["__row__"].to_pylist()
    assert evaluation["class_index"].to_pylist() == test["__class__"].to_pylist()
    assert [evaluation[f"p_{index}"].type for index in range(3)] == ["float"] * 3


def test_slices_of_the_gate_are_kept_beside_the_predictions(
    data: Path, inputs: ExportInputs, store: Store
) -> None:
    """The registry keeps no raw rows: what the gate is to know of them has to be written now."""
    limits = GateLimits(
        slices={"tall": "height > 0.5 AND coalesce(count, 0) < 10", "blue": "colour = 'blue'"}
    )
    export_run(replace(inputs, gate=limits), store)

    evaluation = pq.read_table(folder_of(store.open_version("tiny", 1)) / "evaluation.parquet").to_pydict()
    test = pq.read_table(data / "prepared/tiny/test.parquet").to_pydict()
    assert evaluation["slice_blue"] == [colour == "blue" for colour in test["colour"]]
    assert evaluation["slice_tall"] == [
        height > 0.5 and (count or 0) < 10
        for height, count in zip(test["height"], test["count"], strict=True)
    ]
    assert store.open_version("tiny", 1).manifest.gate == limits


def test_a_column_that_no_feature_reads_is_asked_of_nobody(tmp_path: Path) -> None:
    """Clients send what the graph takes; slices of the gate and the table's other columns are not lost."""
    data, store = tmp_path / "data", open_store(tmp_path / "registry")
    spare = (Column(name="girth", datatype="INT64"), Column(name="place", datatype="BYTES"))
    plan = RunPlan(
        columns=(spare[0], *RunPlan().columns, spare[1]),
        table=SourceTable(null_text=("NA",), unread={"Id": "ignored", "answer": "target"}),
    )
    build_run(data, plan)
    limits = GateLimits(slices={"far": "place = 'a' AND girth > 0"})

    export_run(replace(load_inputs(data, "tiny", SETTINGS), gate=limits), store)

    manifest = store.open_version("tiny", 1).manifest
    test = pq.read_table(data / "prepared/tiny/test.parquet").to_pydict()
    evaluation = pq.read_table(folder_of(store.open_version("tiny", 1)) / "evaluation.parquet").to_pydict()
    assert evaluation["slice_far"] == [
        place == "a" and count > 0 for place, count in zip(test["place"], test["girth"], strict=True)
    ]
    names = ["height", "count", "is_wet", "colour"]
    assert [column.name for column in manifest.signature.columns] == names
    assert set(manifest.histograms) == set(names)
    assert {len(row) for row in manifest.golden.rows} == {4}
    unread: dict[str, UnreadRole] = {"Id": "ignored", "answer": "target", "girth": "input", "place": "input"}
    assert manifest.table == SourceTable(null_text=("NA",), unread=unread)
    row = dict(zip(names, manifest.golden.rows[0], strict=True))
    with running_service(tmp_path / "registry", "tiny@1") as service:
        status, answer = service.predict(row)
        assert status == 200, answer
        assert list(answer["probabilities"].values()) == pytest.approx(
            manifest.golden.probabilities[0], abs=1e-5
        )
        assert service.predict({"girth": 1, **row, "place": "a"}) == (status, answer)
        told = [service.request("GET", path, headers={"Accept": kind}) for path, kind in _PAGES]
    assert [(status, b"girth" in body, b"height" in body) for status, _, body in told] == [
        (200, False, True)
    ] * len(_PAGES)


@pytest.mark.parametrize(
    ("condition", "told"), [("hight > 1", "no input column"), ("height > 1e9", "none of the 400")]
)
def test_a_slice_that_cannot_be_judged_is_refused_and_nothing_is_published(
    inputs: ExportInputs, store: Store, condition: str, told: str
) -> None:
    """A mistake in a limit is the author's to correct, before anything expensive."""
    limits = GateLimits(slices={"tall": condition})
    with pytest.raises(ConfigError, match=f"gate.slices.tall: .*{told}"):
        export_run(replace(inputs, gate=limits, saved_model=Path("not read")), store)
    assert store.models() == []


def test_second_export_of_a_run_is_skipped_and_candidate_points_at_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make serve` runs every stage each time; a new version a time would bury the registry."""
    registry = tmp_path / "registry"
    assert run_main(data, registry) == 0
    first = json.loads(capsys.readouterr().out)

    assert run_main(data, registry) == 0
    second = json.loads(capsys.readouterr().out)

    assert (first["outcome"], second["outcome"]) == ("published", "skipped")
    assert second["model_sha256"] == first["model_sha256"]
    store = open_store(registry)
    assert store.versions("tiny") == [1]
    alias = read_alias(store, "tiny", "candidate")
    assert alias is not None
    assert (alias.version, alias.sequence) == (1, 1)


def test_other_export_settings_make_another_version(data: Path, tmp_path: Path) -> None:
    """A skipped export must mean that nothing would have come out differently."""
    registry = tmp_path / "registry"

    assert run_main(data, registry) == 0
    assert run_main(data, registry, "--set", "export.opset=17") == 0
    assert run_main(data, registry, "--set", "export.golden_rows=5") == 0
    assert run_main(data, registry, "--set", "export.golden_rows=5", "--set", "export.test_rows=true") == 0
    assert run_main(data, registry, "--set", "export.golden_rows=5", "--set", "export.test_rows=true") == 0

    store = open_store(registry)
    manifests = [store.open_version("tiny", version).manifest for version in store.versions("tiny")]
    assert [(m.opset, len(m.golden.rows)) for m in manifests] == [(18, 12), (17, 12), (18, 5), (18, 5)]
    assert ["test_rows.parquet" in m.files for m in manifests] == [False, False, False, True]
    assert [m.minimum_onnxruntime for m in manifests] == ["1.17"] * 4
    alias = read_alias(store, "tiny", "candidate")
    assert alias is not None
    assert alias.version == 4


def test_test_rows_are_published_as_they_stand_in_the_prepared_file(
    data: Path, inputs: ExportInputs, store: Store
) -> None:
    """A gate on another machine scores these rows, and holds them to the fingerprint in the manifest."""
    export_run(replace(inputs, export=ExportSettings(golden_rows=12, test_rows=True)), store)

    published = pq.read_table(folder_of(store.open_version("tiny", 1)) / "test_rows.parquet")
    prepared = pq.read_table(data / "prepared/tiny/test.parquet")
    names = ["__row__", "__class__", "height", "count", "is_wet", "colour", "answer"]
    assert published.column_names == names
    assert published.schema.types == [prepared.schema.field(name).type for name in names]
    assert published.to_pydict() == prepared.select(names).to_pydict()


def test_seen_rows_are_published_as_the_etl_left_them(data: Path, inputs: ExportInputs, store: Store) -> None:
    """The gate leaves these rows out when it asks this version about rows of another table."""
    export_run(inputs, store)

    published = folder_of(store.open_version("tiny", 1)) / "seen_rows.parquet"
    assert published.read_bytes() == (data / "prepared/tiny/seen_rows.parquet").read_bytes()


@pytest.mark.parametrize("harm", ["missing", "damaged", "without its description", "of another release"])
def test_seen_rows_that_are_no_use_are_refused_before_the_conversion(
    harm: str, inputs: ExportInputs, store: Store, tmp_path: Path
) -> None:
    """A version without them could not be compared with next week's; the way out is to prepare again."""
    path = tmp_path / "prepared" / "seen_rows.parquet"
    path.parent.mkdir()
    table = make_seen(inputs.run.columns, [1, 2])
    if harm == "damaged":
        path.write_bytes(b"PAR1")
    elif harm == "without its description":
        pq.write_table(table.replace_schema_metadata({}), path)
    elif harm == "of another release":
        text = table.schema.metadata[SEEN_KEY].replace(b'"schema_version":1', b'"schema_version":2')
        pq.write_table(table.replace_schema_metadata({SEEN_KEY: text}), path)
    moved = replace(inputs, test_parquet=path.with_name("test.parquet"))

    with pytest.raises(
        ExportError, match=r"seen_rows\.parquet: .*Run `timberline etl`, then `timberline train` again"
    ):
        export_run(moved, store)
    assert store.versions("tiny") == []


@pytest.mark.parametrize("is_published", [False, True])
def test_version_whose_candidate_cannot_move_is_named_as_published(
    is_published: bool, inputs: ExportInputs, store: Store
) -> None:
    """A version whose number nobody hears is exported again, and again."""
    if is_published:
        export_run(inputs, store)
    store.objects.put("tiny/aliases/candidate/1.json", b"torn")

    with pytest.raises(AfterChangeError, match=r"^tiny@1: is published, but tiny@candidate: .*alias set"):
        export_run(inputs, store)

    assert store.versions("tiny") == [1]
    store.open_version("tiny", 1).verify()


def test_damaged_version_is_not_taken_for_an_export(inputs: ExportInputs, store: Store) -> None:
    """Skipping because of a version whose bytes rotted would serve nothing for ever."""
    export_run(inputs, store)
    with (folder_of(store.open_version("tiny", 1)) / "model.onnx").open("ab") as file:
        file.write(b"x")

    result = export_run(inputs, store)

    assert (result.outcome, result.version) == ("published", 2)
    store.open_version("tiny", 2).verify()


def test_exporting_a_run_twice_gives_the_same_bytes(inputs: ExportInputs, tmp_path: Path) -> None:
    """Digests tell versions apart; a graph that differs each time would say that all of them differ."""
    stores = [open_store(tmp_path / name) for name in ("one", "other")]
    for store in stores:
        export_run(inputs, store)

    files = [store.open_version("tiny", 1).manifest.files for store in stores]
    assert files[0] == files[1]


def test_one_changed_weight_is_refused_and_the_row_is_named(
    inputs: ExportInputs, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """This is what parity is for: a graph that is almost right."""
    program = parse_features(inputs.run.features_sql, inputs.run.columns)
    network = KerasNetwork(inputs.saved_model, len(program.features))
    converted = network.convert(18)
    weights = max(converted.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    changed = numpy_helper.to_array(weights).copy()
    changed[0, 0] += 0.01
    weights.CopyFrom(numpy_helper.from_array(changed, weights.name))
    model = compose_graph(build_feature_graph(program, 18), converted, class_count=3)

    result = publish_verified(
        model, network, program, inputs, store, tolerances=load_tolerances(), converters={}
    )

    assert (result.outcome, result.version) == ("refused", None)
    assert result.breaks[0].tensor == "probabilities"
    assert (result.breaks[0].row - 5) % 3 == 0  # a source row of the table, not an offset
    assert f"source row {result.breaks[0].row} is" in caplog.text
    assert store.versions("tiny") == []
    assert read_alias(store, "tiny", "candidate") is None


def test_other_feature_formula_is_refused_and_the_feature_is_named(
    inputs: ExportInputs, store: Store
) -> None:
    """Training-serving skew is a feature computed in two ways; the first check is on the features."""
    program = parse_features(inputs.run.features_sql, inputs.run.columns)
    other = parse_features(inputs.run.features_sql.replace("+ 1", "+ 1.01"), inputs.run.columns)
    network = KerasNetwork(inputs.saved_model, len(program.features))
    model = compose_graph(build_feature_graph(other, 18), network.convert(18), class_count=3)

    result = publish_verified(
        model, network, program, inputs, store, tolerances=load_tolerances(), converters={}
    )

    assert result.outcome == "refused"
    assert {found.column for found in result.breaks if found.tensor == "features"} == {"root"}
    assert store.versions("tiny") == []


def test_broken_parity_ends_the_command_with_1(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipeline stops at the exit code: 1 is "the answer is no", not "could not find out"."""
    strict = tmp_path / "tolerances.toml"
    reason = "reason = 'bounds that float32 cannot keep'"
    names = ("features", "probabilities", "label", "int8.probabilities", "int8.label")
    bounds = "".join(f"[{name}]\natol = 0.0\nrtol = 0.0\n{reason}\n" for name in names)
    strict.write_text(f"{bounds}[int8]\ngolden_atol = 0.02\n")

    code = run_main(data, tmp_path / "registry", "--tolerances", str(strict))

    result = json.loads(capsys.readouterr().out)
    assert code == 1
    assert result["outcome"] == "refused"
    assert result["breaks"]
    assert open_store(tmp_path / "registry").models() == []


def test_killed_publisher_leaves_no_version(data: Path, tmp_path: Path) -> None:
    """kill -9 just before the manifest: a reader sees no version, and the next export makes version 1."""
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from timberline.exporter.export import export_run\n"
        "from timberline.exporter.inputs import ReleaseSettings, load_inputs\n"
        "from timberline.registry.store import open_store\n"
        "def die(): os.kill(os.getpid(), signal.SIGKILL)\n"
        "inputs = load_inputs(Path(sys.argv[1]), 'tiny', ReleaseSettings())\n"
        "export_run(inputs, open_store(sys.argv[2]), created_at=die)\n"
    )
    registry = tmp_path / "registry"

    killed = subprocess.run(
        [sys.executable, "-c", script, str(data), str(registry)], capture_output=True, text=True, check=False
    )

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    store = open_store(registry)
    assert store.versions("tiny") == []
    assert read_alias(store, "tiny", "candidate") is None
    assert export_run(load_inputs(data, "tiny", SETTINGS), store).version == 1
    store.open_version("tiny", 1).verify()


def test_an_export_that_is_asked_to_end_is_run_again_to_the_same_version(tmp_path: Path) -> None:
    """As the first process of a container, while it proves the graph on many rows."""
    data, models = tmp_path / "data", tmp_path / "models"
    build_run(data, RunPlan(rows=20_000))
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / "model.toml").write_text("[export]\ngolden_rows = 12\n")
    command = ["-m", "exporter", "export", "--model", "tiny", "--models", str(models), "--data", str(data)]
    whole, ended = (open_store(tmp_path / name) for name in ("whole", "ended"))

    with starting([*command, "--registry", ended.location], tmp_path / "log") as export:
        export.await_event("composed the graph")
        export.end()

    assert ended.versions("tiny") == []
    again = [sys.executable, *command, "--registry", ended.location]
    subprocess.run(again, capture_output=True, timeout=300, check=True)
    export_run(load_inputs(data, "tiny", SETTINGS), whole)
    for store in (whole, ended):
        assert read_alias(store, "tiny", "candidate") is not None
    assert (
        ended.open_version("tiny", 1).verify().manifest.files
        == whole.open_version("tiny", 1).verify().manifest.files
    )


@pytest.mark.parametrize(
    ("features_sql", "is_nullable", "told"),
    [
        ("SELECT sqrt(count) AS count_root FROM raw", False, "is NULL here"),
        ("SELECT abs(count) / 0 AS count_ratio FROM raw", True, "is inf here"),
    ],
)
def test_feature_that_is_not_finite_is_refused_before_the_network_with_its_row(
    tmp_path: Path, store: Store, features_sql: str, is_nullable: bool, told: str
) -> None:
    """What a network makes of NaN differs by processor, so its answer cannot be what is looked at."""
    plan = RunPlan(
        columns=(Column(name="count", datatype="INT64", is_nullable=is_nullable),), features_sql=features_sql
    )
    build_run(tmp_path / "data", plan)

    with pytest.raises(ParityInputError, match=rf"feature 'count.*', source row \d+: {told}.*coalesce"):
        export_run(load_inputs(tmp_path / "data", "tiny", SETTINGS), store)

    assert store.models() == []


def test_run_without_evaluation_says_what_to_run(data: Path, tmp_path: Path) -> None:
    """The manifest's figures come from the evaluation; without it there is nothing to claim."""
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    run = find_run(copy, "tiny")
    shutil.rmtree(run.with_name(f"{run.name}.evaluation"))

    with pytest.raises(StageError, match="timberline evaluate tiny"):
        load_inputs(copy, "tiny", SETTINGS)


@pytest.mark.parametrize(
    ("path", "command"),
    [("runs/tiny/{run}/run.json", "timberline train"), ("prepared/tiny/test.parquet", "timberline etl")],
)
def test_changed_input_file_is_refused(data: Path, tmp_path: Path, path: str, command: str) -> None:
    """What the receipts do not cover was not made by a stage; exporting it would launder it."""
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    with (copy / path.format(run=find_run(copy, "tiny").name)).open("ab") as file:
        file.write(b" ")

    with pytest.raises(StageError, match=command):
        load_inputs(copy, "tiny", SETTINGS)


def test_evaluation_of_another_run_is_refused(data: Path, tmp_path: Path) -> None:
    """Figures have to be those of the very network that is exported."""
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    receipt = copy / "runs/tiny" / f"{find_run(copy, 'tiny').name}.evaluation" / "receipt.json"
    tree = json.loads(receipt.read_text("utf-8"))
    tree["inputs"]["run"] = "0" * 64
    receipt.write_text(json.dumps(tree), "utf-8")

    with pytest.raises(StageError, match="belongs to another run"):
        load_inputs(copy, "tiny", SETTINGS)


def test_figures_that_the_graph_does_not_reach_are_refused(inputs: ExportInputs, store: Store) -> None:
    """An accuracy in the manifest that its own predictions do not have would pass the gate's floor."""
    accuracy = msgspec.structs.replace(inputs.metrics.accuracy, value=0.99)
    boasting = replace(inputs, metrics=msgspec.structs.replace(inputs.metrics, accuracy=accuracy))

    with pytest.raises(ExportError, match=r"says accuracy 0\.9900"):
        export_run(boasting, store)

    assert store.models() == []


def test_limits_and_opset_come_from_the_model_folder_at_export(data: Path, tmp_path: Path) -> None:
    """Another limit costs an export and no training; a mistake in the two sections is told."""
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    sections = ("[export]\ngolden_rows = 3", "[gate]\nmin_accuracy = 0.4", "[network]", "[paths]\ndata = 'd'")
    (folder / "model.toml").write_text("\n".join(sections))

    settings = load_release_settings(tmp_path / "models", "tiny", overrides=["training.seed=3"])

    assert (settings.export.golden_rows, settings.gate.min_accuracy) == (3, 0.4)
    assert settings.paths.data == "d"
    assert load_inputs(data, "tiny", settings).gate == settings.gate
    with pytest.raises(ConfigError, match="golden_rows"):
        load_release_settings(tmp_path / "models", "tiny", overrides=["export.golden_row=3"])


def test_a_changed_limit_is_published_as_a_new_version(inputs: ExportInputs, store: Store) -> None:
    """The gate reads its limits from the manifest; skipping here would judge by the old ones."""
    assert export_run(inputs, store).version == 1
    stricter = replace(inputs, gate=GateLimits(min_accuracy=0.1))
    assert export_run(stricter, store).version == 2
    assert store.open_version("tiny", 2).manifest.gate.min_accuracy == 0.1
    assert export_run(stricter, store).outcome == "skipped"
