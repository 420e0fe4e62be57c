"""One engine for all tests of the images, and the images as `make images` builds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import make_images
from tests.support.engine import Engine, running_engine


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """An engine that knows the base image and what was built before."""
    with running_engine() as engine:
        yield engine


@pytest.fixture(scope="session")
def images(engine: Engine) -> Engine:
    """The engine with the three images of this checkout; what has not changed is not built again."""
    make_images(engine)
    return engine


@pytest.fixture(scope="session", autouse=True)
def kept_forwarding() -> Iterator[None]:
    """An engine may switch the forwarding of packets on; this machine's stays as it was."""
    switch = Path("/proc/sys/net/ipv4/ip_forward")
    before = switch.read_text("ascii")
    yield
    assert switch.read_text("ascii") == before
