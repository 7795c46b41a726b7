"""The sketch pad: draw with a finger or a mouse, and take it as the picture."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr

from backend.errors import LatentRelayError
from ui.img2img import Img2ImgTab as Tab
from ui.languages import LANGUAGES
from ui.pictures import save_drawing
from ui.runs import Runs
from ui.text import T, locale_of, say, translated
from ui.theme import ASSETS
from ui.widgets import failure, html, local, quiet

COLOURS = {
    "sky": "#96c8eb",
    "grass": "#5f9646",
    "rock": "#7a7680",
    "snow": "#f6f6fa",
    "sun": "#ffdc5a",
    "water": "#3c6eaa",
    "wood": "#6e3c1e",
    "ink": "#1d1c1a",
}
_WORDS = (*COLOURS, "pad", "size", "undo", "fill", "clear")
_TEMPLATE = (
    '<div class="lr-pad"><div class="lr-pad-tools"><div class="lr-swatches">'
    + "".join(
        f'<button type="button" class="lr-swatch" data-name="{name}" data-colour="{colour}" aria-pressed="false" '
        f'style="background:{colour}"></button>'
        for name, colour in COLOURS.items()
    )
    + '</div><label><span class="lr-pad-size-word"></span>'
    '<input class="lr-pad-size" type="range" min="4" max="120" value="36"></label>'
    '<div class="lr-pad-buttons"><button type="button" class="lr-pad-fill"></button>'
    '<button type="button" class="lr-pad-undo"></button>'
    '<button type="button" class="lr-pad-clear"></button></div></div>'
    '<canvas width="512" height="512" role="img"></canvas></div>'
)


def intro(locale: str) -> str:
    return f'<p class="lr-intro">{escape(say(locale, "draw_intro"))}</p>'


def build(runs: Runs) -> Callable[[Tab, gr.Tabs], None]:
    local(html(intro("en")), intro)
    pad = gr.HTML(
        "",
        html_template=_TEMPLATE,
        js_on_load=(ASSETS / "pad.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id="lr-pad",
        words={locale: {name: say(locale, f"draw_{name}") for name in _WORDS} for locale in LANGUAGES},
    )
    take = gr.Button(T("draw_take"), variant="primary", size="lg", elem_id="lr-take-drawing")

    def wire(tab: Tab, tabs: gr.Tabs) -> None:
        def use(drawing: str | None, request: gr.Request) -> tuple[Any, Any]:
            if not drawing:
                raise failure(say(locale_of(request), "draw_empty"))
            try:
                return save_drawing(drawing, runs.folder), gr.Tabs(selected="img2img")
            except LatentRelayError as error:
                raise failure(translated(error.sentence, locale_of(request))) from error

        take.click(use, pad, [tab.form.image, tabs], **quiet())

    return wire
