"""In a batch, decode picture n somewhere else while picture n + 1 is being denoised here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def decode_behind(source: Iterable[T], decode: Callable[[T], R]) -> Iterator[R]:
    """`decode` of each of `source`, in order, one decode running while the next item is produced.

    At most one decoded picture waits, so memory does not grow with the batch. An error of either side ends it.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="decode-behind") as pool:
        pending: Future[R] | None = None
        for item in source:
            following = pool.submit(decode, item)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
