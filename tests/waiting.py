"""Keeping a queue busy, and waiting for what happens in another thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from backend.device.queue import DeviceQueue


@contextmanager
def occupied(queue: DeviceQueue, *, begun: bool = True) -> Iterator[None]:
    """A piece of work that lasts as long as the `with` block, and with `begun` has begun when that is entered."""
    entered, release = threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        assert release.wait(60)

    future = queue.submit(work)
    try:
        assert not begun or entered.wait(10)
        yield
    finally:
        release.set()
        if begun:
            future.result(10)
