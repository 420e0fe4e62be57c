"""Tables by path, glob and http URL."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.support.forked import open_to_all, run_forked
from tests.support.http_files import FileServer, Resource, serve_files
from tests.support.sources import SECRET, TABLE, config_for, hidden_files, visible_files
from timberline.registry.errors import StageError
from timberline.training.config import CsvSource, HeadSplit, ModelSection
from timberline.training.data.fetch import fetched_files, run_fetch
from timberline.training.errors import SourceError
from timberline.training.sources.local import LocalFiles


def _fetch(data: Path, path: str | Path, sha256: str | None = None) -> dict[str, object]:
    return run_fetch(config_for(CsvSource(path=str(path), sha256=sha256)), data, pause=lambda _: None)


def _files(data: Path, path: str | Path, sha256: str | None = None) -> tuple[Path, ...]:
    return fetched_files(config_for(CsvSource(path=str(path), sha256=sha256)), data)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A file server on loopback that holds /table.csv."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")  # a proxy of this machine is none of the test's business
    with serve_files() as server:
        server.resources["/table.csv"] = Resource(TABLE)
        yield server


class TestLocalFiles:
    """A path or glob."""

    @pytest.mark.parametrize("pattern", ["*/table.csv", "**/*.csv", "closed/*.csv", "open/*/table.csv"])
    def test_a_folder_that_cannot_be_read_is_not_an_empty_one(self, pattern: str) -> None:
        """glob passes it over: the table would be trained on in part, and nothing would say so."""

        def fetch() -> str:
            source = LocalFiles(str(folder / pattern), None)
            try:
                return ", ".join(source.inputs().values())
            except SourceError as error:
                return f"refused: {error}"

        with open_to_all() as folder:
            for name in ("open", "open/within", "closed"):
                (folder / name).mkdir(mode=0o755)
                (folder / name / "table.csv").write_bytes(TABLE)
            closed = folder / ("open/within" if pattern.startswith("open") else "closed")
            assert not run_forked(fetch, as_nobody=True).startswith("refused")
            closed.chmod(0o700 if pattern.endswith("*/table.csv") else 0o711)  # to others: no way in; no list
            said = run_forked(fetch, as_nobody=True)
            closed.chmod(0o755)
        assert said.startswith("refused: "), said

    def test_a_local_file_is_used_where_it_is(self, tmp_path: Path) -> None:
        """A copy of a large table would cost the disk twice."""
        table, data = tmp_path / "table.csv", tmp_path / "data"
        table.write_bytes(TABLE)
        summary = _fetch(data, table)
        assert _files(data, table) == (table,)
        assert summary["bytes"] == len(TABLE)
        assert [name.split("/")[-1] for name in visible_files(data)] == ["receipt.json", "references.json"]
        assert _fetch(data, table)["skipped"] is True

    def test_a_changed_local_file_runs_the_stage_again_under_a_new_digest(self, tmp_path: Path) -> None:
        """The ETL hangs on the digest: an edited table must never be served from yesterday's Parquet."""
        table, data = tmp_path / "table.csv", tmp_path / "data"
        table.write_bytes(TABLE)
        first = _fetch(data, table)
        table.write_bytes(TABLE.replace(b"4", b"5"))
        with pytest.raises(StageError, match=r"table.csv: has changed since it was fetched. Run"):
            _files(data, table)
        second = _fetch(data, table)
        assert second["skipped"] is False
        assert second["digest"] != first["digest"]
        assert _files(data, table) == (table,)

    def test_a_removed_local_file_is_told(self, tmp_path: Path) -> None:
        """The reference must not end in a reader's own words about a path."""
        table, data = tmp_path / "table.csv", tmp_path / "data"
        table.write_bytes(TABLE)
        _fetch(data, table)
        table.unlink()
        with pytest.raises(StageError, match="is gone since it was fetched"):
            _files(data, table)
        with pytest.raises(SourceError, match="no such file"):
            _fetch(data, table)

    def test_a_glob_names_its_files_in_order(self, tmp_path: Path) -> None:
        """Row numbers follow the order of the files, so that it must not be the disk's."""
        for name in ("b.csv", "a.csv", "c.csv.gz", "skip.txt"):
            (tmp_path / name).write_bytes(TABLE)
        pattern = tmp_path / "*.csv*"
        _fetch(tmp_path / "data", pattern)
        found = [path.name for path in _files(tmp_path / "data", pattern)]
        assert found == ["a.csv", "b.csv", "c.csv.gz"]

    def test_a_new_file_under_a_glob_runs_the_stage_again(self, tmp_path: Path) -> None:
        """Tomorrow's part of the table belongs to it."""
        (tmp_path / "a.csv").write_bytes(TABLE)
        _fetch(tmp_path / "data", tmp_path / "*.csv")
        (tmp_path / "b.csv").write_bytes(TABLE)
        assert _fetch(tmp_path / "data", tmp_path / "*.csv")["skipped"] is False
        assert len(_files(tmp_path / "data", tmp_path / "*.csv")) == 2

    def test_a_file_is_taken_by_its_name_before_the_name_is_read_as_a_glob(self, tmp_path: Path) -> None:
        """Brackets are common in downloads: `table[1].csv`."""
        table = tmp_path / "table[1].csv"
        table.write_bytes(TABLE)
        _fetch(tmp_path / "data", table)
        assert _files(tmp_path / "data", table) == (table,)

    def test_a_relative_path_and_a_home_path_are_understood(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both are what people write."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "table.csv").write_bytes(TABLE)
        for path in ("table.csv", "~/table.csv"):
            _fetch(tmp_path / "data", path)
            assert _files(tmp_path / "data", path)[0].read_bytes() == TABLE

    def test_a_pinned_digest_is_kept(self, tmp_path: Path) -> None:
        """The digest in model.toml says which table the model means."""
        table, digest = tmp_path / "table.csv", hashlib.sha256(TABLE).hexdigest()
        table.write_bytes(TABLE)
        assert _fetch(tmp_path / "data", table, digest)["skipped"] is False
        table.write_bytes(b"other")
        with pytest.raises(SourceError, match=r"has SHA-256 .*, model.toml says"):
            _fetch(tmp_path / "data", table, digest)

    def test_one_digest_cannot_pin_two_files(self, tmp_path: Path) -> None:
        """Silently checking the first only would be a false promise."""
        for name in ("a.csv", "b.csv"):
            (tmp_path / name).write_bytes(TABLE)
        with pytest.raises(SourceError, match="pins one file, 2 are named"):
            _fetch(tmp_path / "data", tmp_path / "*.csv", "0" * 64)


class TestUrls:
    """An http URL."""

    def test_a_file_is_fetched_once(self, tmp_path: Path, files: FileServer) -> None:
        """Run again, the server is not even asked."""
        url = f"{files.url}/table.csv"
        assert _fetch(tmp_path, url)["skipped"] is False
        assert _fetch(tmp_path, url)["skipped"] is True
        assert len(files.seen) == 1
        (table,) = _files(tmp_path, url)
        assert (table.name, table.read_bytes()) == ("table.csv", TABLE)
        assert not hidden_files(tmp_path)

    @pytest.mark.parametrize(
        ("path", "body", "name"),
        [
            ("/data/table.csv.gz", gzip.compress(TABLE, mtime=0), "table.csv.gz"),
            ("/export", gzip.compress(TABLE, mtime=0), "export.gz"),
            ("/export", b"\x28\xb5\x2f\xfd....", "export.zst"),
            ("/export", b"PAR1....PAR1", "export.parquet"),
            ("/my%20table.csv", TABLE, "my table.csv"),
            ("/", TABLE, "table.csv"),
            ("/a/..", TABLE, "table.csv"),
            ("/receipt.json", TABLE, "table.csv"),
            ("/references.json", b"[]", "table.csv"),
        ],
    )
    def test_the_bytes_stay_and_the_name_shows_the_format(
        self, tmp_path: Path, files: FileServer, path: str, body: bytes, name: str
    ) -> None:
        """Other programs know compression and Parquet by the suffix; an export's URL often has none."""
        files.resources[path.replace("%20", " ")] = files.resources[path] = Resource(body)
        _fetch(tmp_path, files.url + path)
        (table,) = _files(tmp_path, files.url + path)
        assert (table.name, table.read_bytes()) == (name, body)

    def test_a_redirect_is_followed(self, tmp_path: Path, files: FileServer) -> None:
        """Most download links are one."""
        files.resources["/latest"] = Resource(status=302, location="/table.csv")
        _fetch(tmp_path, f"{files.url}/latest")
        assert _files(tmp_path, f"{files.url}/latest")[0].read_bytes() == TABLE

    def test_a_signed_url_shows_nowhere(
        self, tmp_path: Path, files: FileServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its query is a credential, in files, logs and errors alike."""
        caplog.set_level("DEBUG")
        url = f"{files.url}/table.csv?X-Amz-Signature={SECRET}"
        _fetch(tmp_path / "data", url)
        files.resources.clear()
        with pytest.raises(SourceError, match="answered 404") as caught:
            _fetch(tmp_path / "other", url)
        kept = "".join(f"{path}{path.read_bytes()!r}" for path in tmp_path.rglob("*") if path.is_file())
        assert SECRET not in str(caught.value) + repr(caught.value.__context__) + caplog.text + kept

    def test_a_url_with_a_password_is_refused(self, tmp_path: Path) -> None:
        """model.toml is committed."""
        with pytest.raises(SourceError, match=r"127.0.0.1/t.csv: the URL carries credentials") as caught:
            _fetch(tmp_path, f"http://ann:{SECRET}@127.0.0.1/t.csv")
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize("url", ["ftp://host/t.csv", "file:///etc/passwd", "gs://b/t.csv"])
    def test_other_schemes_are_refused_with_what_there_is(self, tmp_path: Path, url: str) -> None:
        """A glob over `gs:` would only say that there is no such file."""
        with pytest.raises(SourceError, match=r"cannot fetch \w+:// URLs.*http\(s\):// or s3://"):
            _fetch(tmp_path, url)

    @pytest.mark.parametrize(
        ("resource", "message"),
        [
            (Resource(status=401), r"answered 401. It asks to sign in"),
            (Resource(status=403), r"answered 403. Access is refused"),
            (Resource(b"<html>", content_type="text/html"), "answered with a web page, not with a file"),
            (Resource(b"PK\x03\x04...."), "is a zip archive. Unpack it"),
        ],
    )
    def test_what_is_no_table_is_refused_and_leaves_nothing(
        self, tmp_path: Path, files: FileServer, resource: Resource, message: str
    ) -> None:
        """A sign-in page read as CSV fails much later, and says something else."""
        files.resources["/table.csv"] = resource
        with pytest.raises(SourceError, match=message):
            _fetch(tmp_path, f"{files.url}/table.csv")
        assert not visible_files(tmp_path)
        assert not hidden_files(tmp_path)

    def test_a_wrong_digest_is_refused_and_leaves_nothing(self, tmp_path: Path, files: FileServer) -> None:
        """A file that changed upstream must not become a model unnoticed."""
        with pytest.raises(SourceError, match=r"model.toml says 0000"):
            _fetch(tmp_path, f"{files.url}/table.csv", "0" * 64)
        assert not visible_files(tmp_path)
        assert not hidden_files(tmp_path)


def test_nothing_fetched_is_told_with_the_command(tmp_path: Path) -> None:
    """`timberline etl` on a fresh clone."""
    with pytest.raises(StageError, match=r"has not run. Run `timberline fetch tiny`"):
        _files(tmp_path, "table.csv")


def test_a_fetched_file_that_was_damaged_is_fetched_again(tmp_path: Path, files: FileServer) -> None:
    """Of the same size, so that only its digest can tell."""
    url = f"{files.url}/table.csv"
    _fetch(tmp_path, url)
    (table,) = _files(tmp_path, url)
    table.write_bytes(TABLE.replace(b"4", b"9"))
    with pytest.raises(StageError, match="has other bytes than the receipt says"):
        _files(tmp_path, url)
    assert _fetch(tmp_path, url)["skipped"] is False
    assert _files(tmp_path, url)[0].read_bytes() == TABLE


def test_models_of_one_source_share_its_folder(tmp_path: Path, files: FileServer) -> None:
    """forest_cover and forest_cover_full differ in the split only."""
    config = config_for(CsvSource(path=f"{files.url}/table.csv"))
    run_fetch(config, tmp_path)
    other = msgspec.structs.replace(config, model=ModelSection(name="other"), split=HeadSplit(rows=1))
    assert run_fetch(other, tmp_path)["skipped"] is True
