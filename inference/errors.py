"""The serving branch of the error tree (registry/errors.py draws the whole).

    ServingError
    ├─ SignatureMismatchError · GoldenMismatchError      a version that must not be served
    ├─ LoadFailedError                                   nor one that takes too much to load
    ├─ RegistryUnreachableError                          nor is there a copy of one to start with
    ├─ NotReadyError                                     the service cannot answer now
    │  └─ OverloadedError                                it has as much to do as it may
    │     └─ ReceivingError                              it holds as many bytes of requests as it may
    │     └─ TooManyConnectionsError                     it has as many clients as it may
    ├─ DeadlineError                                     it could not answer in time
    └─ RequestError                                      the client can do something about it
       ├─ MalformedBodyError · RowError                  what was sent is not rows of this model
       ├─ HeadTooLargeError · TargetTooLongError
       ├─ BodyTooLargeError · BatchTooLargeError
       ├─ UnsupportedMediaError · SlowClientError
       ├─ UnauthorizedError
       ├─ NotFoundError · MethodNotAllowedError
       └─ ClientGoneError                                the client hung up

None of them knows of HTTP: `inference/app.py` holds the only error → status table.
"""

from __future__ import annotations

from collections.abc import Iterable

from timberline.registry.errors import LifecycleError


class ServingError(LifecycleError):
    """The service could not start, or could not answer."""


class SignatureMismatchError(ServingError):
    """The graph's inputs or outputs are not what its manifest says."""


class GoldenMismatchError(ServingError):
    """The loaded graph does not give the answers that were published with it."""


class LoadFailedError(ServingError):
    """Loading a version took more time or memory than it may, or ended the process that tried."""


class RegistryUnreachableError(ServingError):
    """The registry cannot be asked, and the cache has nothing to start with."""


class NotReadyError(ServingError):
    """The service is stopping, or no version is loaded."""


class OverloadedError(NotReadyError):
    """As many requests as may be are in work."""


class ReceivingError(OverloadedError):
    """The bodies being received and worked on, of all connections, are as large as they may be."""


class TooManyConnectionsError(OverloadedError):
    """As many connections as may be are open, and none of them is idle."""


class DeadlineError(ServingError):
    """The request could not be answered in the time that it may take."""

    @classmethod
    def after(cls, seconds: float) -> DeadlineError:
        """The error of a request that was given ``seconds``."""
        return cls(f"not answered within {seconds:g} s", hint="Send fewer rows, or ask again.")


class RequestError(ServingError):
    """The request cannot be answered as it stands; the message is for the client."""

    code = "bad_request"


class MalformedBodyError(RequestError):
    """The body is not JSON of the expected shape."""


class RowError(RequestError):
    """A row is not a row of this model: a name is unknown, missing or given twice, or a value is wrong."""

    code = "bad_row"


class HeadTooLargeError(RequestError):
    """A request has more header fields, or more bytes of them, than the service reads."""


class TargetTooLongError(RequestError):
    """A request's first line is longer than the service reads."""


class BodyTooLargeError(RequestError):
    """The body has more bytes than the service reads."""


class BatchTooLargeError(RequestError):
    """The request has more rows than the service takes at once."""


class UnsupportedMediaError(RequestError):
    """The body is declared to be something that this route does not read."""


class SlowClientError(RequestError):
    """The client took too long to send what it began."""


class UnauthorizedError(RequestError):
    """No token, or one that is not known here."""


class NotFoundError(RequestError):
    """No such path, model or version on this service."""


class MethodNotAllowedError(RequestError):
    """The path is there, but not for this method; ``allowed`` are those it is there for."""

    def __init__(self, method: str, path: str, allowed: Iterable[str]) -> None:
        self.allowed = tuple(sorted(allowed))
        super().__init__(f"{method} is not allowed here", where=path, hint=f"Use {', '.join(self.allowed)}.")


class ClientGoneError(RequestError):
    """The client closed the connection before its request was complete."""
