"""The HTTP edge: routes, bodies, statuses, JSON errors. The event loop moves bytes here and computes nothing.

Every path answers JSON `{"error", "code", "hint", "request_id"}` when it fails, whatever happened: next to the page
an unhandled exception would take the whole keep-alive connection down, and diffusers' client calls
`response.json()` on any failure.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

from h11 import LocalProtocolError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from backend import wire
from backend.endpoint.openapi import describe_api
from backend.endpoint.service import MEBI, Action, Reply, Served, Service
from backend.errors import (
    BusyError,
    DeadlineError,
    EndpointError,
    LatentRelayError,
    ModelUnavailableError,
    NonFiniteError,
    OutOfMemoryError,
    TokenError,
    TooLargeError,
    UnknownVAEError,
    UnsupportedTypeError,
    UserError,
    WireError,
)
from backend.logs import HEADER, clean_id, new_id

log = logging.getLogger(__name__)
requests_log = logging.getLogger("backend.endpoint.requests")

STATUSES: tuple[tuple[type[LatentRelayError], int], ...] = (
    (TooLargeError, 413),
    (UnsupportedTypeError, 415),
    (WireError, 400),
    (TokenError, 401),
    (UnknownVAEError, 404),
    (BusyError, 503),
    (DeadlineError, 503),
    (ModelUnavailableError, 503),
    (UserError, 400),
    (OutOfMemoryError, 507),
    (NonFiniteError, 422),
)
"""The first class that fits gives the status; anything else of ours is a 500."""

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
LINGER_SECONDS = 2.0
LINGER_BYTES = 64 * MEBI

Handler = Callable[[Request], Awaitable[Response]]


def routes(service: Service, prefixes: tuple[str, ...] = ("", "/gradio_api")) -> list[Route]:
    """The VAE's routes, for another app's table; `prefixes` are put before `/vae/…`.

    They take every method, so that a wrong one is answered in JSON too.
    """
    edge = Edge(service)
    table = []
    for prefix in prefixes:
        table += [
            Route(f"{prefix}/vae", edge.guarded(edge.list), methods=METHODS),
            Route(f"{prefix}/vae/{{model}}", edge.guarded(edge.describe), methods=METHODS),
            Route(f"{prefix}/vae/{{model}}/encode", edge.guarded(edge.encode), methods=METHODS),
            Route(f"{prefix}/vae/{{model}}/decode", edge.guarded(edge.decode), methods=METHODS),
        ]
    return table


def build_app(service: Service) -> Starlette:
    """An app of its own: the VAE's routes, `POST /` as on the public endpoints, health, metrics, OpenAPI."""
    if service.metrics is None:
        # Here and not at the top: next to the page nobody asks for them.
        from backend.endpoint.metrics import Metrics

        service.metrics = Metrics(service.lanes)
    edge = Edge(service)
    own = [
        Route("/", edge.guarded(edge.root), methods=METHODS),
        Route("/health", edge.guarded(edge.health), methods=METHODS),
        Route("/ready", edge.guarded(edge.ready), methods=METHODS),
        Route("/metrics", edge.guarded(edge.metrics), methods=METHODS),
        Route("/openapi.json", edge.guarded(edge.openapi), methods=METHODS),
    ]
    app = Starlette(
        routes=[*own, *routes(service, ("",))],
        exception_handlers={HTTPException: _not_found, Exception: _unexpected},
        middleware=[Middleware(_Unheard)],
    )
    # A redirect would go to whatever host the request names.
    app.router.redirect_slashes = False
    return app


class _Unheard:
    """A client that breaks HTTP after its headers is answered by uvicorn itself; our answer then comes too late, and
    that is no fault of ours to be logged as one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except LocalProtocolError as error:
            if "MUST_CLOSE" not in str(error):
                raise
            log.debug("a client broke HTTP in the middle of its request")


class Edge:
    """The handlers around one service."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def guarded(self, handler: Handler) -> Handler:
        """`handler` with every failure turned into a JSON answer."""

        async def guard(request: Request) -> Response:
            started = time.perf_counter()
            response = await answer(request)
            if self.service.metrics is not None:
                self.service.metrics.count_request(
                    getattr(request.state, "vae", ""),
                    getattr(request.state, "action", ""),
                    response.status_code,
                )
            return _signed(request, response, time.perf_counter() - started)

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except LatentRelayError as error:
                return error_response(request, error)
            except ClientDisconnect:
                # Nobody is there to read it; 499 is what proxies log for this.
                return Response(status_code=499)
            except Exception:
                # The edge: a fault of ours is logged for the owner and told without its inner parts.
                log.exception("unexpected error", extra={"request_id": id_of(request)})
                return _fault(request)

        return guard

    async def list(self, request: Request) -> Response:
        only(request, "GET", "HEAD")
        self._authorise(request)
        return JSONResponse({"vaes": [self.service.describe(served) for served in self.service.all()]})

    async def describe(self, request: Request) -> Response:
        only(request, "GET", "HEAD")
        self._authorise(request)
        return JSONResponse(self.service.describe(self.service.find(request.path_params["model"])))

    async def health(self, request: Request) -> Response:
        only(request, "GET", "HEAD")
        return JSONResponse({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        only(request, "GET", "HEAD")
        loading = [served.name for served in self.service.all() if not served.is_ready()]
        if loading:
            raise BusyError(f"Still loading: {', '.join(loading)}.", retry_after=5)
        return JSONResponse({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        only(request, "GET", "HEAD")
        self._authorise(request)
        assert self.service.metrics is not None, "build_app makes them"
        return Response(self.service.metrics.text(), media_type=self.service.metrics.content_type)

    async def openapi(self, request: Request) -> Response:
        only(request, "GET", "HEAD")
        return JSONResponse(describe_api(self.service))

    async def encode(self, request: Request) -> Response:
        return await self._work(request, "encode", request.path_params["model"])

    async def decode(self, request: Request) -> Response:
        return await self._work(request, "decode", request.path_params["model"])

    async def root(self, request: Request) -> Response:
        """The public endpoints' address: which way it goes is read from the request itself."""
        if request.method in ("GET", "HEAD"):
            return await self.list(request)
        return await self._work(request, None, None)

    def _authorise(self, request: Request) -> None:
        token = self.service.token
        if token is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
            raise TokenError(
                "This endpoint wants a token." if not given else "The token is not the right one.",
                "Send it as “Authorization: Bearer …”.",
            )

    async def _work(self, request: Request, action: Action | None, name: str | None) -> Response:
        only(request, "POST")
        self._authorise(request)
        service = self.service
        served = service.find(name)
        request.state.vae, request.state.action = served.name, action or ""
        deadline = asyncio.get_running_loop().time() + service.limits.deadline
        query = wire.parse_query(request.scope["query_string"].decode("latin-1"))
        headers = {key.lower(): value for key, value in request.headers.items()}
        size = _declared_size(headers, service.limits.max_body_bytes)
        if action is not None:
            self._check_unread(served, action, query, headers, size)
        lane = service.lane(served)
        lane.enter(size or 0)
        with ExitStack() as place:
            place.callback(lane.leave, size or 0)
            try:
                async with asyncio.timeout_at(deadline):
                    body = await read_body(request, service.limits.max_body_bytes)
                    if action is None:
                        action = wire.guess_action(query, headers, body, served.spec.channels)
                        request.state.action = action
                    gone = asyncio.create_task(_gone(request))
                    try:
                        reply = await self._answer(served, action, query, headers, body, gone)
                    finally:
                        gone.cancel()
            except TimeoutError:
                raise DeadlineError(
                    f"It took longer than the {service.limits.deadline:g} s that one request may take.",
                    "Try again later, or send a smaller picture.",
                    retry_after=5,
                ) from None
            if service.metrics is not None:
                service.metrics.count_work(served.name, action, len(body), reply)
            # The place is kept until the reply has left, so that slow readers count as well.
            return HeldResponse(reply, place.pop_all(), service.limits.deadline)

    def _check_unread(
        self,
        served: Served,
        action: Action,
        query: tuple[tuple[str, str], ...],
        headers: Mapping[str, str],
        size: int | None,
    ) -> None:
        """All that can be refused before the body is read."""
        peek = wire.peek_decode(query, headers) if action == "decode" else wire.peek_encode(query)
        self.service.check(served, action, peek)
        exact = None if wire.may_be_json(headers, peek.parameters) else peek.body_bytes
        if exact is not None and size is not None and size != exact:
            raise WireError(
                f"Shape and dtype say {exact} bytes, but the body has {size}.", "Check shape and dtype."
            )

    async def _answer(
        self,
        served: Served,
        action: Action,
        query: tuple[tuple[str, str], ...],
        headers: Mapping[str, str],
        body: bytes,
        gone: asyncio.Task[None],
    ) -> Reply:
        service = self.service
        started = time.perf_counter()
        parsed = await _unless_gone(
            service.in_pool(lambda: service.parse(served, action, query, headers, body)), gone
        )
        parse_seconds = time.perf_counter() - started
        done = await _unless_gone(service.submit(served, parsed), gone)
        reply: Reply = await _unless_gone(
            service.in_pool(lambda: service.pack(parsed, done, parse_seconds)), gone
        )
        return reply


def only(request: Request, *methods: str) -> None:
    """Refuse other methods.

    Raises:
        HTTPException: 405 with the allowed ones.
    """
    if request.method not in methods:
        raise MethodError(
            f"{request.method} is not served at this address.", f"Use {methods[0]}.", allow=", ".join(methods)
        )


class MethodError(EndpointError):
    """A method that an address does not take; `allow` names those that it does."""

    code = "method_not_allowed"

    def __init__(self, message: str, hint: str, *, allow: str) -> None:
        super().__init__(message, hint)
        self.allow = allow


def _declared_size(headers: Mapping[str, str], most: int) -> int | None:
    """The body's length as announced, None for a chunked one.

    Raises:
        TooLargeError: announced too large; nothing of it has been read.
    """
    text = headers.get("content-length", "")
    size = int(text) if text.isascii() and text.isdigit() else None
    if size is not None and size > most:
        raise TooLargeError(f"The body has {size} bytes, more than the {most} allowed.", "Send it in parts.")
    return size


async def read_body(request: Request, most: int) -> bytes:
    """The body, given up on as soon as it is longer than `most` bytes.

    Raises:
        TooLargeError: longer than that. ClientDisconnect: the client left.
    """
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise TooLargeError(f"The body has more than the {most} bytes allowed.", "Send it in parts.")
        chunks.append(chunk)
    request.state.body_is_read = True
    return b"".join(chunks)


def _has_unread_body(request: Request) -> bool:
    """Whether a client may still be sending."""
    announced = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    return announced and not getattr(request.state, "body_is_read", False)


async def _gone(request: Request) -> None:
    """Return once the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _unless_gone(future: Future[Any], gone: asyncio.Task[None]) -> Any:
    """The future's result; if the client hangs up first the work is taken back, unless it already runs.

    Raises:
        ClientDisconnect: it did.
    """
    waiting = asyncio.wrap_future(future)
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ClientDisconnect
        return waiting.result()
    finally:
        if not waiting.done():
            waiting.cancel()  # also cancels `future`, so that a lane skips it


def status_of(error: LatentRelayError) -> int:
    """The HTTP status that says the same."""
    if isinstance(error, MethodError):
        return 405
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def id_of(request: Request) -> str:
    """The request's id: the client's own where that is a plain word, so that both sides' logs agree."""
    if not hasattr(request.state, "id"):
        request.state.id = clean_id(request.headers.get(HEADER)) or new_id()
    return str(request.state.id)


def _signed(request: Request, response: Response, seconds: float) -> Response:
    """The response with its id, and its line in the log. Neither query nor body nor address is logged."""
    response.headers[HEADER] = id_of(request)
    path = request.url.path
    told: dict[str, Any] = {
        "request_id": id_of(request),
        "method": request.method[:16],
        "path": path[:160],
        "status": response.status_code,
        "seconds": round(seconds, 6),
        "bytes_received": request.headers.get("content-length", "")[:20],
        "bytes_sent": len(response.body),
    }
    for name in ("vae", "action", "code"):
        if value := getattr(request.state, name, ""):
            told[name] = value
    # A probe that asks every few seconds would drown the rest.
    quiet = path in ("/health", "/ready", "/metrics") and response.status_code < 500
    requests_log.log(logging.DEBUG if quiet else logging.INFO, "request", extra=told)
    return response


def error_response(request: Request, error: LatentRelayError) -> Response:
    """An error of ours as JSON with its status."""
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if isinstance(error, TokenError):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, MethodError):
        headers["allow"] = error.allow
    return _json_error(request, status_of(error), str(error), error.code, error.hint, headers)


def _fault(request: Request) -> Response:
    return _json_error(
        request, 500, "Something went wrong inside the server.", "internal", "Its log says what."
    )


def _json_error(
    request: Request,
    status: int,
    message: str,
    code: str,
    hint: str = "",
    headers: Mapping[str, str] | None = None,
) -> Response:
    request.state.code = code
    kind = LingeringResponse if _has_unread_body(request) else JSONResponse
    document = {"error": message, "code": code, "hint": hint, "request_id": id_of(request)}
    return kind(document, status_code=status, headers=dict(headers or {}))


class LingeringResponse(JSONResponse):
    """An answer that may come before the request was read to its end.

    Closing at once would reset the connection, and the client would see that instead of the answer; so, like nginx,
    what still comes is thrown away for a moment.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        dropped = 0
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while (message := await receive()).get("more_body") and dropped < LINGER_BYTES:
                    dropped += len(message["body"])
        except TimeoutError:
            log.debug("a client kept sending after it was refused")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class HeldResponse(Response):
    """A reply that gives its place in the lane back once it has left, or after `timeout` seconds of sending."""

    def __init__(self, reply: Reply, place: ExitStack, timeout: float) -> None:
        super().__init__(reply.body, headers=dict(reply.headers))
        self._place = place
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._place:
            try:
                async with asyncio.timeout(self._timeout):
                    await super().__call__(scope, receive, send)
            except TimeoutError:
                log.warning("a client did not take its reply in %g s", self._timeout)


async def _not_found(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    where = request.url.path[:120]
    response = _json_error(request, status, f"There is nothing at {where}.", "not_found", "See /vae.")
    return _signed(request, response, 0.0)


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("unexpected error", exc_info=error, extra={"request_id": id_of(request)})
    return _signed(request, _fault(request), 0.0)
