"""The ASGI application: routes, and the one table from errors to HTTP statuses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from time import perf_counter

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from inference import errors
from inference.answers import Answer, answer_bytes, answer_json
from inference.config import ServiceConfig
from inference.health import Health
from inference.metrics import RouteMetrics, ServiceMetrics
from inference.predict import Predict
from inference.protocol import Metadata
from inference.state import ServiceState
from registry.errors import LifecycleError

Handler = Callable[[Scope, Receive], Awaitable[Answer]]

_logger = logging.getLogger("inference.app")

# The first entry that an error is an instance of decides.
STATUSES: Mapping[type[LifecycleError], int] = {
    errors.NotFoundError: 404,
    errors.MethodNotAllowedError: 405,
    errors.BodyTooLargeError: 413,
    errors.BatchTooLargeError: 413,
    errors.UnsupportedMediaError: 415,
    errors.ClientGoneError: 499,  # nginx's number for it; only ever seen in the metrics
    errors.RequestError: 400,
    errors.NotReadyError: 503,
}
_OUT_OF_TIME = errors.NotReadyError("the service stopped before the request was complete")
# Paths that are nobody's are counted together, so that a client cannot make new series.
UNMATCHED = "(none)"


class App:
    """The service as an ASGI application: every path, method and error answered in one way.

    It is Starlette's router without Starlette's application around it: the middleware that the
    latter always adds turns errors into text, and every endpoint here answers its own. Paths
    without a parameter are looked up directly; walking the routes costs a tenth of a request.
    """

    def __init__(
        self, state: ServiceState, config: ServiceConfig, metrics: ServiceMetrics, pool: Executor
    ) -> None:
        health = Health(state)
        metadata = Metadata(state)
        predict = {"POST": Predict(state, config, pool)}
        table: list[tuple[str, Mapping[str, Handler]]] = [
            ("/", {"GET": health.probe}),
            ("/predict", predict),
            ("/predict/", predict),
            ("/metrics", {"GET": _page_handler(metrics)}),
            ("/v2", {"GET": metadata.server}),
            ("/v2/", {"GET": metadata.server}),
            ("/v2/health/live", {"GET": health.live}),
            ("/v2/health/ready", {"GET": health.ready}),
            ("/v2/models/{model}", {"GET": metadata.model}),
            ("/v2/models/{model}/versions/{version}", {"GET": metadata.model}),
        ]
        endpoints = {path: Endpoint(path, handlers, metrics) for path, handlers in table}
        nowhere = Endpoint(UNMATCHED, None, metrics)
        routes = [Route(path, endpoint) for path, endpoint in endpoints.items()]
        self._router = Router(routes, redirect_slashes=False, default=nowhere)
        self._direct: dict[str, ASGIApp] = {p: e for p, e in endpoints.items() if "{" not in p}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._direct.get(scope["path"], self._router)(scope, receive, send)


class Endpoint:
    """One path: runs the method's handler, sends its answer or the error's, and counts it.

    Args:
        route: the path's pattern, a label in the metrics.
        handlers: by method, GET standing for HEAD too; None where there is nothing for any method.
        metrics: where requests are counted.
    """

    def __init__(self, route: str, handlers: Mapping[str, Handler] | None, metrics: ServiceMetrics) -> None:
        self._handlers = dict(handlers or {})
        if "GET" in self._handlers:
            self._handlers["HEAD"] = self._handlers["GET"]
        self._is_matched = handlers is not None
        self._metrics = metrics
        self._counts: RouteMetrics = metrics.add_route(route.rstrip("/") or route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started = perf_counter()
        self._metrics.in_flight += 1
        try:
            try:
                handler = self._handlers.get(scope["method"]) or self._refuse(scope)
                status, headers, body = await handler(scope, receive)
            except asyncio.CancelledError:  # uvicorn's word that the grace after SIGTERM is over
                status, headers, body = answer_error(_OUT_OF_TIME)
            except Exception as error:  # the edge of the process towards its clients
                status, headers, body = answer_error(error)
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            self._counts.observe(scope["method"], status, perf_counter() - started)
        finally:
            self._metrics.in_flight -= 1

    def _refuse(self, scope: Scope) -> Handler:
        path = scope["path"][:80]
        if self._is_matched:
            raise errors.MethodNotAllowedError(scope["method"], path, self._handlers)
        raise errors.NotFoundError("there is nothing here", where=path, hint="GET / says what there is.")


def answer_error(error: Exception) -> Answer:
    """The answer to a request that failed; what is not the client's business is logged instead."""
    for kind, status in STATUSES.items():
        if isinstance(error, kind):
            answer = answer_json({"error": str(error)}, status)
            if isinstance(error, errors.MethodNotAllowedError):
                answer.headers.append((b"allow", ", ".join(error.allowed).encode()))
            if status == 503:
                answer.headers.append((b"retry-after", b"1"))
            return answer
    _logger.error("a request failed", exc_info=error)
    return answer_json({"error": "the service failed to answer; its log says why"}, 500)


def _page_handler(metrics: ServiceMetrics) -> Handler:
    async def page(scope: Scope, receive: Receive) -> Answer:
        accept = next((value for name, value in scope["headers"] if name == b"accept"), b"")
        body, content_type = metrics.write_page(accept.decode("latin-1"))
        return answer_bytes(body, content_type=(b"content-type", content_type.encode()))

    return page
