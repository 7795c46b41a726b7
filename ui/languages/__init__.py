"""The page's sentences by language. Every language has the same keys; a test holds them to it."""

from __future__ import annotations

from ui.languages.de import DE
from ui.languages.en import EN
from ui.languages.fr import FR

LANGUAGES: dict[str, dict[str, str]] = {"en": EN, "de": DE, "fr": FR}
