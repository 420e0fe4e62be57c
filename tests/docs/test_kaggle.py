"""The how-to for Kaggle, done with the real client against a stand-in on loopback."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kaggle_stand_in import DATASET_CALL, KaggleStandIn, make_zip, serve_kaggle
from tests.support.markdown import ROOT, list_blocks
from tests.support.sources import SECRET
from tests.support.walkthrough import Walkthrough

PAGE = ROOT / "docs" / "how-to" / "kaggle.md"
NO_CREDENTIALS = dict.fromkeys(
    ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"), ""
)
BY_NAME = {"KAGGLE_USERNAME": "ann", "KAGGLE_KEY": SECRET}
RULES = "You must accept this competition's rules before you'll be able to download files."
SPECIES = ("apple", "pear", "plum")
QUANTITIES = {
    "Elevation": 3000,
    "Aspect": 360,
    "Slope": 60,
    "Horizontal_Distance_To_Hydrology": 1000,
    "Vertical_Distance_To_Hydrology": 300,
    "Horizontal_Distance_To_Roadways": 5000,
    "Hillshade_9am": 255,
    "Hillshade_Noon": 255,
    "Hillshade_3pm": 255,
    "Horizontal_Distance_To_Fire_Points": 5000,
}


@pytest.fixture
def kaggle() -> Iterator[KaggleStandIn]:
    """A stand-in that holds nothing yet."""
    with serve_kaggle() as stand_in:
        yield stand_in


def make_forest(rows: int = 700) -> bytes:
    """A table with the columns and the rules of Kaggle's train.csv, all classes equally frequent."""
    chance = random.Random(0)
    areas = [f"Wilderness_Area{n}" for n in range(1, 5)]
    soils = [f"Soil_Type{n}" for n in range(1, 41)]
    lines = [",".join(["Id", *QUANTITIES, *areas, *soils, "Cover_Type"])]
    for row in range(rows):
        quantities = [chance.randrange(high) for high in QUANTITIES.values()]
        groups = [int(n == chosen) for group in (areas, soils) for chosen in [chance.randrange(len(group))]
                  for n in range(len(group))]  # fmt: skip
        lines.append(",".join(map(str, [row + 1, *quantities, *groups, row % 7 + 1])))
    return "\n".join(lines).encode()


def make_orchard(seed: int) -> bytes:
    """Sixty trees of three species."""
    chance = random.Random(seed)
    trees = (f"{chance.uniform(1, 9):.1f},{chance.randrange(80)},{SPECIES[n % 3]}" for n in range(60))
    return "\n".join(["height,age,species", *trees]).encode()


def test_every_step_of_the_page_works(tmp_path: Path, kaggle: KaggleStandIn) -> None:
    """With a key in the wrong place a newcomer never gets to the table; and no file may hold it."""
    home = tmp_path / "home"
    (home / "Downloads").mkdir(parents=True)
    (home / "Downloads" / "kaggle.json").write_text(json.dumps({"username": "ann", "key": SECRET}), "utf-8")
    kaggle.hold_archive(make_zip({"train.csv": make_forest(), "test.csv": b"Id\n"}))
    orchard = make_zip({"2024.csv": make_orchard(0), "2025.csv": make_orchard(1)})
    kaggle.hold_archive(orchard, DATASET_CALL, "/bucket/orchard.zip")
    with Walkthrough(tmp_path, NO_CREDENTIALS | kaggle.environment | {"HOME": str(home)}) as reader:
        assert reader.follow(PAGE) == 5
    assert (home / ".kaggle" / "kaggle.json").stat().st_mode & 0o777 == 0o600
    assert [seen.method for seen in kaggle.files.seen if seen.path == DATASET_CALL] == ["POST"]
    written = [path for path in (reader.folder / "var").rglob("*") if path.is_file()]
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []


def fetch_message(tmp_path: Path, environment: dict[str, str], *words: str) -> str:
    """What a refused fetch of the example says."""
    done = subprocess.run(
        [sys.executable, "-m", "timberline", "fetch", "forest_cover_kaggle", f"--data={tmp_path}", *words],
        cwd=ROOT,
        env={"PATH": "", "HOME": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert SECRET not in done.stderr
    return str(json.loads(done.stderr.splitlines()[-1])["event"])


def test_every_message_on_the_page_is_what_the_command_says(tmp_path: Path, kaggle: KaggleStandIn) -> None:
    """People search for the words that they see."""
    blocks = [block for block in list_blocks(PAGE.read_text("utf-8")) if block.language == "text"]
    shown = [" ".join(block.code.split()) for block in blocks if "finished" not in block.code]
    said = [fetch_message(tmp_path, kaggle.environment)]
    for status, message in ((401, "Unauthorized"), (403, RULES), (404, "Not found")):
        kaggle.refuse(status, message)
        said.append(fetch_message(tmp_path, kaggle.environment | BY_NAME))
    kaggle.hold_archive(make_zip({"Train.csv": make_forest(), "test.csv": b"Id\n"}))
    said.append(fetch_message(tmp_path, kaggle.environment | BY_NAME))
    kaggle.hold_archive(make_zip({"train.csv": make_forest()}))
    said.append(
        fetch_message(tmp_path, kaggle.environment | BY_NAME, "--set", "source.max_unpacked_bytes=1000")
    )
    assert said == shown
