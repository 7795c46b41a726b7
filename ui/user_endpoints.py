"""Visitors' own endpoints, in this process's memory only: no file, no widget and no reply ever holds their tokens.

They belong to one open page (Gradio's session) and are forgotten when it closes.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict

from backend.remote.user_endpoint import UserEndpoint

MOST_PAGES = 500
"""Open pages remembered; the one that was silent longest goes first."""
MOST_EACH = 8
PREFIX = "own:"


class UserEndpoints:
    """Thread-safe. A key is what a mode's list holds in place of the mode's name."""

    def __init__(self) -> None:
        self._pages: OrderedDict[str, dict[str, UserEndpoint]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, page: str, endpoint: UserEndpoint) -> str:
        """Keep it, in place of an earlier one at the same addresses or, where there are too many, of the oldest."""
        key = PREFIX + secrets.token_urlsafe(6)
        with self._lock:
            mine = self._pages.pop(page, {})
            mine = {
                k: e for k, e in mine.items() if (e.encode, e.decode) != (endpoint.encode, endpoint.decode)
            }
            while len(mine) >= MOST_EACH:
                mine.pop(next(iter(mine)))
            self._pages[page] = {**mine, key: endpoint}
            while len(self._pages) > MOST_PAGES:
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
