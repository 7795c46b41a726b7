"""What goes back to a client: errors as JSON with their status, and replies that hold a place until they have left.

Each carries the request's id and writes one line to the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from backend.endpoint.service import MEBI, Reply
from backend.errors import (
    BusyError,
    DeadlineError,
    LatentRelayError,
    MethodError,
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
from backend.message import Message

log = logging.getLogger(__name__)
requests_log = logging.getLogger("backend.endpoint.requests")

STATUSES: tuple[tuple[type[LatentRelayError], int], ...] = (
    (TooLargeError, 413),
    (UnsupportedTypeError, 415),
    (WireError, 400),
    (TokenError, 401),
    (MethodError, 405),
    (UnknownVAEError, 404),
    (BusyError, 503),
    (DeadlineError, 503),
    (ModelUnavailableError, 503),
    (UserError, 400),
    (OutOfMemoryError, 507),
    (NonFiniteError, 422),
)
"""The first class that fits gives the status; anything else of ours is a 500."""

LINGER_SECONDS = 2.0
LINGER_BYTES = 64 * MEBI


def status_of(error: LatentRelayError) -> int:
    """The HTTP status that says the same."""
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def id_of(request: Request) -> str:
    """The request's id: the client's own where that is a plain word, so that both sides' logs agree."""
    if not hasattr(request.state, "id"):
        request.state.id = clean_id(request.headers.get(HEADER)) or new_id()
    return str(request.state.id)


def signed(request: Request, response: Response, seconds: float) -> Response:
    """The response with its id, and its line in the log. Neither query nor body nor address is logged."""
    response.headers[HEADER] = id_of(request)
    path = request.url.path
    fields: dict[str, Any] = {
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
            fields[name] = value
    # A probe that asks every few seconds would drown the rest.
    quiet = path in ("/health", "/ready", "/metrics") and response.status_code < 500
    requests_log.log(logging.DEBUG if quiet else logging.INFO, "request", extra=fields)
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
    return _json_error(request, status_of(error), error.message, error.code, error.advice, headers)


def fault(request: Request) -> Response:
    said = Message("Something went wrong inside the server.")
    return _json_error(request, 500, said, "internal", Message("Its log says what."))


def _json_error(
    request: Request,
    status: int,
    message: Message,
    code: str,
    hint: Message,
    headers: Mapping[str, str] | None = None,
) -> Response:
    request.state.code = code
    kind = LingeringResponse if _has_unread_body(request) else JSONResponse
    document = {"error": str(message), "code": code, "hint": str(hint), "request_id": id_of(request)}
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


class SlotResponse(Response):
    """A reply that gives its place in the queue back once it has left, or after `timeout` seconds of sending."""

    def __init__(self, reply: Reply, slot: ExitStack, timeout: float) -> None:
        super().__init__(reply.body, headers=dict(reply.headers))
        self._slot = slot
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._slot:
            try:
                async with asyncio.timeout(self._timeout):
                    await super().__call__(scope, receive, send)
            except TimeoutError:
                log.warning("a client did not take its reply in %g s", self._timeout)


def _has_unread_body(request: Request) -> bool:
    """Whether a client may still be sending."""
    announced = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    return announced and not getattr(request.state, "body_is_read", False)


async def not_found(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    said = Message("There is nothing at {path}.", path=request.url.path[:120])
    response = _json_error(request, status, said, "not_found", Message("See /vae."))
    return signed(request, response, 0.0)


async def unexpected(request: Request, error: Exception) -> Response:
    log.error("unexpected error", exc_info=error, extra={"request_id": id_of(request)})
    return signed(request, fault(request), 0.0)
