"""The fixtures that several parts of the tests share, and what holds in every test.

In every test a lost log line is an error, no usage is reported, and SIGINT ends a process. A fixture
imports what it needs when it is asked for: a test of the registry does not wait for ONNX.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from timberline.registry.runtime.logs import NO_TELEMETRY
from timberline.registry.store import Store, open_store

if TYPE_CHECKING:
    from tests.support.bucket_service import Bucket, Place
    from tests.support.s3_proxy import S3Proxy
    from tests.support.service import RunningService, Serve
    from timberline.training.config import ModelConfig


def _raise(_handler: logging.Handler, _record: logging.LogRecord) -> None:
    """Called by a handler while it handles the exception that kept the line from being written."""
    raise  # noqa: PLE0704


pytest_plugins = ["tests.support.proofs"]

os.environ.update(NO_TELEMETRY)
# What a test damages in a bucket must not be found whole in a folder of the person who runs it.
os.environ["TIMBERLINE_CACHE"] = "off"

# A shell has what it starts in the background ignore SIGINT; so would every process that a test ends by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# logging prints "--- Logging error ---" to stderr and goes on, where nobody sees it but a user.
logging.Handler.handleError = _raise  # type: ignore[assignment, method-assign]  # replaced on purpose


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty registry."""
    return open_store(tmp_path / "registry")


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """The folder of a registry with tiny@production, which the test may change."""
    from tests.support.tiny_model import publish_numeric

    publish_numeric(open_store(tmp_path / "registry"))
    return tmp_path / "registry"


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a registry with tiny@production and tiny_text@production, which no test changes."""
    from tests.support.tiny_model import publish_mixed, publish_numeric

    folder: Path = tmp_path_factory.mktemp("published")
    publish_numeric(open_store(folder))
    publish_mixed(open_store(folder))
    return folder


@pytest.fixture
def service(registry: Path) -> Iterator[RunningService]:
    """A service of `registry` for one test alone, which may count its requests or kill it."""
    from tests.support.service import running_service

    with running_service(registry, "tiny") as running:
        yield running


@pytest.fixture(scope="module")
def serve(published: Path) -> Iterator[Serve]:
    """Starts services of `published`, which end with the module; arguments as of `running_service`."""
    from tests.support.service import running_service

    with contextlib.ExitStack() as services:

        def start(model: str, *flags: str, **more: Any) -> RunningService:
            return services.enter_context(running_service(published, model, *flags, **more))

        yield start


@pytest.fixture(scope="module")
def text_service(serve: Serve) -> RunningService:
    """A service of the model with text columns that the module's tests share."""
    return serve("tiny_text")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of model folders that the module's tests share."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def config(models: Path) -> ModelConfig:
    """The settings of the small model that `tests.support.prepared` writes into `models`."""
    from tests.support.prepared import write_model

    return write_model(models)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Proxy]:
    """A proxy in front of a real S3 server with the bucket ``registry``, to which the environment leads."""
    from tests.support.s3_proxy import serve_proxied

    with serve_proxied(tmp_path_factory.mktemp("s3"), "registry") as (_, proxy):
        yield proxy


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A real S3 server behind a proxy, for the services of this file only."""
    from tests.support.bucket_service import serve_bucket

    with serve_bucket(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def bucket(place: Place) -> Bucket:
    """A registry of the test's own in the bucket of `place`."""
    return place.open_bucket()


@pytest.hookimpl(optionalhook=True)  # xdist's
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Two workers a processor for ``-n auto``, as far as memory goes: half of most tests is waiting.

    What they wait for are processes that start, windows of a measurement and polls. A worker with
    TensorFlow and what its tests start take less than 2 GiB. ``-n logical`` and the variable are xdist's.
    """
    if config.option.numprocesses == "logical" or os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    room = int(psutil.virtual_memory().available) // 2**31
    return max(1, min(2 * len(os.sched_getaffinity(0)), room))


def pytest_sessionfinish() -> None:
    """`make coverage`: keep the counts now; a process of xdist has ten seconds to end and is killed then."""
    coverage = sys.modules.get("coverage")
    measured = coverage.Coverage.current() if coverage else None
    if measured is not None:
        measured.save()
