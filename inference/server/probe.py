"""Ask the service of this machine whether it is ready; a container's health check.

It runs every few seconds beside the service, so it may cost little more than the start of an
interpreter (6 ms of processor time without ``site``): nothing else of ours is imported on the way here,
and of the standard library what the interpreter has built in. `socket`, `json` or `argparse` would
each double that.

Where the service listens stands in the file that it leaves (`inference.server.acceptor`): one line,
``timberline 1 PORT HOST``, in a folder that only its user can write to. The service holds a lock on
the file for as long as it lives, so a file without one is of a service that was killed.
"""

from __future__ import annotations

import posix  # what `os` is made of

# What `socket` is made of, without the enumerations and selectors that it imports.
from _socket import AF_INET, AF_INET6, SOCK_STREAM, socket
from time import monotonic

# Of the whole exchange, from connecting to the last byte.
_LIMIT_S = 2.0
_MOST_BYTES = 65536
_DEFAULT_PORT = 8000
_ANYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
SAGEMAKER_FOLDER = b"/opt/ml/model"  # as in `inference.config`
_FLAGS = ("--port", "--runtime-dir", "--log-level", "--log-format")
_READ = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC
MAGIC = "timberline 1"
RUNTIME_DIR = "TIMBERLINE_SERVE_RUNTIME_DIR"


def main(arguments: list[str]) -> int | None:
    """Exit code of ``health`` with these arguments; None if argparse has to judge them.

    0 ready; 1 not ready, or not there; 2 not clear which of several services is meant.
    """
    words = [part for word in arguments for part in (word.split("=", 1) if word[:2] == "--" else [word])]
    given = dict(zip(words[::2], words[1::2], strict=False))
    port = given.get("--port", "0")
    if len(words) % 2 or not set(given) <= set(_FLAGS) or not (port.isascii() and port.isdigit()):
        return None
    return check(int(port), given.get("--runtime-dir", ""))


def check(port: int = 0, runtime_dir: str = "") -> int:
    """Ask the service, and write to stderr what is wrong; returns the exit code.

    Args:
        port: of the service that is meant; 0 is the one that there is, or that the environment means.
        runtime_dir: where it left its file; "" is where the environment says.
    """
    # Two of one address are a service and the one that takes over from it.
    found = list(dict.fromkeys(find_services(list_folders(runtime_dir or _read(RUNTIME_DIR)))))
    wanted = port or (_read_port() if len(found) != 1 else 0)
    services = [address for address in found if wanted in (0, address[1])]
    if len(found) > 1 and not port and len(services) != 1:
        ports = ", ".join(str(number) for _, number in found)
        return _end(2, f"several services are here, on ports {ports}; say which with --port")
    reasons = [_ask_any(address[:1], address[1]) for address in services] or [_ask_any(_list_hosts(), wanted)]
    wrong = [reason for reason in reasons if reason]
    return _end(1, wrong[0]) if wrong else 0


def list_folders(runtime_dir: str) -> list[str]:
    """Where a service of this user may have left its file, the first choice first.

    ``runtime_dir`` alone if it is given; else the user's own folder of the session, and what is
    writable in most containers, the last also in one whose root is not.
    """
    session = _read("XDG_RUNTIME_DIR")
    bases = [runtime_dir] if runtime_dir else [*([session] if session[:1] == "/" else []), "/tmp", "/dev/shm"]
    return [f"{base}/timberline-{posix.geteuid()}" for base in bases]


def open_folder(path: str) -> int | None:
    """Descriptor of a folder that belongs to this user alone; None if it is not there or does not.

    Every user can write to ``/tmp``: another one may have made a folder or a link of this name.
    """
    try:
        fd = posix.open(path, _READ | posix.O_DIRECTORY)
    except OSError:
        return None
    status = posix.fstat(fd)
    if status.st_uid == posix.geteuid() and not status.st_mode & 0o077:
        return fd
    posix.close(fd)
    return None


def find_services(folders: list[str]) -> list[tuple[str, int]]:
    """Host and port of every service of this user that lives and has written where it listens."""
    found: list[tuple[str, int]] = []
    for folder in folders:
        fd = open_folder(folder)
        if fd is None:
            continue
        found += filter(None, [_read_address(fd, entry.name) for entry in posix.scandir(fd)])
        posix.close(fd)
    return found


def is_alive(fd: int) -> bool:
    """Whether another process holds the lock of the file behind ``fd``."""
    try:
        posix.lockf(fd, posix.F_TEST, 0)
    except OSError:
        return True
    return False


def _read_address(folder: int, name: str) -> tuple[str, int] | None:
    try:
        fd = posix.open(name, _READ | posix.O_NONBLOCK, dir_fd=folder)  # a pipe must not hold it up
    except OSError:
        return None
    try:
        line, end, _ = posix.read(fd, 256).partition(b"\n")
        before, _, address = line.decode("ascii", "replace").partition(f"{MAGIC} ")
        port, _, host = address.partition(" ")
        return (host, int(port)) if end and not before and port.isdigit() and is_alive(fd) else None
    except OSError:  # a folder
        return None
    finally:
        posix.close(fd)


def _read(variable: str) -> str:
    return posix.environ.get(variable.encode(), b"").decode("utf-8", "surrogateescape")


def _read_port() -> int:
    """The port that the environment asks for, as `inference.config.resolve_config` reads it."""
    is_sagemaker = _is_folder(SAGEMAKER_FOLDER) or any(
        name[:10] == b"SAGEMAKER_" and text for name, text in posix.environ.items()
    )
    names = ("PORT", "SAGEMAKER_BIND_TO_PORT", "AIP_HTTP_PORT")
    for text in (*map(_read, names), "8080" if is_sagemaker else ""):
        if text.isascii() and text.isdigit():
            return int(text)
    return _DEFAULT_PORT


def _is_folder(path: bytes) -> bool:
    try:
        return posix.stat(path).st_mode & 0o170000 == 0o040000  # S_ISDIR
    except OSError:
        return False


def _list_hosts() -> tuple[str, ...]:
    """Where a service listens that could not leave its file: what ``HOST`` says, else loopback."""
    host = _read("HOST")
    return (host,) if host else ("127.0.0.1", "::1")


def _ask_any(hosts: tuple[str, ...], port: int) -> str:
    """The reason why none of them is ready; "" if one is. The next is asked only if nothing listens there."""
    reason = ""
    for host in hosts:
        try:
            status = ask(_ANYWHERE.get(host, host), port)
        except TimeoutError:
            return f"{host} port {port}: no whole answer within {_LIMIT_S} s"
        except (OSError, OverflowError) as error:  # the latter is of a port beyond 65535
            reason = reason or f"{host} port {port}: {getattr(error, 'strerror', None) or error}"
            continue
        return "" if status == 200 else f"{host} port {port}: status {status}"
    return reason


def ask(host: str, port: int) -> int:
    """Status of ``GET /v2/health/ready``; 0 if what came is not one whole HTTP answer.

    Raises:
        TimeoutError: the exchange took more than two seconds in all.
        OSError: nothing listens, or the connection broke.
    """
    deadline = monotonic() + _LIMIT_S
    connection = socket(AF_INET6 if ":" in host else AF_INET, SOCK_STREAM)
    try:
        connection.settimeout(_LIMIT_S)
        connection.connect((host, port))
        connection.settimeout(_left(deadline))
        name = f"[{host.partition('%')[0]}]" if ":" in host else host
        head = f"GET /v2/health/ready HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        received = b""
        while len(received) < _MOST_BYTES:
            connection.settimeout(_left(deadline))
            part = connection.recv(_MOST_BYTES)
            received += part
            status, rest = _parse(received)
            if status and (rest == 0 if rest is not None else not part):
                return status
            if not part:
                return 0
        return 0
    finally:
        connection.close()


def _left(deadline: float) -> float:
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _parse(received: bytes) -> tuple[int, int | None]:
    """Status of the final answer and how many bytes of it are missing.

    The status is 0 until its head is whole, the number None if the answer ends with the connection.
    """
    status = 100
    while status < 200:  # RFC 9110, 15.2: any number of these may come before
        head, end, received = received.partition(b"\r\n\r\n")
        line, *fields = head.split(b"\r\n")
        if not end or line[:7] != b"HTTP/1." or line[8:9] != b" " or not line[9:12].isdigit():
            return 0, None
        status = int(line[9:12])
    for field in fields:
        name, _, value = field.partition(b":")
        if name.lower() == b"content-length" and value.strip().isdigit():
            return status, max(0, int(value) - len(received))
    return status, None


def _end(code: int, message: str) -> int:
    try:
        posix.write(2, f"health: {message}\n".encode())
    except OSError:  # stderr is closed
        return code
    return code
