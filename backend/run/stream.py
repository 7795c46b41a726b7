"""Work that calls back with its events, as a generator of them."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar, overload

E = TypeVar("E")

HEARTBEAT_SECONDS = 0.5
"""For `stream` on the page: how soon a closed tab is noticed."""


@dataclass(frozen=True)
class _End:
    """The end of the work, and the error that ended it, if one did."""

    error: BaseException | None = None


Work = Callable[[threading.Event, Callable[[E], None]], None]


@overload
def stream(work: Work[E], stop: threading.Event, heartbeat: None = None) -> Generator[E, None, None]: ...
@overload
def stream(
    work: Work[E], stop: threading.Event, heartbeat: float | None
) -> Generator[E | None, None, None]: ...
def stream(
    work: Work[E], stop: threading.Event, heartbeat: float | None = None
) -> Generator[E | None, None, None]:
    """Run `work(stop, notify)` in a thread of its own and yield each event it notifies; its error is raised here.

    After `heartbeat` seconds without an event None is yielded: only between two values Gradio looks whether the page is
    still open. Closing the generator sets `stop` and returns at once: Gradio closes generators on its event loop, where
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

    # The context has the visitor's request, by which ZeroGPU knows whose quota it is.
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(target,), name="job", daemon=True).start()
    try:
        while True:
            try:
                event = events.get(timeout=heartbeat)
            except queue.Empty:
                yield None
                continue
            if isinstance(event, _End):
                break
            yield event
        if event.error is not None:
            raise event.error
    finally:
        stop.set()
