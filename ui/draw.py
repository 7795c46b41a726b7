"""The sketch pad: draw with a finger or a mouse, and take it as the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from backend.errors import LatentRelayError
from ui.img2img import Img2ImgTab as Tab
from ui.languages import LANGUAGES
from ui.pictures import save_drawing
from ui.tab import PageContext
from ui.text import T, locale_of, say, say_message
from ui.theme import ASSETS
from ui.widgets import failure, intro, quiet

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


@dataclass(frozen=True)
class DrawTab:
    context: PageContext
    pad: gr.HTML
    take: gr.Button

    def wire(self, main: Tab, tabs: gr.Tabs) -> None:
        """The drawing becomes the picture of the tab `main`, which is then shown."""
        self.take.click(self._take, self.pad, [main.form.image, tabs], **quiet())

    def _take(self, drawing: str | None, request: gr.Request) -> tuple[Any, Any]:
        if not drawing:
            raise failure(say(locale_of(request), "draw_empty"))
        try:
            return save_drawing(drawing, self.context.runs.folder), gr.Tabs(selected="img2img")
        except LatentRelayError as error:
            raise failure(say_message(error.full_message, locale_of(request))) from error


def build(context: PageContext) -> DrawTab:
    intro("draw_intro")
    pad = gr.HTML(
        "",
        html_template=_TEMPLATE,
        js_on_load=(ASSETS / "pad.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id="lr-pad",
        words={locale: {name: say(locale, f"draw_{name}") for name in _WORDS} for locale in LANGUAGES},
    )
    take = gr.Button(T("draw_take"), variant="primary", size="lg", elem_id="lr-take-drawing")
    return DrawTab(context, pad, take)
