"""The version being served: found by its name, verified, loaded, and asked what it must know."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from inference.errors import GoldenMismatchError
from inference.live.traffic import Shadow
from inference.metrics.counters import ModelMetrics
from inference.metrics.drift import Drift
from inference.session import Session
from inference.wire.answers import JSON, Header
from inference.wire.codec import AnswerEncoder, RowDecoder
from inference.wire.tensors import TensorReader, TensorWriter
from registry.aliases import resolve
from registry.manifest import Golden, Manifest
from registry.names import ModelRef
from registry.store import MODEL_FILE, Store

VERSION_HEADER = b"x-model-version"


@dataclass(frozen=True)
class LiveVersion:
    """One verified version with all that answering a request for it takes; never changed, only replaced."""

    manifest: Manifest
    session: Session
    decoder: RowDecoder
    encoder: AnswerEncoder
    reader: TensorReader
    writer: TensorWriter
    metrics: ModelMetrics
    headers: tuple[Header, ...]  # of an answer in JSON: its content type, and the version that gave it
    drift: Drift | None = None  # None where it is not measured
    shadow: Shadow | None = None  # what else is asked about the rows that this version answered

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.manifest.model

    @property
    def version(self) -> int:
        """Number of the version."""
        return self.manifest.version


def load_version(store: Store, ref: ModelRef, *, max_rows: int, drift_rows: int = 0) -> LiveVersion:
    """Load the version that ``ref`` names, a bare model name being its ``production``.

    Drift is measured over this process's latest ``drift_rows`` rows; 0 is not at all.

    Every digest is compared and every golden row asked, which may take a second. Any thread may do
    it; from then on the version belongs to the event loop's.

    Raises:
        VersionNotFoundError: there is no such model, version or alias.
        ManifestError: its manifest cannot be read.
        DigestMismatchError: a file is not the one that was published.
        SignatureMismatchError: the graph is not what its manifest says.
        GoldenMismatchError: the graph does not answer as it did when it was published.
    """
    version = resolve(store, ref)
    manifest = store.verify(ref.model, version)
    graph = store.read_file(ref.model, version, MODEL_FILE)
    live = LiveVersion(
        manifest=manifest,
        session=Session(
            graph,
            manifest.signature,
            where=f"{ref.model}@{version}: {MODEL_FILE}",
            row_by_row=manifest.precision == "int8",
        ),
        decoder=RowDecoder(manifest.signature.columns, max_rows),
        encoder=AnswerEncoder(manifest.model, version, manifest.signature.classes),
        reader=TensorReader(manifest.signature, max_rows),
        writer=TensorWriter(manifest.model, version, manifest.signature),
        metrics=ModelMetrics(
            manifest.model,
            version,
            [label.value for label in manifest.signature.classes],
            digest=manifest.files[MODEL_FILE].sha256,
            loaded_at=time.time(),
        ),
        headers=(JSON, (VERSION_HEADER, f"{manifest.model}@{version}".encode())),
        drift=Drift(manifest, drift_rows) if drift_rows else None,
    )
    replay_golden(live)
    return live


def replay_golden(live: LiveVersion) -> None:
    """Ask the loaded version its golden rows, by the ways that requests take; this is also its warm-up.

    Raises:
        GoldenMismatchError: a probability is further than ``golden.atol`` from the published one.
        RowError: a golden row is no row of the signature.
    """
    golden = live.manifest.golden
    # One by one, as max_rows may be set below their number.
    bodies = [msgspec.json.encode({"instances": [row]}) for row in golden.rows]
    rows = [live.decoder.decode(body).rows[0] for body in bodies]
    _compare(live, golden, live.session.run(live.session.feed_rows(rows)).probabilities)
    singles = [live.session.run_row(row)[1] for row in rows]
    _compare(live, golden, np.array(singles, dtype=np.float32))


def _compare(live: LiveVersion, golden: Golden, found: npt.NDArray[np.float32]) -> None:
    expected = np.array(golden.probabilities, dtype=np.float32)  # (rows, classes)
    errors = np.abs(found - expected).max(axis=1)  # (rows, classes) → (rows,)
    worst = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
    if not errors[worst] <= golden.atol:
        raise GoldenMismatchError(
            f"probabilities are off by {errors[worst]:.3g}, allowed {golden.atol:.3g}",
            where=f"{live.model}@{live.version}: golden row {worst}",
            hint="This machine computes otherwise than the exporter's; export and gate the version here.",
        )
