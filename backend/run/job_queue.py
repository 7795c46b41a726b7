"""Jobs, first come first served, a few at once: the device works while another job is at an endpoint."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from backend.device.queue import POLL_SECONDS
from backend.errors import BusyError, Cancelled


class JobQueue:
    """A fair semaphore that can say how many are ahead and can be given up while waiting. Not re-entrant.

    `at_once` jobs may be inside; of more than `limit` inside and waiting together, the last comers are refused.
    """

    def __init__(self, at_once: int = 1, limit: int | None = None) -> None:
        self.at_once = at_once
        self.limit = limit
        self._changed = threading.Condition()
        self._tickets: deque[object] = deque()

    @property
    def waiting(self) -> int:
        """How many are inside or wait."""
        return len(self._tickets)

    @contextmanager
    def enter(
        self, stop: threading.Event | None = None, on_wait: Callable[[int], None] | None = None
    ) -> Iterator[None]:
        """Hold a place for a `with` block; `on_wait(n)` is called whenever the number ahead has changed.

        Raises:
            Cancelled: `stop` was set while waiting. BusyError: `limit` others are here already.
        """
        ticket = object()
        with self._changed:
            if self.limit is not None and len(self._tickets) >= self.limit:
                raise BusyError(
                    "It is busy: {count} others are being served or wait already.",
                    "Nothing is lost; please try again in a minute.",
                    count=self.limit,
                )
            self._tickets.append(ticket)
        try:
            self._wait(ticket, stop, on_wait)
            yield
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                self._changed.notify_all()

    def _wait(
        self, ticket: object, stop: threading.Event | None, on_wait: Callable[[int], None] | None
    ) -> None:
        reported = 0
        while ahead := self._ahead(ticket):
            if stop is not None and stop.is_set():
                raise Cancelled("Stopped while waiting for its turn.")
            if on_wait is not None and ahead != reported:
                on_wait(ahead)
            reported = ahead
            with self._changed:
                if self._ahead(ticket) == ahead:
                    self._changed.wait(POLL_SECONDS)

    def _ahead(self, ticket: object) -> int:
        """How many must leave before this one may enter."""
        return max(0, self._tickets.index(ticket) + 1 - self.at_once)
