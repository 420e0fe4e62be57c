"""What is said of a refused file; the modes themselves are tried in tests/fault/test_refused_files.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from timberline.registry.errors import ConfigError
from timberline.registry.runtime.permissions import explain_refusal, find_refusing


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


@pytest.mark.parametrize(
    "said",
    [
        'IO Error: Cannot open file "{}": Permission denied',
        "{}; Permission denied",
        "[Errno 13] Permission denied: '{}'",
    ],
)
def test_the_path_is_found_in_the_words_of_a_library(tmp_path: Path, said: str) -> None:
    """DuckDB, TensorFlow, and an error of Python's that went through a pipe as text."""
    error = ConfigError("cannot be read")
    error.__cause__ = RuntimeError(said.format(tmp_path))
    assert explain_refusal(error).startswith(
        f"The modes of {tmp_path} would allow it to uid {os.geteuid()}, "
    )


def test_a_read_only_root_without_a_temporary_folder_is_explained() -> None:
    """`docker run --read-only` for a stage that TensorFlow chatters in; the words are those of `tempfile`."""
    error = FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/app']")
    assert "--tmpfs /tmp" in explain_refusal(error)


def test_nothing_refuses_what_may_be_used(tmp_path: Path) -> None:
    """There, or to be made, also deep below what is there."""
    assert find_refusing(tmp_path) is None
    assert find_refusing(tmp_path / "a" / "b") is None
