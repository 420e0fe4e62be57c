"""What a registry of today says of its aliases and numbers stays readable, and is found whole.

A golden file is never edited. A change that cannot read it, or finds damage in it, needs a new
``schema_version``, a reader for the old one, and a new golden file beside these. Manifests and verdicts
have tests of their own.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from timberline.registry.aliases import inspect_history, read_alias, read_history
from timberline.registry.names import PRODUCTION
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.store import Store, open_store, read_entry

GOLDEN = Path(__file__).parent / "golden" / "registry"
RECORDS = sorted((GOLDEN / "tiny" / "aliases" / PRODUCTION).iterdir())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    shutil.copytree(GOLDEN, tmp_path / "registry")
    return open_store(tmp_path / "registry")


def test_past_history_is_whole(store: Store) -> None:
    """A record without a link, one with it, and a repair: the chain of all of them still holds."""
    assert inspect_history(store, "tiny", PRODUCTION).findings == []
    records = read_history(store, "tiny", PRODUCTION)
    assert [record.schema_version for record in records] == [1, 2, 2]
    assert read_alias(store, "tiny", PRODUCTION) == records[-1]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_past_record_still_loads_with_every_value(store: Store, path: Path) -> None:
    """Who released what, and why, must be known for years."""
    reported = msgspec.json.decode(path.read_bytes())
    record = msgspec.to_builtins(read_history(store, "tiny", PRODUCTION)[int(path.stem) - 1])
    assert {key: record[key] for key in reported} == reported


def test_link_can_be_checked_without_this_program() -> None:
    """A link is the SHA-256 of the file before; a repair's that of a line a file: number and digest."""
    first, second, repair = (path.read_bytes() for path in RECORDS)
    assert msgspec.json.decode(second)["previous_sha256"] == digest_bytes(first)
    lines = f"1 {digest_bytes(first)}\n2 {digest_bytes(second)}\n"
    assert msgspec.json.decode(repair)["history_sha256"] == digest_bytes(lines.encode())


def test_past_ledger_is_read(store: Store) -> None:
    """Numbers that were given out years ago are still not given out again."""
    numbers = store.read_contents("tiny").numbers
    assert (numbers.published, numbers.removed) == (frozenset({1}), frozenset({2}))
    entry = read_entry(store.objects, "tiny", 1)
    assert entry is not None
    assert msgspec.to_builtins(entry) == msgspec.json.decode(
        (GOLDEN / "tiny" / "ledger" / "1.json").read_bytes()
    )
