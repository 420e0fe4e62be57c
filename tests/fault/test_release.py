"""`timberline release` when a stage says no, is killed, or the release is asked to end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ended import starting
from tests.support.tables import NAME, SmallTable, rows
from timberline.__main__ import build_parser
from timberline.registry.errors import StageError
from timberline.registry.runs import find_run
from timberline.release import list_flags, read_data

LONG = ("--set", "training.epochs=2000")


@pytest.fixture
def table(tmp_path: Path) -> SmallTable:
    """A model folder around a table that is not fetched yet."""
    return SmallTable(tmp_path, rows(300))


def release(table: SmallTable, *flags: str) -> list[str]:
    """The command, behind ``python``."""
    places = ["--models", str(table.models), "--data", str(table.data)]
    return ["-m", "timberline", "release", NAME, *places, "--registry", str(table.data / "registry"), *flags]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_release_that_is_asked_to_end_takes_its_stage_along(
    table: SmallTable, tmp_path: Path, number: signal.Signals
) -> None:
    """The stage is a process of its own, which would go on training."""
    with starting(release(table, *LONG), tmp_path / "log") as running:
        running.await_fact(lambda: any((table.data / "checkpoints").rglob("checkpoint.npz")))
        running.end(number)
    with pytest.raises(StageError, match="no finished run"):
        find_run(table.data, NAME)


def test_a_stage_that_is_killed_ends_the_release_with_its_signal(table: SmallTable, tmp_path: Path) -> None:
    """137, as of a command that the kernel killed for its memory; nothing after it is run."""
    with starting(release(table, *LONG), tmp_path / "log") as running:
        running.await_fact(lambda: any((table.data / "checkpoints").rglob("checkpoint.npz")))
        (stage,) = running.find().children()
        stage.kill()
        assert running.wait() == 128 + signal.SIGKILL
    stopped = json.loads((tmp_path / "log").read_text("utf-8").splitlines()[-1])
    assert (stopped["event"], stopped["stage"]) == ("release stopped", "train")
    assert not (table.data / "registry").exists()


@pytest.mark.parametrize(
    ("bad", "setting", "expected"),
    [("1000,2,0,0,north,true,absent", "training.seed=1", (1, "etl")), ("", "training.sed=1", (2, "fetch"))],
    ids=["a row", "a setting"],
)
def test_the_exit_code_is_that_of_the_stage_that_says_no(
    tmp_path: Path, bad: str, setting: str, expected: tuple[int, str]
) -> None:
    """A job tells a broken table from a wrong setting by it, as of the stage alone."""
    table = SmallTable(tmp_path, [*rows(60), *([bad] if bad else [])])
    command = [sys.executable, *release(table, "--set", setting)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stderr.splitlines()[-1])["stage"]) == expected


def test_a_rule_of_the_gate_goes_to_the_gate_and_every_other_setting_to_the_stages() -> None:
    """`--set` is one option; the sections of gates.toml and model.toml have different names."""
    parser, _ = build_parser()
    options = parser.parse_args(["release", "--set", "training.epochs=3", "--set", "duet.seed=1"])
    taken = {stage: list(list_flags(options, stage)) for stage in ("fetch", "export", "gate", "promote")}
    for stage in ("fetch", "export"):
        assert taken[stage][-2:] == ["--set", "training.epochs=3"]
    assert taken["gate"][-2:] == ["--set", "duet.seed=1"]
    assert "training.epochs=3" not in taken["gate"]
    assert "--set" not in taken["promote"]


def test_every_stage_works_in_the_folder_that_model_toml_names(tmp_path: Path) -> None:
    """The gate reads no model.toml: it looked for the rows that etl prepared where they were not."""
    table = SmallTable(tmp_path, rest='[paths]\ndata = "elsewhere"')
    parser, _ = build_parser()
    command = ["release", NAME, "--models", str(table.models), "--set", "duet.seed=1"]
    assert read_data(parser.parse_args(command)) == "elsewhere"
    assert read_data(parser.parse_args([*command, "--set", "paths.data=here"])) == "here"
