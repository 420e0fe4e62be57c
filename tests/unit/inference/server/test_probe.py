"""The health check's own HTTP, where it looks, and what it makes of what it finds."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.service import DEADLINE_S, ROOT
from timberline.inference import config
from timberline.inference.config import environment_name, resolve_config
from timberline.inference.server.acceptor import StateFile
from timberline.inference.server.probe import (
    RUNTIME_DIR,
    SAGEMAKER_FOLDER,
    ask,
    find_services,
    list_folders,
    main,
)
from timberline.registry.errors import ConfigError

READY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@contextlib.contextmanager
def answering(*parts: bytes, closes: bool = True, host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A server that takes one request and sends ``parts``, each in a segment of its own."""
    over = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(ConnectionError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            received = b""
            while not received.endswith(b"\r\n\r\n"):
                received += connection.recv(4096)
            seen.append(received)
            for part in parts:
                connection.sendall(part)
            if not closes:
                over.wait(DEADLINE_S)

    seen: list[bytes] = []
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener
        finally:
            over.set()
            thread.join(DEADLINE_S)
    assert [request.split(b"\r\n")[0] for request in seen] == [b"GET /v2/health/ready HTTP/1.1"]


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([READY], 200),
        ([READY[:5], READY[5:20], READY[20:-1], READY[-1:]], 200),
        ([b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", READY], 200),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + READY], 200),
        ([b"HTTP/1.1 200 OK\r\n\r\nuntil the end"], 200),
        ([b"HTTP/1.1 200\r\ncontent-length:0\r\n\r\n"], 200),
        ([b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}"], 503),
        ([READY[:-1]], 0),  # broken off in its body
        ([b"HTTP/1.1 200 OK\r\nContent-Le"], 0),
        ([b"HTTP/1.1 503 No\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"], 503),
        ([b"SSH-2.0-OpenSSH_9\r\n\r\n"], 0),
        ([b"HTTP/1.1 2OO OK\r\n\r\n"], 0),
        ([b""], 0),
        ([b"HTTP/1.1 200 OK\r\nx: " + b"x" * 100_000 + b"\r\n\r\n"], 0),
    ],
)
def test_an_answer_is_read_as_http_says(parts: Sequence[bytes], status: int) -> None:
    """Half an answer is of a service that broke in the middle; nobody is to be sent there."""
    with answering(*parts) as listener, contextlib.suppress(ConnectionResetError):
        assert ask("127.0.0.1", listener.getsockname()[1]) == status


def test_a_connection_that_stays_open_holds_nobody_up() -> None:
    """The length says where the answer ends; a proxy in between may keep the connection."""
    with answering(READY, closes=False) as listener:
        assert ask("127.0.0.1", listener.getsockname()[1]) == 200


def test_the_whole_exchange_has_one_limit() -> None:
    """A service that sends a byte now and then is not ready, however often it does."""
    over = threading.Event()
    sent = [0]

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while not over.wait(0.05) and sent[0] < 1000:
                connection.sendall(b"H" if sent[0] else b"HTTP/1.1 200 OK\r\nx: ")
                sent[0] += 1

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: drip(listener.accept()[0]))
        thread.start()
        try:
            with pytest.raises(TimeoutError):
                ask("127.0.0.1", listener.getsockname()[1])
        finally:
            over.set()
            thread.join(DEADLINE_S)
    assert 5 < sent[0] < 1000


@pytest.mark.parametrize(
    "arguments", [["--port"], ["--port", "x"], ["--prot", "1"], ["now"], ["--help"], ["--port", "-1"]]
)
def test_arguments_that_are_not_understood_go_to_a_real_parser(arguments: list[str]) -> None:
    """It words the mistake and knows the help; this one is to be cheap."""
    assert main(arguments) is None


def test_the_variable_is_the_settings() -> None:
    """The probe cannot import the settings, which would cost it more than all it does."""
    assert environment_name("runtime_dir") == RUNTIME_DIR
    assert config.SAGEMAKER_FOLDER.encode() == SAGEMAKER_FOLDER


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PORT": "9000"},
        {"PORT": "", "AIP_HTTP_PORT": "8123"},
        {"AIP_HTTP_PORT": "8123", "SAGEMAKER_BIND_TO_PORT": "8456"},
        {"SAGEMAKER_REGION": "x"},
        {"SAGEMAKER_REGION": "x", "AIP_HTTP_PORT": "8123", "PORT": "7"},
        {"AIP_HTTP_PORT": "tcp://10.0.0.7:8000"},
    ],
)
def test_without_a_file_the_port_is_the_one_of_the_settings(environment: Mapping[str, str]) -> None:
    """The probe reads these variables by itself; two readings must not differ."""
    code = "import timberline.inference.server.probe as p; print(p._read_port())"
    command = [sys.executable, "-S", "-E", "-c", code]
    done = subprocess.run(
        command, cwd=ROOT / "src", env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == resolve_config({}, environment).port


def leave(folder: Path) -> subprocess.Popen[str]:
    """A process that says it listens on 10.1.2.3, port 4, until its input ends."""
    code = (
        "import sys; from timberline.inference.server.acceptor import StateFile\n"
        "with StateFile(sys.argv[1]) as file:\n"
        "    file.write('10.1.2.3', 4); print('left', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "left\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    """Have it end by itself."""
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0


def test_a_file_counts_as_long_as_its_process_lives(tmp_path: Path) -> None:
    """After a SIGKILL it lies there still, and its port may be somebody else's by then."""
    (folder,) = list_folders(str(tmp_path))
    killed, lasting = leave(tmp_path), leave(tmp_path)
    assert find_services([folder]) == [("10.1.2.3", 4)] * 2
    killed.kill()
    killed.communicate(timeout=DEADLINE_S)
    assert find_services([folder]) == [("10.1.2.3", 4)]
    assert len(list(Path(folder).iterdir())) == 2
    end(leave(tmp_path))  # removes what it finds, and its own
    assert len(list(Path(folder).iterdir())) == 1
    end(lasting)
    assert list(Path(folder).iterdir()) == []


def test_a_service_that_cannot_leave_its_file_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder was cleaned up, a disk is full: it is there to answer, and the log says what to do."""
    (folder,) = map(Path, list_folders(str(tmp_path)))
    with StateFile(str(tmp_path)) as file:
        folder.rmdir()
        file.write("127.0.0.1", 4)
    assert [record.getMessage() for record in caplog.records] == ["no state file"]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_others_can_write_to_is_not_believed(tmp_path: Path) -> None:
    """In /tmp anybody can make our folder first, and say in it that all is well."""
    (folder,) = list_folders(str(tmp_path))
    process = leave(tmp_path)
    try:
        Path(folder).chmod(0o777)
        assert find_services([folder]) == []
        with pytest.raises(ConfigError, match="no folder of this user's own"), StateFile(str(tmp_path)):
            pass
    finally:
        end(process)


def test_a_link_in_the_folders_place_is_not_followed(tmp_path: Path) -> None:
    """It would have the service write into, and remove from, a folder of the attacker's choice."""
    (theirs,) = list_folders(str(tmp_path / "theirs"))
    ours = tmp_path / "ours"
    ours.mkdir()
    (tmp_path / "theirs").mkdir()
    process = leave(tmp_path / "theirs")
    try:
        (folder,) = list_folders(str(ours))
        Path(folder).symlink_to(theirs)
        assert find_services([folder]) == []
        with pytest.raises(ConfigError), StateFile(str(ours)):
            pass
        assert find_services([theirs]) == [("10.1.2.3", 4)]
    finally:
        end(process)


def test_what_is_no_file_of_a_service_is_passed_over(tmp_path: Path) -> None:
    """A pipe must not hang the check, nor an odd file end it; what is a link is not read."""
    process = leave(tmp_path)
    try:
        (folder,) = map(Path, list_folders(str(tmp_path)))
        (real,) = folder.iterdir()
        os.mkfifo(folder / "pipe")
        (folder / "folder").mkdir()
        (folder / "link").symlink_to(real)
        (folder / "empty").touch()
        for number, text in enumerate(
            (b"x", b"timberline 1 x 1.1.1.1\n", b"\xff" * 5000, b"timberline 1 4 h")
        ):
            (folder / f"odd{number}").write_bytes(text)
        assert find_services([str(folder)]) == [("10.1.2.3", 4)]
    finally:
        end(process)
