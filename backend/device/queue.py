"""One device, one piece of work at a time, first come first served, always computed by the same thread.

OpenMP keeps a team of helpers for each thread that computes, and the allocator an arena: work that always comes from
the same thread finds both warm.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from backend.errors import Cancelled

T = TypeVar("T")

POLL_SECONDS = 0.05
"""How often somebody who waits looks at `stop` and at the number ahead."""
_EXIT_SECONDS = 10.0
"""How long a process that ends waits for work that was asked to stop."""


@dataclass(eq=False)
class _Item:
    work: Callable[[], Any]
    stop: threading.Event | None
    future: Future[Any] = field(default_factory=Future)


class _State:
    """What the thread shares with the queue. It holds no reference to the queue, so that one no longer used ends."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.items: deque[_Item] = deque()
        """In order; the first one runs."""
        self.closed = False


class DeviceQueue:
    """Thread-safe. The thread starts with the first piece of work and ends with this object, or with the process.

    Only computing belongs in here: whoever downloads, or talks to another machine, does so on a thread of its own.
    """

    def __init__(self, name: str = "compute") -> None:
        self._name = name
        self._state = _State()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    @property
    def waiting(self) -> int:
        """How many pieces of work run or wait."""
        return len(self._state.items)

    def run(
        self,
        work: Callable[[], T],
        stop: threading.Event | None = None,
        on_wait: Callable[[int], None] | None = None,
    ) -> T:
        """`work()`, after all that came before; whatever it raises is raised here. Not to be called from `work`.

        `on_wait(n)` is called whenever the number ahead has changed. `stop` is also what `work` itself looks at: it
        is set should the process end meanwhile.

        Raises:
            Cancelled: `stop` was set while waiting.
        """
        item = self._append(work, stop)
        state, reported = self._state, 0
        try:
            while True:
                with state.changed:
                    ahead = state.items.index(item) if item in state.items else 0
                    if ahead and ahead == reported:
                        state.changed.wait(POLL_SECONDS)
                        ahead = state.items.index(item) if item in state.items else 0
                if not ahead:
                    return item.future.result()
                if stop is not None and stop.is_set():
                    raise Cancelled("Stopped while waiting for the device.")
                if on_wait is not None and ahead != reported:
                    on_wait(ahead)
                reported = ahead
        finally:
            with state.changed:
                if item.future.cancel() and item in state.items:  # given up before it began
                    state.items.remove(item)
                    state.changed.notify_all()
            del item  # else an error's traceback would hold it, and it the error

    def submit(self, work: Callable[[], T], stop: threading.Event | None = None) -> Future[T]:
        """Like `run`, without waiting. Cancelling the future before it begins means that nothing is computed."""
        return self._append(work, stop).future

    def _append(self, work: Callable[[], Any], stop: threading.Event | None) -> _Item:
        item = _Item(work, stop)
        with self._starting:
            if (
                self._process != os.getpid()
            ):  # threads do not survive a fork, and the parent's work is the parent's
                self._process, self._thread, self._state = os.getpid(), None, _State()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=_compute, args=(self._state,), name=self._name, daemon=True
                )
                self._thread.start()
                weakref.finalize(self, _end, self._state, self._thread)
        with self._state.changed:
            self._state.items.append(item)
            self._state.changed.notify_all()
        return item


def _compute(state: _State) -> None:
    """The thread. It must not hold on to a piece of work, nor to its result, while it waits for the next."""
    while True:
        with state.changed:
            state.changed.wait_for(lambda: state.items or state.closed)
            if not state.items:
                return
            item = state.items[0]
            if not item.future.set_running_or_notify_cancel():
                state.items.popleft()
                continue
        finish: Callable[[], None]
        try:
            finish = partial(item.future.set_result, item.work())
        except BaseException as error:  # noqa: BLE001 - handed over to whoever waits for it, not swallowed
            finish = partial(item.future.set_exception, error)
        with state.changed:
            state.items.popleft()
            state.changed.notify_all()
        finish()  # only now, so that whoever has the result is no longer counted
        del item, finish


def _end(state: _State, thread: threading.Thread) -> None:
    """Python would break the thread off inside torch at exit, and that aborts: so the work is stopped first."""
    with state.changed:
        for item in state.items:
            if item.stop is not None:
                item.stop.set()
            item.future.cancel()
        state.closed = True
        state.changed.notify_all()
    if thread is not threading.current_thread():  # garbage is collected on any thread
        thread.join(_EXIT_SECONDS)
