"""The committed notebook holds what was written and nothing of whoever ran it."""

from __future__ import annotations

import json
import re
from typing import Any

import nbformat

from tests.support.markdown import ROOT

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
TREE: dict[str, Any] = json.loads(NOTEBOOK.read_text("utf-8"))


def test_the_notebook_is_committed_as_it_was_written() -> None:
    """Outputs age, count as changes, and carry names of users and machines."""
    nbformat.validate(nbformat.from_dict(TREE))  # type: ignore[no-untyped-call]
    code = [cell for cell in TREE["cells"] if cell["cell_type"] == "code"]
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []
    assert [cell for cell in TREE["cells"] if cell["metadata"]] == []
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert TREE["metadata"] == {"kernelspec": kernel, "language_info": {"name": "python"}}


def test_the_notebook_names_no_place_on_a_machine() -> None:
    """It is to run in any checkout."""
    text = "".join("".join(cell["source"]) for cell in TREE["cells"])
    # An absolute path; what stands behind a host or a variable is the path of a URL.
    assert re.findall(r"(?<![\w:/.}])/\w[\w/]*|\b[A-Z]:\\", text) == []


def test_the_notebook_s_links_lead_somewhere() -> None:
    """A page that is moved leaves a dead end here too."""
    text = "".join("".join(cell["source"]) for cell in TREE["cells"] if cell["cell_type"] == "markdown")
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]
    assert targets
    assert [target for target in targets if not (NOTEBOOK.parent / target).exists()] == []
