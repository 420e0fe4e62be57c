"""Zips from outside: what is taken out of them, and what is refused."""

from __future__ import annotations

import hashlib
import struct
import zipfile
from pathlib import Path

import pytest

from tests.support.kaggle_stand_in import make_zip
from tests.support.sources import TABLE
from timberline.training.errors import SourceError
from timberline.training.sources.archive import extract_files, extract_member, is_safe_name


def _write(folder: Path, archive: bytes) -> Path:
    path = folder / "archive.zip"
    path.write_bytes(archive)
    return path


def _extract(folder: Path, archive: bytes, *files: str, max_bytes: int = 10_000) -> dict[str, bytes]:
    out, scratch = folder / "out", folder / "scratch"
    out.mkdir()
    scratch.mkdir()
    extract_files(_write(folder, archive), files, out, max_bytes=max_bytes, scratch=scratch, where="the zip")
    assert not list(scratch.iterdir())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_only_the_wanted_files_are_taken_out(tmp_path: Path) -> None:
    """A competition's archive may hold gigabytes that no model asked for."""
    archive = make_zip({"train.csv": TABLE, "images/1.png": b"x", "deep/labels.csv": b"y\n"})
    assert _extract(tmp_path, archive, "train.csv", "deep/labels.csv") == {
        "train.csv": TABLE,
        "deep/labels.csv": b"y\n",
    }


def test_a_file_zipped_once_more_is_found(tmp_path: Path) -> None:
    """Older competitions pack each table by itself: train.csv.zip in the zip."""
    inner = make_zip({"train.csv": TABLE})
    assert _extract(tmp_path, make_zip({"train.csv.zip": inner}), "train.csv") == {"train.csv": TABLE}


def test_a_member_is_written_with_its_digest_returned(tmp_path: Path) -> None:
    """The caller compares it with the digest that model.toml pins."""
    path = _write(tmp_path, make_zip({"pkg/data.csv": TABLE}))
    digest = extract_member(path, "pkg/data.csv", tmp_path / "data.csv", max_bytes=1000, where="wheel")
    assert digest == hashlib.sha256(TABLE).hexdigest()
    assert (tmp_path / "data.csv").read_bytes() == TABLE


def test_a_misspelt_file_is_told_with_the_nearest(tmp_path: Path) -> None:
    """The name in model.toml is most often just misspelt."""
    with pytest.raises(SourceError, match=r"no file 'train.csv' among its 2. Did you mean Train.csv\?"):
        _extract(tmp_path, make_zip({"Train.csv": TABLE, "test.csv": b""}), "train.csv")


def test_a_file_that_resembles_none_is_told_with_what_there_is(tmp_path: Path) -> None:
    """Nobody should have to open the archive to find out."""
    with pytest.raises(SourceError, match=r"no file 'train.csv' among its 2. It holds: a, b. Correct"):
        _extract(tmp_path, make_zip({"b": TABLE, "a": b""}), "train.csv")


@pytest.mark.parametrize(
    "name",
    ["../evil.csv", "/etc/evil.csv", "a/../../evil.csv", "..\\evil.csv", "C:/evil.csv", "C:\\evil.csv"],
)
def test_a_path_out_of_the_folder_refuses_the_whole_archive(tmp_path: Path, name: str) -> None:
    """An archive with such an entry is an attack, also when the wanted file beside it looks innocent."""
    with pytest.raises(SourceError, match=r"leads out of its folder; nothing was unpacked"):
        _extract(tmp_path, make_zip({"train.csv": TABLE, name: b"evil"}), "train.csv")
    assert not list((tmp_path / "out").iterdir())
    assert not (tmp_path / "evil.csv").exists()


def test_a_symbolic_link_refuses_the_whole_archive(tmp_path: Path) -> None:
    """A link to /etc/passwd would turn the next reader into the attacker's."""
    path = tmp_path / "made.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("train.csv")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(SourceError, match="is a symbolic link"):
        _extract(tmp_path, path.read_bytes(), "train.csv")


def test_an_encrypted_entry_is_refused(tmp_path: Path) -> None:
    """There is no password to ask for in a run without prompts."""
    archive = bytearray(make_zip({"train.csv": TABLE}))
    archive[archive.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(SourceError, match="is encrypted"):
        _extract(tmp_path, bytes(archive), "train.csv")


def test_a_bomb_that_says_its_size_is_refused_before_a_byte_is_written(tmp_path: Path) -> None:
    """Ten megabytes of zeros travel as ten kilobytes."""
    with pytest.raises(SourceError, match="more than the allowed 10,000 bytes"):
        _extract(tmp_path, make_zip({"train.csv": bytes(10_000_000)}), "train.csv")
    assert not list((tmp_path / "out").iterdir())


def test_a_bomb_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    """The size in the header is the attacker's to choose."""
    archive = bytearray(make_zip({"train.csv": bytes(10_000_000)}))
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", archive, archive.index(signature) + at, 100)
    with pytest.raises(SourceError):
        _extract(tmp_path, bytes(archive), "train.csv")
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= 10_000


def test_a_bomb_inside_an_inner_zip_is_refused(tmp_path: Path) -> None:
    """The limit covers everything unpacked, at every depth."""
    inner = make_zip({"train.csv": bytes(10_000_000)})
    with pytest.raises(SourceError, match="more than the allowed"):
        _extract_ignoring_scratch(tmp_path, make_zip({"train.csv.zip": inner}))


def _extract_ignoring_scratch(folder: Path, archive: bytes) -> None:
    (folder / "out").mkdir()
    (folder / "scratch").mkdir()
    extract_files(
        _write(folder, archive),
        ["train.csv"],
        folder / "out",
        max_bytes=50_000,
        scratch=folder / "scratch",
        where="the zip",
    )


@pytest.mark.parametrize("damage", ["cut", "flipped", "html"])
def test_a_damaged_archive_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    """A truncated or altered body must not pass for a short table."""
    archive = bytearray(make_zip({"train.csv": bytes(range(256)) * 20}))
    if damage == "cut":
        del archive[len(archive) // 2 :]
    elif damage == "flipped":
        archive[60] ^= 0xFF
    else:
        archive = bytearray(b"<html>sign in</html>")
    with pytest.raises(SourceError, match=r"is not a whole zip file.*run the same command again"):
        _extract(tmp_path, bytes(archive), "train.csv")


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    """Readers disagree on which of them counts, and that is a known way to hide one."""
    path = tmp_path / "made.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train.csv", TABLE)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("train.csv", b"other")
    with pytest.raises(SourceError, match="2 entries named"):
        _extract(tmp_path, path.read_bytes(), "train.csv")


@pytest.mark.parametrize(
    ("name", "is_safe"),
    [("train.csv", True), ("a/b.csv", True), ("a/./b", True), ("", False), ("/a", False), ("a/..", False)],
)
def test_safe_names_stay_in_their_folder(name: str, is_safe: bool) -> None:
    """The same rule guards the names in model.toml and those in an archive."""
    assert is_safe_name(name) is is_safe
