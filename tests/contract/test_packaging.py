"""Lock files, extras and images say the same thing."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

import timberline
from tests.support.dockerfiles import Step, read_stages, texts
from tests.support.locks import PYTHONS, parse_lock
from tests.support.roles import ROLES, declared
from timberline.inference.config import ServiceConfig
from timberline.registry.runtime.logs import NO_TELEMETRY

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCKS = {path.stem: path.read_text("utf-8") for path in sorted((ROOT / "requirements").glob("*.txt"))}

INSTALLERS = [
    *(ROOT / name for name in ("Makefile", ".ci/run", "Dockerfile.serve", "Dockerfile.train")),
    *(path for path in sorted((ROOT / "deploy").rglob("*")) if path.is_file()),
    *(ROOT / name for name in ("benchmarks/dev/competitors/environments.py", "tests/support/roles.py")),
]


def locked(role: str) -> set[tuple[str, str]]:
    """Names and versions of what a role's lock file pins."""
    return {(pin.name, pin.version) for pin in parse_lock(LOCKS[role])}


def print_recipe(*arguments: str) -> list[str]:
    """The commands that make would run."""
    # Not with what the make that runs the tests was given.
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("MAKE", "ENGINE", "BUILD", "SOURCE_DATE"))
    }
    command = ["make", "--no-print-directory", "-n", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


DOCKERFILES = ("Dockerfile.serve", "Dockerfile.train")
STAGES: Mapping[tuple[str, str], list[Step]] = {
    (name, stage): steps for name in DOCKERFILES for stage, steps in read_stages(ROOT / name).items()
}
# What is run, and the role whose parts each holds.
IMAGES = {
    "serve": STAGES["Dockerfile.serve", ""],
    "tools": STAGES["Dockerfile.train", "tools"],
    "train": STAGES["Dockerfile.train", "train"],
}
COMPILE = "python3 -m compileall -q --invalidation-mode unchecked-hash "


def test_there_is_a_lock_file_for_every_role() -> None:
    """An extra without a lock file cannot be installed twice alike."""
    assert set(LOCKS) == {"serve", "tools", "train", "bench", "dev"}


@pytest.mark.parametrize("role", sorted(LOCKS))
def test_lock_files_hold_every_direct_dependency_with_hashes(role: str) -> None:
    """A stale lock file would install something else than pyproject.toml asks for."""
    assert declared(role) <= {name for name, _ in locked(role)}
    entries = re.split(r"\n(?=[a-z0-9])", LOCKS[role].strip())
    assert [entry.partition(" ")[0] for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("role", sorted(LOCKS))
def test_a_lock_file_pins_each_direct_dependency_once_on_every_python(role: str, python: str) -> None:
    """One file for all of them; a marker that holds on none leaves a package out in silence."""
    names = [pin.name for pin in parse_lock(LOCKS[role]) if pin.is_for(python)]
    assert {name: names.count(name) for name in declared(role)} == dict.fromkeys(declared(role), 1)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("role", sorted(LOCKS))
def test_lock_files_name_no_index_host(role: str) -> None:
    """Which index is asked is the user's own configuration."""
    assert re.findall(r"https?://|--(?:extra-)?index-url|--find-links", LOCKS[role]) == []


def test_the_serve_environment_has_nothing_of_training() -> None:
    """What faces the outside world carries no training stack."""
    heavy = {"tensorflow", "keras", "duckdb", "pyarrow", "onnx", "tf2onnx", "kaggle", "sqlglot", "locust"}
    assert {name for name, _ in locked("serve")} & heavy == set()


def test_roles_agree_on_versions() -> None:
    """Gate and service must run the library versions that the development tests ran."""
    assert locked("serve")
    assert locked("tools") <= locked("train")
    assert locked("serve") | locked("train") | locked("bench") <= locked("dev")


def test_setup_installs_the_lock_file_with_the_pip_that_python_brings(tmp_path: Path) -> None:
    """A newer pip would hide from us what ends the first command of everybody else."""
    recipe = print_recipe("setup", f"VENV={tmp_path}/venv", "PYTHON=python3")
    commands = [line for line in recipe if "-c 'import sys" not in line]
    assert commands == [
        f"python3 -m venv --clear {tmp_path}/venv",
        f"{tmp_path}/venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes "
        "-r requirements/dev.txt",
        f"{tmp_path}/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "
        "--no-build-isolation --no-index --editable .",
        f"touch {tmp_path}/venv/.installed",
    ]


@pytest.mark.parametrize("path", INSTALLERS, ids=lambda path: path.name)
def test_nothing_that_installs_brings_a_pip_of_its_own(path: Path) -> None:
    """The same of CI, of the images, and of every environment that the project makes: nothing is upgraded,
    and what is installed is a lock file, or this project with nothing else."""
    text = path.read_text("utf-8")
    assert (
        re.findall(r"--upgrade|\s-U\s|ensurepip|get-pip|virtualenv|\buv (?:venv|pip (?:install|sync))", text)
        == []
    )
    for arguments in re.findall(r"pip(?: --python \S+)? install((?:\\\n|[^\n])*)", text):
        assert "--require-hashes" in arguments or "--no-deps --no-build-isolation --no-index" in arguments


def test_the_package_and_the_project_have_one_version() -> None:
    """The version stands in receipts; two of them would make a stale result look current."""
    assert PROJECT["dynamic"] == ["version"]
    assert importlib.metadata.version("timberline") == timberline.__version__


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_forbids_usage_reports(name: str) -> None:
    """For whatever else is run in it: our own code forbids them by itself."""
    (environment,) = re.findall(
        r"^ENV ((?:\\\n|[^\n])*)$", (ROOT / name).read_text("utf-8"), flags=re.MULTILINE
    )
    assert {f"{variable}={value}" for variable, value in NO_TELEMETRY.items()} <= set(environment.split())


def test_an_image_is_what_is_built_without_a_target() -> None:
    """`docker build` takes the last stage; the small image must not take the place of the whole one."""
    assert list(read_stages(ROOT / "Dockerfile.train"))[-1] == "train"
    assert list(read_stages(ROOT / "Dockerfile.serve"))[-1] == ""


@pytest.mark.parametrize("image", IMAGES)
def test_nothing_of_a_checkout_enters_an_image_with_its_own_modes(image: str) -> None:
    """Under umask 077 they are 0600 of another user; the modes are set where the files are compiled."""
    assert texts(IMAGES[image], "COPY") == []


@pytest.mark.parametrize("image", IMAGES)
def test_every_step_of_an_image_gives_its_files_the_one_date(image: str) -> None:
    """A file with the time of the build makes a layer that no second build makes; so does `COPY` into a
    folder of the base."""
    steps = IMAGES[image]
    assert {text for text in texts(steps, "ARG") if "EPOCH" in text} == {"SOURCE_DATE_EPOCH"}
    for run in texts(steps, "RUN"):
        assert run.endswith('-exec touch -hd "@$SOURCE_DATE_EPOCH" {} +')
    assert not {"ADD", "COPY"} & {step.word for step in steps}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_base_is_pinned_by_its_digest_in_every_stage(name: str) -> None:
    """One stage on the tag alone would compile against another Python than the one that runs."""
    text = (ROOT / name).read_text("utf-8")
    bases = [line.split()[1] for line in re.findall(r"^FROM .*", text, re.MULTILINE)]
    assert set(bases) - {"base"} == {"${PYTHON_IMAGE}${PYTHON_DIGEST:+@${PYTHON_DIGEST}}"}
    assert re.findall(r"^ARG PYTHON_DIGEST=?(.*)$", text, re.MULTILINE)[0] == ""


@pytest.mark.parametrize("place", STAGES, ids=" ".join)
def test_what_a_stage_takes_from_a_checkout_is_compiled_and_made_readable_last(
    place: tuple[str, str],
) -> None:
    """Compiled files have the modes of their sources, so that readable comes after compiled."""
    steps = STAGES[place]
    copies = [
        index
        for index, (word, text) in enumerate(steps)
        if word == "COPY" and not text.startswith(("--from=", "requirements/"))
    ]
    if copies:
        (made,) = [step.text for step in steps[copies[-1] :] if step.word == "RUN"]
        assert f"{COMPILE}." in made
        assert made.index("compileall") < made.index("chmod -R u=rwX,go=rX .")


@pytest.mark.parametrize("image", ["tools", "train"])
def test_the_entry_point_of_a_stage_is_found_by_its_name(image: str) -> None:
    """The chart's script of a rollout calls `stage gate`, and reads what it ends with."""
    (entry,) = json.loads(texts(IMAGES[image], "ENTRYPOINT")[-1])
    variables = dict(word.split("=", 1) for word in shlex.split(" ".join(texts(IMAGES[image], "ENV"))))
    assert str(Path(entry).parent) in variables["PATH"].split(":")
    assert Path(entry).name == "stage"


def test_every_package_of_an_environment_is_compiled_where_it_is_installed() -> None:
    """The user of an image may not write there, and would compile everything anew at every start; pip's
    own compiled files would be compared with their sources. Whatever umask the build has."""
    runs = [run for steps in STAGES.values() for run in texts(steps, "RUN") if "--require-hashes" in run]
    assert len(runs) == 3
    for run in runs:
        # What an index behind a proxy needs comes as secrets, which are in no layer.
        assert re.sub(r"--mount=type=secret,\S+ ", "", run).startswith("umask 022 ")
        assert "--no-compile" in run
        # Those of the pip that `venv` brings have the time of the build in them, and would stay without -f.
        assert run.endswith(f"{COMPILE.replace(' -q', ' -q -f')}/opt/venv/lib")


@pytest.mark.parametrize("image", IMAGES)
def test_the_standard_library_is_compiled_too(image: str) -> None:
    """Official Python images remove what was compiled."""
    run, *_ = texts(IMAGES[image], "RUN")
    assert COMPILE in run
    assert 'get_path("stdlib")' in run


def test_what_only_compilers_read_is_removed_in_the_layer_that_brings_it() -> None:
    """Removed in a later layer it would still be downloaded with the image."""
    (run,) = [run for run in texts(STAGES["Dockerfile.train", "train-environment"], "RUN") if "pip" in run]
    for removed in ("uninstall --quiet --yes libclang", "/tensorflow/include", "-type d -name tests -prune"):
        assert removed in run


@pytest.mark.parametrize("image", IMAGES)
def test_the_user_of_an_image_owns_none_of_its_files(image: str) -> None:
    """A number, as Kubernetes' runAsNonRoot asks for; named last, as engines give folders to the user."""
    words = [step.word for step in IMAGES[image]]
    assert texts(IMAGES[image], "USER") == ["10001"]
    assert "COPY" not in words[words.index("USER") :]
    assert "RUN" not in words[words.index("USER") :]


@pytest.mark.parametrize("image", ["tools", "train"])
def test_any_user_of_group_0_may_write_the_volume(image: str) -> None:
    """OpenShift gives a container a number that no image knows, and group 0."""
    run, *_ = texts(IMAGES[image], "RUN")
    assert "install -d -o 10001 -g 0 -m 775 /var/timberline" in run
    assert texts(IMAGES[image], "VOLUME") == ["/var/timberline"]
    assert "HOME=/tmp " in texts(IMAGES[image], "ENV")[0]


def test_the_tools_image_holds_the_parts_of_its_role() -> None:
    """One that lacks a part fails in the middle of a release."""
    parts = {part.partition("/")[0] for part in ROLES["tools"]} - {"src"}
    copies = [text.split() for text in texts(STAGES["Dockerfile.train", "code"], "COPY")]
    copied = {target for *_, target in copies}
    run = texts(IMAGES["tools"], "RUN")[-1]
    removed = set(re.findall(r" /app/(timberline/\w+)", run))
    assert "cp -a /mnt /app && rm -r " in run
    assert removed < copied
    assert copied - removed == {f"timberline/{part}" for part in parts} | {"timberline/", "models", "."}


def test_the_serve_image_leaves_model_and_registry_to_platforms() -> None:
    """A variable in the image would come before SageMaker's folder, which has no variable."""
    (environment,) = texts(IMAGES["serve"], "ENV")
    assert not {"MODEL", "REGISTRY", "PORT"} & set(re.findall(r"(\w+)=", environment))
    made = " ".join(texts(STAGES["Dockerfile.serve", "build"], "RUN"))
    assert f"ln -s /registry {ServiceConfig().registry}" in made
    assert texts(IMAGES["serve"], "CMD") == ['["serve"]']


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_says_what_it_is(image: str) -> None:
    """Scanners and registries show these; what is not given by the build must not look as if it were."""
    (text,) = texts(IMAGES[image], "LABEL")
    labels = dict(re.findall(r'([a-z.-]+)="([^"]*)"', text))
    defaults = dict(argument.split("=", 1) for argument in texts(IMAGES[image], "ARG") if "=" in argument)
    assert {"PYTHON_IMAGE", "PYTHON_DIGEST"} <= set(texts(IMAGES[image], "ARG"))
    assert defaults == {
        "SOURCE": "",
        "VERSION": timberline.__version__,
        "REVISION": "unknown",
        "CREATED": "1970-01-01T00:00:00Z",
    }
    assert labels.pop("org.opencontainers.image.description")
    bound = labels.pop("com.amazonaws.sagemaker.capabilities.accept-bind-to-port", None)
    assert bound == ("true" if image == "serve" else None)
    assert labels == {
        "org.opencontainers.image.title": f"{PROJECT['name']}-{image}",
        "org.opencontainers.image.licenses": PROJECT["license"],
        "org.opencontainers.image.version": "${VERSION}",
        "org.opencontainers.image.revision": "${REVISION}",
        "org.opencontainers.image.created": "${CREATED}",
        "org.opencontainers.image.source": "${SOURCE}",
        "org.opencontainers.image.base.name": "${PYTHON_IMAGE}",
        "org.opencontainers.image.base.digest": "${PYTHON_DIGEST}",
    }


def test_make_builds_every_image_with_the_flags_that_it_is_given() -> None:
    """Behind a proxy, or from another base image, nobody has to copy the recipe."""
    flags = "--network host --build-arg PYTHON_IMAGE=registry.example/python:3.11"
    commands = print_recipe("images", "ENGINE=podman", f"BUILD_FLAGS={flags}")
    assert [command.rpartition(" -t ")[2] for command in commands] == [
        f"timberline-{image} ." for image in ("train", "tools", "serve")
    ]
    for command in commands:
        stamp, _, rest = command.partition(f" {flags} ")
        assert re.fullmatch(
            r"podman build --build-arg REVISION=(unknown|[0-9a-f]{40}(-dirty)?) "
            r"--build-arg CREATED=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
            stamp,
        )
        assert re.match(r"-f Dockerfile\.(serve|train --target tools|train) -t", rest)


def test_make_gives_a_build_the_date_that_it_is_given() -> None:
    """The convention of reproducible builds: one variable of the caller, for every tool."""
    commands = print_recipe("images", "SOURCE_DATE_EPOCH=1700000000")
    assert [command.count(" --build-arg SOURCE_DATE_EPOCH=1700000000 ") for command in commands] == [1] * 3


def test_a_build_is_sent_what_it_copies() -> None:
    """What .dockerignore holds back is missing in the build alone."""
    admitted = [
        line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line[0] == "!"
    ]
    for steps in STAGES.values():
        for text in texts(steps, "COPY"):
            for source in text.split()[:-1] if not text.startswith("--from=") else ():
                assert list(ROOT.glob(source)), source
                assert any(Path(source).match(pattern) for pattern in admitted), source
