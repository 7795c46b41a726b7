"""Short explanations, folded away next to the choice they belong to."""

from __future__ import annotations

from html import escape

import gradio as gr

from ui.text import say
from ui.widgets import html, local


def folds(names: tuple[str, ...], locale: str) -> str:
    return "".join(
        f'<details class="lr-explain"><summary>{escape(say(locale, f"explain_{name}"))}</summary>'
        f"<p>{escape(say(locale, f'explain_{name}_text'))}</p></details>"
        for name in names
    )


def explain(*names: str) -> gr.HTML:
    return local(html(folds(names, "en")), lambda locale: folds(names, locale))
