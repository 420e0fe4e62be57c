"""The bytes of a request: what they are declared to be, and no more of them than allowed."""

from __future__ import annotations

from starlette.types import Message, Receive, Scope

from inference.errors import BodyTooLargeError, ClientGoneError, UnsupportedMediaError

_JSON = frozenset(
    {b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"}
)


async def read_json_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """Read a body that is JSON by its declaration; one without a declaration is taken to be JSON.

    Raises:
        UnsupportedMediaError: it is declared to be something else, or compressed.
        BodyTooLargeError: it is longer than ``max_bytes``, by its declared length or as it arrives;
            the rest is not kept.
        ClientGoneError: the client hung up in the middle.
    """
    for name, value in scope["headers"]:
        if name == b"content-type":
            if value not in _JSON:
                _check_media(value)
        elif name == b"content-length":
            if int(value) > max_bytes:
                raise _refuse(max_bytes)
        elif name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
            raise UnsupportedMediaError(
                f"content encoding {_show(value)} is not read here", hint="Send the body uncompressed."
            )
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message["body"]
        if len(body) > max_bytes:
            raise _refuse(max_bytes)
        return body
    return await _read_rest(message, receive, max_bytes)


async def _read_rest(message: Message, receive: Receive, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    length = 0
    while message["type"] == "http.request":
        part = message.get("body", b"")
        length += len(part)
        if length > max_bytes:
            raise _refuse(max_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()
    raise ClientGoneError("the client closed the connection before the body was complete")


def _check_media(value: bytes) -> None:
    media, _, parameters = value.decode("latin-1").lower().partition(";")
    if media.strip() != "application/json":
        raise UnsupportedMediaError(
            f"content type {_show(value)} is not read here", hint="Send application/json."
        )
    charset = next(
        (p.partition("=")[2] for p in parameters.split(";") if p.strip().startswith("charset")), ""
    )
    if charset.strip(' "') not in {"", "utf-8", "utf8", "us-ascii"}:
        raise UnsupportedMediaError(f"content type {_show(value)} is not read here", hint="JSON is UTF-8.")


def _refuse(max_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the body has more than {max_bytes:,} bytes, the most that is read", hint="Send the rows in parts."
    )


def _show(value: bytes) -> str:
    return repr(value.decode("latin-1"))[:80]
