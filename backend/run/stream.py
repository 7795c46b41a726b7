"""Work that calls back with its events, as a generator of them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

E = TypeVar("E")


@dataclass(frozen=True)
class _End:
    """The end of the work, and the error that ended it, if one did."""

    error: BaseException | None = None


def stream(
    work: Callable[[threading.Event, Callable[[E], None]], None], stop: threading.Event
) -> Iterator[E]:
    """Run `work(stop, notify)` in a thread of its own and yield each event it notifies; its error is raised here.

    Closing the generator sets `stop` and returns at once: the page's server closes generators on its event loop, where
    waiting for the thread would hold up everybody. The thread ends by itself, inside the current step.
    """
    events: queue.SimpleQueue[E | _End] = queue.SimpleQueue()

    def target() -> None:
        try:
            work(stop, events.put)
        except BaseException as error:  # noqa: BLE001 - handed over to the consumer, not swallowed
            events.put(_End(error))
        else:
            events.put(_End())

    threading.Thread(target=target, name="job", daemon=True).start()
    try:
        while not isinstance(event := events.get(), _End):
            yield event
        if event.error is not None:
            raise event.error
    finally:
        stop.set()
