"""The README's own table, copied and pasted."""

from __future__ import annotations

from pathlib import Path

from tests.support.markdown import ROOT
from tests.support.service import running_service
from tests.support.walkthrough import Walkthrough


def test_the_own_table_ends_with_a_served_prediction(tmp_path: Path) -> None:
    """A newcomer's first own table must work as written, to the character."""
    with Walkthrough(tmp_path, {"TIMBERLINE_TRAINING_EPOCHS": "5"}) as reader:
        assert reader.follow(ROOT / "README.md") == 1
    row = dict(zip((f"feat_{n}" for n in range(1, 9)), (61, 58, 1004, 6, 11, 21, 70, 55), strict=True))
    with running_service(reader.folder / "var" / "registry", "rain") as service:
        status, answer = service.predict(row)
    assert (status, answer["version"]) == (200, 1)
    assert set(answer["probabilities"]) == {"0", "1"}
