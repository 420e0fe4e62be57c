"""`deploy/stage`, the entry point of the train image: every verb, every flag, nothing twice."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny_model import publish_numeric
from timberline.registry.aliases import read_alias
from timberline.registry.store import open_store

ROOT = Path(__file__).resolve().parents[2]
STAGE = ROOT / "deploy" / "stage"
PARTS = ("training", "exporter", "benchmarks", "registry")
PLACES = {"DATA": "/some data", "REGISTRY": "/a registry"}
DATA = ["--data", PLACES["DATA"]]
REGISTRY = ["--registry", PLACES["REGISTRY"]]


def stage(*words: str, path: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `stage` with ``path`` in front of where programs are looked for."""
    front = path or Path(sys.executable).parent
    search = os.pathsep.join([str(front), os.environ["PATH"]])
    return subprocess.run(
        ["sh", str(STAGE), *words],
        cwd=ROOT,
        env={"PATH": search, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    """A folder whose `python` writes down its arguments, its signals that are blocked and its umask."""
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\nstatus = open('/proc/self/status').read()\n"
        "blocked = int(status.partition('SigBlk:')[2].split()[0], 16)\numask = os.umask(0)\n"
        "print(json.dumps({'words': sys.argv[1:], 'pid': os.getpid(),"
        "'blocked': blocked, 'umask': umask}))\n",
        "utf-8",
    )
    program.chmod(0o755)
    return program.parent


def verbs_of(part: str) -> list[str]:
    """The verbs that a part has, as its own parser knows them."""
    parser: argparse.ArgumentParser = importlib.import_module(f"timberline.{part}.__main__")._parser()
    (choices,) = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
    return list(choices)


@pytest.mark.parametrize("part", PARTS)
def test_every_verb_of_a_part_is_one_of_stage(recorder: Path, part: str) -> None:
    """By its own name, but for one name that two parts have; and behind the name of its part."""
    usage = stage("help").stdout
    for verb in verbs_of(part):
        words = json.loads(stage(part, verb, path=recorder).stdout)["words"]
        assert words == ["-m", f"timberline.{part}", verb]
        if (part, verb) != ("benchmarks", "etl"):
            assert json.loads(stage(verb, path=recorder).stdout)["words"] == words
        assert f" {verb} " in usage.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fetch"], ["training", "fetch", *DATA]),
        (
            ["train", "--resume", "--set", "a.b=c d"],
            ["training", "train", *DATA, "--resume", "--set", "a.b=c d"],
        ),
        (["etl", "--data", "/x"], ["training", "etl", "--data", "/x"]),
        (["etl", "--data=/x", "--model", "m"], ["training", "etl", "--data=/x", "--model", "m"]),
        (["export", "--run", "7"], ["exporter", "export", *DATA, *REGISTRY, "--run", "7"]),
        (["gate", "--registry=/x"], ["benchmarks", "gate", *DATA, "--registry=/x"]),
        (["load", "--sweep"], ["benchmarks", "load", *DATA, *REGISTRY, "--sweep"]),
        (["promote", "m@2", "--force", "--reason", 'it\'s "urgent" *'], None),
        (["rollback", "m", "--reason", ""], ["registry", "rollback", *REGISTRY, "m", "--reason", ""]),
        (["alias", "set", "m@x", "3"], ["registry", "alias", *REGISTRY, "set", "m@x", "3"]),
        (["registry", "to be", "--x"], ["registry", "to be", *REGISTRY, "--x"]),
        (["benchmarks", "--help"], ["benchmarks", "--help"]),
        (["registry"], ["registry", "--help"]),
    ],
)
def test_flags_and_positionals_arrive_as_they_are(
    recorder: Path, words: list[str], expected: list[str] | None
) -> None:
    """`--force --reason` were lost once; the environment's places hold only where none is given."""
    expected = expected or ["registry", words[0], *REGISTRY, *words[1:]]
    run = stage(*words, path=recorder, **PLACES, MODEL="ours")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["words"] == ["-m", f"timberline.{expected[0]}", *expected[1:]]


def test_without_variables_the_parts_have_their_own_defaults(recorder: Path) -> None:
    """`stage` is no second place for defaults; an unset variable is no error."""
    assert json.loads(stage("gate", path=recorder).stdout)["words"] == ["-m", "timberline.benchmarks", "gate"]


def test_stage_becomes_python_with_signals_held_back(recorder: Path) -> None:
    """As its child it would get no signal; and what comes before Python has handlers would be dropped."""
    process = subprocess.Popen(
        ["sh", str(STAGE), "fetch"],
        env={"PATH": os.pathsep.join([str(recorder), os.environ["PATH"]])},
        stdout=subprocess.PIPE,
    )
    said = json.loads(process.communicate()[0])
    assert said["pid"] == process.pid
    assert said["blocked"] & (mask := 1 << signal.SIGTERM - 1 | 1 << signal.SIGINT - 1) == mask


@pytest.mark.parametrize(("before", "after"), [(0o022, 0o002), (0o077, 0o077), (0o027, 0o027)])
def test_the_group_may_write_what_a_stage_leaves(recorder: Path, before: int, after: int) -> None:
    """Any uid with group 0 has to be able to go on; a umask that somebody chose is left alone."""
    old = os.umask(before)
    try:
        assert json.loads(stage("etl", path=recorder).stdout)["umask"] == after
    finally:
        os.umask(old)


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"]])
def test_help_is_an_answer(words: list[str]) -> None:
    """Also of the image without a command, which is `help`."""
    run = stage(*words)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("usage: stage VERB")


@pytest.mark.parametrize("word", ["serve", "deploy", "/", "/no/such/program"])
def test_an_unknown_verb_is_wrong_use(word: str) -> None:
    """What there is stands beside it, on stderr: stdout is for results."""
    run = stage(word, **PLACES)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith(f"stage: unknown verb: {word}\nusage: stage VERB")


def test_the_help_of_a_verb_shows_its_flags() -> None:
    """The real parser's."""
    run = stage("etl", "--help", **PLACES)
    assert run.returncode == 0
    assert "--set SECTION.KEY=VALUE" in run.stdout


@pytest.mark.parametrize("words", [["sh", "-c", "echo $0"], ["/bin/sh", "-c", "echo $0"]])
def test_a_shell_is_there_to_look_around(words: list[str]) -> None:
    """`docker run -it timberline-train /bin/bash`."""
    assert stage(*words).stdout.strip() == words[0]


def test_a_forced_promotion_and_its_reason_arrive_in_the_registry(tmp_path: Path) -> None:
    """For real: without the flags the version was refused, and nobody could promote it from the image."""
    store = open_store(tmp_path / "a registry")
    publish_numeric(store)
    publish_numeric(store, alias="candidate")
    places = {"REGISTRY": store.location, "MODEL": "tiny"}
    assert stage("promote", **places).returncode == 1
    run = stage("promote", "--force", "--reason", 'the "old" one is *down*', **places)
    assert run.returncode == 0, run.stderr
    moved = read_alias(store, "tiny", "production")
    assert moved is not None
    assert (moved.version, moved.reason) == (2, 'the "old" one is *down*')
    assert stage("rollback", "tiny", "--reason", "no better", **places).returncode == 0
    moved = read_alias(store, "tiny", "production")
    assert moved is not None
    assert (moved.version, moved.reason) == (1, "no better")


def test_stage_is_posix_shell() -> None:
    """The image's sh is dash."""
    subprocess.run(["sh", "-n", str(STAGE)], check=True)
    assert STAGE.read_text("utf-8").startswith("#!/bin/sh\n")
    assert os.access(STAGE, os.X_OK)
