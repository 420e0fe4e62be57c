"""The bytes of a request: no more of them than allowed, and within the time allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from starlette.types import Message, Receive

from inference.answers import Header
from inference.errors import BodyTooLargeError, ClientGoneError, SlowClientError, UnsupportedMediaError


class BodyReader:
    """Reads bodies as they arrive.

    Args:
        max_bytes: longest body.
        timeout_s: seconds that one may take to arrive.
    """

    def __init__(self, max_bytes: int, timeout_s: float) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def read(self, headers: Iterable[Header], receive: Receive) -> bytes:
        """Read one body.

        Raises:
            UnsupportedMediaError: it is compressed.
            BodyTooLargeError: it is longer than allowed, by its declared length or as it arrives;
                the rest is not kept.
            SlowClientError: it did not arrive in time.
            ClientGoneError: the client hung up in the middle.
        """
        for name, value in headers:
            if name == b"content-length":
                if int(value) > self._max_bytes:
                    raise self._refuse()
            elif name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
                raise UnsupportedMediaError(
                    f"content encoding {_show(value)} is not read here", hint="Send the body uncompressed."
                )
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._read(await receive(), receive)
        except TimeoutError:
            raise SlowClientError(f"the body did not arrive within {self._timeout_s:g} s") from None

    async def _read(self, message: Message, receive: Receive) -> bytes:
        parts: list[bytes] = []
        length = 0
        while message["type"] == "http.request":
            part = message.get("body", b"")
            length += len(part)
            if length > self._max_bytes:
                raise self._refuse()
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)
            message = await receive()
        raise ClientGoneError("the client closed the connection before the body was complete")

    def _refuse(self) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"the body has more than {self._max_bytes:,} bytes, the most that is read",
            hint="Send the rows in parts.",
        )


def _show(value: bytes) -> str:
    return repr(value.decode("latin-1"))[:80]
