"""The bytes of a request: no more of them than allowed, inflated if compressed, in the time allowed."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from functools import partial

from starlette.types import Message, Receive

from timberline.inference.errors import (
    BodyTooLargeError,
    ClientGoneError,
    MalformedBodyError,
    ReceivingError,
    SlowClientError,
    UnsupportedMediaError,
)
from timberline.inference.formats.request import Header

# Content codings (RFC 9110, 8.4.1) and zlib's window bits for them: 31 is a gzip wrapper, 15 a zlib one.
_WINDOW_BITS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
_IDENTITY = frozenset({b"", b"identity"})
# So much is inflated on the event loop, which takes some 0.1 ms; what is more, in a thread.
_INLINE_BYTES = 64 * 1024
# So much is inflated in one step of the thread; between two of them it is counted.
_STEP_BYTES = 1 << 20
# After so many freed bytes the process may give memory back to the kernel.
_MANY_BYTES = 64 * 1024
# Writers that begin a new gzip member now and then do so every 64 KiB or more; a body of nothing but
# empty members would cost a new inflater for every 20 bytes.
_MOST_MEMBERS = 1024


class ReceiveBudget:
    """Counts the bytes of requests that all connections hold; belongs to the event loop's thread.

    A holder of bytes of a request that is not answered yet takes as many here first, and gives them
    back when it lets go of them.

    Args:
        max_bytes: more than this at a time are refused.
        when_freed: called when many bytes have been given back, at once or one after the other.
    """

    def __init__(self, max_bytes: int, when_freed: Callable[[], None] | None = None) -> None:
        self.held = 0
        self._peak = 0  # since `when_freed` was called last
        self._max_bytes = max_bytes
        self._when_freed = when_freed

    def take(self, count: int) -> None:
        """Count ``count`` more bytes as held.

        Raises:
            ReceivingError: they would be more than allowed; none of them is counted.
        """
        if self.held + count > self._max_bytes:
            raise ReceivingError(
                f"requests being received and worked on hold {self._max_bytes:,} bytes, "
                "the most they may together",
                hint="Ask again in a second.",
            )
        self.held += count
        self._peak = max(self._peak, self.held)

    def give(self, count: int) -> None:
        """Count ``count`` bytes, taken before, as held no longer."""
        self.held -= count
        if self._peak - self.held >= _MANY_BYTES and self._when_freed is not None:
            self._peak = self.held
            self._when_freed()


class BodyReader:
    """Reads bodies as they arrive.

    Args:
        max_bytes: longest body, also of what a compressed one grows to.
        timeout_s: seconds that one may take to arrive.
        receiving: what all bodies together may hold.
        pool: where long ones are inflated; None is asyncio's own.
    """

    def __init__(
        self, max_bytes: int, timeout_s: float, receiving: ReceiveBudget, pool: Executor | None = None
    ) -> None:
        self.receiving = receiving
        self._pool = pool
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def read(self, headers: Iterable[Header], receive: Receive) -> bytes:
        """Read one body, inflated if it is gzip or deflate by its declaration.

        Returns:
            The body; as many bytes are taken from ``receiving``, which the caller gives back.

        Raises:
            UnsupportedMediaError: it is compressed in another way, or more than once.
            BodyTooLargeError: it is longer than allowed, by its declared length, as it arrives or
                as it is inflated; the rest is neither kept nor inflated.
            MalformedBodyError: it cannot be inflated, ends early or has something behind its end.
            SlowClientError: it did not arrive in time.
            ReceivingError: all bodies being received are as large as they may be together.
            ClientGoneError: the client hung up in the middle.
        """
        inflater: Inflater | None = None
        for name, value in headers:
            if name == b"content-length":
                if int(value) > self._max_bytes:
                    raise _refuse_length(self._max_bytes)
            elif name == b"content-encoding" and (coding := value.strip().lower()) not in _IDENTITY:
                if coding not in _WINDOW_BITS or inflater is not None:
                    raise _refuse_coding(value)
                inflater = Inflater(coding, self._max_bytes)
        share = _Held(self.receiving)
        try:
            async with asyncio.timeout(self._timeout_s):
                body = await self._read(await receive(), receive, inflater, share)
            share.hold(len(body))
        except TimeoutError:
            share.hold(0)
            raise SlowClientError(f"the body did not arrive within {self._timeout_s:g} s") from None
        except BaseException:
            share.hold(0)
            raise
        return body

    async def _read(
        self, message: Message, receive: Receive, inflater: Inflater | None, share: _Held
    ) -> bytes:
        parts: list[bytes] = []
        length = 0
        while message["type"] == "http.request":
            part = message.get("body", b"")
            length += len(part)
            if length > self._max_bytes:
                raise _refuse_length(self._max_bytes)
            if inflater is None:
                share.hold(length)
                parts.append(part)
            else:
                is_done = inflater.feed(part, _INLINE_BYTES)
                share.hold(inflater.held)
                while not is_done:
                    step = partial(inflater.feed, b"", _STEP_BYTES)
                    is_done = await asyncio.get_running_loop().run_in_executor(self._pool, step)
                    share.hold(inflater.held)
            if not message.get("more_body", False):
                return b"".join(parts) if inflater is None else inflater.finish()
            message = await receive()
        raise ClientGoneError("the client closed the connection before the body was complete")


class _Held:
    """The bytes of the common budget that one body holds."""

    def __init__(self, receiving: ReceiveBudget) -> None:
        self._receiving = receiving
        self._count = 0

    def hold(self, count: int) -> None:
        """Hold ``count`` bytes from now on.

        Raises:
            ReceivingError: as `ReceiveBudget.take`; what was held before still is.
        """
        if count < self._count:
            self._receiving.give(self._count - count)
        else:
            self._receiving.take(count - self._count)
        self._count = count


class Inflater:
    """Inflates one body, part by part, and never more of it than allowed.

    Args:
        coding: ``gzip``, ``x-gzip`` or ``deflate``.
        max_bytes: longest body when inflated.
    """

    def __init__(self, coding: bytes, max_bytes: int) -> None:
        self._coding = coding.decode("ascii")
        self._bits = _WINDOW_BITS[coding]
        self._max_bytes = max_bytes
        self._stream = zlib.decompressobj(self._bits)
        self._members = 1
        self._waiting = b""  # what has arrived and is not inflated yet
        self._has_more = False  # zlib holds back what the last call had no room for
        self._parts: list[bytes] = []
        self._length = 0

    @property
    def held(self) -> int:
        """Bytes held: of the body so far, and of what is not inflated yet."""
        return self._length + len(self._waiting)

    def feed(self, part: bytes, most: int) -> bool:
        """Inflate what was waiting and ``part``; False if ``most`` bytes came out and more is waiting.

        Raises:
            BodyTooLargeError, MalformedBodyError: as `BodyReader.read`.
        """
        self._waiting += part
        until = self._length + most
        while self._waiting or self._has_more:
            if self._length >= until:
                return False
            if self._stream.eof:
                self._begin_member()
            self._inflate(min(until, self._max_bytes + 1) - self._length)
        return True

    def finish(self) -> bytes:
        """The whole body.

        Raises:
            MalformedBodyError: the compressed one is not at its end.
        """
        if not self._stream.eof:
            raise self._refuse("ends early")
        return b"".join(self._parts)

    def _inflate(self, most: int) -> None:
        stream = self._stream
        try:
            out = stream.decompress(self._waiting, most)  # most is at least 1; 0 would be no limit
        except zlib.error:
            what = "cannot be inflated" if self._members == 1 else "has something behind its end"
            raise self._refuse(what) from None
        self._waiting = stream.unused_data if stream.eof else stream.unconsumed_tail
        self._has_more = len(out) == most and not stream.eof
        self._parts.append(out)
        self._length += len(out)
        if self._length > self._max_bytes:
            raise _refuse_length(self._max_bytes, "inflated ")

    def _begin_member(self) -> None:
        """Begin the next member of a gzip body, which may have several (RFC 1952, 2.2); deflate has one."""
        self._members += 1
        if self._bits == _WINDOW_BITS[b"deflate"] or self._members > _MOST_MEMBERS:
            raise self._refuse("has something behind its end")
        self._stream = zlib.decompressobj(self._bits)

    def _refuse(self, what: str) -> MalformedBodyError:
        return MalformedBodyError(f"the body is declared to be {self._coding}, but {what}")


def _refuse_length(max_bytes: int, kind: str = "") -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the {kind}body has more than {max_bytes:,} bytes, the most that is read",
        hint="Send the rows in parts.",
    )


def _refuse_coding(value: bytes) -> UnsupportedMediaError:
    shown = repr(value.decode("latin-1"))[:80]
    return UnsupportedMediaError(
        f"content encoding {shown} is not read here", hint="Send gzip, deflate or the plain body."
    )
