"""Which bodies are sent."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import pytest

from tests.support.manifests import TINY_CLASSES, TINY_COLUMNS, build_manifest
from timberline.benchmarks.errors import WorkloadError
from timberline.benchmarks.measure.formats import INFER_PATH
from timberline.benchmarks.measure.records import Form
from timberline.benchmarks.measure.workload import Mix, Workload, draw_bodies, golden_bodies, load_workload
from timberline.registry.errors import ConfigError
from timberline.registry.manifest import Golden, Manifest
from timberline.registry.signature import Column, build_signature

SINGLE = Workload(seed=1, bodies=40, mix=(Mix(rows=1),))
FORMS: tuple[Form, ...] = ("json", "csv", "float32", "oip", "oip_binary")


def of_form(form: Form) -> Workload:
    """Single rows in one form only."""
    return Workload(seed=1, bodies=40, mix=(Mix(rows=1, form=form),))


def test_bodies_are_named_rows_and_repeatable() -> None:
    """A run can be repeated with the very same requests."""
    drawn = draw_bodies(SINGLE, {"candidate": build_manifest()})
    assert drawn == draw_bodies(SINGLE, {"candidate": build_manifest()})
    assert {body.payload for body in drawn} == {
        b'{"height":10.0,"rings":20}',
        b'{"height":90.0,"rings":200}',
    }


def test_both_versions_answers_are_known_for_shared_rows() -> None:
    """Every arm is held to its own manifest, on the same body."""
    other = Golden(rows=((10.0, 20),), class_indexes=(0,), probabilities=((0.6, 0.4),))
    versions = {"champion": build_manifest(), "candidate": build_manifest(version=2, golden=other)}
    known = {body.payload: body.answers for body in draw_bodies(SINGLE, versions)}
    assert known[b'{"height":10.0,"rings":20}'] == {"champion": ((0.75, 0.25),), "candidate": ((0.6, 0.4),)}
    assert set(known[b'{"height":90.0,"rings":200}']) == {"champion"}


def test_a_candidate_with_a_new_column_gets_the_champions_bodies_only() -> None:
    """The champion would refuse a column that it does not know."""
    columns = (*TINY_COLUMNS, Column(name="bark", datatype="FP64", default=0.0))
    golden = Golden(rows=((1.0, 2, 3.0),), class_indexes=(0,), probabilities=((0.5, 0.5),))
    candidate = build_manifest(version=2, signature=build_signature(columns, TINY_CLASSES), golden=golden)
    drawn = draw_bodies(SINGLE, {"champion": build_manifest(), "candidate": candidate})
    assert all(b"bark" not in body.payload for body in drawn)


@pytest.mark.parametrize("versions", [{}, {"candidate": Golden(rows=(), class_indexes=(), probabilities=())}])
def test_an_empty_workload_is_refused(versions: dict[str, Golden]) -> None:
    """Nothing sent is nothing measured."""
    manifests: dict[str, Manifest] = {arm: build_manifest(golden=golden) for arm, golden in versions.items()}
    with pytest.raises(WorkloadError):
        draw_bodies(SINGLE, manifests)


def test_batches_come_as_instances() -> None:
    """Batches take the service's other road, with their answers in order."""
    drawn = draw_bodies(Workload(seed=1, bodies=3, mix=(Mix(rows=4),)), {"candidate": build_manifest()})
    sent = msgspec.json.decode(drawn[0].payload)
    assert len(sent["instances"]) == drawn[0].rows == len(drawn[0].answers["candidate"]) == 4


@pytest.mark.parametrize("name", ["single_rows", "mixed_batches", "mixed_protocols"])
def test_committed_workloads_can_be_drawn(name: str) -> None:
    """A typo in a workload must not wait for a release to be found."""
    assert draw_bodies(load_workload(name), {"candidate": build_manifest()})


def test_the_mixed_workload_holds_every_form_in_singles_and_batches() -> None:
    """What no workload asks, no release proves."""
    drawn = draw_bodies(load_workload("mixed_protocols"), {"candidate": build_manifest()})
    assert {(body.form, body.rows > 1) for body in drawn} == {(f, b) for f in FORMS for b in (False, True)}
    assert all("candidate" in body.answers for body in drawn)


def test_a_model_with_text_cannot_be_asked_in_float32() -> None:
    """The service would refuse every one of these requests; the workload is wrong, not the candidate."""
    columns = (*TINY_COLUMNS, Column(name="soil", datatype="BYTES"))
    golden = Golden(rows=((1.0, 2, "clay"),), class_indexes=(0,), probabilities=((0.5, 0.5),))
    manifest = build_manifest(signature=build_signature(columns, TINY_CLASSES), golden=golden)
    with pytest.raises(WorkloadError, match=r"tiny@1.*float32: column soil is text"):
        draw_bodies(of_form("float32"), {"candidate": manifest})
    for form in FORMS[:2] + FORMS[3:]:
        assert draw_bodies(of_form(form), {"candidate": manifest})


def test_versions_of_different_columns_share_no_float32_rows() -> None:
    """Bare rows have no names: what is whole for one version is cut short for the other."""
    columns = tuple(reversed(TINY_COLUMNS))
    golden = Golden(rows=((20, 10.0),), class_indexes=(0,), probabilities=((0.5, 0.5),))
    candidate = build_manifest(version=2, signature=build_signature(columns, TINY_CLASSES), golden=golden)
    versions = {"champion": build_manifest(), "candidate": candidate}
    with pytest.raises(WorkloadError, match="different columns"):
        draw_bodies(of_form("float32"), versions)
    (tensors,) = {
        tuple(one["name"] for one in msgspec.json.decode(body.payload)["inputs"])
        for body in draw_bodies(of_form("oip"), versions)
    }
    assert tensors == ("height", "rings")  # and not "numeric", whose columns are in another order


def test_rows_that_a_form_would_change_are_not_sent_in_it() -> None:
    """A rounded value beside a threshold may get another class, and would count as a wrong answer."""
    golden = Golden(rows=((0.1, 20), (0.5, 20)), class_indexes=(0, 1), probabilities=((0.7, 0.3), (0.2, 0.8)))
    drawn = draw_bodies(of_form("float32"), {"candidate": build_manifest(golden=golden)})
    assert {body.answers["candidate"] for body in drawn} == {((0.2, 0.8),)}


def test_rows_that_no_float32_can_hold_are_sent_without_an_answer() -> None:
    """Measured values seldom fit 24 bits; their speed is asked for all the same."""
    golden = Golden(rows=((0.1, 20),), class_indexes=(0,), probabilities=((0.7, 0.3),))
    drawn = draw_bodies(of_form("float32"), {"candidate": build_manifest(golden=golden)})
    assert {tuple(body.answers) for body in drawn} == {()}


def test_a_form_that_can_write_no_golden_row_is_refused() -> None:
    """In CSV an empty field is NULL, so that an empty text cannot be said."""
    columns = (Column(name="bark", datatype="BYTES"), TINY_COLUMNS[1])
    golden = Golden(rows=(("", 20),), class_indexes=(0,), probabilities=((0.7, 0.3),))
    manifest = build_manifest(signature=build_signature(columns, TINY_CLASSES), golden=golden)
    with pytest.raises(WorkloadError, match="no golden row"):
        draw_bodies(of_form("csv"), {"candidate": manifest})


def test_requests_of_the_protocol_go_to_the_model_by_name() -> None:
    """The path is filled in by whoever knows the target."""
    for form in FORMS[3:]:
        assert {b.path for b in draw_bodies(of_form(form), {"candidate": build_manifest()})} == {INFER_PATH}


def test_an_unknown_workload_is_refused() -> None:
    """A misspelt name is wrong use, not an empty run."""
    with pytest.raises(ConfigError):
        load_workload("no_such_workload")


def test_golden_bodies_are_every_row_with_its_answer() -> None:
    """What is replayed before anything is measured."""
    bodies = golden_bodies(build_manifest(), "champion")
    assert [(body.payload, body.rows, body.answers) for body in bodies] == [
        (b'{"height":10.0,"rings":20}', 1, {"champion": ((0.75, 0.25),)}),
        (b'{"height":90.0,"rings":200}', 1, {"champion": ((0.25, 0.75),)}),
    ]


def test_sizes_and_forms_come_as_often_as_they_weigh() -> None:
    """Three to one; a mix without a weight has the weight of one, and a form of JSON."""
    mix = (Mix(rows=2, form="csv", weight=3.0), Mix(rows=5))
    drawn = draw_bodies(Workload(seed=1, bodies=400, mix=mix), {"candidate": build_manifest()})
    counts = Counter((body.form, body.rows) for body in drawn)
    assert set(counts) == {("csv", 2), ("json", 5)}
    assert 0.68 < counts["csv", 2] / 400 < 0.82
    assert len(drawn) == 400


def test_another_seed_draws_other_bodies() -> None:
    """And the same one the same, whichever process asks."""
    drawn = {
        seed: draw_bodies(Workload(seed=seed, bodies=40, mix=(Mix(rows=1),)), {"candidate": build_manifest()})
        for seed in (1, 2)
    }
    assert drawn[1] != drawn[2]


def test_a_row_that_only_one_version_knows_is_checked_on_that_arm(tmp_path: Path) -> None:
    """A batch is known where all of its rows are."""
    other = Golden(rows=((1.0, 2),), class_indexes=(0,), probabilities=((0.6, 0.4),))
    versions = {"champion": build_manifest(), "candidate": build_manifest(version=2, golden=other)}
    drawn = draw_bodies(Workload(seed=1, bodies=60, mix=(Mix(rows=2),)), versions)
    known = {
        frozenset(row["height"] for row in msgspec.json.decode(body.payload)["instances"]): set(body.answers)
        for body in drawn
    }
    assert known[frozenset({1.0})] == {"candidate"}
    assert known[frozenset({10.0, 90.0})] == {"champion"}
    assert known[frozenset({1.0, 10.0})] == set()


@pytest.mark.parametrize(
    "text",
    [
        "seed = 1\nbodies = 0\n[[mix]]\nrows = 1\n",
        "seed = 1\nbodies = 1\n[[mix]]\nrows = 0\n",
        "seed = 1\nbodies = 1\n[[mix]]\nrows = 1\nweight = 0.0\n",
        'seed = 1\nbodies = 1\n[[mix]]\nrows = 1\nform = "xml"\n',
        "seed = 1\nbodies = 1\nbody = 2\n[[mix]]\nrows = 1\n",
    ],
    ids=["no body", "no row", "no weight", "no form", "no key"],
)
def test_a_workload_of_ones_own_is_checked(tmp_path: Path, text: str) -> None:
    """A run that sends nothing takes as long as one that does."""
    path = tmp_path / "mine.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=r"mine\.toml"):
        load_workload(str(path))


def test_a_workload_of_ones_own_is_read(tmp_path: Path) -> None:
    """A path ends in .toml; a name is one of ours, and the refusal lists them."""
    path = tmp_path / "mine.toml"
    path.write_text("seed = 3\nbodies = 2\n[[mix]]\nrows = 1\n", "utf-8")
    assert load_workload(str(path)) == Workload(seed=3, bodies=2, mix=(Mix(rows=1),))
    with pytest.raises(ConfigError, match="no workload 'mine'") as caught:
        load_workload("mine")
    assert "There are mixed_batches, mixed_protocols, single_rows" in (caught.value.hint or "")


@pytest.mark.parametrize("mix", [(), (Mix(rows=1),)])
def test_what_cannot_be_sent_names_the_versions(mix: tuple[Mix, ...]) -> None:
    """Whose rows are missing, or that the workload is empty."""
    empty = Golden(rows=(), class_indexes=(), probabilities=())
    versions = {
        "champion": build_manifest(golden=empty) if mix else build_manifest(),
        "candidate": build_manifest(version=2, golden=empty) if mix else build_manifest(version=2),
    }
    with pytest.raises(WorkloadError, match=r"tiny@1, tiny@2.*has no row to send"):
        draw_bodies(Workload(seed=1, bodies=4, mix=mix), versions)


def test_a_row_is_the_same_whatever_the_order_of_its_columns() -> None:
    """Two versions that list their columns otherwise know the same rows, and are both checked on them."""
    golden = Golden(rows=((20, 10.0),), class_indexes=(0,), probabilities=((0.6, 0.4),))
    signature = build_signature(tuple(reversed(TINY_COLUMNS)), TINY_CLASSES)
    candidate = build_manifest(version=2, signature=signature, golden=golden)
    drawn = draw_bodies(SINGLE, {"champion": build_manifest(), "candidate": candidate})
    known = {msgspec.json.decode(body.payload)["height"]: body.answers for body in drawn}
    assert known == {
        10.0: {"champion": ((0.75, 0.25),), "candidate": ((0.6, 0.4),)},
        90.0: {"champion": ((0.25, 0.75),)},
    }
