"""Where Kaggle credentials are found, and that they do not show."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from tests.support.sources import SECRET
from timberline.training.errors import SourceError
from timberline.training.sources.kaggle import find_credentials


def _write(path: Path, text: str, mode: int = 0o600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


KAGGLE_JSON = json.dumps({"username": "ann", "key": SECRET})


@pytest.mark.parametrize("folder", [".kaggle", ".config/kaggle", "chosen"])
@pytest.mark.parametrize("name", ["kaggle.json", "access_token"])
def test_files_are_found_wherever_the_official_client_keeps_them(
    tmp_path: Path, folder: str, name: str
) -> None:
    """What works with the kaggle command works here, with nothing to copy."""
    _write(tmp_path / folder / name, KAGGLE_JSON if name == "kaggle.json" else f"{SECRET}\n")
    environment = {"HOME": str(tmp_path), "KAGGLE_CONFIG_DIR": str(tmp_path / "chosen")}
    found = find_credentials(environment)
    assert found.origin == str(tmp_path / folder / name)
    assert SECRET in (found.key, found.token)


def test_the_order_is_token_then_key_and_environment_then_file(tmp_path: Path) -> None:
    """The official client's order, so that both always use the same account."""
    environment = {"HOME": str(tmp_path)}
    _write(tmp_path / ".kaggle" / "kaggle.json", KAGGLE_JSON)
    origins = [find_credentials(environment).origin]
    environment |= {"KAGGLE_USERNAME": "bob", "KAGGLE_KEY": "k"}
    origins.append(find_credentials(environment).origin)
    _write(tmp_path / ".kaggle" / "access_token", "t")
    origins.append(find_credentials(environment).origin)
    environment["KAGGLE_API_TOKEN"] = "t"
    origins.append(find_credentials(environment).origin)
    assert origins == [
        str(tmp_path / ".kaggle" / "kaggle.json"),
        "KAGGLE_USERNAME and KAGGLE_KEY",
        str(tmp_path / ".kaggle" / "access_token"),
        "KAGGLE_API_TOKEN",
    ]


def test_the_token_variable_may_name_a_file(tmp_path: Path) -> None:
    """A mounted secret is a file; the official client takes its path in the same variable."""
    _write(tmp_path / "mounted", f"{SECRET}\n")
    assert find_credentials({"KAGGLE_API_TOKEN": str(tmp_path / "mounted")}).token == SECRET


def test_a_token_too_long_for_a_path_is_a_token() -> None:
    """Asked for such a file, the system answers with an error whose text is the token."""
    token = SECRET * 40
    assert find_credentials({"KAGGLE_API_TOKEN": token}).token == token


def test_the_secret_does_not_show_when_credentials_are_printed(tmp_path: Path) -> None:
    """A traceback with locals or a debug print must not give it away."""
    found = find_credentials({"HOME": str(tmp_path), "KAGGLE_USERNAME": "ann", "KAGGLE_KEY": SECRET})
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    "text", [f'{{"key": "{SECRET}"}}', f"{SECRET}", f'{{"username": 1, "key": "{SECRET}"}}']
)
def test_a_broken_kaggle_json_is_told_without_its_contents(tmp_path: Path, text: str) -> None:
    """Half a secret in an error text is a leak as well."""
    _write(tmp_path / ".kaggle" / "kaggle.json", text)
    with pytest.raises(SourceError, match=r"kaggle.json: is not a JSON object with") as caught:
        find_credentials({"HOME": str(tmp_path)})
    assert SECRET not in str(caught.value)


def test_a_file_that_others_can_read_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On a shared machine the key is everybody's."""
    caplog.set_level(logging.WARNING)
    _write(tmp_path / ".kaggle" / "kaggle.json", KAGGLE_JSON, mode=0o644)
    find_credentials({"HOME": str(tmp_path)})
    assert "readable by other users; run chmod 600" in caplog.text


def test_a_user_without_a_home_is_told_of_the_other_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may run as any uid, which no passwd file knows, and without HOME."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    with pytest.raises(SourceError, match="no credentials found"):
        find_credentials({})
    assert find_credentials({"KAGGLE_API_TOKEN": SECRET}).token == SECRET


def test_a_home_of_somebody_else_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HOME is /root in many images, also for a process of another user; what is in the environment counts."""

    def refuse(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)  # as for a folder that may not be searched; root may
    found = find_credentials({"HOME": str(tmp_path), "KAGGLE_USERNAME": "ann", "KAGGLE_KEY": SECRET})
    assert found.key == SECRET
