"""Bodies of rows with dates and text: what is sent in every form is the row whose answer is known."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.support.pet_model import CLASSES, COLUMNS, TABLE, publish_pets
from timberline.benchmarks.errors import WorkloadError
from timberline.benchmarks.measure.records import Body, Form
from timberline.benchmarks.measure.workload import Mix, Workload, draw_bodies, golden_bodies
from timberline.inference.formats.infer_request import read_request
from timberline.inference.models.versions import LiveVersion, load_version
from timberline.inference.session import Feed
from timberline.registry.manifest import Manifest
from timberline.registry.signature import build_signature
from timberline.registry.store import open_store


def workload(form: Form) -> Workload:
    """Two rows a request, in one form."""
    return Workload(seed=1, bodies=8, mix=(Mix(rows=2, form=form),))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> LiveVersion:
    """A version whose table writes dates and booleans its own way."""
    store = open_store(tmp_path_factory.mktemp("pets"))
    formats = {"born": "%d.%m.%Y", "seen": "%Y-%m-%d %H:%M:%S.%f"}
    columns = tuple(msgspec.structs.replace(c, time_format=formats.get(c.name)) for c in COLUMNS)
    table = msgspec.structs.replace(TABLE, true_text=("Ja",), false_text=("Nein",))
    publish_pets(store, signature=build_signature(columns, CLASSES), table=table)
    return load_version(store.open_version("pets", 1), max_rows=10)


def read(live: LiveVersion, body: Body) -> Feed:
    """The body as the service reads it."""
    if body.form == "csv":
        return live.decoder.tables.read_csv(body.payload, True)
    if body.form == "json":
        return live.session.feed_rows(live.decoder.decode(body.payload).rows)
    length = int(body.headers.get("Inference-Header-Content-Length", len(body.payload)))
    return live.reader.read(read_request(body.payload, length))


@pytest.mark.parametrize("form", ["json", "csv", "oip", "oip_binary"])
@pytest.mark.parametrize("is_shared", [True, False])
def test_bodies_give_the_answers_that_are_known(live: LiveVersion, form: Form, is_shared: bool) -> None:
    """A gate that measures refusals measures nothing."""
    versions = (
        {"candidate": live.manifest} if is_shared else {"champion": live.manifest, **other(live.manifest)}
    )
    arm = next(iter(versions))
    for body in draw_bodies(workload(form), versions):
        found = live.session.run(read(live, body)).probabilities
        np.testing.assert_allclose(found, np.array(body.answers[arm]), atol=1e-6)


def other(manifest: Manifest) -> dict[str, Manifest]:
    """A candidate that reads one column less."""
    columns = manifest.signature.columns[:-1]
    golden = msgspec.structs.replace(manifest.golden, rows=tuple(row[:-1] for row in manifest.golden.rows))
    signature = build_signature(columns, manifest.signature.classes)
    return {"candidate": msgspec.structs.replace(manifest, signature=signature, golden=golden)}


def test_golden_rows_are_sent_as_clients_send_them(live: LiveVersion) -> None:
    """Their manifest holds microseconds, which a client would mean as seconds."""
    bodies = golden_bodies(live.manifest, "candidate")
    assert b'"born":"2013-05-01","seen":"2013-05-01T12:30:00Z"' in bodies[0].payload


def test_what_cannot_carry_these_columns_is_refused(live: LiveVersion, tmp_path: Path) -> None:
    """float32 has seven digits; and one body cannot be written for two tables."""
    with pytest.raises(WorkloadError, match="column breed is text"):
        draw_bodies(workload("float32"), {"candidate": live.manifest})
    plain = msgspec.structs.replace(live.manifest, signature=build_signature(COLUMNS, CLASSES))
    with pytest.raises(WorkloadError, match="write moments or booleans differently"):
        draw_bodies(workload("csv"), {"champion": plain, "candidate": live.manifest})
    timed = tuple(column for column in COLUMNS if column.datatype != "BYTES")
    rows = tuple(row[1:5] for row in live.manifest.golden.rows)
    numeric = msgspec.structs.replace(
        live.manifest,
        signature=build_signature(timed, CLASSES),
        golden=msgspec.structs.replace(live.manifest.golden, rows=rows),
    )
    with pytest.raises(WorkloadError, match="column seen is a timestamp"):
        draw_bodies(workload("float32"), {"candidate": numeric})
