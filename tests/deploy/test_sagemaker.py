"""The serve image as SageMaker runs it: an archive unpacked at /opt/ml/model, the word ``serve``, no network.

The container is a real one. SageMaker's side of it is `tests.support.sagemaker_agent`, by its documentation.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.engine import Engine, running_engine
from tests.support.sagemaker_agent import MB, Ask, Transform, act
from tests.support.tiny_model import publish_numeric
from timberline.registry.store import open_store

pytestmark = pytest.mark.real("dockerd", "mmdebstrap")

IMAGE = "timberline-serve"
ROWS = ["12.5,40,false,", "0,400,true,12", "3.25,1,false,7", "1,2,true,3"]
JSON_ROWS = ["[12.5, 40, false, null]", "[0, 400, true, 12]", "[3.25, 1, false, 7]", "[1, 2, true, 3]"]
# What the page tells a job to be given; see docs/how-to/aws.md.
MANY_ROWS = {"TIMBERLINE_SERVE_MAX_ROWS": "100000"}
BATCH = {
    "SAGEMAKER_BATCH": "true",
    "SAGEMAKER_MAX_PAYLOAD_IN_MB": "1",
    "SAGEMAKER_BATCH_STRATEGY": "MULTI_RECORD",
    "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "1",
}


class Container(NamedTuple):
    """One that runs, and its first process on the host."""

    name: str
    pid: int


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """With the image of this checkout."""
    with running_engine() as engine:
        engine.build("Dockerfile.serve", IMAGE)
        yield engine


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What SageMaker unpacks: `tar -C var/registry -czf model.tar.gz tiny`, as whoever it is."""
    folder = tmp_path_factory.mktemp("sagemaker")
    publish_numeric(open_store(folder / "registry"))
    archive = folder / "model.tar.gz"
    subprocess.run(["tar", "-C", folder / "registry", "-czf", archive, "tiny"], check=True)
    unpacked = folder / "model"
    with tarfile.open(archive) as packed:
        packed.extractall(unpacked, filter="data")
    unpacked.chmod(0o755)
    return unpacked


def start(engine: Engine, model: Path, **variables: str) -> Container:
    """A container as SageMaker starts it; the caller stops it."""
    given = [word for name, text in variables.items() for word in ("-e", f"{name}={text}")]
    words = ["-d", "--network", "none", "--memory", "512m", "-v", f"{model}:/opt/ml/model:ro", *given]
    name = engine.docker("run", *words, IMAGE, "serve").stdout.strip()
    return Container(name, int(engine.docker("inspect", "-f", "{{.State.Pid}}", name).stdout))


def stop(engine: Engine, container: Container) -> str:
    """Stop it with SageMaker's patience, remove it, and return its log; it must have ended by itself."""
    engine.docker("stop", "-t", "30", container.name)
    code = engine.docker("inspect", "-f", "{{.State.ExitCode}}", container.name).stdout.strip()
    log = engine.docker("logs", container.name).stderr
    engine.docker("rm", container.name)
    assert code == "0", log
    return log


@pytest.fixture(scope="module")
def endpoint(engine: Engine, model: Path) -> Iterator[Container]:
    """A container of an endpoint."""
    container = start(engine, model)
    yield container
    stop(engine, container)


@pytest.fixture(scope="module")
def batch(engine: Engine, model: Path) -> Iterator[Container]:
    """A container of a batch transform, as the page has it."""
    container = start(engine, model, **BATCH, **MANY_ROWS)
    yield container
    stop(engine, container)


def test_an_endpoint_answers_json_csv_and_json_lines(endpoint: Container) -> None:
    """With no variable, no flag and no network: what a client sends is all that it knows."""
    ping, one, csv, lines, missing = act(
        endpoint.pid,
        Ask("GET", "/ping"),
        Ask("POST", "/invocations", '{"rings": 40}', "application/json", "application/json"),
        Ask("POST", "/invocations", "\n".join(ROWS), "text/csv", "text/csv"),
        Ask("POST", "/invocations", "\n".join(JSON_ROWS), "application/jsonlines", "application/jsonlines"),
        Ask("GET", "/execution-parameters"),
    )
    assert ping[0] == one[0] == csv[0] == lines[0] == 200
    answer = json.loads(one[1])
    assert (answer["prediction"], answer["model"], answer["version"]) == ("2", "tiny", 1)
    assert len(csv[1].splitlines()) == len(ROWS)
    read = [json.loads(line) for line in lines[1].splitlines()]
    assert [each["prediction"] for each in read] == [line.split(",")[0] for line in csv[1].splitlines()]
    # SageMaker asks for it before a batch transform, and takes a container that has none.
    assert missing[0] == 404


@pytest.mark.parametrize("strategy", ["MultiRecord", "SingleRecord"])
@pytest.mark.parametrize(
    ("content_type", "lines"),
    [("text/csv", ROWS * 25), ("application/jsonlines", JSON_ROWS * 30)],
)
def test_a_batch_transform_leaves_a_line_for_each_line(
    batch: Container, strategy: str, content_type: str, lines: list[str]
) -> None:
    """Whoever joins both files has nothing but the numbers of the lines."""
    job = Transform(lines, content_type, content_type, strategy, 1)
    (transformed, *alone) = act(
        batch.pid,
        job,
        *(Ask("POST", "/invocations", line, content_type, content_type) for line in dict.fromkeys(lines)),
    )
    assert transformed[0] == 200, transformed
    known = dict(zip(dict.fromkeys(lines), (text for _, text in alone), strict=True))
    assert transformed[1] == "".join(known[line] for line in lines)
    assert len(transformed[1].splitlines()) == len(lines)


def test_a_file_of_many_payloads_keeps_its_order(batch: Container) -> None:
    """The rows of a real file are cut anywhere; short ones are the most in a payload."""
    lines = [f"{number % 100},{number % 500},false,{number % 7}" for number in range(200_000)]
    assert sum(map(len, lines)) > 2 * MB
    (status, text), (_, first), (_, last) = act(
        batch.pid,
        Transform(lines, "text/csv", "text/csv", "MultiRecord", 1),
        Ask("POST", "/invocations", lines[0], "text/csv", "text/csv"),
        Ask("POST", "/invocations", lines[-1], "text/csv", "text/csv"),
    )
    assert status == 200, text
    found = text.splitlines(keepends=True)
    assert (len(found), found[0], found[-1]) == (len(lines), first, last)


def test_an_assembler_that_adds_newlines_leaves_empty_lines(batch: Container) -> None:
    """Why the page leaves AssembleWith out: an answer ends with a newline already."""
    ((status, text),) = act(
        batch.pid, Transform(ROWS, "text/csv", "text/csv", "SingleRecord", 1, assemble_with="Line")
    )
    assert status == 200
    assert text.splitlines()[1::2] == [""] * len(ROWS)


def test_without_the_pages_setting_a_payload_of_short_rows_ends_the_job(endpoint: Container) -> None:
    """Why the page has it: --max-rows is 10,000, and a job ends at its first refusal."""
    job = Transform(["1,2,true,3"] * 10_001, "text/csv", "text/csv", "MultiRecord", 1)
    ((status, text),) = act(endpoint.pid, job)
    assert status == 413, text


def test_an_archive_that_the_user_of_the_image_cannot_read_is_named(
    engine: Engine, model: Path, tmp_path: Path
) -> None:
    """SageMaker shows nothing of a container but its log."""
    closed = tmp_path / "model"
    subprocess.run(["cp", "-a", model, closed], check=True)
    (closed / "tiny").chmod(0o700)
    done = engine.docker(
        "run", "--rm", "--network", "none", "-v", f"{closed}:/opt/ml/model:ro", IMAGE, "serve", check=False
    )
    assert done.returncode == 3
    assert "/opt/ml/model/tiny" in done.stderr
