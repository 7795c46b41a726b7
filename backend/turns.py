"""One device, one piece of work at a time, first come first served, and always computed by the same thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from backend.errors import BusyError, Cancelled
from backend.worker import Worker

T = TypeVar("T")

_LOOK_SECONDS = 0.05


class Turns:
    """A fair lock that can say how many are ahead and can be given up while waiting.

    threading.Lock is neither fair nor cancellable. Not re-entrant. `places` may hold it at once; of more than `most`
    that hold or wait, the last comers are sent away.
    """

    def __init__(self, places: int = 1, most: int | None = None) -> None:
        self.places = places
        self.most = most
        self._changed = threading.Condition()
        self._line: deque[object] = deque()
        self._worker = Worker("compute")

    @property
    def waiting(self) -> int:
        """How many hold or wait for the device right now."""
        return len(self._line)

    def run(
        self,
        work: Callable[[], T],
        stop: threading.Event | None = None,
        on_wait: Callable[[int], None] | None = None,
    ) -> T:
        """`work()`, when its turn has come, on the device's own thread; whatever it raises is raised here.

        Only computing belongs in there: whoever talks to another machine does so on a thread of his own.

        Raises:
            Cancelled: `stop` was set while waiting. BusyError: the line is full.
        """
        with self.hold(stop, on_wait):
            return self._worker.run(work, stop)

    @contextmanager
    def hold(
        self, stop: threading.Event | None = None, on_wait: Callable[[int], None] | None = None
    ) -> Iterator[None]:
        """Keep the device for a `with` block; `on_wait(n)` is told whenever the number ahead changes.

        Raises:
            Cancelled: `stop` was set while waiting. BusyError: the line is full.
        """
        ticket = object()
        with self._changed:
            if self.most is not None and len(self._line) >= self.most:
                raise BusyError(
                    f"It is busy: {self.most} others are being served or wait already.",
                    "Nothing is lost; please try again in a minute.",
                )
            self._line.append(ticket)
        try:
            self._await(ticket, stop, on_wait)
            yield
        finally:
            with self._changed:
                self._line.remove(ticket)
                self._changed.notify_all()

    def _await(
        self, ticket: object, stop: threading.Event | None, on_wait: Callable[[int], None] | None
    ) -> None:
        told = 0
        while True:
            with self._changed:
                ahead = self._ahead(ticket)
                if ahead == 0:
                    return
                if ahead == told:
                    self._changed.wait(_LOOK_SECONDS)
                    ahead = self._ahead(ticket)
            if stop is not None and stop.is_set():
                raise Cancelled("Stopped while waiting for its turn.")
            if on_wait is not None and ahead and ahead != told:
                on_wait(ahead)
            told = ahead

    def _ahead(self, ticket: object) -> int:
        """How many must leave before this one may enter."""
        return max(0, self._line.index(ticket) + 1 - self.places)
