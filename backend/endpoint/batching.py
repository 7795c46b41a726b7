"""One device's bounded queue of requests. Those of equal kind that wait together may be computed together.

It has no thread: each request submits one piece of work to the device's `DeviceQueue`, "compute the oldest request
that waits here and those of its kind". So requests take their place among everything else that computes there. Places
are reserved before a body is read: a full queue costs a client one round trip and the server no memory.
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

from backend.device.queue import DeviceQueue
from backend.errors import BusyError
from backend.message import Message


@dataclass(eq=False)
class BatchableRequest:
    """A request's computing part. Those of equal `key` may be handed to `run` together."""

    key: Hashable
    pixels: int
    """What counts against `batch_pixels`."""
    item: Any
    run: Callable[[Sequence[Any]], Sequence[Any]]
    """A list of items to a list of results, one each; an exception among them is the failure of that request alone."""
    future: Future[Done] = field(default_factory=Future)
    """Cancelling it before it runs means that nothing is computed."""
    submitted: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class Done:
    """A request's result, and what it cost: seconds waited, seconds computed (of its whole batch), batch size."""

    value: Any
    queue_seconds: float
    compute_seconds: float
    batch: int


class BatchingQueue:
    """`limit` places for requests, waiting or running, that together may hold `limit_bytes` of body. Thread-safe.

    A client that is named may have `per_client` of the places and the same share of the bytes; 0 stands for all.
    """

    def __init__(
        self,
        device: DeviceQueue,
        limit: int,
        limit_bytes: int,
        batch_pixels: int = 0,
        per_client: int = 0,
    ) -> None:
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.per_client = min(per_client, limit) or limit
        self.batch_pixels = batch_pixels
        self._device = device
        self._changed = threading.Condition()
        self._waiting: deque[BatchableRequest] = deque()
        self._places = 0
        self._bytes = 0
        self._clients: dict[str, tuple[int, int]] = {}
        """Places and bytes of each client that has any."""
        self._seconds = 1.0
        """What one request took lately, for `Retry-After`."""
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Places taken: requests that are being read, wait, run, or are being answered."""
        return self._places

    @property
    def waiting(self) -> int:
        """Requests submitted and not begun."""
        return len(self._waiting)

    def acquire(self, size: int, client: str | None = None) -> None:
        """Reserve a place for a request of `size` bytes; `release` gives it back.

        Raises:
            BusyError: no place is free, none for this client, or the server is stopping.
        """
        with self._changed:
            full = self._places >= self.limit
            # One request alone always gets in, however large: the body cap is another limit's business.
            if full or self._closed or (self._places and self._bytes + size > self.limit_bytes):
                raise self._busy()
            places, held = self._clients.get(client or "", (0, 0))
            share = self.limit_bytes * self.per_client // self.limit
            if places and (places >= self.per_client or held + size > share):
                raise BusyError(
                    "Your address has as many requests here as it may have at once.",
                    "Try again in {seconds} s.",
                    retry_after=self._wait(),
                    seconds=self._wait(),
                )
            self._book(client, 1, size)

    def _wait(self) -> int:
        """Seconds after which a place is likely to be free."""
        return max(1, min(60, math.ceil(self._seconds * max(1, self._places))))

    def _busy(self) -> BusyError:
        seconds = self._wait()
        hint = Message("Try again in {seconds} s.", seconds=seconds)
        if self._closed:
            return BusyError("The server is stopping.", hint, retry_after=seconds)
        return BusyError("The server is busy; all places are taken.", hint, retry_after=seconds)

    def release(self, size: int, client: str | None = None) -> None:
        """Give back the place of a request of `size` bytes."""
        with self._changed:
            self._book(client, -1, -size)
            self._changed.notify_all()

    def resize(self, reserved: int, size: int, client: str | None = None) -> None:
        """Let a place reserved for `reserved` bytes count as `size`, once that is known."""
        with self._changed:
            self._book(client, 0, size - reserved)

    def _book(self, client: str | None, places: int, size: int) -> None:
        """Count places and bytes more, or less, for all and for the client. The lock is held."""
        self._places += places
        self._bytes += size
        if client is None:
            return
        had, held = self._clients.pop(client, (0, 0))
        if had + places:  # who has no place is forgotten
            self._clients[client] = had + places, held + size

    def submit(self, request: BatchableRequest) -> Future[Done]:
        """Queue `request`, whose sender holds a place."""
        with self._changed:  # both under one lock, so that both queues have the same order
            self._waiting.append(request)
            self._device.submit(self._run_next)
        request.future.add_done_callback(lambda _: self._forget(request))
        return request.future

    def close(self, timeout: float | None = None) -> bool:
        """Let no one in any more and wait until everyone inside has left; False if `timeout` seconds did not do."""
        with self._changed:
            self._closed = True
            return self._changed.wait_for(lambda: self._places == 0, timeout)

    def _forget(self, request: BatchableRequest) -> None:
        """Drop a request that was given up on before it ran, and the tensor that it holds."""
        with self._changed:
            if request in self._waiting:
                self._waiting.remove(request)

    def _run_next(self) -> None:
        """On the device's thread. There is nothing to do for a request given up on, or computed with an earlier one."""
        batch = self._next_batch()
        if not batch:
            return
        started = time.perf_counter()
        try:
            results = batch[0].run([request.item for request in batch])
        except BaseException as error:  # noqa: BLE001 - given to the request's future, whatever it is
            for request in batch:
                request.future.set_exception(error)
            return
        finally:
            seconds = time.perf_counter() - started
            self._seconds = 0.7 * self._seconds + 0.3 * seconds / len(batch)
        for request, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                request.future.set_exception(result)
            else:
                request.future.set_result(Done(result, started - request.submitted, seconds, len(batch)))

    def _next_batch(self) -> list[BatchableRequest]:
        """The oldest request and those of its kind behind it, as many as fit; empty if none waits."""
        batch: list[BatchableRequest] = []
        pixels = 0
        with self._changed:
            for request in list(self._waiting):
                if batch and (request.key != batch[0].key or pixels + request.pixels > self.batch_pixels):
                    continue
                self._waiting.remove(request)
                if request.future.set_running_or_notify_cancel():
                    batch.append(request)
                    pixels += request.pixels
        return batch
