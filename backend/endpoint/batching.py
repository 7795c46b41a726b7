"""One device's bounded queue and the one thread that hands its requests on, in order.

A GPU, or the cores of a CPU, work best on one thing at a time; so requests wait here, in order, and those of equal
kind that wait together may be computed together. Places are reserved before a body is read: a full queue costs a
client one round trip and the server no memory.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from backend.errors import BusyError


@dataclass(eq=False)
class Task:
    """Work for the lane's thread. Tasks of equal `key` may be handed to `run` together, as a list."""

    key: Hashable
    pixels: int
    item: Any
    run: Callable[[Sequence[Any]], Sequence[Any]]
    """A list of items to a list of results, one each; an exception among them is its own task's failure."""
    future: Future[Any] = field(default_factory=Future)
    """Cancelling it before its turn means that nothing is computed."""
    submitted: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class Done:
    """A task's result, and what it cost: seconds waited, seconds computed (of its whole batch), batch size."""

    value: Any
    queue_seconds: float
    compute_seconds: float
    batch: int


class Lane:
    """`limit` places for requests, waiting or running, that together may hold `limit_bytes` of body."""

    def __init__(self, limit: int, limit_bytes: int, batch_pixels: int = 0) -> None:
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.batch_pixels = batch_pixels
        self._tasks: deque[Task] = deque()
        self._changed = threading.Condition()
        self._places = 0
        self._bytes = 0
        self._seconds = 1.0
        """What one task took lately, for `Retry-After`."""
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def occupied(self) -> int:
        """Places taken: requests that are being read, wait, run, or are being answered."""
        return self._places

    @property
    def waiting(self) -> int:
        return len(self._tasks)

    def enter(self, size: int) -> None:
        """Reserve a place for a request of `size` bytes; `leave` gives it back.

        Raises:
            BusyError: no place is free.
        """
        with self._changed:
            full = self._places >= self.limit
            # One request alone always gets in, however large: the body cap is another limit's business.
            if full or self._closed or (self._places and self._bytes + size > self.limit_bytes):
                wait = max(1, min(60, math.ceil(self._seconds * max(1, self._places))))
                raise BusyError(
                    "The server is stopping."
                    if self._closed
                    else "The server is busy; all places are taken.",
                    f"Try again in {wait} s.",
                    retry_after=wait,
                )
            self._places += 1
            self._bytes += size

    def leave(self, size: int) -> None:
        with self._changed:
            self._places -= 1
            self._bytes -= size
            self._changed.notify_all()

    def submit(self, task: Task) -> Future[Any]:
        """Queue `task`; its future gives a `Done`. The caller holds a place."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="vae-lane", daemon=True)
                self._thread.start()
            self._tasks.append(task)
            self._changed.notify_all()
        return task.future

    def close(self, timeout: float | None = None) -> bool:
        """Let no one in any more and wait until everyone inside has left; False if `timeout` seconds did not do."""
        with self._changed:
            self._closed = True
            return self._changed.wait_for(lambda: self._places == 0, timeout)

    def _work(self) -> None:
        while True:
            batch = self._next_batch()
            started = time.perf_counter()
            try:
                results = batch[0].run([task.item for task in batch])
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits for it, whatever it is
                for task in batch:
                    task.future.set_exception(error)
                continue
            finally:
                seconds = time.perf_counter() - started
                self._seconds = 0.7 * self._seconds + 0.3 * seconds / len(batch)
            for task, result in zip(batch, results, strict=True):
                if isinstance(result, Exception):
                    task.future.set_exception(result)
                    continue
                task.future.set_result(Done(result, started - task.submitted, seconds, len(batch)))

    def _next_batch(self) -> list[Task]:
        """The oldest task and those of its kind behind it, as many as fit; tasks given up on are dropped."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: bool(self._tasks))
                first = self._tasks.popleft()
                if first.future.set_running_or_notify_cancel():
                    break
            batch, pixels = [first], first.pixels
            for task in list(self._tasks):
                if task.key != first.key or pixels + task.pixels > self.batch_pixels:
                    continue
                self._tasks.remove(task)
                if task.future.set_running_or_notify_cancel():
                    batch.append(task)
                    pixels += task.pixels
            return batch
