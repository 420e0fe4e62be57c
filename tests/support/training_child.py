"""A training process that is killed: ``python -m tests.support.training_child MODELS DATA N MOMENT``.

It kills itself (SIGKILL, so nothing is cleaned up) at the N-th checkpoint: with MOMENT "before" the
checkpoint's bytes are written but not yet under their name, with "after" they just are.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any


def main(models: Path, data: Path, at: int, moment: str) -> None:
    """Train `tests.support.prepared.MODEL` until the kill."""
    renames = 0
    due = False

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal renames, due
        if due:  # the first audited operation after the rename; the kill is one itself
            due = False
            os.kill(os.getpid(), signal.SIGKILL)
        if event == "os.rename" and str(arguments[1]).endswith("checkpoint.npz"):
            renames += 1
            if renames == at and moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            due = renames == at

    from tests.support.prepared import MODEL
    from timberline.training.config import load_model_config
    from timberline.training.fit import run_train

    config = load_model_config(models, MODEL, use_environment=False)
    sys.addaudithook(watch)
    run_train(config, models, data)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
