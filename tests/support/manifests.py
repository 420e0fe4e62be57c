"""Small valid manifests, versions and verdicts for tests of every part.

store = open_store(tmp_path)
version = publish_tiny(store)                       # tiny@1: a model.onnx of a few bytes
version = publish_tiny(store, model_bytes=onnx)     # or of real ones
give_verdict(store, "tiny", version, "PASS")        # judged against production, if there is one
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from timberline.registry.aliases import read_alias
from timberline.registry.manifest import (
    SCHEMA_VERSION,
    ClassMetrics,
    FileDigest,
    GateLimits,
    Golden,
    Histogram,
    Interval,
    Lineage,
    Manifest,
    Metrics,
    ParityTensor,
    Prior,
)
from timberline.registry.names import PRODUCTION
from timberline.registry.runtime.documents import utc_now
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.signature import ClassLabel, Column, build_signature
from timberline.registry.store import EVALUATION_FILE, LEDGER, MODEL_FILE, Store
from timberline.registry.verdict import (
    VERDICT_FILE,
    VERDICT_SCHEMA_VERSION,
    Outcome,
    Verdict,
    VerdictLine,
    VersionDigests,
    encode_verdict,
)

TINY_COLUMNS = (
    Column(name="height", datatype="FP64", default=0.0, unit="m", minimum=0.0, maximum=100.0),
    Column(name="rings", datatype="INT64", minimum=1.0, maximum=900.0),
)
TINY_CLASSES = (ClassLabel(value="1", label="Spruce"), ClassLabel(value="2", label="Pine"))


def build_manifest(
    model: str = "tiny",
    version: int = 1,
    files: Mapping[str, FileDigest] | None = None,
    **changes: Any,
) -> Manifest:
    """A valid manifest of a model with two numeric columns and two classes; ``changes`` replaces fields."""
    digest = digest_bytes(b"anything")
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        model=model,
        version=version,
        created_at="2026-11-22T09:30:00+00:00",
        title="Tiny",
        description="Two columns, two classes.",
        files=dict(files or {MODEL_FILE: FileDigest(sha256=digest, size=8)}),
        signature=build_signature(TINY_COLUMNS, TINY_CLASSES),
        opset=18,
        producers={"timberline": "0.1.0"},
        lineage=Lineage(
            run_id="0123456789ab",
            run_digest=digest,
            data_fingerprint="00" * 16,
            test_fingerprint="11" * 16,
            features_digest=digest,
            config_digest=digest,
            git_commit=None,
            seed=0,
            attribution="made up",
        ),
        prior=Prior(method="none", training=(0.5, 0.5), deployment=(0.5, 0.5)),
        metrics=build_metrics(),
        parity={
            "probabilities": ParityTensor(rows=4, worst_absolute_error=0.0, worst_row=0, atol=1e-6, rtol=1e-4)
        },
        histograms={"height": Histogram(counts=(2, 2), edges=(0.0, 50.0, 100.0))},
        golden=Golden(
            rows=((10.0, 20), (90.0, 200)),
            class_indexes=(0, 1),
            probabilities=((0.75, 0.25), (0.25, 0.75)),
        ),
        gate=GateLimits(),
    )
    return msgspec.structs.replace(manifest, **changes)


def build_metrics(accuracy: float = 0.75) -> Metrics:
    """Metrics of four test rows whose accuracy interval is ±0.05."""
    scores = ClassMetrics(precision=accuracy, recall=accuracy, f1=accuracy, rows=2)
    return Metrics(
        rows=4,
        accuracy=Interval(value=accuracy, low=accuracy - 0.05, high=accuracy + 0.05),
        log_loss=0.5,
        ece=0.01,
        classes={"1": scores, "2": scores},
        confusion=((1, 1), (0, 2)),
        baselines={"majority": 0.5},
    )


def publish_tiny(
    store: Store,
    model: str = "tiny",
    *,
    model_bytes: bytes = b"not ONNX",
    evaluation_bytes: bytes = b"not Parquet",
    **changes: Any,
) -> int:
    """Publish the next version of ``model`` with these files; ``changes`` replaces manifest fields."""
    with tempfile.TemporaryDirectory() as scratch:
        files = {MODEL_FILE: Path(scratch, "m"), EVALUATION_FILE: Path(scratch, "e")}
        files[MODEL_FILE].write_bytes(model_bytes)
        files[EVALUATION_FILE].write_bytes(evaluation_bytes)
        return store.publish(
            model, files, lambda version, digests: build_manifest(model, version, digests, **changes)
        )


def build_verdict(
    model: str,
    candidate: VersionDigests,
    champion: VersionDigests | None = None,
    outcome: Outcome = "PASS",
    created_at: str = "2026-11-22T10:00:00+00:00",
) -> Verdict:
    """A verdict with one line that says what the whole says."""
    line = VerdictLine(name="accuracy", candidate=0.75, limit=0.7, outcome=outcome, reason="made up")
    return Verdict(
        schema_version=VERDICT_SCHEMA_VERSION,
        outcome=outcome,
        model=model,
        candidate=candidate,
        champion=champion,
        is_first=champion is None,
        lines=(line,),
        gate_version="1",
        config_digest=digest_bytes(b"anything"),
        machine={"cpu_count": "2"},
        created_at=created_at,
    )


def give_verdict(
    store: Store,
    model: str,
    version: int,
    outcome: Outcome = "PASS",
    evidence: Mapping[str, str] | None = None,
) -> Verdict:
    """Write the verdict that an honest gate would write now: against production, or a first one.

    Args:
        evidence: name of a document → its SHA-256.
    """
    production = read_alias(store, model, PRODUCTION)
    champion = store.open_version(model, production.version).digests if production else None
    judged = store.open_version(model, version).digests
    verdict = build_verdict(model, judged, champion, outcome, created_at=utc_now("milliseconds"))
    verdict = msgspec.structs.replace(verdict, evidence=dict(evidence or {}))
    store.open_version(model, version).write_document(VERDICT_FILE, encode_verdict(verdict))
    return verdict


def remove_ledger_entry(store: Store, model: str, version: int) -> None:
    """Make ``version`` one that was published before there was a ledger: its manifest is not pinned."""
    Path(store.location, model, LEDGER, f"{version}.json").unlink()
