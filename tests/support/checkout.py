"""A checkout of a test, as a repository of git, whose forest_cover trains in seconds and passes its gate.

write_checkout(folder)                      # one commit on main
commit(folder, "subject")
"""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

from tests.support.markdown import ROOT, list_files

MODEL = """
[model]
name = "forest_cover"

[source]
kind = "csv"
path = "models/forest_cover/table.csv"

[columns]
Elevation = { type = "integer", default = 0 }
Aspect = { type = "integer", default = 0 }
Slope = { type = "integer", default = 0 }
Cover_Type = { type = "integer", allowed = [1, 2] }

[target]
column = "Cover_Type"
classes = [{ value = "1", label = "Spruce/Fir" }, { value = "2", label = "Lodgepole Pine" }]

[split]
kind = "random"

[network]
kind = "mlp"
widths = [8]

[training]
epochs = 2

[gate]
baseline = "warn"
max_p50_increase = 100.0
max_p99_increase = 100.0
max_service_p50_increase = 100.0
max_cpu_increase = 100.0
max_memory_increase = 100.0
max_start_up_increase = 100.0
max_accuracy_drop = 0.9
max_recall_drop = 0.9
max_log_loss_increase = 100.0
max_ece_increase = 0.9
min_accuracy = 0.0
"""


def write_checkout(folder: Path) -> None:
    """A repository with a copy of this checkout, in which forest_cover is a small table and network."""
    for path in list_files():
        if path.name != ".venv":
            copy = folder / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy, follow_symlinks=False)
    chance = random.Random(0)
    rows = [(chance.randrange(2000, 3800), chance.randrange(360), chance.randrange(60)) for _ in range(600)]
    lines = ["Elevation,Aspect,Slope,Cover_Type", *(f"{e},{a},{s},{1 + (e < 2900)}" for e, a, s in rows)]
    model = folder / "models" / "forest_cover"
    (model / "table.csv").write_text("\n".join(lines) + "\n", "utf-8")
    (model / "model.toml").write_text(MODEL, "utf-8")
    (model / "features.sql").write_text("SELECT Elevation, Aspect, Slope FROM raw\n", "utf-8")
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "first")


def git(folder: Path, *words: str) -> str:
    """A command of git that ends well; its output."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@test"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(folder: Path, subject: str) -> str:
    """Commit all of it; the commit's name."""
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message", subject)
    return git(folder, "rev-parse", "HEAD")
