"""The `timberline` command: one parser for every verb of every part."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import timberline
from timberline.__main__ import _GROUPS, build_parser, main

SHARED = ("--model", "--models", "--data", "--registry", "--set", "--log-level", "--log-format")
PARSER, VERBS = build_parser()
# `serve` has settings of its own, whose flags have no default here.
TABLE_VERBS = sorted(set(VERBS.choices) - {"serve", "completion"})


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a process."""
    return subprocess.run(
        [sys.executable, "-m", "timberline", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def find_option(verb: str, flag: str) -> argparse.Action | None:
    """The action behind a flag of a verb, if it has it."""
    return next((one for one in VERBS.choices[verb]._actions if flag in one.option_strings), None)


def test_help_shows_every_verb_in_a_group() -> None:
    """A verb that is not listed is found by nobody."""
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("   ")}
    assert listed == set(VERBS.choices) | {"help"} == {name for names in _GROUPS.values() for name in names}
    assert len(done.stdout.splitlines()) < 50
    assert max(map(len, done.stdout.splitlines())) <= 115
    assert done.stdout == run("help").stdout == run().stdout


@pytest.mark.parametrize("verb", sorted(VERBS.choices))
def test_help_of_a_verb_is_the_same_both_ways(verb: str) -> None:
    """As `git help VERB` and `git VERB --help` are."""
    done = run("help", verb)
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: timberline {verb} ")
    assert done.stdout == run(verb, "--help").stdout


@pytest.mark.parametrize("flag", SHARED)
def test_a_shared_option_means_the_same_for_every_verb(flag: str) -> None:
    """Who knows it from one verb knows it from all."""
    found = [action for verb in TABLE_VERBS if (action := find_option(verb, flag))]
    assert len(found) > 3
    assert len({(action.dest, str(action.type), str(action.default)) for action in found}) == 1
    if flag != "--model":  # whose metavar says whether it may be a version
        assert len({(action.help, action.metavar) for action in found}) == 1


@pytest.mark.parametrize("verb", [verb for verb in TABLE_VERBS if find_option(verb, "--model")])
def test_the_model_is_the_first_argument_of_every_verb_that_has_one(verb: str) -> None:
    """Or a flag; the two may not contradict each other."""
    more = ["--rate", "1"] if verb == "load" else []
    if verb in ("alias", "repair"):
        assert PARSER.parse_args([verb, "m@x"]).words == ["m@x"]
        return
    assert PARSER.parse_args([verb, "m", *more]).model == "m"
    assert PARSER.parse_args([verb, "--model", "m", *more]).model == "m"
    assert PARSER.parse_args([verb, *more]).model == ""
    done = run(verb, "m", "--model", "other", *more)
    assert done.returncode == 2
    assert "the model is given twice: m and other" in done.stderr


@pytest.mark.parametrize(
    ("variable", "flag"), [("DATA", "data"), ("REGISTRY", "registry"), ("MODELS", "models")]
)
def test_a_flag_comes_before_the_environment_and_that_before_the_default(
    monkeypatch: pytest.MonkeyPatch, variable: str, flag: str
) -> None:
    """An image sets the variables once, and a command may still look elsewhere."""
    monkeypatch.setenv(variable, "/from the environment")
    parser, _ = build_parser()
    assert str(getattr(parser.parse_args(["export"]), flag)) == "/from the environment"
    assert str(getattr(parser.parse_args(["export", f"--{flag}", "/flag"]), flag)) == "/flag"
    monkeypatch.setenv(variable, "")
    parser, _ = build_parser()
    assert getattr(parser.parse_args(["export"]), flag) == getattr(PARSER.parse_args(["export"]), flag)


@pytest.mark.parametrize(("word", "hint"), [("trian", "did you mean train?"), ("xyz", "help' lists")])
def test_an_unknown_verb_is_wrong_use(word: str, hint: str) -> None:
    """With what was meant, if anything is near."""
    done = run(word)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"'{word}' is no verb" in done.stderr
    assert hint in done.stderr


def test_a_verb_of_a_part_that_an_image_lacks_is_named_as_such() -> None:
    """It is no typing mistake; another image has it."""
    code = "import importlib.util, sys; find = importlib.util.find_spec\n"
    code += "importlib.util.find_spec = lambda name: None if name.endswith('.training') else find(name)\n"
    code += "from timberline.__main__ import main; sys.exit(main(['etl']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "etl is not part of this installation" in done.stderr


def test_the_version_is_the_package_s() -> None:
    """The first line of a bug report."""
    assert run("--version").stdout == f"timberline {timberline.__version__}\n"


def test_a_part_s_own_command_line_is_still_there(registry: Path) -> None:
    """Scripts of before there was one command go on working from a checkout."""
    root = Path(__file__).resolve().parents[2]
    answers = []
    for program in ("registry", "timberline.registry", "timberline"):
        command = [sys.executable, "-m", program, "list", "tiny", "--registry", str(registry)]
        answers.append(subprocess.run(command, cwd=root, capture_output=True, check=True).stdout)
    assert json.loads(answers[0])[0]["model"] == "tiny"
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pro", "promote"),
        ("calibrate-", "calibrate-training"),
        ("train --res", "--resume"),
        ("etl for", "forest_b"),
    ],
)
def test_bash_completes_verbs_options_and_models(tmp_path: Path, line: str, expected: str) -> None:
    """In a real bash, as it asks the completion function."""
    (tmp_path / "models" / "forest_b").mkdir(parents=True)
    words = ["timberline", *line.split()]
    script = f"""
        source /dev/stdin
        COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}
        function_name=$(complete -p timberline | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        $function_name timberline {words[-1]} {words[-2]}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script],
        input=run("completion", "bash").stdout,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert expected in done.stdout.split()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_their_code(shell: str) -> None:
    """Each with every verb; run by the shell itself where it is installed."""
    done = run("completion", shell)
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in VERBS.choices)
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=done.stdout, text=True, check=True)


def test_doctor_fits_on_a_screen_and_names_what_a_report_needs(registry: Path) -> None:
    """Versions, processors, disk and the registry; of a variable its name alone, which is no secret."""
    done = run("doctor", "--no-json", "--registry", str(registry), TIMBERLINE_SERVE_TOKENS_FILE="s3cret")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) <= 24
    for part in (timberline.__version__, "onnxruntime ", "schedstat: ", "GiB free", "1 versions: tiny (1)"):
        assert part in done.stdout
    assert "TIMBERLINE_SERVE_TOKENS_FILE" in done.stdout
    assert "s3cret" not in done.stdout
    report = json.loads(run("doctor", "--registry", str(registry)).stdout)
    assert [name for name in report if name.startswith("role ")] == [
        f"role {role}" for role in ("serve", "tools", "train", "bench")
    ]


def test_doctor_says_what_keeps_a_registry_from_being_read(tmp_path: Path) -> None:
    """1: there is something to mend."""
    (tmp_path / "registry").write_text("a file")
    done = run("doctor", "--no-json", "--registry", str(tmp_path / "registry"))
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("registry ")]
    assert "is a file, expected the registry's folder" in line


def test_doctor_says_what_keeps_data_in_a_bucket_from_being_read(tmp_path: Path) -> None:
    """Its disk is that of the copy on this machine."""
    nobody = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }
    done = run("doctor", "--data", "s3://data/prefix", TIMBERLINE_CACHE=str(tmp_path), **nobody)
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert report["data"].startswith("s3://data/prefix: s3://data/prefix: nobody listens there")
    assert "data " in report["free disk"]


def test_the_health_check_is_answered_before_anything_is_imported() -> None:
    """It is asked every few seconds."""
    code = "import runpy, sys; sys.argv = ['timberline', 'health', '--port', '1']\n"
    code += "try: runpy.run_module('timberline', run_name='__main__')\n"
    code += "except SystemExit as end: print(end.code)\n"
    code += "print('argparse' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1", "False"]


def test_help_has_no_side_effect(capsys: pytest.CaptureFixture[str]) -> None:
    """`main` is callable from Python too."""
    assert main(["help"]) == 0
    assert capsys.readouterr().out.startswith("usage: timberline VERB")
