"""`deploy/stage`, the entry point of the train image: every verb, every flag, nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_model import publish_numeric
from timberline.registry.aliases import read_alias
from timberline.registry.store import open_store

ROOT = Path(__file__).resolve().parents[2]
STAGE = ROOT / "deploy" / "stage"
PLACES: dict[str, Any] = {"DATA": "/some data", "REGISTRY": "/a registry"}


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


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fetch"], ["timberline", "fetch"]),
        (["train", "--resume", "--set", "a.b=c d"], ["timberline", "train", "--resume", "--set", "a.b=c d"]),
        (
            ["promote", "m@2", "--reason", 'it\'s "urgent" *'],
            ["timberline", "promote", "m@2", "--reason", 'it\'s "urgent" *'],
        ),
        (["rollback", "m", "--reason", ""], ["timberline", "rollback", "m", "--reason", ""]),
        (["benchmarks", "etl", "--rounds", "1"], ["timberline.benchmarks", "etl", "--rounds", "1"]),
        (["registry"], ["timberline.registry", "--help"]),
        ([], ["timberline", "help"]),
    ],
)
def test_flags_and_positionals_arrive_as_they_are(
    recorder: Path, words: list[str], expected: list[str]
) -> None:
    """`--force --reason` were lost once; the variables are the command's own to read."""
    run = stage(*words, path=recorder, **PLACES, MODEL="ours")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["words"] == ["-m", *expected]


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
    assert run.stdout.startswith("usage: timberline VERB")


@pytest.mark.parametrize("word", ["deploy", "/", "/no/such/program"])
def test_an_unknown_verb_is_wrong_use(word: str) -> None:
    """What there is stands beside it, on stderr: stdout is for results."""
    run = stage(word, **PLACES)
    assert (run.returncode, run.stdout) == (2, "")
    assert f"timberline: error: '{word}' is no verb" in run.stderr


@pytest.mark.parametrize("word", ["serve", "health"])
def test_the_image_does_not_serve(word: str) -> None:
    """What faces the outside world is an image without the training stack."""
    run = stage(word, **PLACES)
    assert (run.returncode, run.stdout) == (2, "")
    assert "timberline-serve" in run.stderr


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
    places: dict[str, Any] = {"REGISTRY": store.location, "MODEL": "tiny"}
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
