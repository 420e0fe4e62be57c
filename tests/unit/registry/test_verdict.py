"""The gate's answer as a file."""

from __future__ import annotations

import msgspec
import pytest

from registry.errors import RegistryError
from registry.verdict import Judged, decode_verdict, encode_verdict
from tests.support.manifests import build_verdict

_JUDGED = Judged(version=1, manifest_sha256="0" * 64, model_sha256="1" * 64)


def test_verdict_round_trips_in_canonical_bytes() -> None:
    """The alias history pins the digest of these bytes, so equal verdicts must have equal ones."""
    verdict = build_verdict("tiny", _JUDGED)
    data = encode_verdict(verdict)
    assert decode_verdict(data) == verdict
    assert encode_verdict(decode_verdict(data)) == data


def test_verdict_of_another_schema_version_is_refused_by_its_number() -> None:
    """A newer gate may have added a reason to block; guessing at its file could pass what it blocked."""
    data = encode_verdict(build_verdict("tiny", _JUDGED)).replace(
        b'"schema_version": 1', b'"schema_version": 2'
    )
    with pytest.raises(RegistryError, match="schema_version is 2, this program reads 1"):
        decode_verdict(data)


@pytest.mark.parametrize("change", [{"outcome": "MAYBE"}, {"waived": True}, {"is_first": False}])
def test_verdict_that_says_more_or_other_than_a_verdict_may_is_refused(change: dict[str, object]) -> None:
    """Unknown words in evidence are not to be ignored, nor is a first verdict that is none."""
    tree = msgspec.json.decode(encode_verdict(build_verdict("tiny", _JUDGED)))
    with pytest.raises(RegistryError, match="not a verdict"):
        decode_verdict(msgspec.json.encode({**tree, **change}))
