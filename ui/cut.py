"""What of the picture goes in, and at which size: a small look at crop, borders or stretch before the run."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from backend import images
from backend.errors import LatentRelayError
from backend.job import fit_size
from backend.models import find_model
from ui.form import Form, Values
from ui.pictures import data_uri, open_picture
from ui.text import locale_of, say, translated
from ui.widgets import html, local

_SIDE = 200
"""Longest side of the look, in pixels."""


def look(values: Values, locale: str) -> str:
    """The picture as it will be worked on, small, with its size before and after; a sentence where there is none."""
    if not values.image:
        return _line(say(locale, "cut_empty"))
    try:
        picture = images.to_rgb(open_picture(values.image, locale))
        before = picture.size
        spec = find_model(values.model)
        width, height = fit_size(
            before, spec, int(values.width or 0) or None, int(values.height or 0) or None
        )
    except LatentRelayError as error:
        return _line(translated(error.sentence, locale))
    scale = _SIDE / max(width, height)
    small = max(1, round(width * scale)), max(1, round(height * scale))
    picture.thumbnail((4 * _SIDE, 4 * _SIDE))
    shown = images.resize(picture, *small, values.fit)
    kind = "same" if abs(before[0] * height - before[1] * width) <= max(before) else values.fit
    told = say(locale, f"cut_{kind}", width=width, height=height, before=f"{before[0]} × {before[1]}")
    return (
        f'<figure class="lr-cut"><img src="{data_uri(shown)}" width="{small[0]}" height="{small[1]}" '
        f'alt="{escape(told)}"><figcaption>{escape(told)}</figcaption></figure>'
    )


def _line(sentence: str) -> str:
    return f'<figure class="lr-cut"><figcaption>{escape(sentence)}</figcaption></figure>'


def build() -> gr.HTML:
    """The place of the look; it keeps its height, so that nothing moves."""
    return local(
        html(_line(say("en", "cut_empty")), elem_id="lr-cut"), lambda locale: _line(say(locale, "cut_empty"))
    )


def wire(form: Form, shown: gr.HTML) -> None:
    def tell(data: Mapping[Component, Any], request: gr.Request) -> str:
        return look(form.read(data), locale_of(request))

    watched = (form.image, form.width, form.height, form.fit, form.model)
    gr.on(
        [widget.change for widget in watched],
        tell,
        form.widgets(),
        shown,
        show_progress="hidden",
        trigger_mode="always_last",
        concurrency_limit=4,
        api_visibility="private",
    )
