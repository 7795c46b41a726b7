"""What the page's own routes take: a bound on each request's body, told before Gradio reads it.

Gradio limits single uploaded files only, and parses any JSON on its event loop. The VAE routes have their own limits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.endpoint.body import body_parts, declared_size, read_body
from backend.endpoint.responses import error_response
from backend.errors import BusyError, LatentRelayError, WireError
from backend.wire import check_json

_log = logging.getLogger(__name__)

MAX_JSON = 2 * 2**20
"""Bytes: the sketch pad's drawing, 512 by 512 pixels of noise as a PNG in base64, has 1.4 million."""
MAX_UPLOAD = 2**30
"""Bytes of one upload with all its files; Gradio has a lower limit for each."""
MAX_UPLOADING = 4 * 2**30
"""Bytes that all the uploads under way may have sent."""
_LINES = 100
"""Line ends in a part of an upload, above which it is taken in slices: a file with its headers has some five."""
_SLICE = 2_048
"""Bytes: some thirty headers."""
_ENVELOPES = ("/queue/", "/run/", "/api/", "/call/", "/cancel", "/reset", "/component_server")
"""Where the page's events and calls of its API come in."""
_FORMS = ("multipart/", "application/x-www-form-urlencoded")


class BodyLimits:
    """ASGI middleware. `uploaded` is called on the event loop with the size of each upload's parts as they come."""

    def __init__(self, app: ASGIApp, uploaded: Callable[[int], None] = lambda _: None) -> None:
        self.app = app
        self._uploaded = uploaded
        self._uploading = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = _path(scope)
        if scope["type"] != "http" or path == "/vae" or path.startswith("/vae/"):
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        answering = False

        async def answer(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        try:
            if path == "/upload":
                await self._upload(request, answer)
            else:
                await self._small(request, answer)
        except LatentRelayError as error:
            if not answering:
                await error_response(request, error)(scope, receive, send)
        except ClientDisconnect:
            pass
        except Exception as error:
            # Gradio's own code takes these requests apart, and nothing of ours runs in it.
            if answering or not path.startswith(_ENVELOPES):
                raise
            _log.warning("nothing could be made of a request to %s: %r", path, error)
            refused = WireError("Nothing could be made of this request.", "Send it as the page does.")
            await error_response(request, refused)(scope, receive, send)

    async def _small(self, request: Request, send: Send) -> None:
        """Read the whole body, look at it, and hand it on."""
        headers = {key.lower(): value for key, value in request.headers.items()}
        if declared_size(headers, MAX_JSON) == 0:
            await self.app(request.scope, request.receive, send)
            return
        body = await read_body(request, MAX_JSON)
        if not headers.get("content-type", "").lower().startswith(_FORMS):
            check_json(body)
        handed_on = False

        async def receive() -> Message:
            nonlocal handed_on
            if handed_on:
                return await request.receive()
            handed_on = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(request.scope, receive, send)

    async def _upload(self, request: Request, send: Send) -> None:
        """Hand the body on part by part, as long as there is room for it."""
        declared_size({key.lower(): value for key, value in request.headers.items()}, MAX_UPLOAD)
        slices = _in_slices(body_parts(request, MAX_UPLOAD))
        received = 0
        ended = False

        async def receive() -> Message:
            nonlocal received, ended
            if ended:
                return await request.receive()
            part = await anext(slices, b"")  # none is empty
            ended = not part
            received += len(part)
            self._uploading += len(part)
            if self._uploading > MAX_UPLOADING:
                raise BusyError(
                    "Too many uploads are under way.", "Try again in {seconds} s.", retry_after=5, seconds=5
                )
            self._uploaded(len(part))
            return {"type": "http.request", "body": part, "more_body": not ended}

        try:
            await self.app(request.scope, receive, send)
        finally:
            self._uploading -= received


async def _in_slices(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes; where many lines end, little at a time, with everybody else's turn in between.

    Gradio's parser opens a file for each header that it finds: a part of 64 kB may have a thousand, which took more
    than a second of the event loop. Pictures have next to no line ends.
    """
    async for part in parts:
        if part.count(b"\r\n") <= _LINES:
            yield part
            continue
        for start in range(0, len(part), _SLICE):
            yield part[start : start + _SLICE]
            await asyncio.sleep(0)


def _path(scope: Scope) -> str:
    """The route asked for, without what a proxy or Gradio puts before it."""
    path = str(scope.get("path", "")).removeprefix(scope.get("root_path", "") or "")
    return path.removeprefix("/gradio_api").rstrip("/")
