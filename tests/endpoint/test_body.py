"""Reading a request's body."""

from __future__ import annotations

import tracemalloc
from typing import Any

from starlette.requests import Request

from backend.endpoint.body import read_body
from tests.waiting import run_async

PART = 65_536
PARTS = 256


def test_a_body_is_never_held_twice() -> None:
    """To join its parts at its end would copy all of it in one go, on the event loop: a quarter of a second for the
    256 MB that a body may have."""
    left = PARTS

    async def receive() -> dict[str, Any]:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": bytes([left]) * PART, "more_body": left > 0}

    tracemalloc.start()
    try:
        request = Request({"type": "http", "headers": []}, receive)
        body = run_async(read_body(request, PARTS * PART))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert body == b"".join(bytes([255 - n]) * PART for n in range(PARTS))
    assert most < 1.5 * len(body)
