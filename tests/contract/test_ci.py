"""The CI examples: would their platform take them, and do they keep what they promise?

GitHub's workflow is linted by actionlint, GitLab's file is held to GitLab's own schema (the copy that
check-jsonschema carries). Jenkins' own linter is a controller; here only the structure is looked at.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
CI = ROOT / "deploy" / "ci"
NAMES = ("github.yml", "gitlab-ci.yml", "Jenkinsfile")
STEPS = CI / "steps"
PROGRAMS = Path(sys.executable).parent


def load(name: str) -> dict[Any, Any]:
    tree = yaml.safe_load((CI / name).read_text("utf-8"))
    assert isinstance(tree, dict)
    return tree


def jobs() -> dict[str, Any]:
    found: dict[str, Any] = load("github.yml")["jobs"]
    return found


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_actionlint_finds_nothing_in_the_workflow(tmp_path: Path) -> None:
    """A workflow with an error is not run at all, and nobody is told: the gate would be gone."""
    # It looks at context and events only for files that lie where GitHub expects them.
    workflow = tmp_path / ".github" / "workflows" / "release.yml"
    workflow.parent.mkdir(parents=True)
    workflow.write_bytes((CI / "github.yml").read_bytes())
    run(PROGRAMS / "actionlint", "-no-color", workflow)


@pytest.mark.parametrize(
    ("name", "schema"), [("gitlab-ci.yml", "vendor.gitlab-ci"), ("github.yml", "vendor.github-workflows")]
)
def test_files_keep_the_schema_of_their_platform(name: str, schema: str) -> None:
    """A misspelt key is an error to GitLab, and the pipeline is not created."""
    run(PROGRAMS / "check-jsonschema", "--builtin-schema", schema, CI / name)


def test_actions_are_github_s_own_and_pinned_to_a_commit() -> None:
    """A tag can be moved by whoever takes over an action; a commit cannot."""
    text = (CI / "github.yml").read_text("utf-8")
    uses = re.findall(r"uses: (.+)", text)
    assert uses
    for use in uses:
        assert re.fullmatch(r"actions/[a-z/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use), use


def test_no_job_that_runs_the_change_may_write() -> None:
    """A pull request's code that runs with a token that may write can write whatever it likes."""
    assert load("github.yml")["permissions"] == {}
    for name, job in jobs().items():
        checks_out = any(step.get("uses", "").startswith("actions/checkout@") for step in job["steps"])
        assert checks_out == (name != "comment")
        if name == "deploy":  # the code of main, to the registry of its images
            assert job["permissions"] == {"contents": "read", "packages": "write"}
            assert job["if"] == "github.ref == 'refs/heads/main' && github.event_name != 'schedule'"
        else:
            assert job["permissions"] == ({"contents": "read"} if checks_out else {"pull-requests": "write"})
    assert "pull_request_target" not in (CI / "github.yml").read_text("utf-8")


def test_expressions_stand_in_no_script() -> None:
    """A branch may be called anything; pasted into a script its name is a command."""
    scripts = [step.get("run", "") for job in jobs().values() for step in job["steps"]]
    assert any(scripts)
    assert not [script for script in scripts if "${{" in script]


def list_pythons(name: str) -> list[str]:
    """The Pythons on which an example runs the tests."""
    if name == "github.yml":
        found = jobs()["test"]["strategy"]["matrix"]["python"]
    elif name == "gitlab-ci.yml":
        (cell,) = load(name)["test"]["parallel"]["matrix"]
        found = cell["TEST_PYTHON"]
    else:
        axis = re.search(r"name 'TEST_PYTHON'\s+values ([^\n]+)", (CI / name).read_text("utf-8"))
        found = re.findall(r"'([\d.]+)'", axis[1]) if axis else []
    return [str(python) for python in found]


@pytest.mark.parametrize("name", NAMES)
def test_the_tests_run_on_every_python_that_the_package_allows(name: str) -> None:
    """One that is allowed and tried nowhere breaks for its users first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    allowed = SpecifierSet(project["requires-python"])
    within = [f"3.{minor}" for minor in range(30) if f"3.{minor}" in allowed]
    classified = [kind for kind in project["classifiers"] if re.search(r":: 3\.\d+$", kind)]
    assert within == [kind.rpartition(" ")[2] for kind in classified]
    assert list_pythons(name) == within
    assert [script for script in scripts_of(name) if "make test" in script]


def test_no_variable_of_an_example_is_one_of_make_by_accident() -> None:
    """A matrix over PYTHON is in the environment, where make takes 3.12 for the name of a program."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    of_make = set(re.findall(r"^(\w+) +\?=", makefile, re.MULTILINE)) - {"MODEL"}  # which is meant
    gitlab = load("gitlab-ci.yml")
    axes = re.findall(r"name '(\w+)'", (CI / "Jenkinsfile").read_text("utf-8"))
    set_here = {
        *gitlab["variables"],
        *gitlab["test"]["parallel"]["matrix"][0],
        *load("github.yml")["env"],
        *axes,
    }
    assert {"MODEL", "TEST_PYTHON"} <= set_here
    assert set_here & of_make == set()


def test_no_example_releases_what_fails_its_tests_or_ships_what_the_gate_refused() -> None:
    """The gate compares versions; it does not find a broken command. tests/deploy runs all of it."""
    assert jobs()["release"]["needs"] == ["test", "images"]
    assert jobs()["deploy"]["needs"] == "release"
    tree = load("gitlab-ci.yml")
    assert tree["stages"] == [tree["test"]["stage"], tree[".gate"]["stage"], tree["deploy"]["stage"]]
    text = (CI / "Jenkinsfile").read_text("utf-8")
    places = [text.index(f"stage('{name}')") for name in ("Test", "Images", "Train", "Gate", "Deploy")]
    assert places == sorted(places)


def test_tests_do_not_run_beside_a_gate() -> None:
    """Tests on the gate's machine would be measured with the candidate."""
    assert "tags" not in load("gitlab-ci.yml")["test"]
    text = (CI / "Jenkinsfile").read_text("utf-8")
    assert re.findall(r"label '(\w+)'", text) == ["gate", "test", "docker", "gate", "docker"]


def test_github_keeps_the_report_also_of_a_refused_release() -> None:
    """The report is wanted most when the gate said no, which is when make fails the step before."""
    steps = {step["name"]: step for step in jobs()["release"]["steps"]}
    kept = steps["Keep the report and the raw observations"]
    assert (kept["if"], kept["with"]["path"]) == ("always()", "var/data/gates/")
    assert steps["Show the report"]["if"] == "always()"
    assert jobs()["comment"]["if"].startswith("always()")


def test_only_main_writes_the_registry_that_others_read() -> None:
    """A change that could promote itself for everybody would not need the gate."""
    saves = [
        (name, step)
        for name, job in jobs().items()
        for step in job["steps"]
        if step.get("uses", "").startswith("actions/cache/save@")
    ]
    assert [name for name, _ in saves] == ["release", "calibrate"]
    assert "github.ref == 'refs/heads/main'" in saves[0][1]["if"]
    assert jobs()["calibrate"]["if"] == "github.event_name == 'schedule'"  # runs on the default branch


def test_gitlab_keeps_the_report_also_of_a_refused_release() -> None:
    """The same promise on the other platform."""
    artifacts = load("gitlab-ci.yml")[".gate"]["artifacts"]
    assert artifacts["when"] == "always"
    assert "var/data/gates/" in artifacts["paths"]
    assert artifacts["reports"]["junit"] == "var/data/gates/*/*/junit.xml"


def test_jenkins_keeps_the_report_also_of_a_refused_release() -> None:
    """And on the third."""
    text = (CI / "Jenkinsfile").read_text("utf-8")
    always = text[text.index("stage('Gate')") :].partition("always {")[2]
    assert "junit testResults: 'var/data/gates/*/*/junit.xml'" in always
    assert "archiveArtifacts artifacts: 'var/data/gates/**" in always


def test_the_jenkinsfile_is_a_declarative_pipeline_with_its_blocks_closed() -> None:
    """As much as can be told without a controller: strings and comments aside, brackets match."""
    text = (CI / "Jenkinsfile").read_text("utf-8")
    code = re.sub(r"'''.*?'''|'[^'\n]*'|\"[^\"\n]*\"|//[^\n]*", "", text, flags=re.DOTALL)
    closing = {")": "(", "}": "{", "]": "["}
    opened: list[str] = []
    for letter in code:
        if letter in closing.values():
            opened.append(letter)
        elif letter in closing:
            assert opened.pop() == closing[letter]
    assert opened == []
    assert re.match(r"\s*pipeline \{", code)
    for section in ("options", "environment", "stages"):
        assert re.search(rf"^    {section} \{{", code, flags=re.MULTILINE), section


def scripts_of(name: str) -> list[str]:
    """The shell in one of the files."""
    if name == "github.yml":
        return [step["run"] for job in jobs().values() for step in job["steps"] if "run" in step]
    if name == "gitlab-ci.yml":
        tree = load(name)
        kinds = ("before_script", "script", "after_script")
        lists = [job.get(kind, []) for job in tree.values() if isinstance(job, dict) for kind in kinds]
        return [script for scripts in lists for script in scripts]
    return re.findall(r"\bsh '(.*?)'$", (CI / name).read_text("utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_scripts_are_shell(name: str) -> None:
    """A script that does not parse fails the first release instead of the test."""
    scripts = scripts_of(name)
    assert scripts
    for script in scripts:
        run("bash", "-n", "-c", script)


def test_every_make_target_is_there() -> None:
    """The Makefile is what these files call; a renamed target would break all of them."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))
    text = "\n".join([*(script for name in NAMES for script in scripts_of(name)), STEPS.read_text("utf-8")])
    called = set(re.findall(r"\bmake (?:--[a-z-]+ )?([a-z-]+)", text))
    assert {"test", "images", "export", "gate", "promote", "gate-calibrate", "push"} <= called
    assert called - {"ends"} <= targets  # "make ends with 2" is a comment


@pytest.mark.parametrize("name", NAMES)
def test_every_platform_calls_the_same_steps(name: str) -> None:
    """What stands in one place is mended in one place."""
    called = [re.findall(r"deploy/ci/steps (\w+)", script) for script in scripts_of(name)]
    steps = [step for found in called for step in found]
    assert sorted(steps) == ["calibrate", "deploy", "gate", "push", "train"]
    assert steps.index("train") < steps.index("gate")
    assert steps.index("push") < steps.index("deploy")


class Steps:
    """The script in a folder of its own, with a `make` and a `helm` that write down what they are asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        for name in ("make", "helm", "docker"):
            program = folder / "bin" / name
            program.write_text(f'#!/bin/sh\necho {name} "$@"\n', "utf-8")
            program.chmod(0o755)

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """One step."""
        base = {"MODEL": "tiny", "SHARED": "shared", "PATH": f"{self.folder}/bin:/usr/bin:/bin"}
        return subprocess.run(
            [STEPS, *words],
            cwd=self.folder,
            env=base | environment,
            check=False,
            capture_output=True,
            text=True,
        )

    def promote(self) -> None:
        """A version is in production."""
        (self.folder / "shared" / "registry" / "tiny" / "aliases" / "production").mkdir(parents=True)


CHANGES = {
    "github": {"GITHUB_EVENT_NAME": "pull_request"},
    "gitlab": {"CI_MERGE_REQUEST_IID": "7"},
    "jenkins": {"CHANGE_ID": "7"},
}


@pytest.mark.parametrize("change", [*CHANGES, ""])
def test_a_change_is_judged_in_a_copy_of_the_registry(change: str, tmp_path: Path) -> None:
    """What is not merged yet must not become production for everybody; what is merged must."""
    steps, environment = Steps(tmp_path), CHANGES.get(change, {"GITHUB_EVENT_NAME": "push"})
    steps.promote()
    (tmp_path / "shared" / "calibrations").mkdir()
    (tmp_path / "var" / "data" / "gates").mkdir(parents=True)  # of an earlier job
    registry = "var/change/registry" if change else "shared/registry"
    assert steps.run("train", **environment).stdout == f"make export REGISTRY={registry}\n"
    assert (tmp_path / "var/change/registry/tiny").is_dir() == bool(change)
    assert (tmp_path / "var/data/calibrations").is_dir()
    assert not (tmp_path / "var/data/gates").exists()
    done = steps.run("gate", **environment)
    assert done.stdout == f"make gate REGISTRY={registry}\nmake promote REGISTRY={registry}\n"
    if change:
        for step in ("push", "deploy"):
            done = steps.run(step, IMAGES="registry.example/x", VALUES="v", **environment)
            assert (done.returncode, done.stdout) == (2, "")
            assert "is for what is merged" in done.stderr


def test_without_a_champion_nothing_is_judged_by_accident(tmp_path: Path) -> None:
    """A lost registry would let anything in by the floors alone, and look like any other release."""
    steps = Steps(tmp_path)
    done = steps.run("train", FIRST="")
    assert (done.returncode, done.stdout) == (2, "")
    assert "run once with FIRST=true" in done.stderr
    assert steps.run("train", FIRST="true").returncode == 0
    steps.promote()
    assert steps.run("train").returncode == 0


def test_only_digests_are_deployed(tmp_path: Path) -> None:
    """A chart that names a tag runs whatever the tag is moved to."""
    steps = Steps(tmp_path)
    assert "no digest of timberline-serve: push first" in steps.run("deploy", VALUES="v").stderr
    (tmp_path / "var" / "images").mkdir(parents=True)
    lines = [f"registry.example/x/timberline-{name}@sha256:{name}\n" for name in ("serve", "train", "tools")]
    (tmp_path / "var" / "images" / "digests.txt").write_text("".join(lines), "utf-8")
    done = steps.run("deploy", VALUES="v", RELEASE="r", NAMESPACE="n")
    assert done.stdout.startswith("helm upgrade --install r deploy/helm/timberline --namespace n ")
    for name in ("serve", "train", "tools"):
        assert f"images.{name}=registry.example/x/timberline-{name}@sha256:{name} " in done.stdout


def test_what_is_deployed_are_values_of_the_chart(tmp_path: Path) -> None:
    """A value that no template reads is taken without a word, and the cluster keeps the old images."""
    steps = Steps(tmp_path)
    (tmp_path / "var" / "images").mkdir(parents=True)
    names = ("serve", "tools", "train")
    lines = [f"registry.example/x/timberline-{name}@sha256:{'0' * 64}\n" for name in names]
    (tmp_path / "var" / "images" / "digests.txt").write_text("".join(lines), "utf-8")
    given = re.findall(r"--set-string (\S+)=(\S+)", steps.run("deploy", VALUES="v").stdout)
    chart = ROOT / "deploy" / "helm" / "timberline"
    schema = json.loads((chart / "values.schema.json").read_text("utf-8"))
    assert [key for key, _ in given] == ["model", *(f"images.{name}" for name in names)]
    values = yaml.safe_load((chart / "values.yaml").read_text("utf-8"))
    values["model"] = dict(given)["model"]
    values["images"] |= {name: dict(given)[f"images.{name}"] for name in names}
    jsonschema.validate(values, schema)
    assert set(names) <= set(schema["properties"]["images"]["properties"])


@pytest.mark.parametrize("words", [[], ["release"], ["train", "now"]])
def test_a_step_that_is_none_ends_with_2(words: list[str], tmp_path: Path) -> None:
    """A misspelt step is red."""
    done = Steps(tmp_path).run(*words)
    assert done.returncode == 2
    assert "usage: deploy/ci/steps train | gate" in done.stderr


def test_the_page_and_the_readme_name_every_file() -> None:
    """An example that nobody is told of is dead text."""
    files = {path.name for path in CI.iterdir()} - {"README.md"}
    assert files == {*NAMES, "steps", "Dockerfile.test"}
    readme = (CI / "README.md").read_text("utf-8")
    assert all(f"`{name}`" in readme for name in files)
    page = (ROOT / "docs" / "how-to" / "ci.md").read_text("utf-8")
    assert all(f"cp deploy/ci/{name} " in page for name in NAMES)
    assert all("docs/how-to/ci.md" in (CI / name).read_text("utf-8") for name in NAMES)
