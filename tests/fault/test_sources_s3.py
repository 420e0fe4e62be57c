"""Tables behind s3:// URLs, with a real S3 server."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import S3Store

from tests.support.s3_server import S3Server, serve_s3
from tests.support.sources import SECRET, TABLE, config_for, hidden_files, visible_files
from timberline.training.config import CsvSource
from timberline.training.data.fetch import fetched_files, run_fetch
from timberline.training.errors import SourceError
from timberline.training.sources.download import Reply, download
from timberline.training.sources.s3 import S3Object

BODY = random.Random(0).randbytes(3_000_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server, started for this file only: it takes seconds and 150 MB."""
    with serve_s3(tmp_path_factory.mktemp("s3"), secret_key=SECRET) as running:
        yield running


@pytest.fixture
def bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bucket with a small and a larger table, and the account in the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    store = S3Store("tables", client_options={"allow_http": True})
    obstore.put(store, "deep/table.csv", TABLE)
    obstore.put(store, "large.parquet", b"PAR1" + BODY)
    return store


def _fetch(data: Path, url: str, sha256: str | None = None) -> dict[str, Any]:
    return run_fetch(config_for(CsvSource(path=url, sha256=sha256)), data, pause=lambda _: None)


def test_an_object_is_fetched_once(tmp_path: Path, bucket: Any) -> None:
    """Account and endpoint come from the standard variables, with nothing in model.toml."""
    digest = hashlib.sha256(TABLE).hexdigest()
    url = "s3://tables/deep/table.csv"
    assert _fetch(tmp_path, url, digest)["skipped"] is False
    obstore.delete(bucket, "deep/table.csv")
    assert _fetch(tmp_path, url, digest)["skipped"] is True
    (table,) = fetched_files(config_for(CsvSource(path=url, sha256=digest)), tmp_path)
    assert (table.name, table.read_bytes()) == ("table.csv", TABLE)
    assert not hidden_files(tmp_path)


def test_a_cut_download_goes_on_and_notices_a_changed_object(tmp_path: Path, bucket: Any) -> None:
    """The store proves by the ETag that the rest belongs to the beginning."""
    source, starts = S3Object("s3://tables/large.parquet", os.environ), list[int]()

    class Cut:
        """The real opener; its first two answers break off after a megabyte."""

        def __init__(self, offset: int, validator: str | None) -> None:
            self._real = source.open_at(offset, validator)

        def __enter__(self) -> Reply:
            reply = self._real.__enter__()
            starts.append(reply.start)
            return (
                reply
                if len(starts) > 2
                else Reply(reply.start, reply.total, reply.validator, self._some(reply))
            )

        def _some(self, reply: Reply) -> Iterator[bytes]:
            yield next(reply.chunks)[:1_000_000]

        def __exit__(self, *failure: Any) -> None:
            self._real.__exit__(*failure)

    def change(_: float) -> None:
        if len(starts) == 2:
            obstore.put(bucket, "large.parquet", b"PAR1" + BODY[::-1])

    download(Cut, tmp_path / "body", label="large.parquet", pause=change)
    assert starts == [0, 1_000_000, 0]
    assert (tmp_path / "body").read_bytes() == b"PAR1" + BODY[::-1]


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("url", ["s3://tables/none.csv", "s3://no-such-bucket/table.csv"])
def test_a_missing_object_or_bucket_is_told(tmp_path: Path, url: str) -> None:
    """The two most frequent slips."""
    with pytest.raises(SourceError, match=r"no such bucket or object. Check source.path"):
        _fetch(tmp_path, url)
    assert not visible_files(tmp_path)
    assert not hidden_files(tmp_path)


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_SECRET_ACCESS_KEY", "wr0ng-k3y-0123456789"), ("AWS_ACCESS_KEY_ID", "n0b0dy-0123456789")],
)
def test_refused_credentials_are_told_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, value: str
) -> None:
    """The store's own answer quotes the signed request."""
    caplog.set_level("DEBUG")
    monkeypatch.setenv(name, value)
    with pytest.raises(SourceError, match=r"access is refused \(403.*\). Set AWS_ACCESS_KEY_ID") as caught:
        _fetch(tmp_path, "s3://tables/large.parquet")
    told = str(caught.value) + repr(caught.value.__context__) + caplog.text
    assert value not in told
    assert SECRET not in told
    assert not visible_files(tmp_path)


def test_a_store_that_does_not_answer_is_one_error(
    tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong endpoint must look like a broken line, not like a missing table."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match=r"gave up after 4 attempts.*Check the connection") as caught:
        _fetch(tmp_path, "s3://tables/large.parquet")
    assert SECRET not in str(caught.value)


def test_a_url_without_a_key_is_refused(tmp_path: Path) -> None:
    """A bucket is not a table."""
    with pytest.raises(SourceError, match=r"found 's3://tables', expected s3://bucket/key"):
        _fetch(tmp_path, "s3://tables")


def test_without_any_credentials_the_error_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client would look for a cloud machine's own account, and there is none."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match=r"Set AWS_ACCESS_KEY_ID"):
        _fetch(tmp_path, "s3://tables/large.parquet")
