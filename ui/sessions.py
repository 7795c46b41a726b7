"""What Gradio keeps of visitors. Of one who left it keeps all of it, until ten thousand others have come."""

from __future__ import annotations

import threading
from collections import OrderedDict

import gradio as gr

CAPACITY = 1_000
"""Open pages whose values are kept; a page forgotten beyond that works on, with nothing chosen."""
LEFT = 32
"""Visitors who left and are kept: a page that lost its connection for a moment comes back as the same visitor."""


class Departures:
    """Thread-safe. Forgets those who left, but for the last and for those whose events still run.

    A page that lost its connection for a moment has left, too, and nobody says that it is back.
    """

    def __init__(self, page: gr.Blocks, keep: int = LEFT) -> None:
        self._page = page
        self._keep = keep
        self._left: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def left(self, session: str) -> None:
        """This visitor's page was closed, or lost its connection."""
        with self._lock:
            self._left[session] = None
            self._left.move_to_end(session)
            idle = [one for one in self._left if not self._has_events(one)]
            gone = idle[: max(0, len(self._left) - self._keep)]
            for one in gone:
                del self._left[one]
        for one in gone:
            self._forget(one)

    def _has_events(self, session: str) -> bool:
        queue = self._page._queue
        # A copy, since the event loop may change them meanwhile.
        events = tuple(queue.pending_event_ids_session.get(session, ()))
        return any(event in queue.event_ids_to_events for event in events)

    def _forget(self, session: str) -> None:
        states, queue = self._page.state_holder, self._page._queue
        with states.lock:
            states.session_data.pop(session, None)
            states.time_last_used.pop(session, None)
        queue.pending_messages_per_session.pop(session, None)
        if not queue.pending_event_ids_session.get(session):
            queue.pending_event_ids_session.pop(session, None)
