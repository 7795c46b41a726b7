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
    """Thread-safe. Forgets those who left, but for the last."""

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
            gone = [self._left.popitem(last=False)[0] for _ in range(len(self._left) - self._keep)]
        for one in gone:
            self._forget(one)

    def _forget(self, session: str) -> None:
        states, queue = self._page.state_holder, self._page._queue
        with states.lock:
            states.session_data.pop(session, None)
            states.time_last_used.pop(session, None)
        queue.pending_messages_per_session.pop(session, None)
        if not queue.pending_event_ids_session.get(session):
            queue.pending_event_ids_session.pop(session, None)
