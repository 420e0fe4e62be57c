"""What several of these tests need."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.s3_proxy import S3Proxy


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `build_registry`'s registry, tiny@1 to 3 and other@1, which no test changes."""
    from tests.support.registry_commands import build_registry

    root: Path = tmp_path_factory.mktemp("base") / "registry"
    build_registry(root)
    return root


@pytest.fixture
def root(base: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return shutil.copytree(base, tmp_path / "registry")


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Proxy]:
    """A proxy in front of a real S3 server with the bucket ``registry``, to which the environment leads."""
    from tests.support.places import make_bucket
    from tests.support.s3_proxy import serve_proxy
    from tests.support.s3_server import serve_s3

    with (
        serve_s3(tmp_path_factory.mktemp("s3"), secret_key="only-in-this-test") as server,
        serve_proxy(server.endpoint) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in {**server.environment, "AWS_ENDPOINT_URL": proxy.endpoint}.items():
            patch.setenv(name, value)
        make_bucket()
        yield proxy
