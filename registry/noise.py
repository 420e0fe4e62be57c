"""How far runs of one recipe differ in quality: a document beside a version, measured by retraining it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from timberline.registry.errors import RegistryError
from timberline.registry.runtime.documents import decode_json, encode_document

NOISE_SCHEMA_VERSION = 1
NOISE_FILE = "training_noise.json"


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table in the document."""


class RunQuality(_Part, frozen=True, kw_only=True):
    """One run on the test split: accuracy and recalls 0 to 1 (by class value), log-loss in nats, ECE."""

    seed: int
    accuracy: float
    log_loss: float
    ece: float
    recalls: dict[str, float]


class TrainingNoise(_Part, frozen=True, kw_only=True):
    """Runs of one recipe that differ in their seed alone; the first is the version's own.

    ``recipe`` is the digest of all that a run is made from but its seed and its data; ``rows`` are the
    test rows, ``test_fingerprint`` says which. ``measured_at`` is UTC, ISO 8601.
    """

    schema_version: int
    model: str
    version: Annotated[int, msgspec.Meta(ge=1)]
    recipe: str
    test_fingerprint: str
    rows: int
    measured_at: str
    runs: Annotated[tuple[RunQuality, ...], msgspec.Meta(min_length=2)]


def encode_noise(noise: TrainingNoise) -> bytes:
    """Canonical JSON: sorted keys, two-space indent, one final newline."""
    return encode_document(noise)


def decode_noise(data: bytes, where: str = NOISE_FILE) -> TrainingNoise:
    """Read the document's bytes.

    Raises:
        RegistryError: it is damaged, or of another ``schema_version``.
    """
    try:
        noise = decode_json(data, TrainingNoise)
    except msgspec.DecodeError as error:
        raise RegistryError(f"not a record of training noise: {error}", where=where) from error
    if noise.schema_version != NOISE_SCHEMA_VERSION:
        raise RegistryError(
            f"schema_version is {noise.schema_version}, this program reads {NOISE_SCHEMA_VERSION}",
            where=where,
            hint="Run `make calibrate-training` again.",
        )
    return noise
