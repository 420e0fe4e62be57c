"""A verdict that was stored stays readable, and its seal stays what it was.

A golden file is never edited. A change that cannot read it, or that seals it otherwise, needs a new
``schema_version``, a reader for the old one, and a new golden file beside these.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from timberline.registry.promotion import find_objections
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.verdict import VERDICT_SCHEMA_VERSION, decode_verdict, encode_verdict

GOLDEN = sorted((Path(__file__).parent / "golden").glob("verdict_v*.json"))
LATEST = Path(__file__).parent / "golden" / f"verdict_v{VERDICT_SCHEMA_VERSION}.json"


def test_every_schema_version_has_its_golden_file() -> None:
    """Without one, nothing would notice the day when the history loses its past."""
    expected = [f"verdict_v{number}.json" for number in range(1, VERDICT_SCHEMA_VERSION + 1)]
    assert [path.name for path in GOLDEN] == expected


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_past_verdict_still_loads_with_every_value(path: Path) -> None:
    """The history of releases reads verdicts of years ago, without losing a word of them."""
    told = msgspec.json.decode(path.read_bytes())
    written = msgspec.json.decode(encode_verdict(decode_verdict(path.read_bytes())))
    assert {key: written[key] for key in told} == told


def test_latest_verdict_is_written_byte_for_byte() -> None:
    """The alias history pins the digest of these bytes."""
    assert encode_verdict(decode_verdict(LATEST.read_bytes())) == LATEST.read_bytes()


def test_seal_can_be_checked_without_this_program() -> None:
    """What a seal is made of is a promise: the file without the one line of the seal, its last."""
    *front, seal, end = LATEST.read_bytes().splitlines()
    content = b"\n".join([*front[:-1], front[-1].removesuffix(b","), end, b""])
    assert seal.decode() == f'  "seal": "{digest_bytes(content)}"'


def test_only_the_unsealed_schema_is_without_a_seal() -> None:
    """A verdict of schema_version 1 could be written by anything; it is shown and promotes nothing."""
    assert [decode_verdict(path.read_bytes()).is_sealed for path in GOLDEN] == [False, True]
    old = decode_verdict(GOLDEN[0].read_bytes())
    assert any("no seal" in told for told in find_objections(old, old.model, old.candidate, old.champion))
