"""Every sentence of the page, in one place.

Labels of Gradio's own components go through `T(key)`, which the browser translates. What the server renders
(progress, stories, tables) goes through `say(locale, key, …)` with the locale the browser asked for.
"""

from __future__ import annotations

import re
from functools import cache
from string import Formatter

import gradio as gr

from backend.message import Message
from ui.languages import LANGUAGES, MESSAGES

I18N = gr.I18n(**LANGUAGES)
T = I18N


def say(locale: str, key: str, **values: object) -> str:
    """The sentence `key` in `locale` (English where it is not translated), with its values filled in."""
    sentence = LANGUAGES.get(locale, {}).get(key) or LANGUAGES["en"][key]
    return sentence.format(**values) if values else sentence


def say_message(message: Message, locale: str) -> str:
    """What the backend says, in `locale`; English where it is not translated."""
    table = MESSAGES.get(locale, {})
    return message.render(lambda key: table.get(key, key))


def translated(sentence: Message | str, locale: str) -> str:
    """What the backend says in English, in `locale`; what the phrase book does not have stays English.

    The backend knows no languages: it says finished English sentences, some of them read back from an old picture.
    So the book, the keys `said_…`, holds the English with its gaps, and a test holds it against the backend's source.
    """
    sentence = str(sentence)
    if locale not in LANGUAGES or locale == "en":
        return sentence
    parts = _SENTENCE_END.split(sentence)
    done, start = [], 0
    while start < len(parts):
        for end in range(start + 1, len(parts) + 1):  # a phrase may hold more than one sentence
            found = _phrase(" ".join(parts[start:end]), locale)
            if found is not None:
                break
        else:
            found, end = parts[start], start + 1
        done.append(found)
        start = end
    return " ".join(done)


_SENTENCE_END = re.compile(r"(?<=[.!?]) ")


@cache
def _book() -> list[tuple[re.Pattern[str], str]]:
    """(pattern, key) of each phrase; those with more words of their own come first."""
    phrases = {key: text for key, text in LANGUAGES["en"].items() if key.startswith(("said_", "mode_name_"))}

    def pattern(text: str) -> re.Pattern[str]:
        made = ""
        for words, gap, _, _ in Formatter().parse(text.strip()):
            made += re.escape(words)
            if gap:
                inside = r"(?:(?![.!?] )[^\n])*?"
                # A gap behind a full stop holds another sentence or nothing, not the rest of an address.
                made += f"(?P<{gap}>(?: {inside})?)" if words.endswith(".") else f"(?P<{gap}>{inside})"
        return re.compile(made)

    def own_words(item: tuple[str, str]) -> int:
        return sum(len(words) for words, *_ in Formatter().parse(item[1]))

    return [(pattern(text), key) for key, text in sorted(phrases.items(), key=own_words, reverse=True)]


def _phrase(text: str, locale: str) -> str | None:
    for pattern, key in _book():
        match = pattern.fullmatch(text)
        if match:
            gaps = {name: _gap(value, locale) for name, value in match.groupdict().items()}
            return say(locale, key, **gaps).strip()
    return None


def _gap(text: str, locale: str) -> str:
    """What stood in a gap may be a phrase itself, such as a mode's name."""
    words = text.strip()
    found = _phrase(words, locale) if words else None
    if found is None and words[:1].isupper():
        found = _phrase(words[:1].lower() + words[1:], locale)
        found = found and found[:1].upper() + found[1:]
    return text if found is None else text.replace(words, found)


def locale_of(request: gr.Request | None) -> str:
    """The first language the browser asks for that the page speaks."""
    wanted = request.headers.get("accept-language", "") if request and request.headers else ""
    for part in wanted.split(","):
        name = part.split(";")[0].strip().lower().partition("-")[0]
        if name in LANGUAGES:
            return name
    return "en"
