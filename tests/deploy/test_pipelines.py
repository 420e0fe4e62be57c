"""The pipelines of deploy/ci, run: what is refused, judged, published, pushed and deployed, and what not.

GitHub's by act, GitLab's by gitlab-ci-local, the Jenkinsfile by `tests/deploy/jenkinsfile.groovy`, each on
this machine; what stands in for what is named in `tests.support.pipelines`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.pipelines import CI, DIGESTS, PLATFORMS, Jenkins, Pipeline, Run

REAL = {"github": ("act",), "gitlab": ("gitlab-ci-local", "npm", "rsync"), "jenkins": ("groovy",)}
EACH = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.real(*tools)) for name, tools in REAL.items()]
)
IMAGES = {
    "github": "ghcr.io/owner/repo",
    "gitlab": "registry.example/team",
    "jenkins": "registry.example/timberline",
}


def start(name: str, folder: Path, **more: object) -> Pipeline:
    """A pipeline in a folder of its own."""
    return PLATFORMS[name](folder / name, **more)  # type: ignore[arg-type]


def ships_nothing(run: Run) -> bool:
    """Whether nothing has left the machine: no login, no push, no chart."""
    return not run.calls("docker") and not run.calls("helm") and "push" not in run.targets


@EACH
def test_a_release_goes_from_the_tests_to_the_chart_and_only_by_digests(name: str, tmp_path: Path) -> None:
    """The whole way, in its order; a tag that is moved later changes nothing of what runs."""
    run = start(name, tmp_path).run("push", FIRST="true")
    assert run.is_green, run.log
    images = {image: f"{IMAGES[name]}/{image}@{digest}" for image, digest in DIGESTS.items()}
    assert sorted(run.targets[:4]) == ["images", "test", "test", "test"]
    assert run.targets[4:] == ["export", "gate", "promote", "images", "push"]
    login, *others = [call for call in run.recorded if call["name"] == "docker"]
    registry = IMAGES[name].split("/")[0]
    assert login["words"] == ["login", "--username", "test-user", "--password-stdin", registry]
    assert login["stdin"] == "test-password"
    pushed = [call["words"][1].rpartition(":")[0] for call in others if call["words"][0] == "push"]
    assert pushed == [f"{IMAGES[name]}/{image}" for image in DIGESTS]
    sets = " ".join(
        f"--set-string images.{image.removeprefix('timberline-')}={reference}"
        for image, reference in images.items()
    )
    assert run.calls("helm") == [
        "upgrade --install timberline deploy/helm/timberline --namespace timberline --create-namespace "
        f"--values deploy/values.yaml --set-string model=forest_cover {sets} --wait --timeout 10m"
    ]
    (kubeconfig,) = [call["kubeconfig"] for call in run.recorded if call["name"] == "helm"]
    assert kubeconfig
    assert run.reports == ["the report: PASS"]
    assert run.comments == []


@EACH
def test_a_block_ends_before_anything_is_pushed_and_its_report_is_published(
    name: str, tmp_path: Path
) -> None:
    """What the gate refuses reaches no cluster; why it did is wanted most then."""
    pipeline = start(name, tmp_path)
    assert pipeline.run("push", FIRST="true").is_green
    run = pipeline.run("push", GATE="BLOCK")
    assert not run.is_green
    assert run.targets[4:] == ["export", "gate"]
    assert ships_nothing(run)
    assert run.reports == ["the report: BLOCK"]


@EACH
@pytest.mark.parametrize("answer", ["PASS", "BLOCK"])
def test_a_change_is_judged_in_a_copy_commented_on_and_never_shipped(
    name: str, answer: str, tmp_path: Path
) -> None:
    """What is not merged yet must not become production for everybody, however good it is."""
    pipeline = start(name, tmp_path)
    registry = pipeline.shared / "registry" / "forest_cover" / "aliases" / "production"
    registry.mkdir(parents=True)
    (registry / "9.json").touch()
    run = pipeline.run("change", GATE=answer)
    assert run.is_green == (answer == "PASS"), run.log
    (export,) = [call for call in run.calls("make") if call.startswith("export")]
    assert export == "export REGISTRY=var/change/registry"
    assert [path.name for path in registry.iterdir()] == ["9.json"]
    assert ships_nothing(run)
    assert run.reports == [f"the report: {answer}"]
    assert len(run.comments) == 1


@EACH
def test_nothing_is_trained_without_a_champion_unless_it_is_the_first(name: str, tmp_path: Path) -> None:
    """A lost registry would let anything in by the floors alone, and look like any other release."""
    run = start(name, tmp_path).run("push")
    assert not run.is_green
    assert "no version is in production" in run.log
    assert set(run.targets) == {"test", "images"}
    assert ships_nothing(run)


@EACH
def test_nothing_is_released_by_code_that_fails_its_tests(name: str, tmp_path: Path) -> None:
    """The gate compares versions; it does not find a broken command."""
    run = start(name, tmp_path).run("push", FIRST="true", TESTS="fail")
    assert not run.is_green
    assert set(run.targets) <= {"test", "images"}
    assert ships_nothing(run)


@EACH
def test_the_night_calibrates_and_does_nothing_else(name: str, tmp_path: Path) -> None:
    """Its spreads are kept for the gates to come, and no release is made by a timer."""
    pipeline = start(name, tmp_path)
    production = pipeline.shared / "registry" / "forest_cover" / "aliases" / "production"
    production.mkdir(parents=True)
    run = pipeline.run("schedule")
    assert run.is_green, run.log
    assert run.targets == ["gate-calibrate"]
    assert (pipeline.shared / "calibrations" / "machine.toml").is_file()
    assert ships_nothing(run)


@EACH
def test_with_the_real_gate_a_first_version_is_shipped_and_a_worse_one_is_not(
    name: str, tmp_path: Path
) -> None:
    """The steps with nothing in the place of train, export, gate and promote: a small table and network."""
    pipeline = start(name, tmp_path, is_real=True)
    run = pipeline.run("push", FIRST="true")
    assert run.is_green, run.log[-5000:]
    assert pipeline.production == 1
    assert len(run.calls("helm")) == 1
    (report,) = run.reports
    assert "PASS" in report
    model = pipeline.checkout / "models" / "forest_cover" / "model.toml"
    model.write_text(model.read_text("utf-8").replace("min_accuracy = 0.0", "min_accuracy = 0.9999"), "utf-8")
    run = pipeline.run("push")
    assert not run.is_green
    assert "promote" not in run.targets
    assert pipeline.production == 1
    assert ships_nothing(run)
    assert any("BLOCK" in report for report in run.reports)


# A file in which the gate's answer does not count any more: is it found?
PLANTED: dict[str, Callable[[str], str]] = {
    "github": lambda text: text.replace(
        "needs: release # and so only what the gate has passed", "needs: images"
    ),
    "gitlab": lambda text: text.replace(
        "    - deploy/ci/steps gate\n", "    - deploy/ci/steps gate || true\n"
    ),
    "jenkins": lambda text: text.replace("sh 'deploy/ci/steps gate'", "sh 'deploy/ci/steps gate || true'"),
}


@EACH
def test_a_file_that_ships_in_spite_of_the_gate_is_found(name: str, tmp_path: Path) -> None:
    """The tests above are worth something only if they fail on such a file."""
    committed = (CI / PLATFORMS[name].name).read_text("utf-8")
    planted = PLANTED[name](committed)
    assert planted != committed
    run = start(name, tmp_path, text=planted).run("push", FIRST="true", GATE="BLOCK")
    assert not ships_nothing(run)


WRONG = {
    "a directive that is none": ("agent none", "agents none"),
    "a section where it may not stand": (
        "    stages {\n        stage('Calibrate')",
        "    steps {\n        stage('Calibrate')",
    ),
    "a stage without an agent": (
        "            agent { label 'docker' }\n            steps {\n                sh 'make images'",
        "            steps {\n                sh 'make images'",
    ),
    "a container without an image": ("image 'docker.io/library/python:3.11-bookworm'", "picture 'python'"),
    "a step with a misspelt argument": ("allowEmptyResults: true", "allowEmpty: true"),
    "a variable that is none": ("${TEST_PYTHON}", "${TEST_PYTHONS}"),
    "a bracket too few": ("agent none\n", "agent none }\n"),
}


@pytest.mark.real("groovy")
@pytest.mark.parametrize("planted", WRONG)
def test_what_is_no_declarative_pipeline_is_found(planted: str, tmp_path: Path) -> None:
    """Jenkins would refuse it at the first build; its own linter is a controller."""
    before, after = WRONG[planted]
    committed = (CI / "Jenkinsfile").read_text("utf-8")
    assert before in committed
    run = Jenkins(tmp_path, text=committed.replace(before, after)).run("push", FIRST="true")
    assert run.code == 2, run.log
    assert "wrong: " in run.log
    assert ships_nothing(run)


@pytest.mark.real("groovy")
def test_jenkins_trains_and_judges_in_a_container_on_the_quiet_machine(tmp_path: Path) -> None:
    """Tests run elsewhere, in a container of their Python; images are built where an engine is."""
    pipeline = Jenkins(tmp_path)
    assert pipeline.run("push", FIRST="true").is_green
    agents = {event["stage"]: event for event in pipeline.events if event["event"] == "agent"}
    kinds = {stage: (agent["kind"], agent["label"]) for stage, agent in agents.items()}
    tests = {f"Test 3.{minor}": ("dockerfile", "test") for minor in (11, 12, 13)}
    assert kinds == tests | {
        "Images": ("label", "docker"),
        "Release": ("docker", "gate"),
        "Deploy": ("label", "docker"),
    }
    # The folder that stays is mounted into the container that needs it.
    assert re.search(r"-v (\S+):\1$", agents["Release"]["args"])
    dockerfile = (CI / "Dockerfile.test").read_text("utf-8")
    environments = {event["script"] for event in pipeline.events if event.get("stage") == "make test"}
    assert environments == {'env -u MODEL make test VENV=".venv-$TEST_PYTHON"'}
    for stage in tests:
        assert agents[stage]["additionalBuildArgs"] == f"--build-arg TEST_PYTHON={stage.split()[1]}"
    assert "FROM docker.io/library/python:${TEST_PYTHON}-bookworm" in dockerfile
