"""A registry that behaves as one in a bucket, without a server: it can be down, and it has a cache."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

from tests.support.failing_store import FailingStore
from timberline.inference.models.recall import Recollection
from timberline.registry.cache import Cache
from timberline.registry.folder import FolderStore
from timberline.registry.names import ModelRef
from timberline.registry.objects import MAX_BYTES, Known, Tagged
from timberline.registry.store import MODEL_FILE, Store
from timberline.registry.version import MANIFEST_FILE, Version


class RemoteStore(FailingStore):
    """A folder's store that says it is a bucket's; ``asked`` counts questions by the end of their keys.

    ``failing`` is a part of the keys that cannot be asked for; "" is all of them, None is none.
    """

    def __init__(self, root: Path, cache: Cache) -> None:
        super().__init__(FolderStore(root))
        self.location = "s3://models/registry"
        self.is_remote = True
        self.asked: Counter[str] = Counter()
        self._cache = cache

    def read_known(self, key: str, sha256: str, size: int) -> Known | None:
        """Through the cache, as a bucket."""
        fetch = super().read_known
        return self._cache.read_known(sha256, size, lambda: fetch(key, sha256, size))

    def read_tagged(self, key: str, seen: str = "", most_bytes: int = MAX_BYTES) -> Tagged | None:
        """Counted as a question about a tag."""
        self.asked["tag"] += 1
        return super().read_tagged(key, seen, most_bytes)

    def _check(self, key: str) -> None:
        self.asked["/".join(key.split("/")[-2:])] += 1
        if self.failing is not None and self.failing in key:
            raise ConnectionError(f"{self.location}/{key}: connection refused")


def open_remote(root: Path, cache: Path | None = None) -> tuple[Store, RemoteStore, Cache]:
    """A registry, the store below it that can be told to fail, and its cache."""
    copies = Cache(cache)
    objects = RemoteStore(root, copies)
    return Store(objects), objects, copies


def _give(known: Known) -> Known:
    return known


def fill_cache(folder: Path, registry: str, endpoint: str, version: Version) -> None:
    """As a service leaves a cache that has served this version, pinned, from a bucket at ``endpoint``."""
    cache, digests = Cache(folder), version.digests
    data = {
        digests.manifest_sha256: version.objects.read(f"{version.key}/{MANIFEST_FILE}"),
        digests.model_sha256: version.read_file(MODEL_FILE),
    }
    for digest, content in data.items():
        assert content is not None
        known = Known(content, digest)
        cache.read_known(digest, len(content), partial(_give, known))
    ref = ModelRef(version.manifest.model, version.manifest.version)
    Recollection(cache, registry, endpoint).keep(ref, version.manifest, digests.manifest_sha256, None)
