"""An object behind an s3:// URL; account, region and endpoint come from the standard AWS_* variables."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import S3Store

from timberline.training.errors import SourceError
from timberline.training.sources.download import (
    CHUNK_BYTES,
    FileChangedError,
    LostConnectionError,
    Reply,
    scrub,
)

_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
_ACCOUNTS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SKIP_SIGNATURE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_HINT_ACCESS = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL "
    "where they apply) of an account that may read it, or AWS_SKIP_SIGNATURE=true for a public bucket."
)


class S3Object:
    """One object; ``open_at`` is its `Opener`."""

    def __init__(self, url: str, environment: Mapping[str, str]) -> None:
        bucket, _, self._key = url.removeprefix("s3://").partition("/")
        if not bucket or not self._key:
            raise SourceError(f"found {url!r}, expected s3://bucket/key", where="source.path in model.toml")
        self._bucket = bucket
        self._url = url
        self._secrets = tuple(environment.get(name, "") for name in _SECRETS)
        # Without one the client asks a cloud machine's metadata service, and fails there elsewhere.
        self._has_account = any(environment.get(name) for name in _ACCOUNTS)
        endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
        self._is_plain_http = (endpoint or environment.get("AWS_ENDPOINT", "")).startswith("http://")

    @contextlib.contextmanager
    def open_at(self, offset: int, validator: str | None) -> Iterator[Reply]:
        """Ask for the object from ``offset`` on, if it is still the one that ``validator`` names."""

        options: Any = {}
        if offset and validator:
            options = {"range": {"offset": offset}, "if_match": validator}
        found = self._ask(options)
        start = found.range[0] if options else 0
        yield Reply(start, found.meta["size"], found.meta["e_tag"], self._chunks(found))

    def _ask(self, options: Any) -> Any:
        try:
            return obstore.get(self._store(), self._key, options=options)
        except (BaseError, OSError, ValueError) as error:
            refusal = self._refusal(error)
        # Raised here and not above, so that the client's error is not even attached as context.
        raise refusal

    def _store(self) -> Any:

        return S3Store(
            self._bucket,
            client_options={"allow_http": self._is_plain_http, "timeout": timedelta(hours=6)},
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=20)},
        )

    def _chunks(self, found: Any) -> Iterator[bytes]:

        try:
            for chunk in found.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)
        except (BaseError, OSError) as error:
            raise LostConnectionError(f"the body broke off ({type(error).__name__})") from None

    def _refusal(self, error: Exception) -> Exception:
        if isinstance(error, PreconditionError):
            return FileChangedError("the object has changed")
        if isinstance(error, FileNotFoundError):
            return SourceError("no such bucket or object", where=self._url, hint="Check source.path.")
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            return SourceError("access is refused", where=self._url, hint=_HINT_ACCESS)
        # The client's text runs over many lines and may quote the request; the first names the cause.
        message = scrub(str(error).partition("\n")[0], self._secrets)
        if self._has_account and isinstance(error, BaseError):
            return LostConnectionError(message)
        return SourceError(f"could not be read: {message}", where=self._url, hint=_HINT_ACCESS)
