"""The service's task of deploy/aws/service.yaml in a real container, as Fargate runs it.

Its image, variables, user, capabilities and read-only root are those of the template. It has a network of its
own; its account comes from ECS's address 169.254.170.2; its registry lies in moto, which enforces the task's
role; dockerd's own driver sends its log to moto's CloudWatch Logs under the rights of the execution role.
"""

from __future__ import annotations

import contextlib
import copy
import http.client
import http.server
import json
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.aws import Cloud, serve_aws
from tests.support.engine import Engine, running_engine
from tests.support.network_namespace import make_in, relay
from tests.support.service import DEADLINE_S
from tests.support.tables import NAME, SmallTable, rows
from tests.support.tiny_model import publish_numeric
from timberline.registry.store import open_store

pytestmark = pytest.mark.real("dockerd", "mmdebstrap", "moto")

IMAGE = "timberline-serve"
TOOLS_IMAGE = "timberline-tools"
GROUP = "/timberline/service"
# "Task IAM role" of Amazon's documentation: a container asks there, at the path that its variable names.
ECS = "169.254.170.2"
PATH = "/v2/credentials/of-a-test"
S3_PORT = 9000


class Host:
    """A machine of Fargate's: moto with the stacks, an engine, and a network that its containers share."""

    def __init__(self, aws: Cloud, bucket: str) -> None:
        self.aws = aws
        self.bucket = bucket
        # Of both, whose execution roles are the same: the last one's is taken.
        found = aws.list_resources("stages") | aws.list_resources("service")
        self.roles = {name: role for name, role in found.items() if name.endswith("Role")}
        for role in self.roles.values():
            documents = aws.read_policies(role)
            if "logs" in documents:  # of whose actions moto knows no resource
                documents["logs"]["Statement"][0]["Resource"] = "*"
            aws.write_policies(role, documents)
        self.accounts = {name: aws.take_role(role) for name, role in self.roles.items()}
        self.root = aws.make_root()
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """With the image of this checkout, and the account of the execution role."""
        assert self._engine
        return self._engine

    @contextlib.contextmanager
    def run_engine(self) -> Iterator[None]:
        """Have an engine within the block."""
        account = dict(self.accounts["ExecutionRole"])
        del account["AWS_ENDPOINT_URL"]  # the driver's own option says where
        with running_engine(account) as self._engine:
            self._engine.build("Dockerfile.serve", IMAGE)
            yield

    def find_container(self, stack: str, task: str) -> Any:
        """The container of a stack's task definition."""
        arn = self.aws.list_resources(stack, self.root)[task]
        found = self.aws.client("ecs", self.root).describe_task_definition(taskDefinition=arn)
        return found["taskDefinition"]["containerDefinitions"][0]

    @contextlib.contextmanager
    def network(self) -> Iterator[tuple[str, int]]:
        """A container that holds a network, as ECS's own does; its name and process."""
        words = ["run", "-d", "--rm", "--network", "none", "--entrypoint", "sleep", IMAGE, "infinity"]
        name = self.engine.docker(*words).stdout.strip()
        try:
            pid = int(self.engine.docker("inspect", "-f", "{{.State.Pid}}", name).stdout)
            address = ["ip", "address", "add", f"{ECS}/32", "dev", "lo"]
            subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", *address], check=True)
            yield name, pid
        finally:
            self.engine.docker("kill", name, check=False)

    def start(
        self,
        network: str,
        stream: str,
        *command: str,
        task: tuple[str, str] = ("service", "Task"),
        image: str = IMAGE,
        mounts: Sequence[str] = (),
        **more: str,
    ) -> str:
        """Start a task's container in a network, with read-only ``mounts`` (here:there); its name."""
        container = self.find_container(*task)
        assert container["readonlyRootFilesystem"]
        options = container["logConfiguration"]["options"]
        variables = {each["name"]: each["value"] for each in container["environment"]}
        variables |= {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": PATH}
        variables |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{S3_PORT}", "MODEL": "tiny", **more}
        words = ["run", "-d", "--network", f"container:{network}", "--read-only", "--user", container["user"]]
        words += ["--memory", "2g", "--cpus", "1"]
        for mount in container["mountPoints"]:
            words += ["-v", mount["containerPath"]]
        for mount in mounts:
            words += ["-v", f"{mount}:ro"]
        for capability in container["linuxParameters"]["capabilities"]["drop"]:
            words += ["--cap-drop", capability]
        for name, text in variables.items():
            words += ["-e", f"{name}={text}"]
        words += ["--log-driver", container["logConfiguration"]["logDriver"]]
        given = {name: text for name, text in options.items() if name != "awslogs-stream-prefix"}
        given |= {"awslogs-stream": stream, "awslogs-endpoint": self.aws.endpoint}
        for name, text in given.items():
            words += ["--log-opt", f"{name}={text}"]
        return self.engine.docker(*words, image, *command).stdout.strip()

    def read_lines(self, stream: str, group: str = GROUP) -> list[str]:
        """What has arrived of a stream."""
        client = self.aws.client("logs", self.root)
        try:
            events = client.get_log_events(logGroupName=group, logStreamName=stream, startFromHead=True)
        except client.exceptions.ResourceNotFoundException:
            return []
        return [each["message"] for each in events["events"]]

    def read_log(self, stream: str, group: str = GROUP) -> list[dict[str, Any]]:
        """The lines of a stream that are of the program's log."""
        return [json.loads(line) for line in self.read_lines(stream, group) if line.startswith('{"')]

    def wait_for_engine(self, text: str) -> None:
        """Until the engine's own log has this."""
        log = self.engine.socket.parent / "log"
        deadline = time.monotonic() + DEADLINE_S
        while text not in log.read_text("utf-8", errors="replace"):
            assert time.monotonic() < deadline, log.read_text("utf-8", errors="replace")[-2000:]

    def wait_for(self, stream: str, event: str) -> dict[str, Any]:
        """The first line of a stream that tells of ``event``."""
        deadline = time.monotonic() + DEADLINE_S
        while not (found := [line for line in self.read_log(stream) if line["event"] == event]):
            assert time.monotonic() < deadline, self.read_log(stream)
        return found[0]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Everything enforced; the registry has tiny@1 in production."""
    folder = tmp_path_factory.mktemp("aws")
    with serve_aws(folder) as aws:
        base = aws.deploy("timberline", "base.yaml")
        for name in ("service", "stages"):
            aws.deploy(name, f"{name}.yaml", **aws.list_parameters(base)[f"{name}.yaml"])
        host = Host(aws, base["Bucket"])
        with host.run_engine(), aws.enforced(), pytest.MonkeyPatch.context() as patch:
            for name, text in host.root.items():
                patch.setenv(name, text)
            publish_numeric(open_store(f"s3://{base['Bucket']}/registry"))
            yield host


@contextlib.contextmanager
def serve_account(pid: int, account: dict[str, str]) -> Iterator[list[str]]:
    """ECS's address in a network; within the block it gives this account. Yields the paths asked for."""
    asked: list[str] = []
    answer = {
        "AccessKeyId": account["AWS_ACCESS_KEY_ID"],
        "SecretAccessKey": account["AWS_SECRET_ACCESS_KEY"],
        "Token": account["AWS_SESSION_TOKEN"],
        "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600)),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if self.path == PATH else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = make_in(pid, lambda: http.server.ThreadingHTTPServer((ECS, 80), Handler))
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield asked
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def ask(pid: int, path: str) -> int:
    """Status of a request in that network, as the load balancer makes it."""

    def get() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=4)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().status

    return make_in(pid, get)


def test_the_task_serves_from_the_bucket_with_the_account_of_its_role(host: Host) -> None:
    """Without a folder that it can write, a variable with a key, or a right but to read the registry."""
    port = int(host.aws.endpoint.rpartition(":")[2])
    with host.network() as (network, pid), relay(pid, ("127.0.0.1", S3_PORT), port):
        with serve_account(pid, host.accounts["ServeRole"]) as asked:
            name = host.start(network, "serves", TIMBERLINE_SERVE_WATCH_S="1")
            assert host.wait_for("serves", "ready")["version"] == 1
            assert asked
            assert ask(pid, "/v2/health/ready") == 200
            publish_numeric(open_store(f"s3://{host.bucket}/registry"))
            assert host.wait_for("serves", "swap")["to_version"] == 2
            host.engine.docker("stop", "-t", "45", name)
        code = host.engine.docker("inspect", "-f", "{{.State.ExitCode}}", name).stdout.strip()
        host.engine.docker("rm", name)
    assert code == "0"
    assert host.wait_for("serves", "stopped")
    levels = {line["event"] for line in host.read_log("serves") if line.get("level") in ("error", "warning")}
    assert levels == set()


def test_another_role_is_not_served_with(host: Host) -> None:
    """So it was the role that the test above was served with."""
    port = int(host.aws.endpoint.rpartition(":")[2])
    with (
        host.network() as (network, pid),
        relay(pid, ("127.0.0.1", S3_PORT), port),
        serve_account(pid, host.accounts["ExecutionRole"]),
    ):
        name = host.start(network, "refused")
        assert host.engine.docker("wait", name).stdout.strip() == "3"
        host.engine.docker("rm", name)
    assert host.wait_for("refused", "starting")
    (last,) = [line for line in host.read_log("refused") if line.get("level") == "error"]
    assert "access is refused" in last["event"]


def test_a_stage_needs_no_place_but_its_tasks_disk(host: Host, tmp_path: Path) -> None:
    """Its root is read-only, and what it works on lies in the volume of its image."""
    host.engine.build("Dockerfile.train", TOOLS_IMAGE, "--target", "tools")
    table = SmallTable(tmp_path / "table", rows(50))
    toml = table.models / NAME / "model.toml"
    toml.write_text(toml.read_text("utf-8").replace(str(table.root / "table.csv"), "/table.csv"), "utf-8")
    tmp_path.chmod(0o755)
    port = int(host.aws.endpoint.rpartition(":")[2])
    with (
        host.network() as (network, pid),
        relay(pid, ("127.0.0.1", S3_PORT), port),
        serve_account(pid, host.accounts["FetchRole"]),
    ):
        name = host.start(
            network,
            "fetch",
            "fetch",
            task=("stages", "FetchTask"),
            image=TOOLS_IMAGE,
            mounts=[f"{table.models}:/app/models", f"{table.root / 'table.csv'}:/table.csv"],
            MODEL=NAME,
        )
        code = host.engine.docker("wait", name).stdout.strip()
        host.engine.docker("rm", "-v", name)
    log = host.read_log("fetch", "/timberline/stages")
    assert code == "0", log
    keys = host.aws.client("s3", host.root).list_objects_v2(Bucket=host.bucket, Prefix="data/raw/")[
        "Contents"
    ]
    assert any(each["Key"].endswith("/table.csv") for each in keys)
    assert any(line.get("event") == "fetch finished" for line in log)


@pytest.mark.parametrize("action", ["logs:CreateLogStream", "logs:PutLogEvents"])
def test_a_log_needs_each_right_of_the_execution_role(host: Host, action: str) -> None:
    """A task without a log runs, and nobody sees why it ends."""
    role = host.roles["ExecutionRole"]
    policies = host.aws.read_policies(role, host.root)
    (statement,) = (changed := copy.deepcopy(policies))["logs"]["Statement"]
    statement["Action"] = [each for each in statement["Action"] if each != action]
    stream = action.replace(":", "-")
    host.aws.write_policies(role, changed, host.root)
    try:
        words = [
            "run",
            "--rm",
            "--network",
            "none",
            "--log-driver",
            "awslogs",
            "--log-opt",
            f"awslogs-group={GROUP}",
        ]
        words += ["--log-opt", f"awslogs-stream={stream}", "--log-opt", "awslogs-region=us-east-1"]
        words += ["--log-opt", f"awslogs-endpoint={host.aws.endpoint}"]
        done = host.engine.docker(*words, IMAGE, "help", check=False)
        if done.returncode == 0:
            host.wait_for_engine(f"logStreamName={stream}")
    finally:
        host.aws.write_policies(role, policies, host.root)
    assert host.read_lines(stream) == []
    assert (done.returncode != 0) == (action == "logs:CreateLogStream"), done.stderr
