"""One opened version: its manifest is read and checked once, its files are read and verified by it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from timberline.registry.errors import ConfigError, DigestMismatchError, RegistryError, VersionNotFoundError
from timberline.registry.manifest import FileDigest, Manifest
from timberline.registry.names import check_name
from timberline.registry.objects import CLAIM_FILE, ObjectStore, printable_name
from timberline.registry.runs import NOISE_FILE
from timberline.registry.runtime.logs import log_event
from timberline.registry.summary import MAX_SUMMARY_BYTES, SUMMARY_FILE, encode_summary
from timberline.registry.verdict import VERDICT_FILE, VersionDigests

MANIFEST_FILE = "manifest.json"
# Written beside a version after it was published; the manifest cannot name them.
DOCUMENTS = (VERDICT_FILE, "report.md", "report.json", "report.html", "junit.xml", NOISE_FILE)

# What lies beside a version's files and is none of them.
BESIDE = frozenset({MANIFEST_FILE, CLAIM_FILE, SUMMARY_FILE, *DOCUMENTS})

REPUBLISH = "The file changed after publishing. Publish a new version; do not edit this one."

_logger = logging.getLogger("registry.version")


@dataclass(frozen=True)
class Version:
    """A published version; `registry.store.Store.open_version` makes it.

    ``manifest`` is the one that was published. ``digests`` are what evidence about the version is bound to:
    its number, the SHA-256 of the bytes that ``manifest`` was read from, and the SHA-256 of its graph, as the
    manifest states it. No other file of the version has been read: see `verify` and `read_file`.
    """

    objects: ObjectStore
    manifest: Manifest
    digests: VersionDigests

    def __str__(self) -> str:
        return f"{self.manifest.model}@{self.manifest.version}"

    @property
    def key(self) -> str:
        """The key of its folder."""
        return key_of_version(self.manifest.model, self.manifest.version)

    def verify(self) -> Self:
        """Read every file again, compare it with the manifest, and return the version.

        Raises:
            DigestMismatchError: a file is changed, missing, unnamed or not a regular file; names all of them.
        """
        if findings := find_damage(self.objects, self.key, self.manifest.files):
            raise self._mismatch("; ".join(findings))
        return self

    def read_file(self, name: str) -> bytes:
        """A file's bytes, verified: the bytes that were checked are the bytes that are returned.

        Raises:
            VersionNotFoundError: the manifest does not name the file.
            DigestMismatchError: the file is missing, or its bytes are not those of the manifest.
        """
        expected = self._expect(name)
        found = self.objects.read_known(f"{self.key}/{name}", expected.sha256, expected.size)
        if found is None:
            raise self._mismatch(f"{name} is missing")
        if found.sha256 != expected.sha256:
            raise self._mismatch(_describe_mismatch(name, found.sha256, expected))
        return found.data

    def open_file(self, name: str) -> Path:
        """A local file with a file's bytes; in a folder it is not verified.

        Raises:
            VersionNotFoundError: the manifest does not name the file.
            DigestMismatchError: a bucket has other bytes, or nothing.
        """
        expected = self._expect(name)
        return self.objects.open_file(f"{self.key}/{name}", expected.sha256, expected.size)

    def check_size(self, name: str) -> None:
        """Find a file that is not copied yet, or only in part, by its size; it is not read.

        Raises:
            DigestMismatchError: it is missing, too short or too long, or not a regular file.
        """
        expected = self.manifest.files[name].size
        found = self.objects.find_size(f"{self.key}/{name}")
        if found is None:
            raise self._mismatch(f"{name} is missing")
        if found < 0:
            raise self._mismatch(f"{name} is not a plain file")
        if found != expected:
            raise self._mismatch(f"{name} has {found} bytes, manifest says {expected}")

    def write_document(self, name: str, data: bytes) -> None:
        """Put a document beside the version, replacing an older one.

        Raises:
            ConfigError: ``name`` is not one of `DOCUMENTS`.
        """
        key = key_of_document(self.manifest.model, self.manifest.version, name)
        if name != VERDICT_FILE or not self._has_summary():
            self.objects.put(key, data)
            return
        # First of all, so that no list goes on showing the verdict of before if this process ends in between.
        self._put_summary(None, is_in_doubt=True)
        self.objects.put(key, data)
        self.keep_summary()

    def keep_summary(self) -> None:
        """Write the version's ``summary.json`` anew, of a bucket and where there is one.

        A failure is only logged: what a list shows is then read from manifest and verdict.
        """
        if not self._has_summary():
            return
        try:
            verdict = self._read_verdict()
            while True:
                self._put_summary(verdict)
                # Another gate may have written meanwhile: of two the later one sees what the other did.
                if (now := self._read_verdict()) == verdict:
                    return
                verdict = now
        except (OSError, RegistryError) as error:
            log_event(_logger, f"{self}: {SUMMARY_FILE} is not up to date: {error}", logging.WARNING)

    def check_summary(self) -> str:
        """What is wrong with the version's ``summary.json``, a sentence; "" also if there is none.

        Raises:
            OSError, DamageError: it or the verdict cannot be read.
        """
        found = self.objects.read(self._summary_key, MAX_SUMMARY_BYTES)
        if found is None:
            return ""
        verdict = self._read_verdict()
        for is_in_doubt in (False, True):
            if found == encode_summary(self.manifest, self.digests, verdict, is_in_doubt=is_in_doubt):
                return ""
        return f"{SUMMARY_FILE} is not of its manifest and verdict; `timberline repair {self}` mends it"

    @property
    def _summary_key(self) -> str:
        return f"{self.key}/{SUMMARY_FILE}"

    def _has_summary(self) -> bool:
        """A folder has one that was copied from a bucket, and may be copied back."""
        return self.objects.is_remote or self.objects.find_size(self._summary_key) is not None

    def _put_summary(self, verdict: bytes | None, *, is_in_doubt: bool = False) -> None:
        data = encode_summary(self.manifest, self.digests, verdict, is_in_doubt=is_in_doubt)
        self.objects.put(self._summary_key, data)

    def _read_verdict(self) -> bytes | None:
        key = key_of_document(self.manifest.model, self.manifest.version, VERDICT_FILE)
        return self.objects.read(key)

    def _expect(self, name: str) -> FileDigest:
        expected = self.manifest.files.get(name)
        if expected is None:
            raise VersionNotFoundError(f"has no file {name!r}", where=str(self))
        return expected

    def _mismatch(self, found: str) -> DigestMismatchError:
        return DigestMismatchError(found, where=str(self), hint=REPUBLISH)


def key_of_version(model: str, version: int) -> str:
    """The folder of a version."""
    return f"{check_name(model, 'a model')}/{version}"


def key_of_document(model: str, version: int, name: str) -> str:
    """Where a document beside a version lies.

    Raises:
        ConfigError: ``name`` is not one of `DOCUMENTS`.
    """
    if name not in DOCUMENTS:
        raise ConfigError(f"no document {name!r}", hint=f"There are: {', '.join(DOCUMENTS)}.")
    return f"{key_of_version(model, version)}/{name}"


def find_damage(
    objects: ObjectStore, key: str, files: Mapping[str, FileDigest], *, is_quick: bool = False
) -> list[str]:
    """What is wrong with a version's folder, one sentence a finding; empty when it is whole.

    A file that the manifest does not name, and anything that is not a regular file (a symbolic
    link above all), is a finding as much as a wrong digest.

    Args:
        objects: the registry's.
        key: of the version's folder.
        files: that the manifest names.
        is_quick: opens no file: kinds and sizes are compared, bytes are not.

    Raises:
        OSError: the folder cannot be read.
    """
    sizes = objects.list_sizes(key)
    named = {*files, *BESIDE}
    unnamed = sorted(sizes.keys() - named)
    findings = [f"{printable_name(name)} is not named in the manifest" for name in unnamed]
    for name in sorted(sizes.keys() & named):
        size = sizes[name]
        if size is None:
            findings.append(f"{name} is not a plain file")
        elif name in files:
            findings += _compare(objects, f"{key}/{name}", size, files[name], is_quick)
    return findings + [f"{name} is missing" for name in sorted(files.keys() - sizes.keys())]


def _compare(objects: ObjectStore, key: str, size: int, expected: FileDigest, is_quick: bool) -> list[str]:
    name = key.rpartition("/")[2]
    if size != expected.size:
        return [f"{name} has {size} bytes, manifest says {expected.size}"]
    try:
        digest = expected.sha256 if is_quick else objects.digest(key)
    except ConnectionError:  # of a server that is gone nothing is known
        raise
    except OSError as error:
        return [f"{name} cannot be read: {error.strerror or error}"]
    return [_describe_mismatch(name, digest, expected)] if digest != expected.sha256 else []


def _describe_mismatch(name: str, digest: str, expected: FileDigest) -> str:
    return f"{name} has digest {digest[:12]}…, manifest says {expected.sha256[:12]}…"
