"""An object store in a bucket: Amazon S3 and what speaks its protocol, by conditional requests alone.

``put_if_absent`` is a PUT with ``If-None-Match: *``, ``put_if_same`` one with ``If-Match``. When an answer is
lost the client asks again, and is refused because of what it wrote itself; where it does not ask again (after
a timeout) it is not known whether the server did it, or will. So what was refused or not answered is read
back, and its bytes are compared. Servers that ignore either condition exist. The first write to a registry
tries both, and refuses such a server.

`registry.account` finds account, region and endpoint; `registry.refusals` says in words what went wrong. No
message and no log line has a credential.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotModifiedError, PreconditionError
from obstore.store import AzureStore, GCSStore, S3Store

from timberline.registry.account import HINT_ACCOUNT, Account, find_account
from timberline.registry.cache import Cache
from timberline.registry.errors import ConfigError, DamageError, DigestMismatchError, RegistryError
from timberline.registry.objects import (
    CLAIM_FILE,
    MAX_BYTES,
    SCHEMES,
    Known,
    OnError,
    Tagged,
    check_key,
    is_hidden,
    is_system_file,
    read_or_error,
)
from timberline.registry.refusals import (
    NO_ACCOUNT,
    LostError,
    MissingError,
    RefusedError,
    explain,
)

T = TypeVar("T")

# The store's own: that the server was found to keep conditions, and what is left of finding out.
_OWN = ".timberline"
_CHECKED = f"{_OWN}/conditions.json"


class _Pace(NamedTuple):
    """How long a server is waited for, in seconds. ``retry_s`` after the first try it is not tried again.

    obstore's ``read_timeout`` runs from the first byte that is sent to the first that is answered.
    """

    connect_s: int
    read_s: int
    retry_count: int
    retry_s: int


# Connections that are refused are given up after three pauses, 0.7 s. A silent server is asked a second time
# after 11 s and given up after 22 s, so that one that was frozen for 20 s is waited for.
_PATIENT = _Pace(5, 11, 3, 12)
# For a service, which has a cache to start from and asks again later.
_QUICK = _Pace(2, 5, 1, 12)
# For files. A part has 5 MiB, and four are sent at once: at 2 Mbit/s they take 84 s.
BULK = _Pace(5, 90, 3, 12)
PART_BYTES = 5 << 20
PARTS_AT_ONCE = 4
_WHOLE_S = 3600
# Many small objects at once.
_AT_ONCE = 16
_CHUNK_BYTES = 1 << 20
# Before each attempt of a write under a condition. One that another is doing at the same time is answered by
# 409, and then there is nothing (yet).
_PAUSES_S = (0.0, 0.1, 0.2, 0.4, 0.8)

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
UNKNOWN = "It is not known whether it was written: look first."


def open_client(url: str, environment: Mapping[str, str] | None = None, *, is_patient: bool = True) -> Any:
    """obstore's client of a bucket and prefix, with explicit timeouts and retries; the bucket is not asked.

    Args:
        url: ``s3://bucket/prefix``; ``gs://`` and ``az://`` likewise, which no test of ours reaches.
        environment: of the account; the process's own by default.
        is_patient: whether a server that does not answer is asked for long; not by whoever asks again anyway.

    Raises:
        ConfigError: the URL names no bucket, or the account is not one (`registry.account`).
        PermissionError: there is no account.
    """
    account = _find_account(url, os.environ if environment is None else environment)
    return _open(url, account, _PATIENT if is_patient else _QUICK)


def _find_account(url: str, environment: Mapping[str, str]) -> Account | None:
    """Of Amazon's protocol; the others have ways of their own."""
    return find_account(environment) if url.startswith("s3://") else None


def _open(url: str, account: Account | None, pace: _Pace) -> Any:
    scheme, bucket, prefix = split_url(url)
    if account and not account.may_be_there():
        raise RefusedError(errno.EACCES, f"{NO_ACCOUNT} {HINT_ACCOUNT}", url)
    kind = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[scheme]
    try:
        return kind(
            bucket,
            prefix=prefix or None,
            client_options=_client_options(account, pace),
            retry_config={"max_retries": pace.retry_count, "retry_timeout": timedelta(seconds=pace.retry_s)},
            # One by one: not every server has the other request, and what is removed is one object.
            **({"disable_bulk_delete": True} | account.client_settings() if account else {}),
        )
    except (BaseError, OSError, ValueError) as error:
        problem = str(error).partition("\n")[0][:200]
    raise ConfigError(f"no client can be made: {problem}", where=f"{scheme}://{bucket}")


def _client_options(account: Account | None, pace: _Pace) -> Any:
    options: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=pace.connect_s),
        "read_timeout": timedelta(seconds=pace.read_s),
        "timeout": timedelta(seconds=_WHOLE_S),
    }
    if account:
        options["allow_http"] = account.is_plain_http
    if account and account.ca_file:
        try:
            options["root_certificate"] = Path(account.ca_file).read_bytes()
        except OSError as error:
            text = f"cannot be read: {error.strerror}"
            raise ConfigError(text, where=f"AWS_CA_BUNDLE={account.ca_file}") from None
    return options


def split_url(url: str) -> tuple[str, str, str]:
    """Scheme, bucket and prefix of a URL.

    Raises:
        ConfigError: it is none. What is before an ``@`` is not quoted.
    """
    scheme, mark, rest = url.partition("://")
    bucket, _, prefix = rest.rstrip("/").partition("/")
    is_prefix = all(part not in {"", ".", ".."} and part.isprintable() for part in prefix.split("/"))
    if f"{scheme}{mark}" not in SCHEMES or not _BUCKET.fullmatch(bucket) or (prefix and not is_prefix):
        found = f"{scheme}://…{rest[rest.rindex('@') :]}" if "@" in rest else url
        known = f"{scheme}://" if f"{scheme}://" in SCHEMES else "s3://"
        raise ConfigError(f"found {found[:120]!r}, expected {known}bucket/prefix")
    return scheme, bucket, prefix


class BucketStore:
    """`registry.objects.ObjectStore` under ``s3://bucket/prefix``; the bucket has to be there.

    Any number of threads may use it. A process that was forked from one that did may not: obstore's threads
    are gone there.

    Args:
        location: ``s3://bucket/prefix``.
        cache: where copies of what is known by its digest are kept; without one, in this process alone.
        is_patient: as of `open_client`.

    Raises:
        ConfigError: ``location`` names no bucket, or the account is not one; no bucket is asked yet.
    """

    is_remote = True

    def __init__(self, location: str, cache: Cache | None = None, *, is_patient: bool = True) -> None:
        self.location = location.rstrip("/")
        self.cache = cache or Cache(None)
        self._has_generations = split_url(location)[0] == "gs"
        self._account = _find_account(location, os.environ)
        self._secrets = self._account.secrets if self._account else ()
        self.endpoint = self._account.endpoint if self._account else ""  # "" is the cloud's own
        self._pace = _PATIENT if is_patient else _QUICK
        self._clients: dict[_Pace, Any] = {}
        self._is_checked = False
        self._copies: Path | None = None
        self._lock = threading.Lock()

    @property
    def _client(self) -> Any:
        return self._open_client(self._pace)

    def _open_client(self, pace: _Pace) -> Any:
        """Made when it is first used: a service that starts from its cache needs none for that."""
        with self._lock:
            if pace not in self._clients:
                self._clients[pace] = _open(self.location, self._account, pace)
            return self._clients[pace]

    def list_keys(self, prefix: str = "", *, on_error: OnError | None = None) -> list[str]:
        try:
            found = self._ask(prefix, lambda: self._list(prefix))
        except OSError as error:
            if on_error is None:
                raise
            on_error(prefix, error)
            return []
        sizes = {each["path"]: each["size"] for each in found or [] if each["path"] not in {"", prefix}}
        sizes = {key: size for key, size in sizes.items() if not any(map(is_hidden, key.split("/")))}
        for marker in [key for key, size in sizes.items() if not size and self._is_marker(key)]:
            del sizes[marker]
            if not any(key.startswith(f"{marker}/") for key in sizes):
                sizes[f"{marker}/"] = 0
        return sorted(sizes)

    def _list(self, prefix: str) -> list[Any]:
        where = f"{self._path(prefix)}/" if prefix else None
        return [each for page in obstore.list(self._client, where) for each in page]

    def _is_marker(self, key: str) -> bool:
        """Whether it is an object ``name/``, by which some programs make folders.

        obstore lists it without the slash; and then nothing is found under its name.
        """
        return self._ask(key, lambda: obstore.head(self._client, key)) is None

    def list_names(self, prefix: str = "") -> list[str]:
        return sorted(name + "/" * is_folder for name, _, is_folder in self._list_folder(prefix))

    def list_sizes(self, prefix: str) -> dict[str, int | None]:
        sizes = {name: size for name, size, _ in self._list_folder(prefix, with_hidden=True)}
        if not sizes:
            raise MissingError(errno.ENOENT, os.strerror(errno.ENOENT), self._name(prefix))
        return sizes

    def _list_folder(self, prefix: str, *, with_hidden: bool = False) -> list[tuple[str, int | None, bool]]:
        """Name, size, and whether it is a folder."""
        where = f"{self._path(prefix)}/" if prefix else None
        found = self._ask(prefix, lambda: obstore.list_with_delimiter(self._client, where))
        if found is None:
            return []
        folders = {key.rstrip("/").rpartition("/")[2] for key in found["common_prefixes"]}
        files = {
            each["path"].rpartition("/")[2]: int(each["size"])
            for each in found["objects"]
            if each["path"] not in {"", prefix}  # as of `_is_marker`
        }
        is_left_out = is_system_file if with_hidden else is_hidden
        listed: list[tuple[str, int | None, bool]] = [(name, None, True) for name in folders]
        listed += [(name, size, False) for name, size in files.items() if name not in folders]
        return [each for each in listed if not is_left_out(each[0])]

    def find_size(self, key: str) -> int | None:
        found = self._ask(key, lambda: obstore.head(self._client, self._path(key)))
        return None if found is None else int(found["size"])

    def read(self, key: str, most_bytes: int = MAX_BYTES) -> bytes | None:
        found = self.read_tagged(key, most_bytes=most_bytes)
        return None if found is None else found.data

    def read_many(
        self, keys: Sequence[str], most_bytes: int = MAX_BYTES
    ) -> list[bytes | OSError | RegistryError | None]:
        lost: list[LostError] = []

        def read(key: str) -> bytes | OSError | RegistryError | None:
            if lost:  # a server that is silent once is not waited for a thousand times
                return lost[0]
            found = read_or_error(self, key, most_bytes)
            if isinstance(found, LostError):
                lost.append(found)
            return found

        return self._side_by_side(read, keys)

    def read_tagged(self, key: str, seen: str = "", most_bytes: int = MAX_BYTES) -> Tagged | None:
        options: Any = {"if_none_match": seen.partition(" ")[0]} if seen else {}

        def get() -> Tagged:
            try:
                found = obstore.get(self._client, self._path(key), options=options)
            except NotModifiedError:
                return Tagged(b"", seen)
            if found.meta["size"] > most_bytes:
                raise DamageError(f"has more than {most_bytes:,} bytes", where=self._name(key))
            return Tagged(bytes(found.bytes()), self._tag(found.meta))

        return self._ask(key, get)

    def _tag(self, found: Any) -> str:
        """The ETag; Google's generation behind it, by which alone writes are conditional there."""
        return f"{found['e_tag'] or ''}{' ' + (found['version'] or '') if self._has_generations else ''}"

    def _same(self, tag: str) -> Any:
        """obstore's mode of a write that replaces what has this tag."""
        e_tag, _, version = tag.partition(" ")
        return {"e_tag": e_tag, "version": version} if version else {"e_tag": e_tag}

    def read_known(self, key: str, sha256: str, size: int) -> Known | None:
        return self.cache.read_known(sha256, size, lambda: self._fetch(key, size))

    def _fetch(self, key: str, size: int) -> Known | None:
        whole = io.BytesIO()
        digest = self._stream(key, whole.write, size + 1)
        return None if digest is None else Known(whole.getvalue(), digest)  # which does not copy

    def digest(self, key: str) -> str:
        found = self._stream(key, lambda _: None)
        if found is None:
            raise MissingError(errno.ENOENT, os.strerror(errno.ENOENT), self._name(key))
        return found

    def _stream(self, key: str, take: Callable[[bytes], object], most_bytes: int = MAX_BYTES) -> str | None:
        """Have ``take`` get an object's bytes as they come; their SHA-256, None when there is no object."""
        found = self._ask(key, lambda: obstore.get(self._client, self._path(key)))
        if found is None:
            return None
        if found.meta["size"] > most_bytes:
            raise DamageError(f"has more than {most_bytes:,} bytes", where=self._name(key))
        digest = hashlib.sha256()
        chunks = iter(found.stream(min_chunk_size=_CHUNK_BYTES))
        # ``take`` may write to a disk, whose errors are its own.
        while (chunk := self._ask(key, lambda: next(chunks, b""))) is not None:
            if not len(chunk):
                return digest.hexdigest()
            data = bytes(chunk)
            digest.update(data)
            take(data)
        return None

    def put(self, key: str, data: bytes) -> None:
        self._check_conditions()
        self._write(key, lambda: obstore.put(self._client, self._path(key), data, use_multipart=False))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._check_conditions()
        return self._create(key, data)

    def _create(self, key: str, data: bytes) -> bool:
        return self._write_if(key, data, "create", lambda found: found is None)

    def put_if_same(self, key: str, data: bytes, seen: str) -> bool:
        self._check_conditions()
        return self._swap(key, data, seen)

    def _swap(self, key: str, data: bytes, seen: str) -> bool:
        return self._write_if(
            key, data, self._same(seen), lambda found: found is not None and found.tag == seen
        )

    def _write_if(
        self, key: str, data: bytes, mode: Any, still_holds: Callable[[Tagged | None], bool]
    ) -> bool:
        """Write under a condition, until it is known whether these bytes were written.

        Raises:
            ConnectionError: it is not known; or the server answers that it cannot do it.
        """
        for pause_s in _PAUSES_S:
            time.sleep(pause_s)
            lost: LostError | None = None
            try:
                self._write(key, lambda: self._put(key, data, mode))
            except (AlreadyExistsError, PreconditionError):
                pass
            except LostError as error:
                lost = error
            except MissingError:  # Amazon's answer to If-Match where nothing is
                if mode == "create":
                    raise
            else:
                return True
            found = self._look_back(key, lost)
            if found is not None and found.data == data:
                return True
            if not still_holds(found):
                return False
            if lost is not None and lost.is_answered:
                raise lost.replace(UNKNOWN, "It was not written.")
        raise lost or self._lost(key, "other writers are in the way. Try again.")

    def _look_back(self, key: str, lost: LostError | None) -> Tagged | None:
        """What is there after a write that was refused, or not answered."""
        try:
            return self.read_tagged(key)
        except (OSError, DamageError) as error:
            reason = error.strerror if isinstance(error, OSError) else "other bytes are there."
        raise lost or self._lost(key, f"is there already, and cannot be read back: {reason} {UNKNOWN}")

    def _lost(self, key: str, text: str) -> LostError:
        return LostError(errno.EIO, text, self._name(key))

    def _put(self, key: str, data: bytes, mode: Any) -> Any:
        return obstore.put(self._client, self._path(key), data, mode=mode, use_multipart=False)

    @contextlib.contextmanager
    def open_staging(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="timberline-") as folder:
            yield Path(folder)

    def commit(self, staged: Path, prefix: str, *, last: str) -> bool:
        claim = msgspec.json.encode({"nonce": secrets.token_hex(16)})
        others = sorted(path.name for path in staged.iterdir() if path.name != last)
        lost: LostError | None = None
        try:
            if not self.put_if_absent(f"{prefix}/{CLAIM_FILE}", claim):
                return False
            self._side_by_side(lambda name: self._upload(f"{prefix}/{name}", staged / name), others)
        except LostError as error:
            lost = error.replace(UNKNOWN, "Nothing was published.")
        if lost is not None:
            raise lost
        if not self._create(f"{prefix}/{last}", (staged / last).read_bytes()):
            raise DamageError(
                "was written by another than the owner of its claim",
                where=self._name(f"{prefix}/{last}"),
                hint="Nothing was published. Find out who writes to the registry by hand.",
            )
        return True

    def _upload(self, key: str, path: Path) -> None:
        client = self._open_client(BULK)
        with path.open("rb"):  # of its errors obstore says neither number nor name
            pass
        self._write(
            key,
            lambda: obstore.put(
                client, self._path(key), path, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
            ),
        )

    def open_file(self, key: str, sha256: str, size: int) -> Path:
        cached = self.cache.open_file(sha256, size, lambda take: self._stream(key, take, size))
        if cached is not None:
            return cached
        folder = self._open_copies()
        path = folder / sha256
        if path.is_file():
            return path
        handle, name = tempfile.mkstemp(dir=folder)
        partial = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                found = self._stream(key, file.write, size)
            if found != sha256:
                raise DigestMismatchError(
                    "is missing" if found is None else f"has digest {found[:12]}…, expected {sha256[:12]}…",
                    where=self._name(key),
                )
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    def _open_copies(self) -> Path:
        """A folder for copies, which goes with the process."""
        with self._lock:
            if self._copies is None:
                self._copies = Path(tempfile.mkdtemp(prefix="timberline-"))
                atexit.register(shutil.rmtree, self._copies, ignore_errors=True)
            return self._copies

    def _check_conditions(self) -> None:
        """At the first write: have the server prove that it keeps both conditions, each on its own.

        What was found is kept in the bucket, so that one writer does it for all.

        Raises:
            RegistryError: it ignores one.
        """
        if self._is_checked:
            return
        if self.find_size(_CHECKED) is None:
            self._prove_conditions()
        self._is_checked = True

    def _prove_conditions(self) -> None:
        key = f"{_OWN}/try-{secrets.token_hex(8)}"
        first, second, third, fourth = (f"{number} {secrets.token_hex(8)}".encode() for number in range(4))
        try:
            if (
                not self._create(key, first)
                or self._create(key, second)
                or self._read_back(key).data != first
            ):
                raise self._ignores("If-None-Match, by which one of two writers loses")
            seen = self._read_back(key).tag
            if not self._swap(key, third, seen) or self._read_back(key).data != third:
                raise self._ignores("or refuses If-Match where it holds")
            if self._swap(key, fourth, seen) or self._read_back(key).data != third:
                raise self._ignores("If-Match, by which a writer who was overtaken is found")
        finally:
            with contextlib.suppress(BaseError, OSError):  # not every account may delete
                obstore.delete(self._client, key)
        self._write(_CHECKED, lambda: obstore.put(self._client, _CHECKED, b"{}\n", use_multipart=False))

    def _ignores(self, what: str) -> RegistryError:
        return RegistryError(
            f"its server ignores {what}; two releases at the same time would damage the registry",
            where=self.location,
            hint="Nothing was written. Use another server (Amazon S3, R2, MinIO, SeaweedFS), or a folder.",
        )

    def _read_back(self, key: str) -> Tagged:
        """What is there after a write that was refused, or done; empty if nothing is."""
        return self.read_tagged(key) or Tagged(b"", "")

    def _path(self, key: str) -> str:
        if not key.startswith(f"{_OWN}/"):
            check_key(key, self.location)
        if any(character < " " or character == "\x7f" for character in key):
            raise RegistryError(f"{key[:80]!r} is not a key", where=self.location)
        return key

    def _name(self, key: str) -> str:
        return f"{self.location}/{key}" if key else self.location

    def _side_by_side(self, do: Callable[[str], T], keys: Sequence[str]) -> list[T]:
        if len(keys) < 2:
            return [do(key) for key in keys]
        with ThreadPoolExecutor(min(_AT_ONCE, len(keys))) as pool:
            return list(pool.map(do, keys))

    def _ask(self, key: str, ask: Callable[[], T]) -> T | None:
        """The answer to a question; None when there is no such object."""
        try:
            return ask()
        except MissingError:
            raise
        except FileNotFoundError:
            return None
        except (BaseError, OSError, ValueError) as error:
            refusal = self._explain(error, key)
        # Raised here and not above, so that the client's error is not even attached as context.
        raise refusal

    def _write(self, key: str, write: Callable[[], object]) -> None:
        """Do what changes something; the two errors of a condition are the client's own.

        Raises:
            FileNotFoundError: there is no such bucket.
        """
        refusal: OSError | None = None
        try:
            write()
        except (AlreadyExistsError, PreconditionError):
            raise
        except (BaseError, OSError, ValueError) as error:
            refusal = self._explain(error, key, UNKNOWN)
        if refusal is not None:
            raise refusal

    def _explain(self, error: Exception, key: str, more: str = "") -> OSError:
        if isinstance(error, OSError) and error.errno is not None:  # of a local file, or explained already
            return error
        return explain(error, self._name(key), self._secrets, more=more)
