"""The versions of every model: publish, read, verify.

``<model>/<n>/`` is a version when its ``manifest.json`` is there, and then never changes. Aliases
are `registry.aliases`; where the bytes lie is behind `registry.blobs`.
"""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from registry.blobs import Blobs
from registry.errors import ConfigError, DigestMismatchError, ManifestError, VersionNotFoundError
from registry.folder import FolderBlobs
from registry.ground.files import digest_bytes, digest_file
from registry.manifest import FILE_NAME, FileDigest, Manifest, decode_manifest, encode_manifest
from registry.names import check_name, parse_number
from registry.verdict import Judged
from registry.verification import DOCUMENTS, MANIFEST_FILE, find_damage

MODEL_FILE = "model.onnx"
EVALUATION_FILE = "evaluation.parquet"
# A manifest of 54 columns and 40 classes has 50 kB.
_MOST_MANIFEST_BYTES = 16 << 20

_REPUBLISH = "The file changed after publishing. Publish a new version; do not edit this one."


class HashedManifest(NamedTuple):
    """A manifest, and the SHA-256 of the very bytes that it was read from."""

    manifest: Manifest
    sha256: str


def open_store(location: str | Path) -> Store:
    """The registry at ``location``, a folder; an absent one is an empty registry.

    Raises:
        ConfigError: ``location`` is a file, or a URL.
    """
    if "://" in str(location):
        raise ConfigError("this program keeps a registry in a folder only", where=str(location))
    root = Path(location)
    if root.exists() and not root.is_dir():
        raise ConfigError("is a file, expected the registry's folder", where=str(location))
    return Store(FolderBlobs(root))


class Store:
    """All versions of all models; holds no state, so any number of processes may have one."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs

    @property
    def location(self) -> str:
        """Where the registry is, for people."""
        return self.blobs.location

    def models(self) -> list[str]:
        """The models that have at least one version, by name."""
        return sorted({key.split("/")[0] for key in self.blobs.list_keys() if _version_of(key)})

    def versions(self, model: str) -> list[int]:
        """The model's published versions in ascending order; empty when there are none."""
        keys = self.blobs.list_keys(check_name(model, "a model"))
        return sorted(version for key in keys if (version := _version_of(key)))

    def read_manifest(self, model: str, version: int) -> Manifest:
        """The manifest of one version.

        Raises:
            VersionNotFoundError: no such version is published.
            ManifestError: its manifest cannot be read, or describes another version.
        """
        return self._parse(model, version, self._manifest_bytes(model, version))

    def hash_manifest(self, model: str, version: int) -> HashedManifest:
        """As `read_manifest`, with the digest: for whoever needs both of one read."""
        data = self._manifest_bytes(model, version)
        return HashedManifest(self._parse(model, version, data), digest_bytes(data))

    def identify(self, model: str, version: int) -> Judged:
        """The digests that evidence about a version is bound to, as its manifest states them."""
        data = self._manifest_bytes(model, version)
        manifest = self._parse(model, version, data)
        return Judged(
            version=version,
            manifest_sha256=digest_bytes(data),
            model_sha256=manifest.files[MODEL_FILE].sha256,
        )

    def open_folder(self, model: str, version: int) -> Path:
        """A local folder with the version's files; not verified, see `verify` and `read_file`."""
        self._manifest_bytes(model, version)
        return self.blobs.open_folder(_folder(model, version))

    def read_file(self, model: str, version: int, name: str, manifest: Manifest | None = None) -> bytes:
        """A file's bytes, the very ones that were verified: there is no moment between check and use.

        Args:
            model: its name.
            version: its number.
            name: of the file.
            manifest: the version's, if the caller has read it already.

        Raises:
            VersionNotFoundError: no such version, or the manifest does not name the file.
            DigestMismatchError: the file is missing, or its bytes are not those of the manifest.
        """
        expected = (manifest or self.read_manifest(model, version)).files.get(name)
        if expected is None:
            raise VersionNotFoundError(f"has no file {name!r}", where=f"{model}@{version}")
        data = self.blobs.read(f"{_folder(model, version)}/{name}", expected.size + 1)
        if data is None:
            raise _mismatch(model, version, f"{name} is missing")
        if (digest := digest_bytes(data)) != expected.sha256:
            found = f"{name} has digest {digest[:12]}…, manifest says {expected.sha256[:12]}…"
            raise _mismatch(model, version, found)
        return data

    def check_size(self, manifest: Manifest, name: str) -> None:
        """Find a file that a copy under way has not brought yet, or not to its end; it is not read.

        Raises:
            DigestMismatchError: it is missing, too short or too long, or not a plain file.
        """
        model, version, expected = manifest.model, manifest.version, manifest.files[name].size
        try:
            found = (self.blobs.open_folder(_folder(model, version)) / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            raise _mismatch(model, version, f"{name} is missing") from None
        if not stat.S_ISREG(found.st_mode):
            raise _mismatch(model, version, f"{name} is not a plain file")
        if found.st_size != expected:
            raise _mismatch(model, version, f"{name} has {found.st_size} bytes, manifest says {expected}")

    def verify(self, model: str, version: int) -> Manifest:
        """Read every file of a version again and compare it with the manifest.

        Raises:
            DigestMismatchError: a file is changed, missing, unnamed or not a plain file; all of
                them are told.
            VersionNotFoundError, ManifestError: as `read_manifest`.
        """
        manifest = self.read_manifest(model, version)
        self._refuse(model, version, find_damage(self.open_folder(model, version), model, version, manifest))
        return manifest

    @staticmethod
    def _refuse(model: str, version: int, findings: list[str]) -> None:
        if findings:
            raise DigestMismatchError("; ".join(findings), where=f"{model}@{version}", hint=_REPUBLISH)

    def publish(
        self,
        model: str,
        files: Mapping[str, Path],
        describe: Callable[[int, dict[str, FileDigest]], Manifest],
    ) -> int:
        """Copy ``files`` into the next free version and return its number.

        Args:
            model: the model's name; its first version makes it.
            files: name in the version → file to copy; ``model.onnx`` must be among them.
            describe: makes the manifest from the number and the digests of the copies; called
                again with the next number when another publisher took this one.

        Raises:
            ManifestError: ``files`` or what ``describe`` made breaks a rule; nothing was published.
        """
        check_name(model, "a model")
        _check_files(files, model)
        with self.blobs.stage() as staged:
            digests = _copy(files, staged)
            version = self._last_number(model) + 1
            while True:
                manifest = describe(version, digests)
                (staged / MANIFEST_FILE).write_bytes(_encode_checked(manifest, model, version, digests))
                if self.blobs.commit(staged, _folder(model, version), last=MANIFEST_FILE):
                    return version
                version = max(version, self._last_number(model)) + 1

    def read_document(self, model: str, version: int, name: str) -> bytes | None:
        """A document beside the version (``verdict.json``), or None when there is none."""
        return self.blobs.read(_document(model, version, name))

    def write_document(self, model: str, version: int, name: str, data: bytes) -> None:
        """Put a document beside a published version, replacing an older one.

        Raises:
            VersionNotFoundError: no such version is published.
            ConfigError: ``name`` is not one of `registry.verification.DOCUMENTS`.
        """
        self._manifest_bytes(model, version)
        self.blobs.put(_document(model, version, name), data)

    def _last_number(self, model: str) -> int:
        """The greatest number ever taken, also by a folder that is no version."""
        parts = (key.split("/") for key in self.blobs.list_keys(model))
        return max((parse_number(part[1]) or 0 for part in parts), default=0)

    def _manifest_bytes(self, model: str, version: int) -> bytes:
        check_name(model, "a model")
        data = self.blobs.read(f"{_folder(model, version)}/{MANIFEST_FILE}", _MOST_MANIFEST_BYTES)
        if data is None:
            known = ", ".join(map(str, self.versions(model))) or "none"
            raise VersionNotFoundError(
                f"no version {version} in {self.location}", where=model, hint=f"There are: {known}."
            )
        return data

    def _parse(self, model: str, version: int, data: bytes) -> Manifest:
        where = f"{model}@{version}"
        manifest = decode_manifest(data, where=f"{where}: {MANIFEST_FILE}")
        if (manifest.model, manifest.version) != (model, version) or MODEL_FILE not in manifest.files:
            raise ManifestError(
                f"{MANIFEST_FILE} describes {manifest.model}@{manifest.version} "
                f"with the files {', '.join(sorted(manifest.files))}",
                where=where,
                hint="A version is published, never copied or renamed by hand.",
            )
        return manifest


def _mismatch(model: str, version: int, found: str) -> DigestMismatchError:
    return DigestMismatchError(found, where=f"{model}@{version}", hint=_REPUBLISH)


def _folder(model: str, version: int) -> str:
    return f"{model}/{version}"


def _version_of(key: str) -> int | None:
    """``model/7/manifest.json`` → 7; None for every other key."""
    parts = key.split("/")
    return parse_number(parts[1]) if len(parts) == 3 and parts[2] == MANIFEST_FILE else None


def _document(model: str, version: int, name: str) -> str:
    if name not in DOCUMENTS:
        raise ConfigError(f"no document {name!r}", hint=f"There are: {', '.join(DOCUMENTS)}.")
    return f"{_folder(check_name(model, 'a model'), version)}/{name}"


def _check_files(names: Iterable[str], model: str) -> None:
    names = set(names)
    well_named = all(re.fullmatch(FILE_NAME, name) for name in names)
    if MODEL_FILE not in names or names & {MANIFEST_FILE, *DOCUMENTS} or not well_named:
        raise ManifestError(
            f"cannot hold the files {', '.join(sorted(names))[:80] or '(none)'}",
            where=model,
            hint=f"{MODEL_FILE} is required, {MANIFEST_FILE} and {', '.join(DOCUMENTS)} are not given; "
            "names have letters, digits, dots, - and _ only.",
        )


def _copy(files: Mapping[str, Path], staged: Path) -> dict[str, FileDigest]:
    digests = {}
    for name, source in sorted(files.items()):
        copy = staged / name
        shutil.copyfile(source, copy)
        digests[name] = FileDigest(sha256=digest_file(copy), size=copy.stat().st_size)
    return digests


def _encode_checked(manifest: Manifest, model: str, version: int, digests: dict[str, FileDigest]) -> bytes:
    """The manifest's bytes, read back once: what cannot be read must not be published."""
    if (manifest.model, manifest.version, manifest.files) != (model, version, digests):
        raise ManifestError(
            "the manifest does not describe the files that were copied", where=f"{model}@{version}"
        )
    data = encode_manifest(manifest)
    decode_manifest(data, where=f"{model}@{version}: {MANIFEST_FILE}")
    return data
