"""An object store in a bucket: Amazon S3 and what speaks its protocol, by conditional requests alone.

``put_if_absent`` is a PUT with ``If-None-Match: *``, ``put_if_same`` one with ``If-Match``. Both are asked
again by the client when an answer is lost, and then fail because of themselves; so what was refused is read
back and its bytes are compared. Servers that ignore either condition exist. The first write to a registry
tries both, and refuses such a server.

Account, region and endpoint come from the standard ``AWS_*`` variables. No message and no log line has a
credential.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotModifiedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, S3Store

from timberline.registry.cache import Cache
from timberline.registry.errors import ConfigError, DamageError, DigestMismatchError, RegistryError
from timberline.registry.objects import (
    MAX_BYTES,
    Known,
    OnError,
    Tagged,
    check_key,
    is_hidden,
    read_or_error,
)

T = TypeVar("T")

CLAIM = "claim"
# The store's own: that the server was found to keep conditions, and what is left of finding out.
_OWN = ".timberline"
_CHECKED = f"{_OWN}/conditions.json"

# A server that does not answer is given up after a while: it may be a service that waits.
_CONNECT_S = 5
_READ_S = 15
_WHOLE_S = 3600
_RETRIES = 3
_RETRY_S = 30
# By a service, which has a cache to start from and asks again later.
_QUICK_CONNECT_S = 2
_QUICK_READ_S = 5
_QUICK_RETRIES = 1
# Many small objects at once, and the parts of a large one.
_AT_ONCE = 16
_CHUNK_BYTES = 1 << 20
# A create that another one is doing at the same time is answered by 409, and then there is nothing (yet).
_CREATE_ATTEMPTS = 5

_HINT_ACCESS = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL "
    "where they apply) of an account that may use it."
)
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")


def open_client(url: str, environment: Mapping[str, str] | None = None, *, is_patient: bool = True) -> Any:
    """obstore's client of a bucket and prefix, with explicit timeouts and retries; no request is made.

    Args:
        url: ``s3://bucket/prefix``; ``gs://`` and ``az://`` likewise, which no test of ours reaches.
        environment: of the account; the process's own by default.
        is_patient: whether a server that does not answer is asked for long; not by whoever asks again anyway.

    Raises:
        ConfigError: the URL names no bucket.
    """
    environment = os.environ if environment is None else environment
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise ConfigError(f"found {url!r}, expected {scheme}://bucket/prefix")
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    is_plain_http = (endpoint or environment.get("AWS_ENDPOINT") or "").startswith("http://")
    kind = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[scheme]
    return kind(
        bucket,
        prefix=prefix.strip("/") or None,
        client_options={
            "allow_http": is_plain_http,
            "connect_timeout": timedelta(seconds=_CONNECT_S if is_patient else _QUICK_CONNECT_S),
            "read_timeout": timedelta(seconds=_READ_S if is_patient else _QUICK_READ_S),
            "timeout": timedelta(seconds=_WHOLE_S),
        },
        retry_config={
            "max_retries": _RETRIES if is_patient else _QUICK_RETRIES,
            "retry_timeout": timedelta(seconds=_RETRY_S),
        },
    )


class BucketStore:
    """`registry.objects.ObjectStore` under ``s3://bucket/prefix``; the bucket has to be there.

    Args:
        location: ``s3://bucket/prefix``.
        cache: where copies of what is known by its digest are kept; without one, in this process alone.
        is_patient: as of `open_client`.

    Raises:
        ConfigError: ``location`` names no bucket.
    """

    is_remote = True
    own_names = frozenset({CLAIM})

    def __init__(self, location: str, cache: Cache | None = None, *, is_patient: bool = True) -> None:
        self.location = location.rstrip("/")
        self.cache = cache or Cache(None)
        self._client = open_client(self.location, is_patient=is_patient)
        self._is_checked = False
        self._copies: Path | None = None

    def list_keys(self, prefix: str = "", *, on_error: OnError | None = None) -> list[str]:
        try:
            found = self._ask(prefix, lambda: list(self._pages(prefix)))
        except OSError as error:
            if on_error is None:
                raise
            on_error(prefix, error)
            return []
        keys = [each["path"] for page in found or [] for each in page]
        return sorted(key for key in keys if not any(map(is_hidden, key.split("/"))))

    def list_names(self, prefix: str = "") -> list[str]:
        found = self._list_folder(prefix)
        names = [f"{key.rstrip('/').rpartition('/')[2]}/" for key in found["common_prefixes"]]
        names += [each["path"].rpartition("/")[2] for each in found["objects"]]
        return sorted(name for name in names if not is_hidden(name.rstrip("/")))

    def list_sizes(self, prefix: str) -> dict[str, int | None]:
        found = self._list_folder(prefix)
        sizes: dict[str, int | None] = {
            each["path"].rpartition("/")[2]: each["size"] for each in found["objects"]
        }
        if not sizes:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._name(prefix))
        return sizes | {key.rstrip("/").rpartition("/")[2]: None for key in found["common_prefixes"]}

    def _pages(self, prefix: str) -> Iterator[Any]:
        return iter(obstore.list(self._client, f"{prefix}/" if prefix else None))

    def _list_folder(self, prefix: str) -> Any:
        where = f"{prefix}/" if prefix else None
        found = self._ask(prefix, lambda: obstore.list_with_delimiter(self._client, where))
        return found or {"common_prefixes": [], "objects": []}

    def find_size(self, key: str) -> int | None:
        found = self._ask(key, lambda: obstore.head(self._client, self._path(key)))
        return None if found is None else int(found["size"])

    def read(self, key: str, most_bytes: int = MAX_BYTES) -> bytes | None:
        found = self.read_tagged(key, most_bytes=most_bytes)
        return None if found is None else found.data

    def read_many(
        self, keys: Sequence[str], most_bytes: int = MAX_BYTES
    ) -> list[bytes | OSError | RegistryError | None]:
        return self._side_by_side(lambda key: read_or_error(self, key, most_bytes), keys)

    def read_tagged(self, key: str, seen: str = "", most_bytes: int = MAX_BYTES) -> Tagged | None:
        options: Any = {"if_none_match": seen} if seen else {}

        def get() -> Tagged:
            try:
                found = obstore.get(self._client, self._path(key), options=options)
            except NotModifiedError:
                return Tagged(b"", seen)
            if found.meta["size"] > most_bytes:
                raise DamageError(f"has more than {most_bytes:,} bytes", where=self._name(key))
            return Tagged(bytes(found.bytes()), found.meta["e_tag"] or "")

        return self._ask(key, get)

    def read_known(self, key: str, sha256: str, size: int) -> Known | None:
        return self.cache.read_known(sha256, size, lambda: self._fetch(key, size))

    def _fetch(self, key: str, size: int) -> Known | None:
        parts: list[bytes] = []
        digest = self._stream(key, parts.append, size + 1)
        return None if digest is None else Known(b"".join(parts), digest)

    def digest(self, key: str) -> str:
        found = self._stream(key, lambda _: None)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._name(key))
        return found

    def _stream(self, key: str, take: Callable[[bytes], object], most_bytes: int = MAX_BYTES) -> str | None:
        """Have ``take`` get an object's bytes as they come; their SHA-256, None when there is no object."""

        def stream() -> str:
            found = obstore.get(self._client, self._path(key))
            if found.meta["size"] > most_bytes:
                raise DamageError(f"has more than {most_bytes:,} bytes", where=self._name(key))
            digest = hashlib.sha256()
            for chunk in found.stream(min_chunk_size=_CHUNK_BYTES):
                data = bytes(chunk)
                digest.update(data)
                take(data)
            return digest.hexdigest()

        return self._ask(key, stream)

    def put(self, key: str, data: bytes) -> None:
        self._check_conditions()
        self._write(key, lambda: obstore.put(self._client, self._path(key), data, use_multipart=False))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._check_conditions()
        return self._create(key, data)

    def _create(self, key: str, data: bytes) -> bool:
        for _ in range(_CREATE_ATTEMPTS):
            try:
                self._write(key, lambda: self._put(key, data, "create"))
            except AlreadyExistsError:
                if found := self.read_tagged(key):
                    return found.data == data
            else:
                return True
        raise ConnectionError(f"{self._name(key)}: other writers are in the way; try again")

    def put_if_same(self, key: str, data: bytes, seen: str) -> bool:
        self._check_conditions()
        return self._swap(key, data, seen)

    def _swap(self, key: str, data: bytes, seen: str) -> bool:
        try:
            self._write(key, lambda: self._put(key, data, {"e_tag": seen}))
        except (PreconditionError, AlreadyExistsError):
            return self._read_back(key).data == data
        return True

    def _put(self, key: str, data: bytes, mode: Any) -> Any:
        return obstore.put(self._client, self._path(key), data, mode=mode, use_multipart=False)

    @contextlib.contextmanager
    def open_staging(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="timberline-") as folder:
            yield Path(folder)

    def commit(self, staged: Path, prefix: str, *, last: str) -> bool:
        claim = msgspec.json.encode({"nonce": secrets.token_hex(16)})
        if not self.put_if_absent(f"{prefix}/{CLAIM}", claim):
            return False
        others = sorted(path.name for path in staged.iterdir() if path.name != last)
        self._side_by_side(lambda name: self._upload(f"{prefix}/{name}", staged / name), others)
        if not self._create(f"{prefix}/{last}", (staged / last).read_bytes()):
            raise DamageError(
                "was written by another than the owner of its claim",
                where=self._name(f"{prefix}/{last}"),
                hint="Nothing was published. Find out who writes to the registry by hand.",
            )
        return True

    def _upload(self, key: str, path: Path) -> None:
        self._write(key, lambda: obstore.put(self._client, self._path(key), path))

    def open_file(self, key: str, sha256: str, size: int) -> Path:
        cached = self.cache.open_file(sha256, size, lambda take: self._stream(key, take, size))
        if cached is not None:
            return cached
        folder = self._open_copies()
        path = folder / sha256
        if path.is_file():
            return path
        handle, partial = tempfile.mkstemp(dir=folder)
        with os.fdopen(handle, "wb") as file:
            found = self._stream(key, file.write, size)
        if found != sha256:
            raise DigestMismatchError(
                "is missing" if found is None else f"has digest {found[:12]}…, expected {sha256[:12]}…",
                where=self._name(key),
            )
        Path(partial).rename(path)
        return path

    def _open_copies(self) -> Path:
        """A folder for copies, which goes with the process."""
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
        if self._ask(_CHECKED, lambda: obstore.head(self._client, _CHECKED)) is None:
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
        return key

    def _name(self, key: str) -> str:
        return f"{self.location}/{key}"

    def _side_by_side(self, do: Callable[[str], T], keys: Sequence[str]) -> list[T]:
        if len(keys) < 2:
            return [do(key) for key in keys]
        with ThreadPoolExecutor(min(_AT_ONCE, len(keys))) as pool:
            return list(pool.map(do, keys))

    def _ask(self, key: str, ask: Callable[[], T]) -> T | None:
        """The answer to a question; None when there is no such object."""
        try:
            return ask()
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            refusal = self._explain(error, key)
        # Raised here and not above, so that the client's error is not even attached as context.
        raise refusal

    def _write(self, key: str, write: Callable[[], object]) -> None:
        refusal: OSError | None = None
        try:
            write()
        except (AlreadyExistsError, PreconditionError):
            raise
        except FileNotFoundError:
            refusal = FileNotFoundError(errno.ENOENT, "no such bucket", self.location)
        except (BaseError, OSError) as error:
            refusal = self._explain(error, key, " It is not known whether it was written: look first.")
        if refusal is not None:
            raise refusal

    def _explain(self, error: Exception, key: str, more: str = "") -> OSError:
        """An error without what the client quotes of the request."""
        where = self._name(key)
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            return PermissionError(errno.EACCES, f"access is refused. {_HINT_ACCESS}", where)
        text = str(error).partition("\n")[0]
        for name in _SECRETS:
            if secret := os.environ.get(name):
                text = text.replace(secret, "…")
        return ConnectionError(f"{where}: {text[:300]}.{more}")
