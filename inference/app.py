"""The ASGI application: routes, and the one table from errors to HTTP statuses.

If asked for, it also logs one line for every request.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Iterable, Mapping
from concurrent.futures import Executor
from time import perf_counter
from typing import Any

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from timberline.inference import errors
from timberline.inference.config import ServiceConfig
from timberline.inference.formats.body import BodyReader, ReceiveBudget
from timberline.inference.formats.request import Answer, Handler, Header, Request, answer_json
from timberline.inference.metrics.counters import RouteMetrics, ServiceMetrics
from timberline.inference.models.routing import ServiceState
from timberline.inference.models.runner import Runner, WorkLimit
from timberline.inference.models.versions import VERSION_HEADER
from timberline.inference.routes.access import (
    OPEN_ROUTES,
    CorsPolicy,
    Guard,
    TokensWatch,
    read_guard,
    read_policy,
)
from timberline.inference.routes.infer import Infer
from timberline.inference.routes.openapi import OpenApi
from timberline.inference.routes.predict import Predict
from timberline.inference.routes.protocol import Health, Metadata
from timberline.inference.server.memory import Trimmer
from timberline.registry.errors import ConfigError, LifecycleError
from timberline.registry.runtime.logs import log_event

_logger = logging.getLogger("inference.app")
_request_logger = logging.getLogger("inference.requests")

# The first entry that an error is an instance of decides.
STATUSES: Mapping[type[LifecycleError], int] = {
    errors.UnauthorizedError: 401,
    errors.NotFoundError: 404,
    errors.MethodNotAllowedError: 405,
    errors.SlowClientError: 408,
    errors.BodyTooLargeError: 413,
    errors.BatchTooLargeError: 413,
    errors.TargetTooLongError: 414,
    errors.UnsupportedMediaError: 415,
    errors.HeadTooLargeError: 431,
    errors.ClientGoneError: 499,  # nginx's number for it; only ever seen in the metrics
    errors.RequestError: 400,
    errors.NotReadyError: 503,
    errors.DeadlineError: 504,
}
_OUT_OF_TIME = errors.NotReadyError("the service stopped before the request was complete")
# Paths without a route are counted together, so that a client cannot make new series.
UNMATCHED = "(none)"
Rows = list[tuple[str, Mapping[str, Handler]]]
_METRICS_ROUTES = ("/metrics", "/v2/health/live", "/v2/health/ready")

# A whole path is looked up before patterns are tried, so that one may stand where these patterns reach.
_SHADOWED = "/v1/models/"
_PARAMETER = re.compile(r"\{[a-z]+\}")
# W3C Trace Context, section 3.2.2: version-trace-parent-flags in lower case. Version ff is none, 00 has
# nothing behind the flags, later ones may; a trace or a parent of zeros is to be ignored.
_TRACEPARENT = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)
_LENGTH = 55  # of what version 00 defines


class App:
    """The service as an ASGI application: every path, method and error answered in one way.

    It is Starlette's router without Starlette's application around it: the middleware that the
    latter always adds turns errors into text, and every endpoint here answers its own. Paths
    without a parameter are looked up directly; walking the routes costs a tenth of a request.

    ``direct`` holds, by request target, what `inference.server.connection` may answer without ASGI,
    ``metrics_app`` what there is on the metrics' own port, and ``receiving`` counts the bytes of requests
    that all connections hold.
    """

    def __init__(
        self, state: ServiceState, config: ServiceConfig, metrics: ServiceMetrics, pool: Executor
    ) -> None:
        self._work = WorkLimit(config.max_requests_in_work, config.deadline_s)
        # One body must always fit, whatever is set.
        most_bytes = max(config.max_receiving_bytes, config.max_body_bytes)
        self.receiving = ReceiveBudget(most_bytes, Trimmer(pool).note)
        self._bodies = BodyReader(config.max_body_bytes, config.receive_timeout_s, self.receiving, pool)
        self._metrics = metrics
        self._guard = read_guard(config)
        self._tokens = TokensWatch(self._guard, config) if self._guard and config.tokens_file else None
        self._open = OPEN_ROUTES | {config.health_route} | ({"/metrics"} if config.metrics_port else set())
        self._is_logging = config.request_log
        self._cors = read_policy(config)
        runner = Runner(pool, self._work, config.inline_max_rows)
        health = Health(state, metrics, config.metrics_port, config.root_path)
        metadata = Metadata(state)
        predict = Predict(state, config, runner)
        infer = Infer(state, config, runner)
        document = OpenApi(state, config, self._guard is not None)
        table: Rows = [
            ("/", {"GET": health.probe}),
            ("/predict", {"POST": predict}),
            ("/predict/", {"POST": predict}),
            ("/predict/{model}", {"POST": predict}),
            ("/openapi.json", {"GET": document}),
            ("/metrics", {"GET": _page_handler(metrics)}),
            ("/v2", {"GET": metadata.server}),
            ("/v2/", {"GET": metadata.server}),
            ("/v2/health/live", {"GET": health.live}),
            ("/v2/health/ready", {"GET": health.ready}),
            ("/v2/models/{model}", {"GET": metadata.model}),
            ("/v2/models/{model}/versions/{version}", {"GET": metadata.model}),
            ("/v2/models/{model}/ready", {"GET": metadata.ready}),
            ("/v2/models/{model}/versions/{version}/ready", {"GET": metadata.ready}),
            ("/v2/models/{model}/infer", {"POST": infer}),
            ("/v2/models/{model}/versions/{version}/infer", {"POST": infer}),
            ("/v2/repository/index", {"POST": metadata.index}),
            ("/v2/models", {"GET": metadata.models}),
            ("/v1/models", {"GET": metadata.models}),
            # Before the model's own page, whose name would take the verb in.
            ("/v1/models/{model}:predict", {"POST": predict}),
            ("/v1/models/{model}/versions/{version}:predict", {"POST": predict}),
            ("/v1/models/{model}", {"GET": metadata.status}),
            ("/v1/models/{model}/versions/{version}", {"GET": metadata.status}),
        ]
        add_routes(
            table,
            predict,
            health.ready,
            predict_route=config.predict_route,
            health_route=config.health_route,
        )
        endpoints = {path: self._endpoint(path, handlers) for path, handlers in table}
        document.paths = endpoints.keys()
        nowhere = self._endpoint(UNMATCHED, None)
        aside = [Route(path, endpoints[path]) for path in _METRICS_ROUTES]
        self.metrics_app = Router(aside, redirect_slashes=False, default=nowhere)
        if config.metrics_port:
            del endpoints["/metrics"]
        if prefix := config.root_path:  # of a proxy that passes it on; most take it off
            endpoints = {**endpoints, **{prefix + p: e for p, e in endpoints.items()}, prefix: endpoints["/"]}
        routes = [Route(path, endpoint) for path, endpoint in endpoints.items()]
        self._router = Router(routes, redirect_slashes=False, default=nowhere)
        self._fixed: dict[str, ASGIApp] = {p: e for p, e in endpoints.items() if "{" not in p}
        direct = {p: p for p, h in table if h.get("POST") is predict and p in self._fixed}
        # A request whose path is not taken apart names no model, and so means this one.
        named = ("/v2/models/{model}/infer", "/v1/models/{model}:predict")
        direct |= {path.format(model=state.live.model): path for path in named}
        self.direct = {
            (before + path).encode(): endpoints[pattern]
            for path, pattern in direct.items()
            for before in {"", config.root_path}
        }
        if config.request_log:  # only ASGI names the client, which a line in the log does
            self.direct = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._fixed.get(scope["path"], self._router)(scope, receive, send)

    def start(self) -> None:
        """Begin to follow the tokens file, if there is one."""
        if self._tokens is not None:
            self._tokens.start()

    def _endpoint(self, route: str, handlers: Mapping[str, Handler] | None) -> Endpoint:
        guard = None if route in self._open else self._guard
        return Endpoint(
            route,
            handlers,
            self._metrics,
            self._work,
            self._bodies,
            guard,
            self._cors,
            is_logged=self._is_logging,
        )


class Endpoint:
    """One path: runs the method's handler, gives its answer or the error's, and counts it.

    Args:
        route: the path's pattern, a label in the metrics.
        handlers: by method, GET standing for HEAD too; None where there is nothing for any method.
        metrics: where requests are counted.
        work: the bound on requests in work; those with a body count as work.
        bodies: reads them.
        guard: checks the token; None where none is needed.
        cors: which other origins' pages may ask; None for none.
        is_logged: whether each answer of the general way is logged.
    """

    def __init__(
        self,
        route: str,
        handlers: Mapping[str, Handler] | None,
        metrics: ServiceMetrics,
        work: WorkLimit,
        bodies: BodyReader,
        guard: Guard | None,
        cors: CorsPolicy | None = None,
        *,
        is_logged: bool = False,
    ) -> None:
        self._handlers = dict(handlers or {})
        if "GET" in self._handlers:
            self._handlers["HEAD"] = self._handlers["GET"]
        self._is_matched = handlers is not None
        self._in_flight = metrics.in_flight if "POST" in self._handlers else metrics.not_in_flight
        self._metrics = metrics
        self._work = work
        self._bodies = bodies
        self._guard = guard
        self._cors = cors
        self._is_logged = is_logged
        self._counts: RouteMetrics = metrics.add_route(route.rstrip("/") or route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request that came through ASGI."""
        started = perf_counter()
        self._in_flight[0] += 1.0
        try:
            status, headers, body = await self._answer(scope, receive)
            # Counted before it is sent: no client has an answer that is in no count.
            self._counts.observe(scope["method"], status, perf_counter() - started)
            length = (b"content-length", b"%d" % len(body))
            await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
            await send({"type": "http.response.body", "body": body})
        finally:
            self._in_flight[0] -= 1.0

    def answer_post(self, request: Request) -> Answer | Awaitable[Answer]:
        """Answer one request whose body has arrived already; raises nothing.

        Called by `inference.server.connection`, without ASGI. An answer that takes longer is awaited.
        """
        started = perf_counter()
        self._in_flight[0] += 1.0  # another worker may be asked for the number meanwhile
        try:
            if self._guard is not None:
                self._guard.check(request.headers)
            self._work.begin()
            answer = self._handlers["POST"](request)
        except Exception as error:  # the edge of the process towards its clients
            answer = self._fail(error, request.headers)
        self._in_flight[0] -= 1.0
        if not isinstance(answer, Answer):
            return self._wait(answer, started, request)
        self._counts.observe("POST", answer.status, perf_counter() - started)
        return answer if self._cors is None else self._cors.allow(answer, request.headers)

    async def _wait(self, coming: Awaitable[Answer], started: float, request: Request) -> Answer:
        self._in_flight[0] += 1.0
        try:
            answer = await self._hold(coming, request)
            self._counts.observe("POST", answer.status, perf_counter() - started)
            return answer if self._cors is None else self._cors.allow(answer, request.headers)
        finally:
            self._in_flight[0] -= 1.0

    async def _hold(self, coming: Awaitable[Answer], request: Request) -> Answer:
        """Count the body as held until it is answered; an answer that came at once held none."""
        receiving = self._bodies.receiving
        try:
            receiving.take(len(request.body))
        except errors.ReceivingError as error:
            if asyncio.iscoroutine(coming):
                coming.close()  # it has not begun
            return self._fail(error, request.headers)
        try:
            return await self._settle(coming, request.headers)
        finally:
            receiving.give(len(request.body))

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        started = perf_counter()
        answer = None
        if self._cors is not None and scope["method"] == "OPTIONS":
            # Before the guard is asked: a browser sends no token with this question.
            answer = self._cors.answer_preflight(scope["headers"])
        if answer is None:
            answer = await self._handle(scope, receive)
            if self._cors is not None:
                answer = self._cors.allow(answer, scope["headers"])
        if self._is_logged:
            log_request(self._counts.route, scope, answer, perf_counter() - started)
        return answer

    async def _handle(self, scope: Scope, receive: Receive) -> Answer:
        headers = scope["headers"]
        body = b""
        try:
            if self._guard is not None:
                self._guard.check(headers)
            handler = self._handlers.get(scope["method"]) or self._refuse(scope)
            if scope["method"] == "POST":
                body = await self._bodies.read(headers, receive)
                self._work.begin()
            named = scope.get("path_params", {})
            answer = handler(
                Request(scope["method"], scope["path"], scope["query_string"], headers, body, named)
            )
            return answer if isinstance(answer, Answer) else await self._settle(answer, headers)
        except asyncio.CancelledError:  # uvicorn cancels when the grace after SIGTERM is over
            return answer_error(_OUT_OF_TIME)
        except Exception as error:  # the edge of the process towards its clients
            return self._fail(error, headers)
        finally:
            self._bodies.receiving.give(len(body))

    async def _settle(self, coming: Awaitable[Answer], headers: Iterable[Header]) -> Answer:
        try:
            return await coming
        except asyncio.CancelledError:
            return answer_error(_OUT_OF_TIME)
        except Exception as error:  # the edge of the process towards its clients
            return self._fail(error, headers)

    def _fail(self, error: Exception, headers: Iterable[Header]) -> Answer:
        if isinstance(error, LifecycleError):
            self._metrics.count_rejected(error.code)
        return answer_error(error, headers)

    def _refuse(self, scope: Scope) -> Handler:
        path = scope["path"][:80]
        if self._is_matched:
            raise errors.MethodNotAllowedError(scope["method"], path, self._handlers)
        raise errors.NotFoundError("there is nothing here", where=path, hint="GET / says what there is.")


def answer_error(error: Exception, headers: Iterable[Header] = ()) -> Answer:
    """The answer to a request with these ``headers`` that failed.

    What is not the client's business is logged instead.
    """
    for kind, status in STATUSES.items():
        if isinstance(error, kind):
            more = []
            if isinstance(error, errors.MethodNotAllowedError):
                more.append((b"allow", ", ".join(error.allowed).encode()))
            if status == 401:
                more.append((b"www-authenticate", b"Bearer"))
            if status == 503:
                more.append((b"retry-after", b"1"))
            if status == 408 or isinstance(error, errors.ReceivingError):  # the rest is not read
                more.append((b"connection", b"close"))
            return answer_json({"error": str(error)}, status, *more)
    _logger.error("a request failed", exc_info=error, extra={"fields": find_trace(headers)})
    return answer_json({"error": "the service failed to answer; its log says why"}, 500)


def find_trace(headers: Iterable[Header]) -> dict[str, Any]:
    """The field ``traceparent`` for a log line; nothing if none was sent, several, or one that is none."""
    found = [value for name, value in headers if name == b"traceparent"]
    if len(found) != 1 or not _TRACEPARENT.fullmatch(found[0]):
        return {}
    return {"traceparent": found[0][:_LENGTH].decode("ascii")}


def log_request(route: str, scope: Scope, answer: Answer, seconds: float) -> None:
    """Log one answered request: its route and not its path or query, which may hold anything.

    Args:
        route: the path's pattern.
        scope: of the request.
        answer: what is about to be sent.
        seconds: since the request was routed.
    """
    client = scope.get("client")
    version = next((value.decode() for name, value in answer.headers if name == VERSION_HEADER), None)
    log_event(
        _request_logger,
        "request",
        method=scope["method"],
        route=route,
        status=answer.status,
        ms=round(seconds * 1000, 3),
        version=version,
        client=client[0] if client else None,
        **find_trace(scope["headers"]),
    )


def _page_handler(metrics: ServiceMetrics) -> Handler:
    def page(request: Request) -> Answer:
        accept = request.find_header(b"accept") or b""
        body, content_type = metrics.write_page(accept.decode("latin-1"))
        return Answer(200, ((b"content-type", content_type.encode()),), body)

    return page


def add_routes(
    rows: Rows, predict: Handler, ready: Handler, *, predict_route: str = "", health_route: str = ""
) -> None:
    """Add the platforms' fixed routes to the table ``rows``, and the configured ones.

    A configured route that already does what it is wanted for is left as it is. One that looks like
    another model's in v1 is added: platforms that were set up for TensorFlow Serving name it so.

    Raises:
        ConfigError: a configured route is taken by something else.
    """
    rows += [("/ping", {"GET": ready}), ("/invocations", {"POST": predict})]
    for setting, route, method, handler in (
        ("predict route", predict_route, "POST", predict),
        ("health route", health_route, "GET", ready),
    ):
        taken = _find_taken(rows, route)
        if taken is None and route:
            rows.append((route, {method: handler}))
        elif taken is not None and dict(rows)[taken].get(method) != handler:
            raise ConfigError(
                f"{route} is taken by the service's own {taken}", where=setting, hint="Choose another path."
            )


def _find_taken(rows: Iterable[tuple[str, object]], route: str) -> str | None:
    for path, _ in rows:
        if not path.startswith(_SHADOWED) and re.fullmatch(
            "[^/]+".join(map(re.escape, _PARAMETER.split(path))), route
        ):
            return path
    return None
