"""The page itself, compressed on its way: the description of its widgets is half a megabyte.

Gradio compresses its scripts and styles only.
"""

from __future__ import annotations

from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

_LEVEL = 4
"""A seventh of the bytes; higher levels take several times as long for a tenth less."""


class CompressedPage:
    """ASGI middleware for the page's own address; all others, streams above all, pass as they are."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.compressed = GZipMiddleware(app, compresslevel=_LEVEL)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = scope.get("root_path", "").rstrip("/")
        is_page = scope["type"] == "http" and scope["path"].rstrip("/") == root
        await (self.compressed if is_page else self.app)(scope, receive, send)
