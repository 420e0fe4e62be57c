"""Files that are whole or absent, and what an error says of a refused one.

The modes themselves are tried in tests/fault/test_refused_files.py.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from timberline.registry.errors import ConfigError
from timberline.registry.runtime.files import (
    PARTIAL_PREFIX,
    digest_bytes,
    digest_file,
    explain_refusal,
    find_refusing_path,
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


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory", "/no/such/file"),
        OSError(28, "No space left on device", "/"),
        PermissionError(1, "Operation not permitted"),
        ConfigError("found 0, expected 1", where="/some/model.toml"),
        ConfigError("403: permission denied for https://example.org/data"),
    ],
    ids=repr,
)
def test_other_errors_are_left_as_they_are(error: Exception) -> None:
    """Advice about modes beside a full disk, or about a folder that is a URL, leads astray."""
    assert explain_refusal(error) == ""


def test_errors_in_a_circle_end_no_explanation() -> None:
    """Threads hand errors on, and each may have the other as its cause: a command hung there for ever."""
    first, second = OSError(errno.EFBIG, "too large"), OSError(errno.EFBIG, "too large")
    first.__cause__, second.__cause__ = second, first
    assert explain_refusal(first) == ""


@pytest.mark.parametrize(
    "message",
    [
        'IO Error: Cannot open file "{}": Permission denied',
        "{}; Permission denied",
        "[Errno 13] Permission denied: '{}'",
    ],
)
def test_the_path_is_found_in_the_words_of_a_library(tmp_path: Path, message: str) -> None:
    """DuckDB, TensorFlow, and an error of Python's that went through a pipe as text."""
    error = ConfigError("cannot be read")
    error.__cause__ = RuntimeError(message.format(tmp_path))
    assert explain_refusal(error).startswith(
        f"The modes of {tmp_path} would allow it to uid {os.geteuid()}, "
    )


def test_a_bucket_is_no_path_of_this_machine() -> None:
    """Its error says itself which variables to set; modes of a path called s3:/ say nothing."""
    assert explain_refusal(PermissionError(13, "access is refused", "s3://models/data/receipt.json")) == ""


def test_a_read_only_root_without_a_temporary_folder_is_explained() -> None:
    """`docker run --read-only` for a stage that TensorFlow chatters in; the words are those of `tempfile`."""
    error = FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/app']")
    assert "--tmpfs /tmp" in explain_refusal(error)


def test_nothing_refuses_what_may_be_used(tmp_path: Path) -> None:
    """There, or to be made, also deep below what is there."""
    assert find_refusing_path(tmp_path) is None
    assert find_refusing_path(tmp_path / "a" / "b") is None
