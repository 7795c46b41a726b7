"""What the backend says, in French, by its English sentence."""

from __future__ import annotations

FR_MESSAGES: dict[str, str] = {}
