"""What the settings' references last led to: what a service starts with while its bucket is not there."""

from __future__ import annotations

from typing import Literal

import msgspec

from timberline.registry.aliases import AliasRecord
from timberline.registry.cache import Cache
from timberline.registry.manifest import Manifest, Sha256
from timberline.registry.names import PRODUCTION, ModelRef
from timberline.registry.runtime.documents import decode_json, utc_now
from timberline.registry.store import MODEL_FILE


class Recalled(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A version that was served for a reference.

    ``record`` is the move that led to it; None if the version is pinned, or was fallen back to.
    ``confirmed_at`` (ISO 8601, UTC) is when the registry last said so.
    """

    schema_version: Literal[1] = 1
    registry: str
    reference: str
    version: int
    manifest_sha256: Sha256
    record: AliasRecord | None
    confirmed_at: str


class Recollection:
    """Notes in a cache, one for each reference of a registry; the version's files are in it by their digests.

    Args:
        cache: shared with every process that serves from the same folder.
        registry: its location.
        endpoint: of its server, as another one may have a bucket of the same name.
    """

    def __init__(self, cache: Cache, registry: str, endpoint: str = "") -> None:
        self._cache = cache
        self._registry = registry
        self._endpoint = endpoint

    @property
    def place(self) -> str:
        """The cache's folder, for people; empty if there is none."""
        return str(self._cache.folder or "")

    def keep(
        self, ref: ModelRef, manifest: Manifest, manifest_sha256: str, record: AliasRecord | None
    ) -> None:
        """Note that ``ref`` leads to this version, and that its files are in use."""
        note = Recalled(
            registry=self._registry,
            reference=spell(ref),
            version=manifest.version,
            manifest_sha256=manifest_sha256,
            record=record,
            confirmed_at=utc_now("seconds"),
        )
        self._cache.write_note(self._name(ref), msgspec.json.encode(note))
        for digest in (manifest_sha256, manifest.files[MODEL_FILE].sha256):
            self._cache.touch(digest)

    def find(self, ref: ModelRef) -> Recalled | None:
        """The last note about ``ref``; None if there is none, or none of this release's form."""
        data = self._cache.read_note(self._name(ref))
        if data is None:
            return None
        try:
            found = decode_json(data, Recalled)
        except msgspec.DecodeError:
            return None
        return found if (found.registry, found.reference) == (self._registry, spell(ref)) else None

    def _name(self, ref: ModelRef) -> str:
        return f"{self._endpoint} {self._registry} {spell(ref)}"


def spell(ref: ModelRef) -> str:
    """A reference with its alias, whether that was left out or not."""
    return f"{ref.model}@{PRODUCTION}" if ref.version is None and ref.alias is None else str(ref)
