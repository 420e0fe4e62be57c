"""The tutorial, done as a newcomer does it, and the notebook in the folder that it leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.makefile import DEADLINE_S
from tests.support.markdown import ROOT
from tests.support.walkthrough import Walkthrough
from timberline.registry.aliases import read_history
from timberline.registry.store import Store, open_store
from timberline.registry.verdict import VERDICT_FILE, decode_verdict

PAGE = ROOT / "docs" / "tutorial.md"
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
CLAIMS = (
    "version_of_the_answer",
    "served_is_the_graph",
    "better_than_the_baselines",
    "a_wrong_type_is_refused",
    "the_service_ended_well",
)
# The page is about accuracy; what a busy machine does to short latency windows is none of its business.
ANY_SPEED = {
    f"TIMBERLINE_GATE_MAX_{name}_INCREASE": "100"
    for name in ("P50", "P99", "SERVICE_P50", "CPU", "MEMORY", "START_UP")
}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walkthrough]:
    """A newcomer who has followed the whole page."""
    with Walkthrough(tmp_path_factory.mktemp("tutorial"), ANY_SPEED) as newcomer:
        newcomer.follow(PAGE)
        yield newcomer


def open_registry(reader: Walkthrough) -> Store:
    """The registry that the page leaves."""
    return open_store(reader.folder / "var" / "registry")


def test_the_page_ends_where_it_says(reader: Walkthrough) -> None:
    """Its story is true only if the registry holds it: two releases, one block, one rollback."""
    store = open_registry(reader)
    assert store.versions("weather") == [1, 2, 3]
    moves = [(move.action, move.version) for move in read_history(store, "weather", "production")]
    assert moves == [("promote", 1), ("promote", 2), ("rollback", 1)]
    blocked = decode_verdict(store.read_document("weather", 3, VERDICT_FILE) or b"")
    assert "accuracy" in {line.name for line in blocked.lines if line.outcome == "BLOCK"}


def test_the_notebook_runs_in_the_folder_that_the_page_leaves(reader: Walkthrough) -> None:
    """Many start in a notebook; its last cell says what holds, and stages that are done are skipped."""
    store = open_registry(reader)
    runs = sorted(path.name for path in (reader.folder / "var" / "data" / "runs" / "weather").iterdir())
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]  # it has no types
    NotebookClient(
        notebook, timeout=DEADLINE_S, resources={"metadata": {"path": str(reader.folder / "docs")}}
    ).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert json.loads(code[-1].outputs[0].text) == dict.fromkeys(CLAIMS, True)
    pictures = [output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 4
    assert store.versions("weather") == [1, 2, 3, 4]  # the export publishes the second run once more
    assert runs == sorted(
        path.name for path in (reader.folder / "var" / "data" / "runs" / "weather").iterdir()
    )
