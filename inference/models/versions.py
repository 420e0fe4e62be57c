"""The version being served: found by its name, proven, and made ready to answer and to be counted."""

from __future__ import annotations

import time
from dataclasses import dataclass

from timberline.inference.formats.codec import AnswerEncoder, RowDecoder
from timberline.inference.formats.request import JSON, Header
from timberline.inference.formats.tensors import TensorReader, TensorWriter
from timberline.inference.metrics.counters import ModelMetrics
from timberline.inference.metrics.drift import Drift
from timberline.inference.models.proven import open_proven
from timberline.inference.models.traffic import Shadow
from timberline.inference.session import Session
from timberline.registry.manifest import Manifest
from timberline.registry.store import MODEL_FILE
from timberline.registry.version import Version

VERSION_HEADER = b"x-model-version"


@dataclass(frozen=True)
class LiveVersion:
    """One verified version with all that answering a request for it takes; never changed, only replaced."""

    manifest: Manifest
    manifest_sha256: str
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


def load_version(opened: Version, *, max_rows: int, drift_rows: int = 0, warns: bool = False) -> LiveVersion:
    """Load a version.

    Drift is measured over this process's latest ``drift_rows`` rows; 0 is not at all. With ``warns`` answers
    name the features that have an unknown value.

    The graph's digest is compared and every golden row asked, which may take a second. Any thread may do
    it; from then on the version belongs to the event loop's.

    Raises:
        LifecycleError: as `inference.models.proven.open_proven`.
    """
    proven = open_proven(opened, max_rows=max_rows)
    manifest, version = opened.manifest, opened.manifest.version
    categories = [category.feature for category in manifest.categories]
    return LiveVersion(
        manifest=manifest,
        manifest_sha256=opened.digests.manifest_sha256,
        session=proven.session,
        decoder=proven.decoder,
        encoder=AnswerEncoder(
            manifest.model, version, manifest.signature.classes, categories if warns else ()
        ),
        reader=TensorReader(manifest.signature, max_rows, unread=manifest.table.unread),
        writer=TensorWriter(manifest.model, version, manifest.signature, categories, warns=warns),
        metrics=ModelMetrics(
            manifest.model,
            version,
            [label.value for label in manifest.signature.classes],
            categories,
            digest=manifest.files[MODEL_FILE].sha256,
            loaded_at=time.time(),
        ),
        headers=(JSON, (VERSION_HEADER, f"{manifest.model}@{version}".encode())),
        drift=Drift(manifest, drift_rows) if drift_rows else None,
    )
