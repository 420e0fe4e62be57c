"""The gate's answer about one version, bound to the digests of what it measured.

`benchmarks` writes it beside the version; `registry.promotion` believes it only for these digests.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from registry.errors import RegistryError
from registry.manifest import Sha256

VERDICT_SCHEMA_VERSION = 1
VERDICT_FILE = "verdict.json"

Outcome = Literal["PASS", "BLOCK", "INCONCLUSIVE", "INVALID"]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table in a verdict."""


class Judged(_Part, frozen=True, kw_only=True):
    """One version as the gate saw it: number, digest of manifest.json, digest of model.onnx."""

    version: Annotated[int, msgspec.Meta(ge=1)]
    manifest_sha256: Sha256
    model_sha256: Sha256


class VerdictLine(_Part, frozen=True, kw_only=True):
    """One measured quantity.

    ``difference`` is candidate minus champion, or its ratio, as ``unit`` says; ``low`` and ``high``
    bound it (or, in a first verdict, ``candidate``) as ``reason`` says; ``limit`` is what it is
    compared with. "INFO" lines are reported and decide nothing. ``evidence`` names the file that it
    was computed from.
    """

    name: str
    candidate: float | None
    champion: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    unit: str = ""
    outcome: Literal["PASS", "BLOCK", "INCONCLUSIVE", "INVALID", "INFO"]
    reason: str
    evidence: str = ""


class Verdict(_Part, frozen=True, kw_only=True):
    """The whole answer; only "PASS" lets `production` move.

    ``champion`` is None exactly when ``is_first``: no version was in production, so the candidate
    was judged by the absolute floors alone. ``report`` names a file beside the verdict.
    """

    schema_version: int
    outcome: Outcome
    model: str
    candidate: Judged
    champion: Judged | None
    is_first: bool
    lines: tuple[VerdictLine, ...]
    gate_version: str
    config_digest: Sha256
    machine: dict[str, str]
    created_at: str
    report: str | None = None

    def __post_init__(self) -> None:
        if self.is_first != (self.champion is None):
            raise ValueError("a first verdict has no champion, every other one has")


def encode_verdict(verdict: Verdict) -> bytes:
    """Canonical JSON: sorted keys, two-space indent, one final newline."""
    return msgspec.json.format(msgspec.json.encode(verdict, order="sorted"), indent=2) + b"\n"


def decode_verdict(data: bytes, where: str = VERDICT_FILE) -> Verdict:
    """Read a verdict's bytes.

    Raises:
        RegistryError: not a verdict, or of a ``schema_version`` this code does not know.
    """
    try:
        schema_version = msgspec.json.decode(data, type=_Head).schema_version
        if schema_version == VERDICT_SCHEMA_VERSION:
            return msgspec.json.decode(data, type=Verdict)
    except msgspec.DecodeError as error:
        raise RegistryError(
            f"not a verdict: {error}", where=where, hint="Run the gate again for this version."
        ) from error
    raise RegistryError(
        f"schema_version is {schema_version}, this program reads {VERDICT_SCHEMA_VERSION}",
        where=where,
        hint="Run the gate again for this version.",
    )


class _Head(msgspec.Struct):
    schema_version: int
