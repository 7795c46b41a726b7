"""In a batch, decode picture n somewhere else while picture n + 1 is being denoised here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from typing import TypeVar

from backend.device.queue import DeviceQueue

T = TypeVar("T")
R = TypeVar("R")


def pipelined(
    source: Iterable[T], decode: Callable[[T], R], stop: threading.Event | None = None
) -> Iterator[R]:
    """`decode` of each of `source`, in order, one decode running while the next item is produced.

    At most one decoded picture waits, so memory does not grow with the batch. An error of either side ends it, once
    the decode that is under way is done. `stop` is what `decode` looks at.
    """
    queue = DeviceQueue("overlapped-decode")
    pending: Future[R] | None = None
    following: Future[R] | None = None
    try:
        for item in source:
            following = queue.submit(partial(decode, item), stop)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
    finally:
        if following is not None:
            wait([following])
