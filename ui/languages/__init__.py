"""The page's sentences by language, and the backend's. Tests hold every language to the same keys."""

from __future__ import annotations

from ui.languages.de import DE
from ui.languages.de_messages import DE_MESSAGES
from ui.languages.en import EN
from ui.languages.fr import FR
from ui.languages.fr_messages import FR_MESSAGES

LANGUAGES: dict[str, dict[str, str]] = {"en": EN, "de": DE, "fr": FR}
"""By language, then by key."""
MESSAGES: dict[str, dict[str, str]] = {"de": DE_MESSAGES, "fr": FR_MESSAGES}
"""By language, then by the English sentence (the `key` of a `backend.message.Message`)."""
