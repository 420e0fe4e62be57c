"""A stage whose data is in a bucket: ``python -m tests.support.share_child LOCATION TEXT``.

It fills the folder ``prepared/model`` with three files about TEXT unless that is done. Account and cache are
those of the environment.
"""

from __future__ import annotations

import logging
import sys

from timberline.registry.runtime.cli import run_command
from timberline.registry.runtime.logs import configure_logging
from timberline.registry.runtime.stages import Stage
from timberline.registry.runtime.working_copy import open_data

FOLDER = "prepared/model"
FILES = ("first.txt", "second.txt", "below/third.txt")


def write(location: str, text: str) -> int:
    """Run the stage."""
    with open_data(location) as data:
        stage = Stage("etl", data / FOLDER, {"text": text})
        if not stage.is_current(logging.getLogger("child")):
            fill(stage)
    return 0


def fill(stage: Stage) -> None:
    """Run the stage, whose one input is the text."""
    with stage.fill() as folder:
        (folder / "below").mkdir()
        for name in FILES:
            (folder / name).write_text(f"{name} {stage.inputs['text']}" * 100, "utf-8")


if __name__ == "__main__":
    configure_logging()
    sys.exit(run_command("training", lambda: write(*sys.argv[1:3])))
