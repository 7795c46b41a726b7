"""Endpoints that visitors added, in this process's memory only: no file, widget or reply ever holds their tokens.

They belong to one open page (Gradio's session) and are forgotten when it closes.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict

from backend.job import UserEndpoint

MAX_PAGES = 500
"""Open pages remembered; the one that was silent longest goes first."""
MAX_EACH = 8
"""Endpoints of one page."""
PREFIX = "own:"
"""How the key of a visitor's endpoint begins; no mode's name does."""


class UserEndpoints:
    """Thread-safe. A key is what a mode's list holds in place of the mode's name."""

    def __init__(self) -> None:
        self._pages: OrderedDict[str, dict[str, UserEndpoint]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, page: str, endpoint: UserEndpoint) -> str:
        """Keep it, in place of an earlier one at the same addresses or, where there are too many, of the oldest."""
        key = PREFIX + secrets.token_urlsafe(6)
        with self._lock:
            known = self._pages.pop(page, {})
            addresses = (endpoint.encode, endpoint.decode)
            kept = {k: e for k, e in known.items() if (e.encode, e.decode) != addresses}
            while len(kept) >= MAX_EACH:
                kept.pop(next(iter(kept)))
            self._pages[page] = {**kept, key: endpoint}
            while len(self._pages) > MAX_PAGES:
                self._pages.popitem(last=False)
        return key

    def of(self, page: str | None) -> dict[str, UserEndpoint]:
        """That page's endpoints by their keys, oldest first."""
        with self._lock:
            if page not in self._pages:
                return {}
            self._pages.move_to_end(page)
            return dict(self._pages[page])

    def remove(self, page: str | None, key: str) -> None:
        with self._lock:
            self._pages.get(page or "", {}).pop(key, None)

    def forget(self, page: str | None) -> None:
        """The page was closed."""
        with self._lock:
            self._pages.pop(page or "", None)
