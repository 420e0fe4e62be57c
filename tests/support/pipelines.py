"""The pipelines of ``deploy/ci`` run on this machine, by what runs them without their servers.

    pipeline = GitHub(tmp_path)               # GitLab, Jenkins
    run = pipeline.run("push", FIRST="true")
    assert run.is_green; assert run.calls("helm") == [...]

GitHub's workflow is run by act, GitLab's file by gitlab-ci-local, the Jenkinsfile by
``tests/deploy/jenkinsfile.groovy``. All run their steps on this machine, in a checkout of the test's own.
``docker``, ``helm``, ``gh``, ``curl``, ``sudo`` and ``apt-get`` are recorders, and so is ``make`` for
``test``, ``images`` and ``gate-calibrate``. ``push`` is the real one, and so are others with ``is_real``;
else they leave what those leave, in no time, and the gate says what ``GATE`` says.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from tests.support.checkout import commit, git, write_checkout
from tests.support.clients import find_client_python, find_node_programs
from tests.support.makefile import DEADLINE_S, QUICK_GATE
from tests.support.markdown import ROOT

CI = ROOT / "deploy" / "ci"
MODEL = "forest_cover"
IMAGES = ("timberline-serve", "timberline-tools", "timberline-train")
DIGESTS = {image: f"sha256:{number}" + "0" * 63 for number, image in enumerate(IMAGES)}
_RECORDED = ("docker", "helm", "gh", "curl", "sudo", "apt-get")
_RECORDER = """\
#!{python}
import json, os, pathlib, subprocess, sys
name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
said = sys.stdin.read() if "--password-stdin" in words else ""
with open({calls!r}, "a") as calls:
    call = {{"name": name, "words": words, "stdin": said, "kubeconfig": os.environ.get("KUBECONFIG")}}
    print(json.dumps(call), file=calls)
if name == "docker" and words[:2] == ["image", "inspect"]:
    if "revision" in words[3]:
        print("0" * 40)
    else:
        calls = [json.loads(line) for line in open({calls!r})]
        pushed = [call["words"][1] for call in calls if call["name"] == "docker" and "push" in call["words"]]
        print(pushed[-1].rpartition(":")[0] + "@" + {digests!r}[words[4]])
if name != "make":
    sys.exit()
words = [word for word in words if word[:2] != "--"]
target = words[0]
given = dict(word.split("=", 1) for word in words[1:])
model = os.environ.get("MODEL", "")
here = pathlib.Path()
def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
if target == "test":
    sys.exit(2 if os.environ.get("TESTS") == "fail" else 0)
elif target == "push":
    sys.exit(subprocess.run(["/usr/bin/make", "--no-print-directory", *words]).returncode)
elif target == "gate-calibrate":
    write(here / "var/data/calibrations/machine.toml", "")
elif {is_real!r} and target != "images":
    # Never set up: what it installs would be this test's checkout, in the environment of all tests.
    rest = ["VENV={venv}", "--assume-old={venv}/.installed", f"PY={{sys.executable}}", "MODELS=models"]
    sys.exit(subprocess.run(["/usr/bin/make", "--no-print-directory", *words, *rest]).returncode)
elif target == "export":
    write(pathlib.Path(given["REGISTRY"]) / model / "1" / "manifest.json", "")
elif target == "gate":
    reports = here / "var/data/gates" / model / "1"
    write(reports / "report.md", "the report: " + os.environ.get("GATE", "PASS"))
    write(reports / "junit.xml", "<testsuites/>")
    sys.exit(2 if os.environ.get("GATE") == "BLOCK" else 0)
elif target == "promote":
    write(pathlib.Path(given["REGISTRY"]) / model / "aliases" / "production" / "1.json", "")
"""


@dataclass
class Run:
    """How one pipeline ended: its exit code, all that it said, and what was called."""

    code: int
    log: str
    recorded: list[dict[str, Any]] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)  # published, as text
    comments: list[str] = field(default_factory=list)

    @property
    def is_green(self) -> bool:
        """Whether the platform shows success."""
        return self.code == 0

    def calls(self, name: str) -> list[str]:
        """Calls of a program, the words of each in one line."""
        return [" ".join(call["words"]) for call in self.recorded if call["name"] == name]

    @property
    def targets(self) -> list[str]:
        """Targets that make was called with."""
        made = [call["words"] for call in self.recorded if call["name"] == "make"]
        return [next(word for word in words if not word.startswith("--")) for words in made]


class Pipeline:
    """One platform's file in a checkout; ``text`` is the file if it is not the committed one."""

    name: ClassVar[str]

    def __init__(self, folder: Path, *, is_real: bool = False, text: str | None = None) -> None:
        self.folder, self.checkout = folder, folder / "checkout"
        self.shared, self.calls = folder / "shared", folder / "calls"
        write_checkout(self.checkout)
        (self.checkout / "deploy" / "values.yaml").write_text("replicas: 1\n", "utf-8")
        self.install(text or (CI / self.name).read_text("utf-8"))
        commit(self.checkout, "the pipeline")
        self._commands = folder / "commands"
        self._commands.mkdir()
        venv = folder / "venv"
        venv.mkdir()
        (venv / ".installed").touch()
        recorder = _RECORDER.format(
            python=sys.executable, calls=str(self.calls), digests=DIGESTS, is_real=is_real, venv=venv
        )
        for program in (*_RECORDED, "make"):
            path = self._commands / program
            path.write_text(recorder, "utf-8")
            path.chmod(0o755)

    def install(self, text: str) -> None:
        """Put the file where the platform looks for it."""
        raise NotImplementedError

    def run(self, event: str, **variables: str) -> Run:
        """Run it for a ``push`` to main, a ``change`` or the ``schedule``."""
        self.calls.write_text("", "utf-8")
        git(self.checkout, "checkout", "--quiet", "-B", "change" if event == "change" else "main")
        run = self.start(event, variables)
        run.recorded = [json.loads(line) for line in self.calls.read_text("utf-8").splitlines()]
        return run

    def start(self, event: str, variables: Mapping[str, str]) -> Run:
        """As `run`, without what was called."""
        raise NotImplementedError

    @property
    def production(self) -> int:
        """How often production has moved in the registry that outlives the jobs."""
        return len(list((self.shared / "registry" / MODEL / "aliases" / "production").glob("*.json")))

    def _execute(self, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        path = f"{self._commands}{os.pathsep}{kept['PATH']}"
        home = {"HOME": str(self.folder / "home"), "XDG_CONFIG_HOME": str(self.folder / "home")}
        home["XDG_CACHE_HOME"] = str(self.folder / "home" / "cache")
        return subprocess.run(
            command,
            cwd=self.checkout,
            env=kept | QUICK_GATE | home | variables | {"PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )


# By repository of an action, and the path in it: what it does here. "STORE" is a folder that stays.
_ACTIONS = {
    "actions/setup-python": {"": "true"},
    "actions/cache": {
        "restore": 'if [ -d "STORE/${{ inputs.path }}" ]; then cp -a "STORE/${{ inputs.path }}" .; fi',
        "save": 'rm -rf "STORE/${{ inputs.path }}"; cp -a "${{ inputs.path }}" STORE/',
    },
    "actions/upload-artifact": {
        "": 'mkdir -p "STORE/artifacts/${{ inputs.name }}"; '
        "printf '%s\\n' \"${{ inputs.path }}\" | while read -r path; do "
        '[ ! -d "$path" ] || cp -a "$path/." "STORE/artifacts/${{ inputs.name }}/"; done'
    },
    "actions/download-artifact": {
        "": 'mkdir -p "${{ inputs.path }}"; '
        'cp -a "STORE/artifacts/${{ inputs.name }}/." "${{ inputs.path }}/"'
    },
}


class GitHub(Pipeline):
    """The workflow, by act; GitHub's own actions are stand-ins of a line each."""

    name = "github.yml"

    def install(self, text: str) -> None:
        """Under the name that the page gives it."""
        path = self.checkout / ".github" / "workflows" / "release.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    def start(self, event: str, variables: Mapping[str, str]) -> Run:
        """An event of a manual run is one with ``FIRST``."""
        artifacts = self.folder / "artifacts"
        shutil.rmtree(artifacts, ignore_errors=True)
        is_first = variables.get("FIRST") == "true"
        kind = {"push": "workflow_dispatch" if is_first else "push", "change": "pull_request"}.get(
            event, event
        )
        facts: dict[str, Any] = {"repository": {"full_name": "Owner/Repo", "default_branch": "main"}}
        if event == "change":
            facts |= {
                "number": 7,
                "pull_request": {"number": 7, "head": {"repo": {"full_name": "Owner/Repo"}}},
            }
        if is_first:
            facts["inputs"] = {"first": "true"}
        (self.folder / "event.json").write_text(json.dumps(facts), "utf-8")
        config = self.folder / "home" / "act" / "actrc"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text("", "utf-8")
        command = [str(find_client_python("act").parent / "act"), kind]
        command += ["--eventpath", str(self.folder / "event.json"), "--concurrent-jobs", "1", "--pull=false"]
        command += ["--platform", "ubuntu-24.04=-self-hosted", "--secret", "KUBECONFIG=the cluster"]
        command += ["--secret", "GITHUB_TOKEN=test-password", "--actor", "test-user"]
        command += [f"--local-repository={use}={place}" for use, place in self._write_actions().items()]
        given = {**QUICK_GATE, **variables, "GITHUB_REPOSITORY": "Owner/Repo"}
        command += [f"--env={name}={value}" for name, value in given.items() if name != "FIRST"]
        done = self._execute(command)
        run = Run(done.returncode, done.stdout + done.stderr)
        run.reports = [path.read_text("utf-8") for path in sorted(artifacts.glob("gate/**/report.md"))]
        calls = [json.loads(line) for line in self.calls.read_text("utf-8").splitlines()]
        run.comments = [" ".join(call["words"]) for call in calls if call["name"] == "gh"]
        return run

    def _write_actions(self) -> dict[str, Path]:
        text = (self.checkout / ".github" / "workflows" / "release.yml").read_text("utf-8")
        uses = set(re.findall(r"uses: ([\w-]+/[\w-]+)(?:/[\w-]+)?@(\w+)", text))
        places = {}
        for repository, ref in uses:
            if repository == "actions/checkout":  # act copies the checkout itself
                continue
            place = self.folder / "actions" / repository
            for path, script in _ACTIONS[repository].items():
                (place / path).mkdir(parents=True, exist_ok=True)
                step = {"run": script.replace("STORE", str(self.folder)), "shell": "bash"}
                inputs = {name: {"required": False} for name in ("path", "name", "key", "python-version")}
                action = {"name": path, "inputs": inputs, "runs": {"using": "composite", "steps": [step]}}
                (place / path / "action.yml").write_text(yaml.safe_dump(action), "utf-8")
            places[f"{repository}@{ref}"] = place
        return places


class GitLab(Pipeline):
    """The file, by gitlab-ci-local, with its shell in the place of images."""

    name = "gitlab-ci.yml"

    def install(self, text: str) -> None:
        """In the root."""
        (self.checkout / ".gitlab-ci.yml").write_text(text, "utf-8")

    def start(self, event: str, variables: Mapping[str, str]) -> Run:
        """All jobs in one folder: its form with a folder a job forgets before after_script what was made."""
        source = {"push": "push", "change": "merge_request_event", "schedule": "schedule"}[event]
        given = {"CI_PIPELINE_SOURCE": source, "SHARED": str(self.shared), **QUICK_GATE, **variables}
        given |= {"CI_REGISTRY_IMAGE": "registry.example/Team", "CI_REGISTRY_USER": "test-user"}
        given |= {"CI_REGISTRY_PASSWORD": "test-password", "KUBECONFIG": "the cluster"}
        if event == "change":
            given |= {"CI_MERGE_REQUEST_IID": "7", "GATE_TOKEN": "test-token", "CI_API_V4_URL": "api"}
        command = [str(find_node_programs("gitlab-ci-local") / "gitlab-ci-local")]
        command += ["--force-shell-executor", "--concurrency", "1", "--no-color"]
        for name, value in given.items():
            command += ["--variable", f"{name}={value}"]
        state = self.checkout / ".gitlab-ci-local"
        shutil.rmtree(state, ignore_errors=True)
        done = self._execute(command)
        run = Run(done.returncode, done.stdout + done.stderr)
        run.reports = [path.read_text("utf-8") for path in sorted(state.glob("artifacts/**/report.md"))]
        calls = [json.loads(line) for line in self.calls.read_text("utf-8").splitlines()]
        run.comments = [" ".join(call["words"]) for call in calls if call["name"] == "curl"]
        return run


class Jenkins(Pipeline):
    """The Jenkinsfile, by a reader of its language that runs its shell."""

    name = "Jenkinsfile"

    def install(self, text: str) -> None:
        """In the root, with the folder that stays where the test has it."""
        path = self.checkout / "Jenkinsfile"
        path.write_text(text.replace("'/srv/timberline'", f"'{self.shared}'"), "utf-8")

    def start(self, event: str, variables: Mapping[str, str]) -> Run:
        """What is published are files of the one workspace, as the step names them."""
        environment = (
            {"BRANCH_NAME": "PR-7", "CHANGE_ID": "7"} if event == "change" else {"BRANCH_NAME": "main"}
        )
        causes = ["TimerTrigger"] if event == "schedule" else []
        facts = {"env": environment, "params": {"FIRST": variables.get("FIRST") == "true"}, "causes": causes}
        (self.folder / "facts.json").write_text(json.dumps(facts), "utf-8")
        script = ROOT / "tests" / "deploy" / "jenkinsfile.groovy"
        command = ["groovy", str(script), "Jenkinsfile", str(self.folder / "facts.json")]
        java = Path(shutil.which("java") or "java").resolve().parents[1]
        done = self._execute(command, JAVA_HOME=str(java), **variables)
        run = Run(done.returncode, done.stdout + done.stderr)
        self.events: list[dict[str, Any]] = [
            json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")
        ]
        for event_ in self.events:
            if event_["event"] == "archiveArtifacts":
                for pattern in event_["artifacts"].split(", "):
                    found = sorted(self.checkout.glob(pattern.replace("**", "**/report.md")))
                    run.reports += [path.read_text("utf-8") for path in found if path.name == "report.md"]
            elif event_["event"] == "comment":
                run.comments.append(event_["text"])
        return run


PLATFORMS: dict[str, type[Pipeline]] = {"github": GitHub, "gitlab": GitLab, "jenkins": Jenkins}
