"""The HTTP edge: routes, bodies, limits. The event loop moves bytes here and computes nothing.

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
from backend.endpoint.body import declared_size, read_body
from backend.endpoint.clients import counted_client
from backend.endpoint.compute import Served
from backend.endpoint.openapi import describe_api
from backend.endpoint.responses import (
    SlotResponse,
    error_response,
    fault,
    id_of,
    not_found,
    signed,
    unexpected,
)
from backend.endpoint.service import Reply, Service
from backend.errors import (
    BusyError,
    DeadlineError,
    LatentRelayError,
    MethodError,
    TokenError,
    WireError,
)
from backend.message import Message
from backend.report import Direction

log = logging.getLogger(__name__)

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

Handler = Callable[[Request], Awaitable[Response]]


def routes(service: Service, prefixes: tuple[str, ...] = ("", "/gradio_api")) -> list[Route]:
    """The VAE's routes, for another app's table; `prefixes` are put before `/vae/…`.

    They take every method, so that a wrong one is answered in JSON too.
    """
    handlers = Handlers(service)
    table = []
    for prefix in prefixes:
        table += [
            Route(f"{prefix}/vae", handlers.guarded(handlers.list), methods=METHODS),
            Route(f"{prefix}/vae/{{model}}", handlers.guarded(handlers.describe), methods=METHODS),
            Route(f"{prefix}/vae/{{model}}/encode", handlers.guarded(handlers.encode), methods=METHODS),
            Route(f"{prefix}/vae/{{model}}/decode", handlers.guarded(handlers.decode), methods=METHODS),
        ]
    return table


def build_app(service: Service) -> Starlette:
    """An app of its own: the VAE's routes, `POST /` as on the public endpoints, health, metrics, OpenAPI."""
    if service.metrics is None:
        # Here and not at the top: next to the page nothing reads them, and the library takes its time.
        from backend.endpoint.metrics import Metrics

        service.metrics = Metrics(service.queues)
    handlers = Handlers(service)
    table = [
        Route("/", handlers.guarded(handlers.root), methods=METHODS),
        Route("/health", handlers.guarded(handlers.health), methods=METHODS),
        Route("/ready", handlers.guarded(handlers.ready), methods=METHODS),
        Route("/metrics", handlers.guarded(handlers.metrics), methods=METHODS),
        Route("/openapi.json", handlers.guarded(handlers.openapi), methods=METHODS),
    ]
    app = Starlette(
        routes=[*table, *routes(service, ("",))],
        exception_handlers={HTTPException: not_found, Exception: unexpected},
        middleware=[Middleware(IgnoreLateResponse)],
    )
    # A redirect would go to whatever host the request names.
    app.router.redirect_slashes = False
    return app


class IgnoreLateResponse:
    """A client that breaks HTTP after its headers is answered by uvicorn itself; our answer then comes too late, and
    that is not to be logged as an error of the server."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except LocalProtocolError as error:
            if "MUST_CLOSE" not in str(error):
                raise
            log.debug("a client broke HTTP in the middle of its request")


class Handlers:
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
            return signed(request, response, time.perf_counter() - started)

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except LatentRelayError as error:
                return error_response(request, error)
            except ClientDisconnect:
                # No client is left to read it; 499 is what proxies log for this.
                return Response(status_code=499)
            except Exception:
                # The edge: a fault of ours is logged for the owner and answered without its inner parts.
                log.exception("unexpected error", extra={"request_id": id_of(request)})
                return fault(request)

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
            raise BusyError("Still loading: {names}.", retry_after=5, names=", ".join(loading))
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
        """The public endpoints' address: the direction is found out from the request itself."""
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
                Message("The token is not the right one.")
                if given
                else Message("This endpoint wants a token."),
                "Send it as “Authorization: Bearer …”.",
            )

    async def _work(self, request: Request, direction: Direction | None, name: str | None) -> Response:
        """Encode or decode with the VAE called `name`; a direction of None is found out from the request."""
        only(request, "POST")
        self._authorise(request)
        service = self.service
        served = service.find(name)
        request.state.vae, request.state.action = served.name, direction or ""
        deadline = asyncio.get_running_loop().time() + service.limits.deadline
        query = wire.parse_query(request.scope["query_string"].decode("latin-1"))
        headers = {key.lower(): value for key, value in request.headers.items()}
        size = declared_size(headers, service.limits.max_body_bytes)
        if direction is not None:
            self._check_unread(served, direction, query, headers, size)
        queue = service.queue_of(served)
        # A chunked body may grow as large as any, so it counts as that until it is there.
        reserved = service.limits.max_body_bytes if size is None else size
        client = counted_client(request.client.host if request.client else None, service.limits.per_client)
        queue.acquire(reserved, client)
        with ExitStack() as slot:
            slot.callback(lambda: queue.release(reserved, client))
            try:
                async with asyncio.timeout_at(deadline):
                    body = await read_body(request, service.limits.max_body_bytes, service.limits.stall)
                    queue.resize(reserved, len(body), client)
                    reserved = len(body)
                    reply = await self._answer(
                        request, served, direction, wire.HttpRequest(query, headers, body)
                    )
            except TimeoutError:
                raise DeadlineError(
                    "It took longer than the {seconds:g} s that one request may take.",
                    "Try again later, or send a smaller picture.",
                    retry_after=5,
                    seconds=service.limits.deadline,
                ) from None
            # The place is kept until the reply has left, so that slow readers count as well.
            return SlotResponse(reply, slot.pop_all(), service.limits.deadline)

    def _check_unread(
        self,
        served: Served,
        direction: Direction,
        query: tuple[tuple[str, str], ...],
        headers: Mapping[str, str],
        size: int | None,
    ) -> None:
        """All that can be refused before the body is read."""
        peek = wire.peek_decode(query, headers) if direction == "decode" else wire.peek_encode(query)
        self.service.check(served, direction, peek)
        exact = None if wire.may_be_json(headers, peek.parameters) else peek.body_bytes
        if exact is not None and size is not None and size != exact:
            raise WireError(
                "Shape and dtype say {expected} bytes, but the body has {size}.",
                "Check shape and dtype.",
                expected=exact,
                size=size,
            )

    async def _answer(
        self, request: Request, served: Served, direction: Direction | None, received: wire.HttpRequest
    ) -> Reply:
        """Parsed, computed and packed, each on a thread of its kind.

        Raises:
            ClientDisconnect: the client hung up; what had not begun is not done.
        """
        service = self.service
        gone = asyncio.create_task(_gone(request))
        try:
            if direction is None:
                guessing = service.in_pool(
                    lambda: wire.guess_direction(
                        received.query, received.headers, received.body, served.spec.channels
                    )
                )
                direction = request.state.action = await _unless_gone(guessing, gone)
            known: Direction = direction
            started = time.perf_counter()
            parsing = service.in_pool(lambda: service.parse(served, known, received))
            parsed = await _unless_gone(parsing, gone)
            parse_seconds = time.perf_counter() - started
            done = await _unless_gone(service.submit(served, parsed), gone)
            packing = service.in_pool(lambda: service.pack(parsed, done, parse_seconds))
            reply: Reply = await _unless_gone(packing, gone)
        finally:
            gone.cancel()
        if service.metrics is not None:
            service.metrics.count_work(
                served.name,
                direction,
                reply.stages,
                received=len(received.body),
                sent=len(reply.body),
                cost=reply.cost,
            )
        return reply


def only(request: Request, *methods: str) -> None:
    """Refuse other methods.

    Raises:
        MethodError: with the allowed ones.
    """
    if request.method not in methods:
        raise MethodError(
            "{method} is not served at this address.",
            "Use {allowed}.",
            allow=", ".join(methods),
            method=request.method,
            allowed=methods[0],
        )


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
            waiting.cancel()  # also cancels `future`, so that the queue skips it
