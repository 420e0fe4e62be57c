"""A terminal or a log that is not UTF-8 gets the same results, escaped, and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.manifests import give_verdict, publish_tiny
from tests.support.service import running_service
from tests.support.tables import SmallTable, rows
from tests.support.tiny_model import publish_numeric
from timberline.registry.promotion import promote
from timberline.registry.store import open_store

ROOT = Path(__file__).resolve().parents[2]
ENCODINGS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C locale": {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
# Not in Latin-1, beyond U+FFFF, and a quotation that JSON escapes itself.
TITLE = 'Bäume "im" Wald – 木 🌲'
PARTS = {
    "training": ("fetch", "etl", "train", "evaluate"),
    "exporter": ("export",),
    "benchmarks": ("gate", "bench", "load", "selftest", "calibrate", "history", "etl", "service", "attacks"),
    "registry": ("list", "show", "verify", "alias", "promote", "rollback", "repair"),
    "inference": ("serve", "health"),
}


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A command as a process with these variables besides the test's own; it must not end in a traceback."""
    known = {name: value for name, value in os.environ.items() if name not in ("LC_ALL", "LC_CTYPE", "LANG")}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=known | environment,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert b"Traceback" not in done.stderr + done.stdout, done.stderr.decode(errors="replace")
    assert b'"traceback"' not in done.stderr
    return done


def read(data: bytes) -> Any:
    """JSON in ASCII, which is JSON in every one of the encodings."""
    return json.loads(data.decode("ascii"))


@pytest.fixture(params=ENCODINGS)
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """Variables of a process whose standard output and error are not UTF-8."""
    return ENCODINGS[request.param]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry of one model whose title, description and reasons are not ASCII."""
    folder = tmp_path_factory.mktemp("registry")
    store = open_store(folder)
    for _ in range(2):
        version = publish_tiny(store, title=TITLE, description=TITLE)
        give_verdict(store, "tiny", version)
        promote(store, "tiny", version, reason=TITLE)
    return folder


@pytest.mark.parametrize("verb", ["list", "show tiny", "alias tiny@production"])
def test_the_registry_tells_the_same(registry: Path, environment: dict[str, str], verb: str) -> None:
    """The JSON is the same value, and the table for people is one."""
    arguments = ("registry", *verb.split(), "--registry", str(registry))
    shown = run(*arguments, "--json", **environment).stdout.decode("latin-1")
    assert json.loads(shown) == json.loads(run(*arguments, "--json", PYTHONUTF8="1").stdout)
    table = run(*arguments, "--no-json", **environment).stdout.decode("latin-1")
    if verb != "list":  # which has no column for it
        assert "\\u6728" in shown
        assert r"ume \"im\" Wald \u2013 \u6728 \ud83c\udf32".replace('\\"', '"') in table


@pytest.mark.parametrize("format", ["json", "human"])
def test_a_table_in_another_alphabet_is_prepared_and_refused(
    tmp_path: Path, environment: dict[str, str], format: str
) -> None:
    """Class labels, units and values of a user's table stand in results, errors and logs."""
    lines = [line.replace("north", "nördlich 木").replace("present", "große") for line in rows(80)]
    table = SmallTable(tmp_path, lines, rest="[columns.height]\n".replace("[columns.height]\n", ""))
    places = ("--model", "small", "--models", str(table.models), "--data", str(table.data))
    where = (*places, "--log-format", format)
    assert run("training", "fetch", *where, **environment).returncode == 0
    done = run("training", "etl", *where, **environment)
    assert done.returncode == 0, done.stderr
    assert read(done.stdout)["rows"] == {"train": 51, "validation": 13, "test": 16}
    SmallTable(tmp_path, [*lines, "großes 木,1,1,0,x,true,große"])
    assert run("training", "fetch", *where, **environment).returncode == 0
    refused = run("training", "etl", *where, **environment)
    assert refused.returncode == 1
    assert b"\\u6728" in refused.stderr
    if format == "json":
        logged = [json.loads(line) for line in refused.stderr.decode("latin-1").splitlines()]
        assert '"großes 木" is not of type integer' in logged[-1]["event"]


def test_a_folder_in_another_alphabet_is_used_or_refused_in_one_line(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """Python reads such a name in a C locale as bytes, which DuckDB does not take."""
    folder = tmp_path / "Bäume 木"
    folder.mkdir()
    table = SmallTable(folder, rows(80))
    where = ("--model", "small", "--models", str(table.models), "--data", str(table.data))
    for verb in ("fetch", "etl"):
        done = run("training", verb, *where, **environment)
        assert (done.returncode == 0) == ("PYTHONUTF8" not in environment), done.stderr
    plain = SmallTable(tmp_path, rows(80))
    where = ("--model", "small", "--models", str(plain.models), "--data", str(folder / "data"))
    assert run("training", "fetch", *where, **environment).returncode == 0
    done = run("training", "etl", *where, **environment)
    assert done.returncode == (3 if "PYTHONUTF8" in environment else 0), done.stderr
    assert done.returncode == 0 or b"a path is not ascii; set PYTHONUTF8=1" in done.stderr
    for command in (
        ("exporter", "export", *where, "--registry", str(folder / "registry")),
        ("benchmarks", "history", "small", "--registry", str(folder / "registry")),
        ("benchmarks", "gate", "--model", "small", "--registry", str(folder / "registry")),
        ("registry", "list", "--registry", str(folder / "registry")),
        ("registry", "list", "--registry", str(folder / "registry"), "--no-json"),
    ):
        assert run(*command, **environment).returncode in (0, 1, 2, 3)


@pytest.mark.parametrize("part", PARTS)
def test_help_is_printed(part: str) -> None:
    """It is read before anything else, and has dots and dashes of its own."""
    for verb in ((), *((verb,) for verb in PARTS[part])):
        done = run(part, *verb, "--help", PYTHONIOENCODING="ascii")
        assert done.returncode == 0
        assert b"usage:" in done.stdout


def test_the_history_of_releases_is_told(registry: Path, environment: dict[str, str]) -> None:
    """It goes to stderr as a table and to stdout as JSON, with every reason."""
    arguments = ("benchmarks", "history", "tiny", "--registry", str(registry))
    done = run(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    expected = json.loads(run(*arguments, PYTHONUTF8="1").stdout)
    assert json.loads(done.stdout.decode("latin-1")) == expected


def test_the_service_starts_answers_and_logs(tmp_path: Path, environment: dict[str, str]) -> None:
    """What it answers is UTF-8 whatever its log is."""
    publish_numeric(open_store(tmp_path), title=TITLE)
    known = {"LC_ALL": "", "LANG": "", **environment}
    with running_service(tmp_path, "tiny", "--request-log", environment=known) as service:
        status, answer = service.predict({"height": 30.0, "rings": 400})
        assert status == 200
        assert answer["label"] in {"Spruce", "Fichte, große", '50 % "Pine"'}
        assert service.predict({"größe 木": 1})[0] == 400
        assert "Traceback" not in service.log
