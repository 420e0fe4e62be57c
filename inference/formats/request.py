"""What a handler is given: one whole request, its body read and within its bounds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from timberline.inference.formats.answers import Answer, Header

NOTHING_NAMED: Mapping[str, str] = {}


class Request:
    """One request; made once, read only.

    Args:
        method: in capitals.
        path: decoded, without the query.
        query: the raw query string.
        headers: names in lower case, in the order sent.
        body: all of it, inflated if it came compressed.
        named: the values of the route's parameters.
        first: the first header of each name, for heads that are read again and again.
    """

    __slots__ = ("body", "first", "headers", "method", "named", "path", "query")

    def __init__(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: Sequence[Header],
        body: bytes,
        named: Mapping[str, str] = NOTHING_NAMED,
        first: Mapping[bytes, bytes] | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.named = named
        self.first = first

    def find_header(self, name: bytes) -> bytes | None:
        """The first header called ``name`` (lower case), or None."""
        if self.first is not None:
            return self.first.get(name)
        for key, value in self.headers:  # a generator takes twice as long
            if key == name:
                return value
        return None


# Called on the event loop's thread. What is quick is answered at once; what is not is given back as
# something to wait for, which works in a thread.
Handler = Callable[[Request], Answer | Awaitable[Answer]]
