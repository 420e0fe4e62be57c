"""Credentials of a bucket are in no message, no log line and no document, whatever goes wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest

from tests.support.registry_commands import build_registry
from tests.support.s3_server import S3Server, serve_s3

SECRET = "s3cr3t-k3y-0123456789"
WRONG = "wr0ng-k3y-0123456789"
NOBODY = "n0b0dy-0123456789"
URL = "s3://registry/prefix"
COMMANDS = {
    "list": ["list"],
    "verify": ["verify"],
    "show": ["show", "tiny@1"],
    "promote": ["promote", "tiny@2", "--force", "--reason", "because"],
    "repair": ["repair", "tiny@production", "1", "--reason", "because"],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real server with a registry."""
    with (
        serve_s3(tmp_path_factory.mktemp("s3"), access_key="k3y-0f-t3sts", secret_key=SECRET) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in server.environment.items():
            patch.setenv(name, value)
        server.make_bucket("registry")
        build_registry(URL)
        yield server


def run(command: list[str], server: S3Server, home: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """A command of the registry in a process of its own, with all of its log and tracebacks."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    kept |= server.environment | {"HOME": str(home)} | changes
    words = ["-m", "timberline.registry", *command, "--registry", URL, "--log-level", "debug"]
    return subprocess.run(
        [sys.executable, *words], env=kept, capture_output=True, text=True, timeout=120, check=False
    )


def find_secrets(text: str, server: S3Server) -> list[str]:
    """Which of them are in it."""
    return [secret for secret in (SECRET, WRONG, NOBODY, server.access_key) if secret in text]


def refuse(server: S3Server, how: str) -> dict[str, str]:
    """An environment in which every command is refused."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return {
        "wrong secret": {"AWS_SECRET_ACCESS_KEY": WRONG},
        "unknown account": {"AWS_ACCESS_KEY_ID": NOBODY},
        "no server": {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"},
        "no TLS": {"AWS_ENDPOINT_URL": server.endpoint.replace("http://", "https://")},
        "in the endpoint": {"AWS_ENDPOINT_URL": server.endpoint.replace("//", f"//user:{WRONG}@")},
    }[how]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("wrong secret", "access is refused"),
        ("unknown account", "access is refused"),
        ("no server", "nobody listens there"),
        ("no TLS", "TLS cannot be spoken"),
        ("in the endpoint", "AWS_ENDPOINT_URL: has a user"),
    ],
)
@pytest.mark.parametrize("command", ["list", "promote"])
def test_a_command_that_is_refused_tells_no_credential(
    server: S3Server, tmp_path: Path, how: str, expected: str, command: str
) -> None:
    """The client's error quotes the whole request, and logs are kept and shown to others."""
    ended = run(COMMANDS[command], server, tmp_path, **refuse(server, how))
    told = ended.stdout + ended.stderr
    assert ended.returncode == (2 if how == "in the endpoint" else 3)
    assert expected in told
    assert not find_secrets(told, server)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_succeeds_tells_no_credential(server: S3Server, tmp_path: Path, command: str) -> None:
    """Neither with the account in the environment nor with that of a profile."""
    ended = run(COMMANDS[command], server, tmp_path)
    assert ended.returncode == 0, ended.stderr
    (tmp_path / ".aws").mkdir()
    keys = f"aws_access_key_id = {server.access_key}\naws_secret_access_key = {SECRET}\n"
    (tmp_path / ".aws/credentials").write_text(f"[team]\n{keys}")
    alone = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_PROFILE": "team"}
    again = run(COMMANDS[command], server, tmp_path, **alone)
    assert again.returncode == 0, again.stderr
    assert not find_secrets(ended.stdout + ended.stderr + again.stdout + again.stderr, server)


def test_no_document_has_a_credential(server: S3Server) -> None:
    """What is written says who wrote it, and is for everybody who may read the bucket."""
    client = server.open("s3://registry")
    keys = [each["path"] for page in obstore.list(client) for each in page]
    assert len(keys) > 20
    for key in keys:
        data = bytes(obstore.get(client, key).bytes())
        assert not find_secrets(key + data.decode(errors="replace"), server), key
