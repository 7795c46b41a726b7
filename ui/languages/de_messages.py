"""What the backend says, in German, by its English sentence."""

from __future__ import annotations

DE_MESSAGES: dict[str, str] = {}
