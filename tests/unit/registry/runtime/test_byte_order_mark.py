"""What people write is read with the byte order mark that several editors put in front, and without it."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import msgspec
import pytest

from tests.support.sources import SECRET
from tests.support.tables import SmallTable, rows
from timberline.benchmarks.measure.workload import WORKLOADS, load_workload
from timberline.benchmarks.settings import DEFAULT_GATES, load_gate_settings
from timberline.exporter.inputs import load_release_settings
from timberline.inference.config import ServiceConfig
from timberline.inference.routes.access import read_guard
from timberline.registry.runtime.documents import decode_json, decode_toml
from timberline.training.sources.kaggle import find_credentials


def mark(path: Path) -> Path:
    """Put the mark in front of a file."""
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    return path


def test_json_and_toml_are_what_they_are_without_it() -> None:
    """Every file that the parts read themselves goes through these two."""
    assert decode_json(codecs.BOM_UTF8 + b'{"a": 1}', dict[str, int]) == {"a": 1}
    assert decode_toml(codecs.BOM_UTF8 + 'a = "é"'.encode()) == {"a": "é"}


@pytest.mark.parametrize("data", [codecs.BOM_UTF8 * 2 + b'{"a": 1}', codecs.BOM_UTF16_LE + b"{\0}\0"])
def test_only_one_mark_and_only_that_of_utf_8_is_passed_over(data: bytes) -> None:
    """A second one is no mark, and another encoding is another file."""
    with pytest.raises(msgspec.DecodeError):
        decode_json(data, dict[str, int])


def test_a_model_folder_is_prepared_as_without_it(tmp_path: Path) -> None:
    """Notepad and PowerShell write the mark, and the first key of model.toml was not known."""
    plain = SmallTable(tmp_path / "plain", path="../table.csv")
    SmallTable(tmp_path, rows(60))
    plain.etl()
    marked = SmallTable(tmp_path / "marked", path="../table.csv")
    for name in ("model.toml", "features.sql"):
        mark(marked.models / "small" / name)
    mark(tmp_path / "table.csv")
    marked.etl()
    assert marked.profile() == plain.profile()
    assert marked.query("*") == plain.query("*")
    assert load_release_settings(marked.models, "small") == load_release_settings(plain.models, "small")


def test_settings_of_the_gate_and_of_a_workload_are_read_with_it(tmp_path: Path) -> None:
    """They are TOML that is copied and changed."""
    for path, load in (
        (DEFAULT_GATES, load_gate_settings),
        (WORKLOADS / "single_rows.toml", lambda path: load_workload(str(path))),
    ):
        copy = tmp_path / path.name
        copy.write_bytes(path.read_bytes())
        expected = load(copy)
        assert load(mark(copy)) == expected


@pytest.mark.parametrize("content", [f"{SECRET}\n", f"# of the ops team\n{SECRET}\n"])
def test_tokens_of_the_service_are_read_with_it(tmp_path: Path, content: str) -> None:
    """A comment in the first line must stay one, and a token in it must be the token."""
    path = tmp_path / "tokens"
    path.write_text(content)
    mark(path)
    guard = read_guard(ServiceConfig(tokens_file=str(path)))
    assert guard is not None
    guard.check([(b"authorization", f"Bearer {SECRET}".encode())])


def test_kaggle_credentials_are_read_with_it(tmp_path: Path) -> None:
    """A token that begins with an invisible character is refused by Kaggle, and one cannot see why."""
    home = tmp_path / ".kaggle"
    home.mkdir()
    environment = {"HOME": str(tmp_path)}
    (home / "kaggle.json").write_text(json.dumps({"username": "ann", "key": SECRET}))
    mark(home / "kaggle.json").chmod(0o600)
    assert find_credentials(environment).key == SECRET
    (home / "access_token").write_text(f"{SECRET}\n")
    mark(home / "access_token").chmod(0o600)
    assert find_credentials(environment).token == SECRET
    for value in (str(home / "access_token"), f"\ufeff{SECRET}"):
        assert find_credentials({"KAGGLE_API_TOKEN": value}).token == SECRET
