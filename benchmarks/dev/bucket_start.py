"""What a service of a registry in a bucket takes: to load, to look, and to start with and without the bucket.

The bucket is a SeaweedFS on loopback, started for the run. Loading is what a service asks for, by the same
functions: where the alias points, the manifest by its digest, the graph. Starts are whole processes, from
their beginning until the service says that it is ready; for the last of them the server has ended.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from timberline.benchmarks.dev.registry import Figure, set_environment, start_server, summarise
from timberline.benchmarks.errors import BenchmarkError
from timberline.registry.aliases import move_alias, read_alias, read_head_tag
from timberline.registry.cache import Cache
from timberline.registry.manifest import FileDigest, Manifest
from timberline.registry.names import PRODUCTION
from timberline.registry.store import MODEL_FILE, Store, open_store
from timberline.registry.version import Version

_URL = "s3://starts/registry"
# A fast operation is done so many times a round.
_MORE = 10


class Bound(NamedTuple):
    """What a figure is, and the most milliseconds that its median may have."""

    text: str
    at_most_ms: float


BOUNDS = {
    "load": Bound("what a service asks of the bucket to load the version", 50.0),
    "load_cached": Bound("the same, manifest and graph in the cache", 50.0),
    "poll": Bound("one look whether the alias has moved (304)", 10.0),
    "start": Bound("start of the process, empty cache", 10_000.0),
    "start_cached": Bound("start of the process, version in the cache", 10_000.0),
    "start_down": Bound("start of the process, version in the cache, connections refused", 3000.0),
}


def measure_starts(version: Version, rounds: int, scratch: Path) -> dict[str, Figure]:
    """Measure with a copy of ``version`` in a bucket; ``scratch`` is an empty folder on a local disk.

    Raises:
        BenchmarkError: the server or a service does not start.
    """
    times: dict[str, list[float]] = {name: [] for name in BOUNDS}
    model = version.manifest.model
    with contextlib.ExitStack() as stack:
        with start_server(scratch) as environment:
            stack.enter_context(set_environment(environment))
            store = open_store(_URL)
            store.objects.put("README", b"of a benchmark\n")  # this server makes a bucket at the first write
            _copy(version, store)
            for number in range(rounds):
                _measure_loads(model, scratch / f"copies-{number}", times)
                folder = scratch / f"cache-{number}"
                times["start"].append(_start(model, folder))
                times["start_cached"].append(_start(model, folder))
        times["start_down"] += [_start(model, scratch / f"cache-{number}") for number in range(rounds)]
    return {name: summarise(BOUNDS[name].text, BOUNDS[name].at_most_ms, times[name]) for name in BOUNDS}


def _copy(version: Version, store: Store) -> None:
    """Publish the version anew, and point production at it."""
    manifest = version.manifest

    def describe(number: int, files: dict[str, FileDigest]) -> Manifest:
        return msgspec.structs.replace(manifest, version=number, files=files)

    number = store.publish(
        manifest.model, {name: version.open_file(name) for name in manifest.files}, describe
    )
    move_alias(store, manifest.model, PRODUCTION, number, expected=None, reason="a benchmark")


def _measure_loads(model: str, folder: Path, times: dict[str, list[float]]) -> None:
    """Load from the bucket with a new client, load again through the cache, and look."""
    for name in ("load", "load_cached"):
        store = open_store(_URL, Cache(folder))
        began = time.perf_counter()
        record = read_alias(store, model, PRODUCTION)
        assert record
        store.open_known(model, record.version, record.manifest_sha256).read_file(MODEL_FILE)
        times[name].append(1000 * (time.perf_counter() - began))
    tag = read_head_tag(store, model, PRODUCTION)
    for _ in range(_MORE):
        began = time.perf_counter()
        assert read_head_tag(store, model, PRODUCTION, tag) == tag
        times["poll"].append(1000 * (time.perf_counter() - began))


def _start(model: str, cache: Path) -> float:
    """Milliseconds until a service has announced itself; it is ended then."""
    command = [sys.executable, "-m", "timberline", "serve", model, "--registry", _URL, "--port", "0"]
    began = time.perf_counter()
    with _running([*command, "--cache-dir", str(cache)]) as process:
        assert process.stdout
        line = process.stdout.readline()
        took = 1000 * (time.perf_counter() - began)
        if b'"listening"' not in line:
            raise BenchmarkError("the service does not start", where=" ".join(command))
    return took


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(os.environ)
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
