"""The gate's decision about one version, bound to the digests of what it measured, and sealed.

`benchmarks` writes it beside the version; `registry.promotion` accepts it only for these digests.

The seal is the SHA-256 of everything else in the verdict. It shows damage and careless editing: an outcome,
a limit or a digest changed by hand no longer fits. It is no signature. It holds no secret, so anyone who may
write the registry can change a verdict and seal it again; only a signature with a key that they do not have
would prevent that. The rights on its folder or bucket decide who may write the registry.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from timberline.registry.errors import RegistryError
from timberline.registry.manifest import Sha256
from timberline.registry.runtime.documents import decode_json, encode_document
from timberline.registry.runtime.files import digest_bytes

# 1: no seal, no evidence; read and shown, but it promotes nothing. 2: sealed.
VERDICT_SCHEMA_VERSION = 2
_FIRST_SEALED = 2
VERDICT_FILE = "verdict.json"

Outcome = Literal["PASS", "BLOCK", "INCONCLUSIVE", "INVALID"]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table in a verdict."""


class VersionDigests(_Table, frozen=True, kw_only=True):
    """One version as the gate saw it: number, digest of manifest.json, digest of model.onnx."""

    version: Annotated[int, msgspec.Meta(ge=1)]
    manifest_sha256: Sha256
    model_sha256: Sha256


class VerdictLine(_Table, frozen=True, kw_only=True):
    """One measured quantity.

    ``difference`` is candidate minus champion, or its ratio, as ``unit`` says; ``low`` and ``high``
    bound it (or, in a first verdict, ``candidate``) as ``reason`` says; ``limit`` is what it is
    compared with. "INFO" lines are reported and decide nothing. ``evidence`` names the file that it
    was computed from. ``mark`` "WARN" is on a line that passed and should be looked at; without it the
    key is absent.
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
    mark: Literal["WARN"] | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if self.is_marked and self.outcome != "PASS":
            raise ValueError(f"a line that is {self.outcome} has a mark, only one that passed may")

    @property
    def is_marked(self) -> bool:
        """Whether it passed and should be looked at."""
        return self.mark is not msgspec.UNSET

    @property
    def label(self) -> str:
        """The word that people see: the mark if there is one, otherwise the outcome."""
        return "WARN" if self.is_marked else self.outcome


class Verdict(_Table, frozen=True, kw_only=True):
    """The whole decision; only "PASS" lets `production` move.

    ``champion`` is None exactly when ``is_first``: no version was in production, so the candidate
    was judged alone, by floors and its own baselines. A "PASS" has a line that passed and none that says no
    or do not know. ``report`` names a file beside the verdict. ``evidence`` holds the SHA-256 of
    every document and raw observation file by its name, so that none can be exchanged; a document
    cannot be listed in itself, so the verdict inside report.json has no ``evidence``.
    """

    schema_version: int
    outcome: Outcome
    model: str
    candidate: VersionDigests
    champion: VersionDigests | None
    is_first: bool
    lines: tuple[VerdictLine, ...]
    gate_version: str
    config_digest: Sha256
    machine: dict[str, str]
    created_at: str
    report: str | None = None
    evidence: dict[str, Sha256] = {}

    def __post_init__(self) -> None:
        if self.is_first != (self.champion is None):
            raise ValueError("a first verdict has no champion, every other one has")
        if self.outcome == "PASS":
            _check_pass(self.lines)

    @property
    def is_sealed(self) -> bool:
        """Whether its file carries a seal; one without is no evidence."""
        return self.schema_version >= _FIRST_SEALED


def encode_verdict(verdict: Verdict) -> bytes:
    """Canonical JSON with the seal: sorted keys, two-space indent, one final newline."""
    # A count in a field of numbers is read back as 823.0, and the seal is of what is read.
    verdict = msgspec.convert(msgspec.to_builtins(verdict), Verdict)
    tree = msgspec.to_builtins(verdict)
    if verdict.is_sealed:
        tree["seal"] = seal_verdict(verdict)
    return encode_document(tree)


def seal_verdict(verdict: Verdict) -> str:
    """SHA-256 of the verdict's file without its last line, the seal; no signature, see the module."""
    return digest_bytes(encode_document(verdict))


def decode_verdict(data: bytes, where: str = VERDICT_FILE) -> Verdict:
    """Read a verdict's bytes and check that its seal fits its content.

    A verdict of ``schema_version`` 1 has no seal: it is read, and `Verdict.is_sealed` is false.

    Raises:
        RegistryError: not a verdict, one that contradicts itself or its seal, or one of a
            ``schema_version`` this code does not know.
    """
    try:
        schema_version = decode_json(data, _Head).schema_version
        if schema_version == 1:
            return decode_json(data, Verdict)
        if schema_version == VERDICT_SCHEMA_VERSION:
            return _open_sealed(decode_json(data, dict[str, object]), where)
    except msgspec.DecodeError as error:
        raise RegistryError(f"not a verdict: {error}", where=where, hint=_HINT) from error
    raise RegistryError(
        f"schema_version is {schema_version}, this program reads 1 to {VERDICT_SCHEMA_VERSION}",
        where=where,
        hint=_HINT,
    )


_HINT = "Run the gate again for this version."


class _Head(msgspec.Struct):
    schema_version: int


def _open_sealed(tree: dict[str, object], where: str) -> Verdict:
    seal = tree.pop("seal", None)
    verdict = msgspec.convert(tree, Verdict)
    fitting = seal_verdict(verdict)
    if seal is None:
        raise RegistryError("has no seal; it was not written by the gate", where=where, hint=_HINT)
    if seal != fitting:
        raise RegistryError(
            f"its seal is {str(seal)[:12]}…, what it says has {fitting[:12]}…; "
            "it was changed after the gate wrote it",
            where=where,
            hint=_HINT,
        )
    return verdict


def _check_pass(lines: tuple[VerdictLine, ...]) -> None:
    against = [line.name for line in lines if line.outcome not in ("PASS", "INFO")]
    if against:
        raise ValueError(f"the outcome is PASS, but not of {', '.join(against)}")
    if not any(line.outcome == "PASS" for line in lines):
        raise ValueError("the outcome is PASS, but no line passed")
