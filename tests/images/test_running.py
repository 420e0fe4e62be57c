"""The serve image as operators run it: without rights, with little memory, without a network."""

from __future__ import annotations

import json
import os
import pty
import re
import time
from pathlib import Path

import pytest

from tests.support.closed_loop import ClosedLoop
from tests.support.containers import HARDENED, SERVE, TOOLS, TRAIN, serving
from tests.support.dockerfiles import read_stages, texts
from tests.support.engine import CLIENT, ROOT, Engine
from tests.support.service import DEADLINE_S, running_service
from tests.support.tiny_model import NUMERIC_COLUMNS, NUMERIC_ROWS, publish_numeric
from timberline.registry.store import open_store

pytestmark = pytest.mark.real("dockerd", "mmdebstrap")

ROWS = [
    {column.name: value for column, value in zip(NUMERIC_COLUMNS, row, strict=True)} for row in NUMERIC_ROWS
]
HEALTH = ("python", "-m", "timberline", "health")
START_BOUND_S = 10.0  # issue 16, with a tenth of a processor
# Connections, the engine's way into a container and a start of Python are in both.
HEALTH_RATIO = 3.0


def test_an_image_answers_bit_for_bit_as_the_host_does(images: Engine, registry: Path) -> None:
    """The gate judged on the host what the container answers: one wheel or kernel off, and it judged another
    thing."""
    with running_service(registry, "tiny") as here, serving(images, registry) as there:
        for row in ROWS:
            answers = [service.request("POST", "/predict", row) for service in (here, there.service)]
            (status, _, expected), (_, _, answered) = answers
            assert status == 200
            assert answered == expected


def test_a_version_is_swapped_under_96_megabytes(images: Engine, registry: Path) -> None:
    """No rights, a root that nobody writes, a user of any number, 64 MB of /dev/shm: and the trial of a new
    version, a process of its own, fits beside the old one."""
    limits = ("--memory", "96m", "--memory-swap", "96m", "--shm-size", "64m")
    before = {"TIMBERLINE_SERVE_WATCH_S": "0.2", "TIMBERLINE_SERVE_LOAD_MEMORY_BYTES": "40000000"}
    with (
        serving(images, registry, *limits, environment=before) as container,
        ClosedLoop(container.service, 2),
    ):
        assert container.service.predict(ROWS[0])[1]["version"] == 1
        publish_numeric(open_store(registry), scale=-1.0)
        container.service.wait_for(lambda: container.service.predict(ROWS[0])[1]["version"] == 2)
        assert container.read_state("{{.State.OOMKilled}} {{.RestartCount}}") == "false 0"
        assert "refused" not in container.service.log


def test_a_container_may_do_nothing_that_was_taken_from_it(images: Engine, registry: Path) -> None:
    """The flags are read by the engine: the test above would pass without them too."""
    with serving(images, registry, "--shm-size", "64m") as container:
        status = dict(
            line.split(":\t", 1) for line in container.exec("cat", "/proc/self/status")[1].splitlines()
        )
        assert status["Uid"].split()[0] == "1234567"
        assert {int(status[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Bnd", "Inh", "Amb")} == {0}
        assert status["NoNewPrivs"] == "1"
        code, said = container.exec("sh", "-c", "echo x > /app/x")
        assert code != 0
        assert "Read-only" in said
        assert "65536" in container.exec("df", "-k", "/dev/shm")[1]


def test_a_container_without_a_network_serves_itself(images: Engine, registry: Path) -> None:
    """It asks nobody for anything: not at the start, not for a version, not for its health."""
    with serving(images, registry, network="none") as container:
        assert container.exec(*HEALTH)[0] == 0
        container.service.wait_for(lambda: container.read_state("{{.State.Health.Status}}") == "healthy")
        port = container.service.port
        ask = (
            f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/v2/health/ready').status)"
        )
        assert container.exec("python", "-c", ask) == (0, "200\n")


def test_a_tenth_of_a_processor_starts_it_in_ten_seconds(images: Engine, registry: Path) -> None:
    """Where a platform gives a small share, the start is what takes longest, and its probes have to wait."""
    start = time.monotonic()
    with serving(images, registry, "--cpus", "0.1", "--no-healthcheck") as container:
        taken_s = time.monotonic() - start
        print(f"ready after {taken_s:.1f} s with 0.1 CPU: {container.read_cpu_ns() / 1e9:.2f} s of CPU")
        assert taken_s <= START_BOUND_S


def test_a_stop_under_load_loses_no_answer(images: Engine, registry: Path) -> None:
    """Clients with open connections count what becomes of every request: it drains, then ends with 0."""
    with serving(images, registry) as container:
        with ClosedLoop(container.service, 8) as load:
            load.wait_for_answers(500)
            images.docker("stop", "-t", "40", container.name)
        container.service.wait()  # with 0
    print(f"{load.answer_count} answers, {len(load.failures)} lost")
    assert load.failures == []
    assert load.statuses == {200}


@pytest.mark.parametrize(
    ("image", "words", "code", "said"),
    [
        (SERVE, ["-e", "TIMBERLINE_SERVE_WORKERS=many", SERVE], 2, "WORKERS"),
        (SERVE, ["-e", "TIMBERLINE_SERVE_WROKERS=2", SERVE], 2, "WROKERS"),
        (SERVE, [SERVE, "serve", "--no-such-flag"], 2, "--no-such-flag"),
        (SERVE, ["-e", "MODEL=nobody", SERVE], 2, "nobody"),
        (TRAIN, [TRAIN, "serve"], 2, "timberline-serve"),
        (TRAIN, [TRAIN, "no-such-verb"], 2, "no-such-verb"),
        (TOOLS, [TOOLS, "promote", "nobody"], 2, "nobody"),
        (TOOLS, [TOOLS, "help"], 0, "promote"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_container_ends_with_the_code_of_its_reason(
    images: Engine, image: str, words: list[str], code: int, said: str
) -> None:
    """Restart policies and Jobs decide by it whether another try is worth it."""
    done = images.docker("run", "--rm", "--network", "none", "--read-only", *words, check=False)
    assert done.returncode == code, f"{image}: {done.stdout}{done.stderr}"
    assert said in done.stdout + done.stderr


def test_a_registry_that_it_may_not_read_ends_it_with_3(images: Engine, registry: Path) -> None:
    """The environment failed, and another try may help: a folder of a user who left others out."""
    registry.chmod(0o700)
    volume = f"{registry}:/registry:ro"
    done = images.docker(
        "run", "--rm", "--network", "none", *HARDENED, "-v", volume, "-e", "MODEL=tiny", SERVE, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "/registry" in done.stderr


def test_a_health_check_costs_little_more_than_a_start_of_python(images: Engine, registry: Path) -> None:
    """It is run every five seconds in every container, mostly on machines that have better to do."""
    (check,) = texts(read_stages(ROOT / "Dockerfile.serve")[""], "HEALTHCHECK")
    command = json.loads(re.sub(r"^.*?CMD ", "", check))
    nothing = ["python", "-S", "-E", "-c", "pass"]
    with serving(images, registry, "--no-healthcheck") as container:

        def measure(words: list[str]) -> int:
            before = container.read_cpu_ns()
            assert [container.exec(*words)[0] for _ in range(10)] == [0] * 10
            return container.read_cpu_ns() - before

        rounds = [(measure(command), measure(nothing)) for _ in range(3)]
    of_check, of_nothing = (min(taken) / 10 / 1e6 for taken in zip(*rounds, strict=True))
    print(f"health check: {of_check:.0f} ms of CPU; a start of Python: {of_nothing:.0f} ms")
    assert of_check <= HEALTH_RATIO * of_nothing


def test_a_check_of_a_service_that_is_not_there_says_so(images: Engine) -> None:
    """The other answer of the health check: an engine must not take a container for healthy by default."""
    done = images.docker("run", "--rm", "--network", "none", "--read-only", SERVE, "health", check=False)
    assert done.returncode == 1


def test_a_shell_is_there_to_look_around(images: Engine) -> None:
    """`docker run -it … /bin/bash`: a terminal, the image's Python first, and its stages at hand."""
    pid, terminal = pty.fork()
    if pid == 0:
        words = [CLIENT, "run", "-it", "--rm", "--network", "none", TRAIN, "/bin/bash"]
        os.execvpe(CLIENT, words, images.environment)
    said, deadline = b"", time.monotonic() + DEADLINE_S
    for expected, typed in ((b"$ ", b"tty; which python; exit 7\n"), (b"/opt/venv/bin/python\r\n", b"")):
        while expected not in said:
            assert time.monotonic() < deadline, said
            said += os.read(terminal, 4096)
        os.write(terminal, typed)
    assert b"/dev/pts/" in said
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 7
