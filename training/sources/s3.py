"""An object behind an s3:// URL; `registry.account` finds the account, region and endpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import obstore
from obstore.exceptions import BaseError, PreconditionError

from timberline.registry.account import find_account
from timberline.registry.bucket import open_client
from timberline.registry.errors import ConfigError
from timberline.registry.refusals import LostError, explain
from timberline.training.errors import SourceError
from timberline.training.sources.download import (
    CHUNK_BYTES,
    FileChangedError,
    LostConnectionError,
    Reply,
)


class S3Object:
    """One object; ``open_at`` is its `Opener`."""

    def __init__(self, url: str, environment: Mapping[str, str]) -> None:
        bucket, _, self._key = url.removeprefix("s3://").partition("/")
        if not bucket or not self._key:
            raise SourceError(f"found {url!r}, expected s3://bucket/key", where="source.path in model.toml")
        self._bucket = f"s3://{bucket}"
        self._url = url
        self._environment = environment

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
            client = open_client(self._bucket, self._environment)
            return obstore.get(client, self._key, options=options)
        except ConfigError as error:
            refusal: Exception = SourceError(f"cannot be asked for: {error}", where=self._url)
        except (BaseError, OSError, ValueError) as error:
            refusal = self._refusal(error)
        # Raised here and not above, so that the client's error is not even attached as context.
        raise refusal

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
        refusal = explain(error, self._url, find_account(self._environment).secrets)
        if isinstance(refusal, LostError):
            return LostConnectionError(str(refusal.strerror))
        return SourceError(str(refusal.strerror), where=self._url)
