"""Keeping a queue busy, and waiting for what happens in another thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from backend.device.queue import DeviceQueue


class CountedWaits(threading.Event):
    """A stop event whose timed waits are noted, in seconds, and are over at once."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return self.is_set()


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
