"""Keeping a queue busy, and waiting for what happens in another thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from backend.device.queue import DeviceQueue

T = TypeVar("T")


class CountedWaits(threading.Event):
    """A stop event whose timed waits are noted, in seconds, and are over at once."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return self.is_set()


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Its result. On a thread of its own: Playwright leaves an event loop on the one that tests run on."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def wait_until(
    condition: Callable[[], object], seconds: float = 20.0, failed: str = "it did not happen"
) -> None:
    """Poll; for what happens in another thread or process."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, failed
        time.sleep(0.02)


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
