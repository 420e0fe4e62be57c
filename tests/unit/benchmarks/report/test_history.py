"""The history as a page and as a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.releases import publish_release
from timberline.benchmarks.__main__ import main
from timberline.benchmarks.report.history import draw_page, read_release_history
from timberline.registry.errors import VersionNotFoundError
from timberline.registry.promotion import promote
from timberline.registry.store import Store, open_store


@pytest.fixture
def store(store: Store) -> Store:
    """Three versions, the last one much slower and promoted by force for a reason with markup in it."""
    promote(store, "tiny", publish_release(store))
    promote(store, "tiny", publish_release(store, 1.0))
    slow = publish_release(store, 1.3, "BLOCK")
    promote(store, "tiny", slow, force=True, reason="<script>alert(1)</script>")
    return store


def run(store: Store, tmp_path: Path, *arguments: str) -> int:
    return main(["history", *arguments, "--registry", store.location, "--data", str(tmp_path / "data")])


def test_the_command_prints_json_a_table_and_where_the_page_is(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Programs read stdout, people stderr, and the page is for both."""
    assert run(store, tmp_path, "tiny") == 0
    printed = capsys.readouterr()
    tree = json.loads(printed.out)
    assert [release["version"] for release in tree["releases"]] == [1, 2, 3]
    assert [(change["version"], change["quantity"]) for change in tree["changes"]] == [(3, "p50")]
    assert "worse: step of p50" in printed.err
    page = tmp_path / "data" / "gates" / "tiny" / "history.html"
    assert f"page: {page}" in printed.err
    assert page.read_bytes() == draw_page(read_release_history(store, "tiny"))


def test_the_model_comes_by_flag_too_as_in_the_other_commands(store: Store, tmp_path: Path) -> None:
    """`timberline history tiny` and a script that knows the other verbs both work."""
    assert run(store, tmp_path, "--model", "tiny@production") == 0


def test_an_unknown_model_is_an_error_and_a_rule_is_wrong_use(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty table for a misspelt name would be taken for an answer."""
    with pytest.raises(VersionNotFoundError, match="There are: tiny"):
        read_release_history(store, "tinny")
    assert run(store, tmp_path, "tinny") != 0
    with pytest.raises(SystemExit, match="2"):
        run(store, tmp_path, "tiny", "--set", "duet.seed=1")
    assert "unrecognized arguments: --set" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_the_page_carries_table_plot_and_changes_and_no_markup_of_a_reason(store: Store) -> None:
    """The person who overrules the gate types the reason; a browser must not run it."""
    page = draw_page(read_release_history(store, "tiny")).decode()
    assert "<svg" in page
    assert "worse: step of p50" in page
    assert "FORCED: &lt;script&gt;" in page
    assert "<script" not in page
    for outside in ("http://", "https://", "src="):
        assert outside not in page.replace("http://www.w3.org/2000/svg", "")


def test_one_version_without_a_verdict_has_a_page(tmp_path: Path) -> None:
    """The first day: no plot, no change, one row."""
    store = open_store(tmp_path)
    publish_release(store)
    page = draw_page(read_release_history(store, "tiny")).decode()
    assert "1 version" in page
    assert "No change that noise does not explain." in page
