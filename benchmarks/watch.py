"""Run the app or the endpoint with its event loop and its memory watched.

    python -m benchmarks.watch PORT app.py --port 7860 …
    python -m benchmarks.watch PORT -m backend.endpoint …

`GET http://127.0.0.1:PORT/` then gives an `Observation` as JSON, and begins the next. Pauses are measured on the loop
that serves requests: nobody is answered while one lasts.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import runpy
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests
import uvicorn

_TICK = 0.01
"""Seconds between two looks at the clock."""


@dataclass
class Observation:
    """Since the observation before; memory as it is at its end."""

    pause: float = 0.0
    """Seconds of the event loop's longest pause, by the clock: other processes of a busy machine can lengthen it."""
    busy_pause: float = 0.0
    """Seconds that the loop's own thread computed in one go, at most."""
    cpu: float = 0.0
    """Seconds of computing, of all threads."""
    seconds: float = 0.0
    objects: int = 0
    """Python's containers that the garbage collector knows, after a collection."""
    heap: dict[str, int] = field(default_factory=dict)
    """Bytes of the C heap, where glibc tells: `used`, and `free` in its arenas, kept from the system."""
    types: dict[str, int] = field(default_factory=dict)
    """The most frequent types of those objects; only if asked for, with `/types`."""


class Watch:
    """What the loop's task writes and the reporting thread reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = Observation()
        self._began, self._cpu = time.monotonic(), time.process_time()

    async def watch(self) -> None:
        """On the loop that is watched, as long as that runs."""
        while True:
            clock, cpu = time.monotonic(), time.thread_time()
            await asyncio.sleep(_TICK)
            pause, busy = time.monotonic() - clock - _TICK, time.thread_time() - cpu
            with self._lock:
                self._now.pause = max(self._now.pause, pause)
                self._now.busy_pause = max(self._now.busy_pause, busy)

    def take(self, *, types: bool) -> Observation:
        """The observation up to now; the next begins."""
        with self._lock:
            taken, self._now = self._now, Observation()
            clock, cpu = time.monotonic(), time.process_time()
            taken.seconds, taken.cpu = clock - self._began, cpu - self._cpu
            self._began, self._cpu = clock, cpu
        if types:  # a collection is a pause itself
            gc.collect()
            found = gc.get_objects()
            taken.objects = len(found)
            counts = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in found)
            taken.types = dict(counts.most_common(400))
        taken.heap = c_heap()
        return taken


def c_heap() -> dict[str, int]:
    """`used` and `free` bytes of glibc's heap, mapped blocks counted as used; nothing with another C library."""

    class Mallinfo2(ctypes.Structure):
        _fields_ = [
            (name, ctypes.c_size_t)
            for name in (
                *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
                *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
            )
        ]

    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return {}
    mallinfo2.restype = Mallinfo2
    info = mallinfo2()
    return {"used": info.uordblks + info.hblkhd, "free": info.fordblks}


def observe(port: int, *, types: bool = False) -> Observation:
    """Ask a watched process. Raises requests.RequestException: it does not answer."""
    reply = requests.get(f"http://127.0.0.1:{port}/{'types' if types else ''}", timeout=60)
    return Observation(**reply.json())


@contextmanager
def reporting(watch: Watch, port: int) -> Iterator[None]:
    """Answer on that port of this machine while the block lasts, from threads of its own."""

    class Report(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(asdict(watch.take(types=self.path == "/types"))).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Not into the app's log."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Report)
    threading.Thread(target=server.serve_forever, name="watch", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    port, *command = sys.argv[1:]
    watch = Watch()
    serve = uvicorn.Server.serve

    async def watched(self: uvicorn.Server, *arguments: Any, **options: Any) -> None:
        task = asyncio.create_task(watch.watch())
        try:
            await serve(self, *arguments, **options)
        finally:
            task.cancel()

    uvicorn.Server.serve = watched  # type: ignore[method-assign]
    with reporting(watch, int(port)):
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main()
