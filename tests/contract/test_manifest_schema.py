"""A manifest that was published stays readable: golden files of every past schema_version.

A golden file is never edited. A change that cannot read it needs a new ``schema_version``, a
reader for the old one, and a new golden file beside this one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from timberline.registry.errors import ManifestError
from timberline.registry.manifest import SCHEMA_VERSION, decode_manifest, encode_manifest
from timberline.registry.signature import SourceTable

GOLDEN = sorted((Path(__file__).parent / "golden").glob("manifest_v*.json"))
LATEST = Path(__file__).parent / "golden" / f"manifest_v{SCHEMA_VERSION}.json"


def test_every_schema_version_has_its_golden_file() -> None:
    """Without one, nothing would notice the day when old versions can no longer be served."""
    expected = [f"manifest_v{number}.json" for number in range(1, SCHEMA_VERSION + 1)]
    assert [path.name for path in GOLDEN] == expected


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_past_manifest_still_loads_with_every_value(path: Path) -> None:
    """Rolling back means reading a manifest that an older program wrote, without losing a word of it."""
    data = path.read_bytes()
    written = msgspec.json.decode(encode_manifest(decode_manifest(data)))
    assert list(_missing(msgspec.json.decode(data), written)) == []


def test_past_manifest_says_nothing_of_its_table_and_all_its_columns_are_read() -> None:
    """Versions from before there was a ``table`` go on taking what they took: an empty field is NULL."""
    data = LATEST.read_bytes()
    assert b'"table"' not in data
    assert decode_manifest(data).table == SourceTable(delimiter=",", decimal=".", null_text=("",), unread={})


def _missing(old: Any, new: Any, at: str = "$") -> Iterator[str]:
    """Paths at which ``new`` lacks or changes what ``old`` says; a key that is only in ``new`` is fine."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            yield from _missing(value, new.get(key), f"{at}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (value, other) in enumerate(zip(old, new, strict=True)):
            yield from _missing(value, other, f"{at}[{index}]")
    elif old != new:
        yield at


def test_manifest_of_an_unknown_schema_version_is_refused_by_its_number() -> None:
    """The reader must hear "upgrade", not a complaint about some field."""
    newer = {**msgspec.json.decode(LATEST.read_bytes()), "schema_version": SCHEMA_VERSION + 1, "new": True}
    with pytest.raises(ManifestError, match=f"schema_version is {SCHEMA_VERSION + 1}.*Upgrade timberline"):
        decode_manifest(msgspec.json.encode(newer))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"waived": True}, "unknown field `waived`"),
        ({"version": 0}, "version"),
        ({"files": {"model.onnx": {"sha256": "ABC", "size": 1}}}, "sha256"),
        ({"files": {"../model.onnx": {"sha256": "0" * 64, "size": 1}}}, "files"),
        ({"files": {"model.onnx": {"sha256": "0" * 64, "size": -1}}}, "size"),
        ({"signature": None}, "signature"),
        ({"table": {"delimiter": ""}}, "delimiter"),
        ({"table": {"unread": {"Id": "output"}}}, "unread"),
    ],
)
def test_manifest_that_says_what_none_may_say_is_refused(change: dict[str, Any], told: str) -> None:
    """Ignoring a word in a manifest is ignoring whatever its writer meant by it."""
    tree = {**msgspec.json.decode(LATEST.read_bytes()), **change}
    with pytest.raises(ManifestError, match=told):
        decode_manifest(msgspec.json.encode(tree))


@pytest.mark.parametrize("cut", [0, 1, 100, -2])
def test_torn_manifest_is_refused(cut: int) -> None:
    """Half a manifest is none."""
    with pytest.raises(ManifestError, match="not a manifest"):
        decode_manifest(LATEST.read_bytes()[:cut])


@pytest.mark.parametrize(
    ("written", "found"),
    [(b'"title": "\xe9', "not UTF-8"), (b'"title": ' + b"[" * 100_000 + b'"', "nested too deeply")],
)
def test_manifest_that_is_no_text_or_nested_without_end_is_refused(written: bytes, found: str) -> None:
    """The parser has errors of its own for these; one that got out stopped the commands for every model."""
    with pytest.raises(ManifestError, match=f"not a manifest: .*{found}"):
        decode_manifest(LATEST.read_bytes().replace(b'"title": "', written))


def test_past_manifest_promises_no_runtime_and_a_promise_is_a_release() -> None:
    """Graphs from before the promise may need a newer runtime than the oldest of today's."""
    tree = msgspec.json.decode(LATEST.read_bytes())
    assert decode_manifest(LATEST.read_bytes()).minimum_onnxruntime is None
    promised = msgspec.json.encode({**tree, "minimum_onnxruntime": "1.17"})
    assert decode_manifest(promised).minimum_onnxruntime == "1.17"
    with pytest.raises(ManifestError, match="minimum_onnxruntime"):
        decode_manifest(msgspec.json.encode({**tree, "minimum_onnxruntime": "new"}))
