"""The Kaggle source with the real client against a stand-in on loopback."""

from __future__ import annotations

import base64
import json
import logging
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.http_files import Resource
from tests.support.kaggle_stand_in import (
    COMPETITION_CALL,
    DATASET_CALL,
    SIGNATURE,
    STORAGE_HOST,
    STORAGE_PATH,
    KaggleStandIn,
    make_zip,
    serve_kaggle,
)
from tests.support.sources import SECRET, TABLE, config_for, hidden_files, visible_files
from timberline.training.config import KaggleSource
from timberline.training.data.fetch import fetched_files, run_fetch
from timberline.training.errors import SourceError

ROOT = Path(__file__).resolve().parents[4]
COMPETITION = KaggleSource(competition="tiny-trees", files=("train.csv",), max_unpacked_bytes=100_000)
DATASET = KaggleSource(dataset="ann/tiny-trees", files=("train.csv",))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An account without any credentials."""
    for name in [name for name in os.environ if name.startswith("KAGGLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def kaggle(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleStandIn]:
    """A stand-in, and the secret in the environment that the client needs to come to it."""
    monkeypatch.setenv("KAGGLE_USERNAME", "ann")
    monkeypatch.setenv("KAGGLE_KEY", SECRET)
    with serve_kaggle() as stand_in:
        for name, value in stand_in.environment.items():
            monkeypatch.setenv(name, value)
        yield stand_in


def _refused(source: KaggleSource, data: Path) -> str:
    """The error that a fetch ends with; nothing of it stays on disk, and the secret is nowhere in it."""
    with pytest.raises(SourceError) as caught:
        run_fetch(config_for(source), data, pause=lambda _: None)
    assert not visible_files(data)
    _assert_no_secret(str(caught.value) + repr(caught.value.__context__) + repr(caught.value.__cause__))
    return str(caught.value)


def _assert_no_secret(text: str) -> None:
    for form in (SECRET, base64.b64encode(f"ann:{SECRET}".encode()).decode(), SIGNATURE):
        assert form not in text


def test_a_competition_is_fetched_once_through_the_redirect_to_its_storage(
    tmp_path: Path, kaggle: KaggleStandIn
) -> None:
    """The whole way of a real download; run again, Kaggle is not even asked."""
    kaggle.hold_archive(make_zip({"train.csv": TABLE, "test.csv": b"a,b\n"}))
    config, data = config_for(COMPETITION), tmp_path / "data"
    assert run_fetch(config, data)["skipped"] is False
    (table,) = fetched_files(config, data)
    assert table.read_bytes() == TABLE
    assert sorted(path.name for path in table.parent.iterdir()) == ["receipt.json", "train.csv"]
    assert not hidden_files(data)
    call, _ = kaggle.files.seen
    assert (call.method, call.path) == ("POST", COMPETITION_CALL)
    assert json.loads(call.body) == {"competitionName": "tiny-trees"}

    assert run_fetch(config, data)["skipped"] is True
    assert len(kaggle.files.seen) == 2


def test_a_data_set_is_asked_for_by_owner_and_name(tmp_path: Path, kaggle: KaggleStandIn) -> None:
    """Data sets have their own call."""
    kaggle.hold_archive(make_zip({"train.csv.zip": make_zip({"train.csv": TABLE})}), DATASET_CALL)
    run_fetch(config_for(DATASET), tmp_path / "data")
    assert fetched_files(config_for(DATASET), tmp_path / "data")[0].read_bytes() == TABLE
    asked = json.loads(kaggle.files.seen[0].body)
    assert (asked["ownerSlug"], asked["datasetSlug"]) == ("ann", "tiny-trees")


def test_the_key_goes_to_kaggle_and_not_to_its_storage(tmp_path: Path, kaggle: KaggleStandIn) -> None:
    """The storage is another host; its link is signed and needs no credentials."""
    kaggle.hold_archive(make_zip({"train.csv": TABLE}))
    run_fetch(config_for(COMPETITION), tmp_path / "data")
    call, storage = kaggle.files.seen
    expected = base64.b64encode(f"ann:{SECRET}".encode()).decode()
    assert call.headers["authorization"] == f"Basic {expected}"
    assert (storage.method, storage.host, storage.path) == ("GET", STORAGE_HOST, STORAGE_PATH)
    assert "authorization" not in storage.headers


def test_a_token_is_sent_as_bearer_and_comes_before_a_key(
    tmp_path: Path, kaggle: KaggleStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New accounts have a token; the official client prefers it too."""
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_the-token")
    kaggle.hold_archive(make_zip({"train.csv": TABLE}))
    run_fetch(config_for(COMPETITION), tmp_path / "data")
    assert kaggle.files.seen[0].headers["authorization"] == "Bearer KGAT_the-token"


@pytest.mark.parametrize("home", [None, "", "/nonexistent/home", "/proc"])
def test_a_container_with_a_token_alone_fetches(
    tmp_path: Path, kaggle: KaggleStandIn, home: str | None
) -> None:
    """Its user has no home that can be written, and the client must not take the token away."""
    model = tmp_path / "models" / "tiny"
    model.mkdir(parents=True)
    (model / "model.toml").write_text(
        'model.name = "tiny"\n[source]\nkind = "kaggle"\ncompetition = "tiny-trees"\nfiles = ["train.csv"]\n'
        '[columns]\na = {type = "integer"}\ny = {type = "integer"}\n[target]\ncolumn = "y"\n'
        '[split]\nkind = "random"\n'
    )
    kaggle.hold_archive(make_zip({"train.csv": TABLE}))
    environment = {"PATH": os.environ["PATH"], "KAGGLE_API_TOKEN": "KGAT_the-token", **kaggle.environment}
    command = ["-m", "training", "fetch", "--model", "tiny", "--models", str(model.parent), "--data"]
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path / "data")],
        env=environment if home is None else {**environment, "HOME": home},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert kaggle.files.seen[0].headers["authorization"] == "Bearer KGAT_the-token"
    assert any(name.endswith("train.csv") for name in visible_files(tmp_path / "data"))


def test_without_credentials_the_error_says_how_to_get_them(tmp_path: Path, home: Path) -> None:
    """The client itself would end the process here."""
    with pytest.raises(SourceError, match=r"no credentials found.*settings/api.*KAGGLE_API_TOKEN"):
        run_fetch(config_for(COMPETITION), tmp_path / "data")
    assert not visible_files(tmp_path / "data")


def test_unaccepted_rules_are_told_with_the_page_to_accept_them_on(
    tmp_path: Path, kaggle: KaggleStandIn
) -> None:
    """The most frequent first failure of all."""
    kaggle.refuse(403, "You must accept this competition's rules before you'll be able to download files.")
    message = _refused(COMPETITION, tmp_path / "data")
    assert "Kaggle answered 403: You must accept this competition's rules" in message
    assert "https://www.kaggle.com/c/tiny-trees/rules" in message


def test_refused_credentials_are_told_with_their_origin(tmp_path: Path, kaggle: KaggleStandIn) -> None:
    """With four places to keep them, the user must know which were used."""
    kaggle.refuse(401, "Unauthorized")
    message = _refused(COMPETITION, tmp_path / "data")
    assert "Kaggle answered 401" in message
    assert "from KAGGLE_USERNAME and KAGGLE_KEY are not valid" in message


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"message": "\xe4"}', b'{"message": 7}', b"[]", b""])
def test_an_answer_that_is_not_kaggles_json_is_a_refusal(
    tmp_path: Path, kaggle: KaggleStandIn, body: bytes
) -> None:
    """A proxy's page, or worse; where Kaggle's client reads it at all, the status says enough."""
    kaggle.files.resources[COMPETITION_CALL] = Resource(body, 404, "application/json", etag=None)
    message = _refused(COMPETITION, tmp_path / "data")
    assert "tiny-trees: Kaggle answered 404" in message or "tiny-trees: gave up after 4 attempts" in message


def test_an_unknown_competition_is_told_as_such(tmp_path: Path, kaggle: KaggleStandIn) -> None:
    """A misspelt name must not look like a broken network."""
    kaggle.refuse(404, "Not found")
    message = _refused(COMPETITION, tmp_path / "data")
    assert "Kaggle competition tiny-trees: Kaggle answered 404" in message
    assert "Check the name in [source]" in message
    assert len(kaggle.files.seen) == 1


@pytest.mark.parametrize("form", [SECRET, base64.b64encode(f"ann:{SECRET}".encode()).decode()])
def test_a_secret_that_the_server_sends_back_is_not_shown(
    tmp_path: Path, kaggle: KaggleStandIn, form: str
) -> None:
    """Servers quote requests in their errors; errors end up in tickets."""
    kaggle.refuse(400, f"bad header Authorization: Basic {form}, url https://x.example/y?{SIGNATURE}")
    message = _refused(COMPETITION, tmp_path / "data")
    assert "Kaggle answered 400: bad header" in message
    assert "***" in message


def test_no_log_line_and_no_file_carries_a_credential(
    tmp_path: Path, kaggle: KaggleStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    """At level debug every library talks, and the HTTP library writes down signed URLs."""
    caplog.set_level(logging.DEBUG)
    stored = kaggle.hold_archive(make_zip({"train.csv": TABLE}))
    stored.cuts = [20]
    data = tmp_path / "data"
    run_fetch(config_for(COMPETITION), data, pause=lambda _: None)
    kaggle.files.resources.clear()
    with pytest.raises(SourceError):
        run_fetch(config_for(DATASET), data, pause=lambda _: None)
    _assert_no_secret(caplog.text)
    assert "connection lost" in caplog.text
    for path in data.rglob("*"):
        if path.is_file():
            _assert_no_secret(path.read_bytes().decode("latin-1") + str(path))


# Random bytes do not shrink, so that the archive is as long as the table.
LARGE_TABLE = random.Random(0).randbytes(200_000)


def test_a_cut_body_is_resumed_at_the_storage(tmp_path: Path, kaggle: KaggleStandIn) -> None:
    """Half of a large competition is not fetched twice."""
    stored = kaggle.hold_archive(make_zip({"train.csv": LARGE_TABLE}))
    stored.cuts = [150_000]
    source = KaggleSource(competition="tiny-trees", files=("train.csv",))
    run_fetch(config_for(source), tmp_path / "data", pause=lambda _: None)
    resumed = kaggle.files.seen[-1]
    # Two whole chunks of 65,536 bytes had come.
    assert (resumed.headers["range"], resumed.headers["if-range"]) == ("bytes=131072-", '"v1"')
    assert fetched_files(config_for(source), tmp_path / "data")[0].read_bytes() == LARGE_TABLE


def test_a_body_that_always_breaks_off_ends_in_one_error_that_keeps_what_came(
    tmp_path: Path, kaggle: KaggleStandIn
) -> None:
    """Truncated is not whole; the next run goes on from there."""
    stored = kaggle.hold_archive(make_zip({"train.csv": LARGE_TABLE}))
    stored.cuts = [150_000, 0, 0, 0, 0]
    source = KaggleSource(competition="tiny-trees", files=("train.csv",))
    message = _refused(source, tmp_path / "data")
    assert "gave up after 4 attempts" in message
    assert "131,072 bytes are kept" in message
    stored.cuts = []
    run_fetch(config_for(source), tmp_path / "data")
    assert kaggle.files.seen[-1].headers["range"] == "bytes=131072-"
    assert not hidden_files(tmp_path / "data")


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (make_zip({"train.csv": TABLE, "../../evil.csv": b"x"}), "leads out of its folder"),
        (make_zip({"train.csv": bytes(1_000_000)}), "more than the allowed 100,000 bytes"),
        (make_zip({"train.csv": TABLE})[:-30], "is not a whole zip file"),
        (make_zip({"test.csv": TABLE}), "has no file 'train.csv'"),
    ],
    ids=["traversal", "bomb", "truncated", "missing"],
)
def test_a_bad_archive_is_refused_and_forgotten(
    tmp_path: Path, kaggle: KaggleStandIn, archive: bytes, words: str
) -> None:
    """Kept, it would fail every later run as well."""
    kaggle.hold_archive(archive)
    assert words in _refused(COMPETITION, tmp_path / "data")
    assert not hidden_files(tmp_path / "data")


def test_a_sign_in_page_is_not_taken_for_an_archive(tmp_path: Path, kaggle: KaggleStandIn) -> None:
    """Some proxies answer everything with a page and status 200."""
    kaggle.files.resources[COMPETITION_CALL] = Resource(b"<html>", content_type="text/html; charset=utf-8")
    assert "answered with a web page" in _refused(COMPETITION, tmp_path / "data")


def test_a_busy_server_is_asked_again(tmp_path: Path, kaggle: KaggleStandIn) -> None:
    """429 and 503 pass; ending there would only make the user do it by hand."""
    kaggle.refuse(429, "Too many requests")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        kaggle.hold_archive(make_zip({"train.csv": TABLE}))

    run_fetch(config_for(COMPETITION), tmp_path / "data", pause=pause)
    assert pauses == [0.5]


@pytest.mark.parametrize("file", ["../train.csv", "/train.csv"])
def test_a_wanted_file_may_not_lead_out_of_the_folder(
    tmp_path: Path, kaggle: KaggleStandIn, file: str
) -> None:
    """model.toml is checked like an archive: it may come from someone else too."""
    source = KaggleSource(competition="tiny-trees", files=(file,))
    assert "leads out of its folder" in _refused(source, tmp_path / "data")
    assert not kaggle.files.seen
