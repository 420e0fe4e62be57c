"""The service's settings: flag > environment > platform > default, resolved once at the process edge.

Managed platforms say by variables or folders how a container is to listen:

- Amazon SageMaker: port 8080 (or ``SAGEMAKER_BIND_TO_PORT``), ``GET /ping``, ``POST /invocations``. It runs
  ``docker run IMAGE serve``, promises no variable, and unpacks the model's archive at ``/opt/ml/model``.
- Google Vertex AI: ``AIP_HTTP_PORT``, ``AIP_HEALTH_ROUTE`` and ``AIP_PREDICT_ROUTE``.

What they ask for are defaults: a flag or a variable of the service's own comes before them.

A supervisor sends each worker its settings as one line of JSON on the worker's standard input, not on the
command line: every user of the machine can read that one, and settings may hold tokens. The input stays
open as long as the supervisor lives, so its end tells the worker that the supervisor is gone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import msgspec

from timberline.registry.cache import CACHE_BYTES
from timberline.registry.errors import ConfigError
from timberline.registry.names import check_name
from timberline.registry.runtime.documents import decode_json

# An answer names every class in every row, and may be much longer than its request. So many times the
# longest body is the most of it that is kept, and no less than this.
_ANSWER_PER_BODY = 4
_LEAST_ANSWER_BYTES = 64 * 1024 * 1024
_WATCH_FOLDER_S = 1.0
_WATCH_BUCKET_S = 20.0
_ENVIRONMENT_PREFIX = "TIMBERLINE_SERVE_"
_PATHS = ("predict_route", "health_route", "root_path")
# The names that every target of the Makefile and every container platform uses.
_SHARED_NAMES = {"model": "MODEL", "registry": "REGISTRY", "host": "HOST", "port": "PORT"}
# What Kubernetes sets in every pod for every Service of its namespace, by the Service's name (service links:
# pkg/kubelet/envvars/envvars.go). NAME_PORT is known by its value, as settings of ours end in it too.
_LINK_NAME = re.compile(
    r"\w+(_SERVICE_HOST|_SERVICE_PORT(_\w+)?|_PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)", re.ASCII
)
_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://\S+")


# "SageMaker AI hosting containers: How SageMaker AI Loads Your Model Artifacts".
SAGEMAKER_FOLDER = "/opt/ml/model"

_PREFIXES = ("AIP_", "SAGEMAKER_")
# By setting: the variables that it is taken from.
_VARIABLES = {
    "port": ("AIP_HTTP_PORT", "SAGEMAKER_BIND_TO_PORT"),
    "health_route": ("AIP_HEALTH_ROUTE",),
    "predict_route": ("AIP_PREDICT_ROUTE",),
}
# What a request's path can hold as it stands (RFC 3986, 3.3): no query, no escape, no pattern.
_ROUTE = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*\Z")


class ServiceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one service process runs. Sizes in bytes, times in seconds.

    - ``model``: ``name``, ``name@alias`` or ``name@7``, several with commas between; a bare name is
      ``name@production``, and the first is the one behind ``/predict``.
    - ``port`` 0 takes a free one.
    - ``reuse_port``: whether another service of this user may take the port over, which gets every new
      connection from then on; two at a time.
    - ``workers``: processes; from 2 on they are watched over by one more, which restarts those that end.
    - ``threads``: how many large requests are worked on at the same time, beside the event loop;
      0 is a worker's share of the container's CPU quota. One Run always uses one thread.
    - ``max_body_bytes``: also the bound of what a compressed body may grow to.
    - ``max_receiving_bytes``: bytes of bodies, inflated or not, that all connections of a worker hold
      together, from the first byte until the answer; never less than ``max_body_bytes``.
    - ``inline_max_rows``, ``inline_max_body_bytes``: up to here a request is answered on the event
      loop. A hand-over to a thread costs about 40 µs; 64 rows through the networks at hand take
      0.07 to 0.5 ms, which is what a request behind it may have to wait.
    - ``max_requests_in_work``: of one worker; beyond it requests are turned away at once.
    - ``max_connections``: of one worker; one more takes the place of an idle one, or is refused.
    - ``deadline_s``: a request that is not answered by then is given up.
    - ``receive_timeout_s``: how long a client may take to send one request, head and body.
    - ``registry``: a folder, or ``s3://bucket/prefix``.
    - ``watch_s``: how often the registry is asked where an alias points; 0 is never, None as in
      ``watch_every_s``. Of a bucket the mean: each pause is between half of it and one and a half.
    - ``cache_dir``, ``cache_bytes``: where copies of what a bucket has are kept (`registry.cache`), and how
      many bytes of them; "" is the first of the usual folders that can be used, 0 bytes is no cache.
    - ``load_timeout_s``, ``load_memory_bytes``: what loading one version may take; more is a version that
      is not served. Of the memory, that which is added to an empty process.
    - ``canary``: ``alias=share`` or ``number=share``: the share (0 to 1) of the default model's
      requests that this version answers. Requests with the same ``canary_header`` go the same way.
    - ``shadow``: ``alias=share``: the share of requests that this version is asked too, unseen by clients.
    - ``warnings``: whether answers say which features had a value that training did not know.
    - ``drift_window_rows``: rows over which drift is measured; 0 is not at all.
    - ``metrics_port``: a port of its own for ``/metrics``; 0 is the port of everything else.
    - ``tokens``, ``tokens_file``: bearer tokens, with commas or on lines; with any, everything but
      health asks for one.
    - ``request_log``: one line in the log for every request.
    - ``server_timing``: every answer to a ``POST`` says what it cost (`inference.server.timing`); for
      measurements, as it describes the machine to strangers.
    - ``predict_route``, ``health_route``: one more path for ``POST /predict`` and for readiness.
    - ``root_path``: what a proxy in front has before every path; it stands in links and documents, and
      requests may have it or not. No header of a request decides this, as anybody can send one.
    - ``cors_origin``: origins with commas between, or ``*``: whose pages may ask (`inference.routes.access`).
    - ``drain_s``: how long after SIGTERM new work is still answered while readiness already says no,
      for load balancers that learn of it late.
    - ``shutdown_grace_s``: how long requests in flight may take after that.
    - ``keep_alive_s``: longer than the 60 s after which common load balancers let go of an idle
      connection, so that it is never the service that closes one in use.
    - ``runtime_dir``: where the service leaves the file that ``health`` finds it by
      (`inference.server.acceptor`); "" is the first of the usual folders that can be used.
    """

    model: str = "forest_cover"
    registry: str = "var/registry"
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8000
    reuse_port: bool = False
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    threads: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    max_body_bytes: Annotated[int, msgspec.Meta(ge=1)] = 16 * 1024 * 1024
    max_receiving_bytes: Annotated[int, msgspec.Meta(ge=1)] = 64 * 1024 * 1024
    max_rows: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    inline_max_rows: Annotated[int, msgspec.Meta(ge=0)] = 64
    inline_max_body_bytes: Annotated[int, msgspec.Meta(ge=0)] = 64 * 1024
    max_requests_in_work: Annotated[int, msgspec.Meta(ge=1)] = 256
    max_connections: Annotated[int, msgspec.Meta(ge=1)] = 1024
    deadline_s: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    receive_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    watch_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    cache_dir: str = ""
    cache_bytes: Annotated[int, msgspec.Meta(ge=0)] = CACHE_BYTES
    load_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    load_memory_bytes: Annotated[int, msgspec.Meta(ge=1)] = 1024 * 1024 * 1024
    canary: str = ""
    canary_header: str = "x-request-key"
    shadow: str = ""
    warnings: bool = False
    drift_window_rows: Annotated[int, msgspec.Meta(ge=0)] = 1000
    metrics_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    tokens: str = ""
    tokens_file: str = ""
    request_log: bool = False
    server_timing: bool = False
    predict_route: str = ""
    health_route: str = ""
    root_path: str = ""
    cors_origin: str = ""
    drain_s: Annotated[float, msgspec.Meta(ge=0)] = 0
    shutdown_grace_s: Annotated[float, msgspec.Meta(ge=0)] = 30
    keep_alive_s: Annotated[float, msgspec.Meta(gt=0)] = 75
    runtime_dir: str = ""

    @property
    def is_remote(self) -> bool:
        """Whether the registry is a bucket."""
        return "://" in self.registry and not self.registry.startswith("file://")

    @property
    def watch_every_s(self) -> float:
        """Seconds between two looks at the registry; in a bucket each costs money."""
        if self.watch_s is not None:
            return self.watch_s
        return _WATCH_BUCKET_S if self.is_remote else _WATCH_FOLDER_S

    @property
    def max_answer_bytes(self) -> int:
        """Longest answer."""
        return max(_ANSWER_PER_BODY * self.max_body_bytes, _LEAST_ANSWER_BYTES)


def environment_name(key: str) -> str:
    """The variable that sets ``key``: ``PORT``, ``TIMBERLINE_SERVE_MAX_ROWS``."""
    return _SHARED_NAMES.get(key, f"{_ENVIRONMENT_PREFIX}{key.upper()}")


def resolve_config(
    flags: Mapping[str, str | None],
    environment: Mapping[str, str],
    *,
    sagemaker_folder: str = SAGEMAKER_FOLDER,
) -> ServiceConfig:
    """Settings from ``flags`` (None where not given) over ``environment`` over the defaults.

    Between the last two is what a managed platform asks for, by its own variables or by the folder
    ``sagemaker_folder`` (`inference.platforms`); under one, the default of ``host`` is
    ``0.0.0.0``. An empty variable counts as not set, as
    compose files and shells write "nothing" that way. Service links are no settings.

    Raises:
        ConfigError: a value is of the wrong type or out of range; says which and where it came from.
    """
    chosen: dict[str, str] = {}
    origins: dict[str, str] = {}
    environment = {name: text for name, text in environment.items() if not is_service_link(name, text)}
    platform = read_platform(environment, sagemaker_folder)
    for key in ServiceConfig.__struct_fields__:
        variable = environment_name(key)
        if (flag := flags.get(key)) is not None:
            chosen[key], origins[key] = flag, f"--{key.replace('_', '-')}"
        elif environment.get(variable):
            chosen[key], origins[key] = environment[variable], f"environment {variable}"
        elif key in platform:
            chosen[key], origins[key] = platform[key]
    if chosen.get("tokens_file") == "":  # a shell's variable that is not set: it was meant to guard
        raise ConfigError("found '', expected a file of tokens", where=origins["tokens_file"])
    _refuse_unknown(environment)
    for key, text in chosen.items():
        _convert({key: text}, where=origins[key])  # one by one, so that the error can name its origin
        if key in _PATHS and text:
            check_route(text, where=origins[key])
    if "root_path" in chosen:  # joined to paths, which begin with a slash
        chosen["root_path"] = chosen["root_path"].rstrip("/")
    return _convert(chosen, where="settings")


def read_platform(
    environment: Mapping[str, str], sagemaker_folder: str = SAGEMAKER_FOLDER
) -> dict[str, tuple[str, str]]:
    """Settings that a managed platform asks for: by name, the value and where it was read.

    A platform talks to the container from outside, so that under one the host is every address.

    Args:
        environment: variables by name; empty ones count as not set.
        sagemaker_folder: the registry, if there is such a folder; if it holds one model only, that is
            the default one, as a registry of one model is what an archive usually is.
    """
    found: dict[str, tuple[str, str]] = {}
    if os.path.isdir(sagemaker_folder):  # noqa: PTH112 - Path.is_dir raises where nothing may be looked up
        found = {"host": ("0.0.0.0", sagemaker_folder), "port": ("8080", sagemaker_folder)}
        found["registry"] = (sagemaker_folder, sagemaker_folder)
        if len(models := _list_models(sagemaker_folder)) == 1:
            found["model"] = (models[0], sagemaker_folder)
    for name in sorted(environment):
        if name.startswith(_PREFIXES) and environment[name]:
            found["host"] = ("0.0.0.0", f"environment {name}")
            if name.startswith("SAGEMAKER_"):
                found["port"] = ("8080", f"environment {name}")
    for key, names in _VARIABLES.items():
        for name in names:
            if environment.get(name):
                found[key] = (environment[name], f"environment {name}")
    return found


def _list_models(folder: str) -> list[str]:
    """Names of folders that may be models; none if the folder cannot be read, which loading reports."""
    try:
        return [entry.name for entry in Path(folder).iterdir() if _is_model(entry)]
    except OSError:
        return []


def _is_model(folder: Path) -> bool:
    try:
        check_name(folder.name, "a model")
    except ConfigError:  # .staging, lost+found
        return False
    return folder.is_dir()


def check_route(route: str, *, where: str) -> None:
    """Refuse a path that no request can have, or that starlette would take for a pattern.

    Raises:
        ConfigError: it is one; ``where`` is where it was set.
    """
    if not _ROUTE.match(route):
        raise ConfigError(
            f"found {route!r:.80}, expected a path such as /score",
            where=where,
            hint="It begins with a slash.",
        )


def is_service_link(name: str, text: str) -> bool:
    """Whether Kubernetes set this variable for a Service of the namespace, which may be called like us.

    A Service ``timberline-serve-metrics`` gives ``TIMBERLINE_SERVE_METRICS_PORT=tcp://10.0.0.7:9000``.
    """
    if _LINK_NAME.fullmatch(name):
        return True
    return name.endswith("_PORT") and _LINK_VALUE.fullmatch(text) is not None


def _convert(tree: dict[str, Any], *, where: str) -> ServiceConfig:
    try:
        return msgspec.convert(tree, ServiceConfig, strict=False)
    except msgspec.ValidationError as error:
        found = ", ".join(repr(value)[:80] for value in tree.values())
        message = str(error).partition(" - at ")[0]
        raise ConfigError(f"found {found}: {message[0].lower()}{message[1:]}", where=where) from None


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    known = {environment_name(key) for key in ServiceConfig.__struct_fields__}
    for name in environment:
        if name.startswith(_ENVIRONMENT_PREFIX) and name not in known:
            valid = ", ".join(sorted(known))
            raise ConfigError("no such setting", where=f"environment {name}", hint=f"Known: {valid}.")


# Why a worker is replaced: it was stuck, a signal ended it, it ended by itself, or all are replaced.
Replaced = Literal["hung", "killed", "ended", "rolled"]


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor gives to a worker: settings, and the numbers of inherited file descriptors.

    - ``worker``: the slot that this worker takes in everything shared, from 0;
    - ``slots``: how many there are: one more than workers, for a replacement beside the one it replaces;
    - ``replaces``: why this worker takes the place of another; empty at the start;
    - ``socket_fd``, ``metrics_socket_fd``: bound sockets;
    - ``counts_fd``, ``metrics_fd``, ``trials_fd``, ``board_fd``: memory of
      `inference.server.acceptor.ConnectionCounts`, of `inference.metrics.shared_memory`, of
      `inference.models.trial.Ledger` and of `inference.models.board.Board`.
    """

    config: ServiceConfig
    worker: int
    slots: int
    socket_fd: int
    metrics_socket_fd: int | None
    counts_fd: int
    metrics_fd: int
    trials_fd: int
    board_fd: int
    replaces: Replaced | Literal[""] = ""

    @property
    def fds(self) -> tuple[int, ...]:
        """File descriptors that the worker must inherit."""
        shared = (self.counts_fd, self.metrics_fd, self.trials_fd, self.board_fd)
        fds = (self.socket_fd, self.metrics_socket_fd, *shared)
        return tuple(fd for fd in fds if fd is not None)


def write_worker_config(config: WorkerConfig) -> bytes:
    """The line for a worker's standard input."""
    return msgspec.json.encode(config) + b"\n"


def read_worker_config(source: BinaryIO) -> WorkerConfig:
    """Read the line from a worker's standard input.

    Raises:
        ConfigError: it is none: not the supervisor but a person started this process.
    """
    try:
        return decode_json(source.readline(), WorkerConfig)
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"these are no settings of a worker: {error}",
            where="standard input",
            hint="Use timberline serve --workers N.",
        ) from None
