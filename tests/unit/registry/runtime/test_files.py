"""Files that are whole or absent."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from timberline.registry.runtime.files import (
    PARTIAL_PREFIX,
    digest_bytes,
    digest_file,
    fresh_folder,
    write_atomically,
)


def test_digest_is_sha256(tmp_path: Path) -> None:
    """Anyone must be able to check a digest with sha256sum."""
    data = b"x" * 3_000_000
    (tmp_path / "file").write_bytes(data)
    assert digest_file(tmp_path / "file") == digest_bytes(data) == hashlib.sha256(data).hexdigest()


def test_write_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    """A reader that lists the folder sees results only."""
    write_atomically(tmp_path / "new" / "file", b"old")
    write_atomically(tmp_path / "new" / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "new").iterdir()] == [("file", b"new")]


def test_write_that_fails_leaves_the_old_bytes_and_nothing_beside(tmp_path: Path) -> None:
    """A folder in the way stands for every failure of the last step."""
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="file"):
        write_atomically(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folder_appears_whole(tmp_path: Path) -> None:
    """Until the block ends there is nothing under the name."""
    target = tmp_path / "deep" / "target"
    with fresh_folder(target) as folder:
        (folder / "a").write_text("new")
        assert not target.exists()
    assert (target / "a").read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_folder_is_replaced_whole(tmp_path: Path) -> None:
    """A file of the older result must not stay among the new ones."""
    for name in ("old", "new"):
        with fresh_folder(tmp_path / "target") as folder:
            (folder / name).touch()
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["new"]


def test_folder_of_a_failed_block_is_the_old_one(tmp_path: Path) -> None:
    """A stage that breaks off costs its own work and no other."""
    with fresh_folder(tmp_path / "target") as folder:
        (folder / "old").touch()

    def break_off() -> None:
        with fresh_folder(tmp_path / "target") as folder:
            (folder / "new").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["old"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """Half a table is as large as a table; ten kills must not fill the disk."""
    left = tmp_path / f"{PARTIAL_PREFIX}target-0123"
    left.mkdir()
    (left / "half").touch()
    other = tmp_path / f"{PARTIAL_PREFIX}targets-0123"
    other.mkdir()
    with fresh_folder(tmp_path / "target"):
        pass
    assert not left.exists()
    assert other.exists()
