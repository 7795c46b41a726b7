"""One request: what happens between a poll and the next, and a GET that is tried once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest

from backend import wire
from backend.errors import RemoteRefusedError, RemoteReplyError, RemoteTimeoutError
from backend.remote import client
from backend.remote.client import EndpointClient
from backend.remote.net import new_session
from tests.serving import scripted
from tests.waiting import CountedWaits

MESSAGE = wire.HttpRequest((), {}, b"x")


class LateFuture(Future[Any]):
    """A look at it that times out comes back only when the result is there, as when the caller's thread is held up."""

    def result(self, timeout: float | None = None) -> Any:
        try:
            return super().result(timeout)
        except TimeoutError:
            super().exception()
            raise


def test_a_reply_that_comes_just_after_a_look_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "Future", LateFuture)

    def slow(handler: Any) -> None:
        time.sleep(0.3)
        handler.send_response(200)
        handler.send_header("content-length", "2")
        handler.end_headers()
        handler.wfile.write(b"ok")

    with scripted(slow) as (_, url):
        assert EndpointClient(new_session(), 20.0).post(url, MESSAGE, 10).body == b"ok"


def test_a_get_is_tried_once_and_says_the_status() -> None:
    stop = CountedWaits()
    with scripted((503, {"retry-after": "0"}, b"")) as (script, url):
        with pytest.raises(RemoteRefusedError) as caught:
            EndpointClient(new_session(), 20.0, stop=stop).get(url, 10)
        assert caught.value.status == 503
    assert len(script.requests) == 1 and stop.waits == []


def test_a_get_has_a_cap_and_a_deadline_for_the_whole_body() -> None:
    """A server that drips byte by byte never pauses long; the client must not wait for the end all the same."""
    given_up = threading.Event()

    def drip(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "1000000")
        handler.end_headers()
        while not given_up.wait(0.02):
            handler.wfile.write(b"{")
            handler.wfile.flush()

    try:
        with scripted((200, {}, b"x" * 11), drip) as (_, url):
            caller = EndpointClient(new_session(), 1.0)
            with pytest.raises(RemoteReplyError, match="sent more than the 10 bytes"):
                caller.get(url, 10)
            with pytest.raises(RemoteTimeoutError, match="within 1 s"):
                caller.get(url, 2_000_000)
    finally:
        given_up.set()


@pytest.mark.parametrize(
    "body", [b'{"error": null, "hint": null}', b"[" * 50_000, b'{"error": [], "code": 5}']
)
def test_an_error_that_says_nothing_is_not_quoted(body: bytes) -> None:
    with (
        scripted((400, {"content-type": "application/json"}, body)) as (_, url),
        pytest.raises(RemoteRefusedError) as caught,
    ):
        EndpointClient(new_session(), 20.0).post(url, MESSAGE, 10)
    assert str(caught.value) == f"The endpoint at {url} answered with error 400."
    assert caught.value.hint == "Try again later."
