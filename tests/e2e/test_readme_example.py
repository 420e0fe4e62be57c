"""The README's worked example, copied and pasted."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.support.makefile import ROOT, Workshop
from tests.support.service import running_service


def test_the_worked_example_ends_with_a_served_prediction(tmp_path: Path) -> None:
    """A newcomer's first own table must work as written, to the character."""
    text = (ROOT / "README.md").read_text("utf-8").split("\n## Bring your own table\n")[1].split("\n## ")[0]
    files = re.findall(r"^cat > models/(\S+) <<'(\w+)'\n(.*?)^\2$", text, re.DOTALL | re.MULTILINE)
    assert [name for name, _, _ in files] == ["rain/model.toml", "rain/features.sql"]
    for name, _, content in files:
        path = tmp_path / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")
    workshop = Workshop(tmp_path, "rain", tmp_path / "models")
    workshop.made("release")
    body = json.loads(re.findall(r"/predict .*?-d '(\{.*?\})'", text, re.DOTALL)[0])
    with running_service(workshop.registry, "rain") as service:
        status, answer = service.predict(body)
    assert (status, answer["version"]) == (200, 1)
    assert set(answer["probabilities"]) == {"0", "1"}
    assert answer["label"] in {"dry", "rain"}
