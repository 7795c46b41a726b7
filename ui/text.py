"""The page's sentences, and the backend's, in the visitor's language.

Labels of Gradio's own components go through `T(key)`, which the browser translates. What the server renders
(progress, stories, tables) goes through `say(locale, key, …)`, and what the backend says through
`say_message(message, locale)`, with the locale the browser asked for.
"""

from __future__ import annotations

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


def locale_of(request: gr.Request | None) -> str:
    """The first language the browser asks for that the page speaks."""
    wanted = request.headers.get("accept-language", "") if request and request.headers else ""
    for part in wanted.split(","):
        name = part.split(";")[0].strip().lower().partition("-")[0]
        if name in LANGUAGES:
            return name
    return "en"
