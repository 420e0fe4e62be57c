"""Dockerfiles as tests read them: the instructions of each stage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple


class Step(NamedTuple):
    """An instruction of a Dockerfile, its lines joined."""

    word: str
    text: str


def read_stages(path: Path) -> dict[str, list[Step]]:
    """Instructions of each stage by its name, the last one's ``""`` if it has none; ``FROM`` comes first."""
    text = re.sub(r"^#.*\n", "", path.read_text("utf-8"), flags=re.MULTILINE)
    stages: dict[str, list[Step]] = {}
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            parent, _, stage = rest.partition(" AS ")
            # A stage made of another one has its instructions too.
            stages[stage] = steps = list(stages.get(parent, []))
        if word and (word == "FROM" or stages):
            steps.append(Step(word, rest))
    return stages


def texts(steps: list[Step], word: str) -> list[str]:
    """What stands behind each ``word`` of a stage."""
    return [step.text for step in steps if step.word == word]
