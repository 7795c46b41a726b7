"""A page that asks for the messages of a session that the server no longer knows: after a restart, or long asleep.

Gradio tells it so in the stream, and then raises what it told; in the log that looks like an error of the server.
"""

from __future__ import annotations

import logging

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)


class EndedSessions:
    """ASGI middleware that ends such a stream properly."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, note)
        except RuntimeError as error:  # Starlette's, on an HTTPException after the response began
            if (
                not begun
                or not isinstance(error.__cause__, HTTPException)
                or error.__cause__.status_code != 404
            ):
                raise
            _log.info("a page asked for a session that is not known (any more)")
            await send({"type": "http.response.body", "body": b"", "more_body": False})
