"""Request bodies: their announced length, and reading them with a bound on length, pauses and slowness."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Mapping

from starlette.requests import ClientDisconnect, Request

from backend.errors import DeadlineError, TooLargeError

STALL_SECONDS = 10.0
"""A body that makes no progress for so long is given up on."""
SLOWEST = 16_384
"""Bytes a second that a body must come at on average, after its first `STALL_SECONDS`."""


def declared_size(headers: Mapping[str, str], limit: int) -> int | None:
    """The body's length as announced, None for a chunked one, even if a length is announced beside that.

    Raises:
        TooLargeError: announced too large; nothing of it has been read.
    """
    if "transfer-encoding" in headers:
        return None
    text = headers.get("content-length", "")
    if not text.isascii() or not text.isdigit():
        return 0
    size = int(text)
    if size > limit:
        raise TooLargeError(
            "The body has {size} bytes, more than the {limit} allowed.",
            "Send it in parts.",
            size=size,
            limit=limit,
        )
    return size


async def body_parts(request: Request, limit: int, stall: float = STALL_SECONDS) -> AsyncIterator[bytes]:
    """The body in the parts it comes in, given up on as soon as it is longer than `limit` bytes or too slow.

    Raises:
        TooLargeError: longer than that. DeadlineError: it paused for `stall` seconds, or came more slowly than
        `SLOWEST`. ClientDisconnect: the client left.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    size = 0
    more = True
    while more:
        patience = min(loop.time() + stall, started + stall + size / SLOWEST)
        try:
            async with asyncio.timeout_at(patience):
                message = await request.receive()
        except TimeoutError:
            raise DeadlineError(
                "The body of the request came too slowly, so it was given up on.",
                "Try again later.",
                retry_after=5,
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(part)
        if size > limit:
            raise TooLargeError(
                "The body has more than the {limit} bytes allowed.", "Send it in parts.", limit=limit
            )
        if part:
            yield part
    request.state.body_is_read = True


async def read_body(request: Request, limit: int, stall: float = STALL_SECONDS) -> bytes:
    """The whole body; raises as `body_parts` does.

    It grows as the parts come: to join them at the end would copy all of it at once, on the event loop.
    """
    body = io.BytesIO()
    async for part in body_parts(request, limit, stall):
        body.write(part)
    return body.getvalue()  # copies nothing
