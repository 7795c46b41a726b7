"""A real HTTP server on a free port in a thread, for tests that talk to one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import uvicorn


@contextlib.contextmanager
def serve(app: Any) -> Iterator[str]:
    """Serve an ASGI app; gives its base URL, without a slash at its end."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive(), "the server did not start"
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


class Scripted:
    """A server that answers each POST with the next of its answers, and keeps what it was sent.

    An answer is (status, headers, body), or a function of the handler that does as it likes.
    """

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections: set[Any] = set()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.connections.add(handler.client_address)
        body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        self.requests.append((handler.path, {k.lower(): v for k, v in handler.headers.items()}, body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer):
            answer(handler)
            return
        status, headers, content = answer
        handler.send_response(status)
        for key, value in {"content-length": str(len(content)), **headers}.items():
            handler.send_header(key, value)
        handler.end_headers()
        handler.wfile.write(content)


def quiet_server(
    answer: Callable[[BaseHTTPRequestHandler], None], host: str = "127.0.0.1"
) -> ThreadingHTTPServer:
    """A server on a free port, to be started, that leaves each GET and POST to `answer` and prints nothing."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            answer(self)

        do_GET = do_POST  # noqa: N815 - http.server's name

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients that hang up are part of the tests."""

    return Server((host, 0), Handler)


def start(server: ThreadingHTTPServer) -> None:
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@contextlib.contextmanager
def scripted(*answers: Any) -> Iterator[tuple[Scripted, str]]:
    """A `Scripted` server and its URL."""
    script = Scripted(*answers)
    server = quiet_server(script.answer)
    start(server)
    try:
        yield script, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
