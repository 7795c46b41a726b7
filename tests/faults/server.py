"""A server on loopback that hands requests on to a real endpoint and spoils what comes back."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests
import trustme

from tests.serving import quiet_server, start

PROBE = "shape=4&shape=4&"
"""What the tiny request before a run has in its query, and no picture of these tests has."""


@dataclass(frozen=True)
class Reply:
    """What the real endpoint answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    def send(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(self.status)
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(self.body)


Truth = Callable[[], Reply]
Spoil = Callable[[BaseHTTPRequestHandler, Truth, int], None]
"""(handler, what gives the true reply, how often this picture was asked for before) → whatever is sent instead."""


@lru_cache(maxsize=64)
def ask(method: str, url: str, headers: tuple[tuple[str, str], ...], body: bytes) -> Reply:
    """The real endpoint's answer; kept, since it is a pure function of the request."""
    with requests.request(method, url, data=body, headers=dict(headers), timeout=60) as response:
        left_out = ("date", "server", "connection", "x-request-id")
        headers_kept = {
            name: value for name, value in response.headers.items() if name.lower() not in left_out
        }
        return Reply(response.status_code, headers_kept, response.content)


class Spoiler:
    """Counts what it was asked for. With `sound_at_first` the tiny request before a run is answered truly."""

    def __init__(self, real: str, spoil: Spoil, *, sound_at_first: bool = False) -> None:
        self.real = real
        self.spoil = spoil
        self.sound_at_first = sound_at_first
        self.pictures = 0
        self.ids: list[str | None] = []
        self.servers: list[ThreadingHTTPServer] = []
        self._guard = threading.Lock()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        probe = handler.command == "GET" or PROBE in handler.path
        if not probe:
            with self._guard:
                before, self.pictures = self.pictures, self.pictures + 1
                self.ids.append(handler.headers.get("x-request-id"))
        kept = tuple(
            (name, value)
            for name, value in handler.headers.items()
            if name.lower() in ("content-type", "accept")
        )

        def truth() -> Reply:
            reply = ask(handler.command, self.real + handler.path, kept, body)
            return replace(reply, headers={**reply.headers, "x-request-id": handler.headers["x-request-id"]})

        if probe and (self.sound_at_first or handler.command == "GET"):
            truth().send(handler)
        else:
            self.spoil(handler, truth, 0 if probe else before)


@contextlib.contextmanager
def spoiling(
    spoiler: Spoiler, certificate: trustme.LeafCert | None = None, host: str = "127.0.0.1"
) -> Iterator[str]:
    """The spoiler listening on a free port, with TLS if there is a certificate; gives its base URL."""
    server = quiet_server(spoiler.answer, host)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.spoiler = spoiler  # type: ignore[attr-defined] - for `restarting`
    spoiler.servers.append(server)
    start(server)
    scheme = "http" if certificate is None else "https"
    try:
        yield f"{scheme}://{host}:{server.server_address[1]}"
    finally:
        for one in spoiler.servers:
            one.shutdown()
            one.server_close()


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """A port that is taken, and where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


# -- ways to spoil an answer ---------------------------------------------------------------------------------------


def says(status: int, body: bytes = b"", times: int | None = None, **headers: str) -> Spoil:
    """Another status instead; with `times` only so often, and truly from then on."""

    def spoil(handler: BaseHTTPRequestHandler, truth: Truth, before: int) -> None:
        if times is not None and before >= times:
            truth().send(handler)
            return
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        Reply(status, {"content-length": str(len(body)), **sent}, body).send(handler)

    return spoil


def changed(change: Callable[[Reply], Reply]) -> Spoil:
    """The true answer with something wrong in it."""

    def spoil(handler: BaseHTTPRequestHandler, truth: Truth, before: int) -> None:
        change(truth()).send(handler)

    return spoil


def silent(handler: BaseHTTPRequestHandler, truth: Truth, before: int) -> None:
    """No answer until the client has gone."""
    handler.connection.settimeout(20)
    with contextlib.suppress(OSError):
        handler.connection.recv(1)
    handler.close_connection = True


def dripping(handler: BaseHTTPRequestHandler, truth: Truth, before: int) -> None:
    """A byte now and then: something always comes, so no pause is ever long."""
    reply = truth()
    Reply(200, reply.headers, b"").send(handler)
    with contextlib.suppress(OSError):
        for byte in reply.body:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(0.05)


def truncated(handler: BaseHTTPRequestHandler, truth: Truth, before: int) -> None:
    """Half of the bytes that were announced, and a proper end of the connection."""
    reply = truth()
    Reply(200, reply.headers, reply.body[: len(reply.body) // 2]).send(handler)
    handler.close_connection = True


def dropped(handler: BaseHTTPRequestHandler, truth: Truth, before: int) -> None:
    """Half of the bytes, once, and then a reset; the next try is answered truly."""
    if before:
        truth().send(handler)
        return
    reply = truth()
    Reply(200, reply.headers, reply.body[: len(reply.body) // 2]).send(handler)
    handler.wfile.flush()
    _reset(handler)


def reset(handler: BaseHTTPRequestHandler, truth: Truth, before: int) -> None:
    """The connection is torn down instead of an answer, every time."""
    _reset(handler)


def restarting(down: float) -> Spoil:
    """Gone with the connection, and back at the same port after `down` seconds, in which nobody listens."""

    def spoil(handler: BaseHTTPRequestHandler, truth: Truth, before: int) -> None:
        if before:
            truth().send(handler)
            return
        old: Any = handler.server
        old.shutdown()
        old.server_close()
        _reset(handler)
        time.sleep(down)
        new = type(old)(old.server_address, old.RequestHandlerClass)
        old.spoiler.servers.append(new)
        new.spoiler = old.spoiler
        threading.Thread(target=new.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    return spoil


def _reset(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True
    handler.wfile = contextlib.nullcontext()  # type: ignore[assignment] - nothing is to be flushed into it
