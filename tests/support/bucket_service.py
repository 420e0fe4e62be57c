"""Services of a registry in a bucket of a real server, behind a proxy that counts, refuses and hangs.

with serve_bucket(folder) as place:                       # a module's fixture: it takes seconds
    bucket = place.open_bucket()                          # a registry of its own, with tiny@1 and tiny@2
    with bucket.serve("tiny", "--workers", "2") as service:
        bucket.move(2)
        assert bucket.count("head.json") == …             # what services asked for; not what the test did
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import obstore
import psutil
import pytest

from tests.support.s3_proxy import S3Proxy, Seen, serve_proxy
from tests.support.s3_server import S3Server, serve_s3
from tests.support.service import RunningService, refuse_to_start, running_service
from tests.support.tiny_model import point_alias, publish_numeric
from timberline.registry.bucket import open_client
from timberline.registry.store import Store, open_store

_SECRET = "a-secret-of-a-test"
# So that a test does not wait for long; services have 20 s.
WATCH_S = 0.2


class Bucket:
    """A registry with tiny@1 in production and tiny@2, its proxy, and a cache of its own."""

    def __init__(self, url: str, proxy: S3Proxy, cache: Path) -> None:
        self.url = url
        self.proxy = proxy
        self.cache = cache
        self.store: Store = open_store(url)  # asks the server itself
        for scale in (1.0, -1.0):
            publish_numeric(self.store, scale=scale, alias=None)
        self.move(1)

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that goes through the proxy."""
        return {"AWS_ENDPOINT_URL": self.proxy.endpoint}

    def move(self, version: int, alias: str = "production") -> None:
        """Point an alias of tiny."""
        point_alias(self.store, "tiny", alias, version)

    def serve(
        self, model: str = "tiny", *flags: str, environment: Mapping[str, str] | None = None
    ) -> AbstractContextManager[RunningService]:
        """A service; later flags come before ours."""
        given = ("--watch-s", str(WATCH_S), "--cache-dir", str(self.cache), *flags)
        return running_service(
            self.url, model, *given, environment={**self.environment, **(environment or {})}
        )

    def refuse_to_start(self, model: str = "tiny", *flags: str) -> tuple[int, str]:
        """Exit code and log of a service that must not get ready."""
        return refuse_to_start(
            self.url, model, "--cache-dir", str(self.cache), *flags, environment=self.environment
        )

    def list_asked(self) -> list[Seen]:
        """What services have asked for since the last `S3Proxy.clear`."""
        return list(self.proxy.seen)

    def count(self) -> Counter[str]:
        """How often each file was asked for, by the end of its path; lists are `LIST`."""
        return Counter(_name(seen) for seen in self.list_asked())

    def find_entry(self, version: int, name: str) -> Path:
        """Where the cache has a file of tiny."""
        opened = self.store.open_version("tiny", version)
        digest = (
            opened.digests.manifest_sha256 if name == "manifest.json" else opened.manifest.files[name].sha256
        )
        return self.cache / "sha256" / digest


def _name(seen: Seen) -> str:
    if "list-type" in seen.asked.query:
        return "LIST"
    parts = seen.asked.path.split("/")
    return "log" if parts[-2] == "log" else "/".join(parts[-2:]) if parts[-2].isdigit() else parts[-1]


class Place:
    """A server, its process, and a proxy in front of it."""

    def __init__(self, server: S3Server, process: psutil.Process, proxy: S3Proxy, folder: Path) -> None:
        self.server = server
        self.process = process
        self.proxy = proxy
        self._folder = folder
        self._numbers = itertools.count(1)

    def open_bucket(self) -> Bucket:
        """A new registry; the proxy counts from now on."""
        number = next(self._numbers)
        bucket = Bucket(f"s3://models/reg-{number}", self.proxy, self._folder / f"cache-{number}")
        self.proxy.clear()
        return bucket


@contextlib.contextmanager
def serve_bucket(folder: Path) -> Iterator[Place]:
    """Start a server, and have the environment name its account."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("NO_PROXY", "127.0.0.1")
        before = set(psutil.Process().children())
        with serve_s3(folder, secret_key=_SECRET) as server, serve_proxy(server.endpoint) as proxy:
            (process,) = set(psutil.Process().children()) - before
            for name, value in server.environment.items():
                patch.setenv(name, value)
            obstore.put(
                open_client("s3://models"), "made", b""
            )  # this server makes a bucket at the first PUT
            yield Place(server, process, proxy, folder)
