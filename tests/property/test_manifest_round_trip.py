"""Laws of what the registry writes down: manifests, verdicts and names survive being written and read."""

from __future__ import annotations

import string
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.manifests import build_manifest, build_verdict
from timberline.registry.errors import ConfigError, ManifestError
from timberline.registry.manifest import (
    FileDigest,
    Golden,
    Histogram,
    Interval,
    Manifest,
    ParityTensor,
    Prior,
    decode_manifest,
    encode_manifest,
)
from timberline.registry.names import ModelRef
from timberline.registry.signature import ClassLabel, Column, SourceTable, build_signature
from timberline.registry.verdict import Outcome, Verdict, VersionDigests, decode_verdict, encode_verdict

_digests = st.text("0123456789abcdef", min_size=64, max_size=64)
_numbers = st.floats(allow_nan=False, allow_infinity=False)
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_names = st.from_regex(r"[a-z][a-z0-9_]{0,63}", fullmatch=True)
_file_names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)
_versions = st.integers(1, 999_999_999)
_cells = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | _numbers | _texts
_columns = st.builds(
    Column,
    name=_texts,
    datatype=st.sampled_from(["FP64", "INT64", "BOOL", "BYTES"]),
    default=_cells,
    is_nullable=st.booleans(),
    unit=st.none() | _texts,
    minimum=st.none() | _numbers,
    categories=st.none() | st.lists(_texts, max_size=3).map(tuple),
)
_classes = st.builds(ClassLabel, value=_texts, label=_texts)
_signatures = st.builds(
    build_signature, st.lists(_columns, max_size=4).map(tuple), st.lists(_classes, max_size=3).map(tuple)
)
_tables = st.builds(
    SourceTable,
    delimiter=st.sampled_from([",", ";", "\t", "||"]),
    decimal=st.sampled_from([".", ","]),
    null_text=st.lists(_texts, max_size=3).map(tuple),
    unread=st.dictionaries(_texts, st.sampled_from(["input", "key", "target", "ignored"]), max_size=3),
)
_probabilities = st.lists(_numbers, max_size=3).map(tuple)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Any manifest: every kind of field takes part, most of them more than once."""
    base = build_manifest()
    counts = st.lists(st.integers(0, 2**63 - 1), max_size=3).map(tuple)
    return msgspec.structs.replace(
        base,
        model=draw(_names),
        version=draw(_versions),
        title=draw(_texts),
        files=draw(
            st.dictionaries(
                _file_names,
                st.builds(FileDigest, sha256=_digests, size=st.integers(0, 2**63 - 1)),
                max_size=3,
            )
        ),
        signature=draw(_signatures),
        producers=draw(st.dictionaries(_texts, _texts, max_size=3)),
        prior=Prior(method="em", training=draw(_probabilities), deployment=draw(_probabilities)),
        metrics=msgspec.structs.replace(
            base.metrics, accuracy=Interval(value=draw(_numbers), low=draw(_numbers), high=draw(_numbers))
        ),
        parity=draw(
            st.dictionaries(
                _texts,
                st.builds(
                    ParityTensor,
                    rows=_versions,
                    worst_absolute_error=_numbers,
                    worst_row=_versions,
                    atol=_numbers,
                    rtol=_numbers,
                ),
                max_size=2,
            )
        ),
        histograms=draw(
            st.dictionaries(
                _texts, st.builds(Histogram, counts=counts, edges=st.none() | _probabilities), max_size=2
            )
        ),
        golden=Golden(
            rows=draw(st.lists(st.lists(_cells, max_size=3).map(tuple), max_size=2).map(tuple)),
            class_indexes=draw(counts),
            probabilities=draw(st.lists(_probabilities, max_size=2).map(tuple)),
        ),
        table=draw(_tables),
    )


@given(manifests())
def test_manifest_round_trips(manifest: Manifest) -> None:
    """Golden rows and floors must come back to the last bit, or a sound version would not load."""
    assert decode_manifest(encode_manifest(manifest)) == manifest


@given(manifests(), st.randoms(use_true_random=False))
def test_equal_manifests_have_equal_bytes(manifest: Manifest, random: Random) -> None:
    """Digests of manifests are compared, so the order in which a dict was filled must not show."""
    files = list(manifest.files.items())
    random.shuffle(files)
    shuffled = msgspec.structs.replace(manifest, files=dict(files))
    assert encode_manifest(shuffled) == encode_manifest(manifest)


@given(_names, _versions, _names, st.sampled_from(["bare", "version", "alias"]))
def test_reference_round_trips(model: str, version: int, alias: str, kind: str) -> None:
    """What a log prints can be pasted into a command."""
    ref = {
        "bare": ModelRef(model),
        "version": ModelRef(model, version=version),
        "alias": ModelRef(model, alias=alias),
    }[kind]
    assert ModelRef.parse(str(ref)) == ref


@given(st.text() | st.text(string.ascii_lowercase + "0123456789_@./ ", max_size=8))
def test_text_that_parses_is_its_own_spelling(text: str) -> None:
    """One version has one name; everything else is refused, never guessed at."""
    try:
        ref = ModelRef.parse(text)
    except ConfigError:
        return
    assert str(ref) == text


_judged = st.builds(VersionDigests, version=_versions, manifest_sha256=_digests, model_sha256=_digests)


@given(_names, _judged, st.none() | _judged, st.sampled_from(["PASS", "BLOCK", "INCONCLUSIVE", "INVALID"]))
def test_verdict_round_trips(
    model: str, candidate: VersionDigests, champion: VersionDigests | None, outcome: Outcome
) -> None:
    """A verdict that changed by being stored would no longer bind."""
    verdict: Verdict = build_verdict(model, candidate, champion, outcome)
    assert decode_verdict(encode_verdict(verdict)) == verdict


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_manifest_with_a_number_that_json_lacks_is_refused(value: float) -> None:
    """NaN would be written as null and come back as something else, or not at all."""
    manifest = build_manifest()
    broken = msgspec.structs.replace(manifest, metrics=msgspec.structs.replace(manifest.metrics, ece=value))
    with pytest.raises(ManifestError, match="not a manifest"):
        decode_manifest(encode_manifest(broken))
