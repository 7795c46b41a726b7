"""What of the picture goes in, and at which size: a small preview of crop, borders or stretch before the run."""

from __future__ import annotations

from html import escape

import gradio as gr

from backend import images
from backend.errors import LatentRelayError
from backend.studio import Studio
from ui.form import Values
from ui.pictures import data_uri, open_picture
from ui.text import say, say_message
from ui.widgets import html, local

_SIDE = 200
"""Longest side of the preview, in pixels."""


def crop_preview(studio: Studio, values: Values, locale: str) -> str:
    """The picture as it will be worked on, small, with its size before and after; a sentence where there is none."""
    if not values.image:
        return _line(say(locale, "cut_empty"))
    try:
        picture = images.to_rgb(open_picture(values.image, locale))
        before = picture.size
        width, height = values.fitted(before, studio.find_model(values.model))
    except LatentRelayError as error:
        return _line(say_message(error.full_message, locale))
    scale = _SIDE / max(width, height)
    small = max(1, round(width * scale)), max(1, round(height * scale))
    picture.thumbnail((4 * _SIDE, 4 * _SIDE))
    preview = images.resize(picture, *small, values.fit)
    kind = "same" if abs(before[0] * height - before[1] * width) <= max(before) else values.fit
    caption = say(locale, f"cut_{kind}", width=width, height=height, before=f"{before[0]} × {before[1]}")
    return (
        f'<figure class="lr-cut"><img src="{data_uri(preview)}" width="{small[0]}" height="{small[1]}" '
        f'alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _line(sentence: str) -> str:
    return f'<figure class="lr-cut"><figcaption>{escape(sentence)}</figcaption></figure>'


def build() -> gr.HTML:
    """The place of the preview; it keeps its height, so that nothing moves."""

    def empty(locale: str) -> str:
        return _line(say(locale, "cut_empty"))

    return local(html(empty("en"), elem_id="lr-cut"), empty)
