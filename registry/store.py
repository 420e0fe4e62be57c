"""The versions of every model, and the ledger of their numbers: publish, read, verify.

``<model>/<n>/`` is a version when its ``manifest.json`` is there, and then never changes. Aliases are
`registry.aliases`; where the bytes lie is `registry.folder`.

The ledger outlives a version's folder. ``<model>/ledger/<n>.json`` is written once, after version n was
published, and pins its manifest. So a lost folder is found, its number is not given out again, and a manifest
that was edited with all its digests is found. ``<model>/ledger/<n>.removed.json`` says that the version is
gone for good, by whom and why. A version that was published before there was a ledger has no entry, and is
taken as it is.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from urllib.parse import unquote

import msgspec

from timberline.registry.cache import Cache, choose_cache
from timberline.registry.errors import (
    AfterChangeError,
    ConfigError,
    DamageError,
    DigestMismatchError,
    LifecycleError,
    ManifestError,
    RegistryError,
    VersionNotFoundError,
    make_after_change,
)
from timberline.registry.folder import FolderStore
from timberline.registry.manifest import (
    FILE_NAME,
    FileDigest,
    Manifest,
    Sha256,
    Summary,
    decode_manifest,
    decode_summary,
    encode_manifest,
)
from timberline.registry.names import MAX_NUMBER, check_name, describe_newest, is_name, parse_number
from timberline.registry.objects import CLAIM_FILE, SCHEMES, ObjectStore, ask_each
from timberline.registry.runtime.documents import decode_json, utc_now
from timberline.registry.runtime.files import digest_bytes, digest_file
from timberline.registry.summary import (
    MAX_SUMMARY_BYTES,
    SUMMARY_FILE,
    StoredSummary,
    decode_stored,
    summarise_verdict,
    summarise_version,
)
from timberline.registry.verdict import VERDICT_FILE, VersionDigests
from timberline.registry.version import (
    BESIDE,
    MANIFEST_FILE,
    REPUBLISH,
    Version,
    find_damage,
    key_of_document,
    key_of_version,
)

MODEL_FILE = "model.onnx"
EVALUATION_FILE = "evaluation.parquet"
# A manifest of 54 columns and 40 classes has 50 kB.
_MAX_MANIFEST_BYTES = 16 << 20

_RESTORE = "Restore its folder from a copy of the registry, or write it off with `registry repair`."


def open_store(location: str | Path, cache: Cache | None = None, *, is_patient: bool = True) -> Store:
    """The registry at ``location``, a folder or ``s3://bucket/prefix``; an absent one is an empty registry.

    Args:
        location: of the registry.
        cache: of a bucket; by default that of `registry.cache.choose_cache`. A folder has none.
        is_patient: of a bucket, as of `registry.bucket.open_client`.

    Raises:
        ConfigError: ``location`` is a file, or a URL of another kind; or obstore is not installed.
    """
    text = str(location)
    if text.startswith("file://"):
        text = unquote(text.removeprefix("file://"))
    if "://" in text:
        return Store(_open_bucket(text, cache, is_patient))
    root = Path(text)
    if root.exists() and not root.is_dir():
        raise ConfigError("is a file, expected the registry's folder", where=text)
    return Store(FolderStore(root))


def _open_bucket(url: str, cache: Cache | None, is_patient: bool) -> ObjectStore:
    if not url.startswith(SCHEMES):
        raise ConfigError("expected a folder or s3://bucket/prefix", where=url)
    try:
        # Late: a folder needs no client, and the serve role has one as an extra only.
        from timberline.registry.bucket import BucketStore  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a bucket needs the package {error.name}", where=url, hint="pip install 'timberline[s3]'"
        ) from None
    return BucketStore(url, choose_cache(os.environ) if cache is None else cache, is_patient=is_patient)


class Contents(NamedTuple):
    """Everything that lies in a model's folder.

    - ``keys``: of every file, and of every folder that is empty;
    - ``versions``: ascending; those whose folder cannot be read are among them;
    - ``numbers``: of its ledger;
    - ``unreadable``: folder → why.
    """

    keys: list[str]
    versions: list[int]
    numbers: LedgerNumbers
    unreadable: dict[str, OSError]

    @property
    def unfinished(self) -> list[int]:
        """Numbers that a publisher took in a bucket, and has not published (yet): ascending."""
        claimed = {parse_number(key.split("/")[1]) for key in self.keys if key.split("/")[2:] == [CLAIM_FILE]}
        settled = {*self.versions, *self.numbers.published, *self.numbers.removed}
        return sorted({number for number in claimed if number} - settled)


class Store:
    """All versions of all models; holds no state, so any number of processes may have one."""

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects

    @property
    def location(self) -> str:
        """Where the registry is, for people."""
        return self.objects.location

    def models(self) -> list[str]:
        """The models whose folder holds anything, by name.

        Raises:
            OSError: the registry cannot be read.
        """
        names = [name.removesuffix("/") for name in self.objects.list_names() if name.endswith("/")]
        return [name for name in names if is_name(name) and self._has_anything(name)]

    def versions(self, model: str) -> list[int]:
        """The model's published versions in ascending order; empty when there are none.

        Raises:
            OSError: the model's folder cannot be read.
        """
        return self.read_contents(model).versions

    def read_contents(self, model: str) -> Contents:
        """List everything in a model's folder, damaged or not.

        Raises:
            OSError: the model's folder cannot be read; an unreadable one in it is among the answer.
        """
        unreadable: dict[str, OSError] = {}

        def note(folder: str, error: OSError) -> None:
            if folder == model:
                raise error
            unreadable[folder] = error

        keys = self.objects.list_keys(check_name(model, "a model"), on_error=note)
        return _sort_contents(keys, unreadable)

    def read_overview(self, model: str) -> tuple[Contents, dict[int, StoredSummary]]:
        """What a list needs of a model: `read_contents`, and the summaries that are stored, by version.

        A bucket is asked for the summaries, and for the names of their folders, not of the files in them:
        ``keys`` then names the manifest alone of a version that has a summary.

        Raises:
            OSError: as `read_contents`; a bucket cannot be read.
        """
        if not self.objects.is_remote:
            return self.read_contents(model), {}
        # The versions last: one that is published meanwhile would be missed, and its entry found.
        keys = [
            key
            for folder in (LEDGER, "aliases", "heads")
            for key in self.objects.list_keys(f"{check_name(model, 'a model')}/{folder}")
        ]
        names = self.objects.list_names(model)
        numbers = [parse_number(name[:-1]) for name in names if name.endswith("/")]
        summaries = self._read_summaries(model, sorted(number for number in numbers if number))
        keys += [f"{key_of_version(model, version)}/{MANIFEST_FILE}" for version in summaries]
        keys += [f"{model}/{name}" for name in names if not name.endswith("/")]
        known = {f"{name}/" for name in (LEDGER, "aliases", "heads", *summaries)}
        others = [f"{model}/{name[:-1]}" for name in names if name.endswith("/") and name not in known]
        for found in ask_each(self.objects, self.objects.list_keys, others):
            keys += found
        return _sort_contents(sorted(keys), {}), summaries

    def _read_summaries(self, model: str, numbers: list[int]) -> dict[int, StoredSummary]:
        """Those among the summaries of ``numbers`` that can be used."""

        def read(number: int) -> StoredSummary | None:
            try:
                data = self.objects.read(f"{key_of_version(model, number)}/{SUMMARY_FILE}", MAX_SUMMARY_BYTES)
            except (RegistryError, PermissionError):
                return None
            return None if data is None else decode_stored(data, model, number)

        # Not by `read_many`: where a server does not answer, each question waits until it is given up.
        found = zip(numbers, ask_each(self.objects, read, numbers), strict=True)
        return {number: summary for number, summary in found if summary}

    def open_version(self, model: str, version: int) -> Version:
        """A published version, its manifest read and checked; no other file of it is read.

        Raises:
            VersionNotFoundError: no such version is published.
            ManifestError: its manifest cannot be read, describes another version, or is not the one
                that was published.
            OSError: the registry cannot be read.
        """
        data = self._read_manifest(model, version)
        digest = self._check_published(model, version, data)
        return self._decode(model, version, data, digest)

    def open_known(self, model: str, version: int, manifest_sha256: str) -> Version:
        """A version whose manifest has this digest, by whoever recorded it: an alias's move, the ledger.

        That is all that is asked: with a cache that has the manifest, nothing is.

        Raises:
            VersionNotFoundError: no such version is published.
            ManifestError: its manifest has another digest, or describes another version.
            OSError: the registry cannot be read.
        """
        key = f"{key_of_version(model, version)}/{MANIFEST_FILE}"
        found = self.objects.read_known(key, manifest_sha256, _MAX_MANIFEST_BYTES)
        if found is None:
            raise self._not_found(model, version)
        if found.sha256 != manifest_sha256:
            raise DigestMismatchError(
                f"its manifest has digest {found.sha256[:12]}…, expected {manifest_sha256[:12]}…",
                where=f"{model}@{version}",
                hint=REPUBLISH,
            )
        return self._decode(model, version, found.data, found.sha256)

    def open_file(self, manifest: Manifest, name: str) -> Path:
        """A local file with the bytes of a version's file; errors as of `Version.open_file`."""
        expected = manifest.files[name]
        key = f"{key_of_version(manifest.model, manifest.version)}/{name}"
        return self.objects.open_file(key, expected.sha256, expected.size)

    def summarise(self, model: str, version: int, *, has_verdict: bool = True) -> StoredSummary:
        """What a list shows of a version, by its manifest and verdict; no other file of it is opened.

        Args:
            has_verdict: whether the verdict is looked for.

        Raises:
            VersionNotFoundError, ManifestError: as `open_version`.
            DigestMismatchError: a file is missing, unnamed, no regular file, or of another size.
            RegistryError: the verdict cannot be read.
        """
        where = f"{model}@{version}: {MANIFEST_FILE}"
        data = self._read_manifest(model, version)
        summary = decode_summary(data, where=where)
        _check_description(summary, model, version)
        digest = self._check_published(model, version, data)
        key = key_of_version(model, version)
        if findings := find_damage(self.objects, key, summary.files, is_quick=True):
            raise DigestMismatchError("; ".join(findings), where=f"{model}@{version}", hint=REPUBLISH)
        digests = _digests(summary, digest)
        verdict = self.read_document(model, version, VERDICT_FILE) if has_verdict else None
        judged = None if verdict is None else summarise_verdict(verdict, model, digests)
        return msgspec.structs.replace(summarise_version(summary, digests), verdict=judged)

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
            AfterChangeError: it is published, and something after that failed.
        """
        check_name(model, "a model")
        _check_files(files, model)
        with self.objects.open_staging() as staged:
            digests = _copy(files, staged)
            version = self._last_number(model) + 1
            while True:
                if version > MAX_NUMBER:
                    raise DamageError(f"number {version - 1} leaves none for another version", where=model)
                manifest = describe(version, digests)
                data = _encode_checked(manifest, model, version, digests)
                (staged / MANIFEST_FILE).write_bytes(data)
                if self._commit(staged, model, version, digest_bytes(data)):
                    if self.objects.is_remote:
                        self._decode(model, version, data, digest_bytes(data)).keep_summary()
                    return version
                version = max(version, self._last_number(model)) + 1

    def _commit(self, staged: Path, model: str, version: int, manifest_sha256: str) -> bool:
        """Make ``staged`` the version, and enter its number in the ledger; False if the number is taken."""
        late: list[Exception] = []
        try:
            if not self.objects.commit(staged, key_of_version(model, version), last=MANIFEST_FILE):
                return False
        except AfterChangeError as error:
            late.append(error)
        try:
            self._enter(model, version, manifest_sha256)
        except (LifecycleError, OSError) as error:
            late.append(error)
        if late:
            hint = f"Do not publish it again. `registry repair {model}@{version}` enters it in the ledger."
            raise make_after_change("is published", late, where=f"{model}@{version}", hint=hint)
        return True

    def read_document(self, model: str, version: int, name: str) -> bytes | None:
        """A document beside the version (``verdict.json``), or None when there is none."""
        return self.objects.read(key_of_document(model, version, name))

    def repair(self, model: str, version: int, *, reason: str) -> str:
        """Repair a number: write off a lost version, or write its entry in the ledger again.

        A lost version is written off: its number stays taken, and it is no longer reported as lost. The entry
        of a whole version is written again if it is damaged, and for the first time if there is none.

        Returns:
            What was done; empty if there was nothing to do.

        Raises:
            DamageError: the version is there and is damaged, or was written off; nothing was changed.
        """
        contents = self.read_contents(model)
        is_removed = version in contents.numbers.removed
        if version not in contents.versions:
            if is_removed and self._has_removal(model, version):
                return ""
            if version > self._last_number(model):
                raise self._not_found(model, version)
            key = key_of_entry(model, version, removal=True)
            self.objects.put(key, _encode_entry(model, version, None, reason))
            return "is written off; its number is not used again"
        if is_removed:
            removal = key_of_entry(model, version, removal=True)
            raise DamageError(
                "was written off, and is there",
                where=f"{model}@{version}",
                hint=f"Nothing was changed. Remove the folder, or {removal}.",
            )
        try:
            opened = self.open_version(model, version).verify()
        except ManifestError:
            raise
        except DamageError:
            data = self._read_manifest(model, version)
            digest = digest_bytes(data)
            self._decode(model, version, data, digest).verify()
            self.objects.put(key_of_entry(model, version), _encode_entry(model, version, digest, reason))
            return "has its entry in the ledger again"
        if version in contents.numbers.published:
            if not opened.check_summary():
                return ""
            opened.keep_summary()
            return "has its summary again"
        self._enter(model, version, opened.digests.manifest_sha256)
        return "is entered in the ledger"

    def _enter(self, model: str, version: int, manifest_sha256: str) -> None:
        """Record in the ledger that ``version`` was published with this manifest, unless it is recorded."""
        entry = _encode_entry(model, version, manifest_sha256, "published")
        self.objects.put_if_absent(key_of_entry(model, version), entry)

    def _has_removal(self, model: str, version: int) -> bool:
        try:
            return read_entry(self.objects, model, version, removal=True) is not None
        except DamageError:
            return False

    def _has_anything(self, model: str) -> bool:
        if self.objects.is_remote:  # has no empty folder
            return True
        try:
            return bool(self.objects.list_names(model))
        except OSError:
            return True

    def _last_number(self, model: str) -> int:
        """The greatest number ever given out, by folders, the ledger and aliases.

        Raises:
            OSError: the ledger or an alias cannot be read: it may hold a greater one.
            DamageError: what lies where the ledger or the aliases should be is no folder.
        """
        names = self.objects.list_names(model)
        for name in (LEDGER, "aliases"):
            if name in names:
                hint = "Nothing was changed. Remove it."
                raise DamageError("is no folder", where=f"{model}/{name}", hint=hint)
        ledger = find_numbers([f"{model}/{LEDGER}/{name}" for name in self._list_below(f"{model}/{LEDGER}")])
        taken = {0, *ledger.published, *ledger.removed}
        taken |= {parse_number(name.removesuffix("/")) or 0 for name in names}
        keys = [f"{model}/aliases/{name}" for name in self._list_below(f"{model}/aliases")]
        moves = [key for key in keys if key.endswith(".json")]
        return max(taken | {_read_target(data) for data in self.objects.read_many(moves, MAX_RECORD_BYTES)})

    def _list_below(self, folder: str) -> list[str]:
        """The files below ``folder``, relative to it."""
        names = self.objects.list_names(folder)
        below = [
            f"{name}{each}"
            for name in names
            if name.endswith("/")
            for each in self._list_below(f"{folder}/{name[:-1]}")
        ]
        return [*(name for name in names if not name.endswith("/")), *below]

    def _read_manifest(self, model: str, version: int) -> bytes:
        data = self.objects.read(f"{key_of_version(model, version)}/{MANIFEST_FILE}", _MAX_MANIFEST_BYTES)
        if data is None:
            raise self._not_found(model, version)
        return data

    def _not_found(self, model: str, version: int) -> RegistryError:
        contents = self.read_contents(model)
        known = f"There are: {describe_newest(contents.versions)}."
        if version in contents.numbers.removed:
            return VersionNotFoundError("was written off", where=f"{model}@{version}", hint=known)
        if version in contents.numbers.published:
            return DamageError("was published, and is lost", where=f"{model}@{version}", hint=_RESTORE)
        return VersionNotFoundError(f"no version {version} in {self.location}", where=model, hint=known)

    def _check_published(self, model: str, version: int, data: bytes) -> str:
        digest = digest_bytes(data)
        entry = read_entry(self.objects, model, version)
        if entry is not None and digest != entry.manifest_sha256:
            raise ManifestError(
                f"{MANIFEST_FILE} has digest {digest[:12]}…, "
                f"it was published with {str(entry.manifest_sha256)[:12]}…",
                where=f"{model}@{version}",
                hint=REPUBLISH,
            )
        return digest

    def _decode(self, model: str, version: int, data: bytes, digest: str) -> Version:
        manifest = decode_manifest(data, where=f"{model}@{version}: {MANIFEST_FILE}")
        _check_description(manifest, model, version)
        return Version(self.objects, manifest, _digests(manifest, digest))


def _digests(manifest: Manifest | Summary, digest: str) -> VersionDigests:
    model = manifest.files[MODEL_FILE].sha256
    return VersionDigests(version=manifest.version, manifest_sha256=digest, model_sha256=model)


def _sort_contents(keys: list[str], unreadable: dict[str, OSError]) -> Contents:
    found = [_version_of(key) for key in [*keys, *(f"{folder}/{MANIFEST_FILE}" for folder in unreadable)]]
    versions = sorted({version for version in found if version})
    return Contents(keys, versions, find_numbers(keys), unreadable)


class _Move(msgspec.Struct):
    version: int


def _read_target(data: bytes | OSError | RegistryError | None) -> int:
    """The version that an alias was moved to by what was read as a record; 0 if it cannot be known.

    Raises:
        OSError: it could not be read.
    """
    if isinstance(data, OSError):
        raise data
    try:
        return decode_json(data, _Move).version if isinstance(data, bytes) else 0
    except msgspec.DecodeError:
        return 0


def _check_description(manifest: Manifest | Summary, model: str, version: int) -> None:
    if (manifest.model, manifest.version) != (model, version) or MODEL_FILE not in manifest.files:
        raise ManifestError(
            f"{MANIFEST_FILE} describes {manifest.model}@{manifest.version} "
            f"with the files {', '.join(sorted(manifest.files))}",
            where=f"{model}@{version}",
            hint="A version is published, never copied or renamed by hand.",
        )


def _version_of(key: str) -> int | None:
    """``model/7/manifest.json`` → 7; None for every other key."""
    parts = key.split("/")
    return parse_number(parts[1]) if len(parts) == 3 and parts[2] == MANIFEST_FILE else None


def _check_files(names: Iterable[str], model: str) -> None:
    names = set(names)
    well_named = all(re.fullmatch(FILE_NAME, name) for name in names)
    if MODEL_FILE not in names or names & BESIDE or not well_named:
        raise ManifestError(
            f"cannot hold the files {', '.join(sorted(names))[:80] or '(none)'}",
            where=model,
            hint=f"{MODEL_FILE} is required, {', '.join(sorted(BESIDE))} are not given; "
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


# An entry has 300 bytes and the reason that was given.
MAX_RECORD_BYTES = 1 << 20
LEDGER = "ledger"

_REMOVED = ".removed"


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number that was given out, or (in a file of its own) written off.

    ``manifest_sha256`` is None in the entry of a removal; ``written_at`` is ISO 8601, UTC.
    """

    schema_version: Literal[1] = 1
    model: str
    version: Annotated[int, msgspec.Meta(ge=1)]
    manifest_sha256: Sha256 | None
    written_at: str
    written_by: str
    reason: str


class LedgerNumbers(NamedTuple):
    """The numbers of a model's ledger."""

    published: frozenset[int]
    removed: frozenset[int]


def find_numbers(keys: list[str]) -> LedgerNumbers:
    """The numbers among the keys of a model."""
    published: set[int] = set()
    removed: set[int] = set()
    for key in keys:
        parts = key.split("/")
        if len(parts) == 3 and parts[1] == LEDGER and parts[2].endswith(".json"):
            name = parts[2].removesuffix(".json")
            number = parse_number(name.removesuffix(_REMOVED))
            if number is not None:
                (removed if name.endswith(_REMOVED) else published).add(number)
    return LedgerNumbers(frozenset(published), frozenset(removed))


def is_ledger_stem(stem: str) -> bool:
    """Whether ``stem`` + ``.json`` is a valid name in the ledger."""
    return parse_number(stem.removesuffix(_REMOVED)) is not None


def read_entry(
    objects: ObjectStore, model: str, version: int, *, removal: bool = False
) -> LedgerEntry | None:
    """What was published under this number, or the ``removal`` of it; None if there is no such entry.

    Raises:
        DamageError: the entry is not readable, or is another version's.
        OSError: it is there and cannot be read.
    """
    key = key_of_entry(model, version, removal=removal)
    data = objects.read(key, MAX_RECORD_BYTES)
    if data is None:
        return None
    where = f"{model}@{version}: {key}"
    try:
        entry = decode_json(data, LedgerEntry)
    except msgspec.DecodeError as error:
        raise DamageError(f"not an entry of the ledger: {error}", where=where, hint=_MEND) from error
    if (entry.model, entry.version, entry.manifest_sha256 is None) != (model, version, removal):
        raise DamageError(f"is another entry of {entry.model}@{entry.version}", where=where, hint=_MEND)
    return entry


_MEND = "Write it again with `timberline repair`, or restore it from a copy of the registry."


def name_user() -> str:
    """Who runs this process: ``name@host``, or ``uid 10001@host`` where the user has no name."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def _encode_entry(model: str, version: int, manifest_sha256: str | None, reason: str) -> bytes:
    entry = LedgerEntry(
        model=model,
        version=version,
        manifest_sha256=manifest_sha256,
        written_at=utc_now("milliseconds"),
        written_by=name_user(),
        reason=reason,
    )
    return msgspec.json.format(msgspec.json.encode(entry))


def key_of_entry(model: str, version: int, *, removal: bool = False) -> str:
    """Where the entry of a number lies, or that of its ``removal``."""
    return f"{check_name(model, 'a model')}/{LEDGER}/{version}{_REMOVED if removal else ''}.json"
