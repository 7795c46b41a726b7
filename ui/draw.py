"""The sketch pad, a way to fill the picture box: it opens in its place, and what was drawn becomes the picture."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from backend.errors import LatentRelayError
from ui.form import Changes
from ui.languages import LANGUAGES
from ui.pictures import save_drawing
from ui.runs import Runs
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
class DrawingPad:
    image: gr.Image
    """What the drawing goes into."""
    box: gr.Column
    """Where the image is, and the pad in its place."""
    open: gr.Button
    column: gr.Column
    pad: gr.HTML
    take: gr.Button
    close: gr.Button

    def wire(self, runs: Runs) -> None:
        """Drawings are kept in the folder of `runs`."""

        def take(drawing: str | None, request: gr.Request) -> Changes:
            locale = locale_of(request)
            if not drawing:
                raise failure(say(locale, "draw_empty"))
            try:
                picture = save_drawing(drawing, runs.folder, locale)
            except LatentRelayError as error:
                raise failure(say_message(error.full_message, locale)) from error
            return self.shows(False) | {self.image: picture}

        self.open.click(lambda: self.shows(True), None, self.shown, **quiet())
        self.close.click(lambda: self.shows(False), None, self.shown, **quiet())
        self.take.click(take, self.pad, [self.image, *self.shown], **quiet())

    @property
    def shown(self) -> list[gr.Column]:
        """What `shows` changes."""
        return [self.box, self.column]

    def shows(self, pad: bool) -> Changes:
        """The pad, or else the picture box. The other is hidden by the style sheet: Gradio would take it away, and
        what was drawn with it."""
        return {
            self.box: gr.update(elem_classes=["lr-hidden"] if pad else []),
            self.column: gr.update(elem_classes=["lr-drawing"] if pad else ["lr-drawing", "lr-hidden"]),
        }


def build(image: gr.Image, box: gr.Column, open_button: gr.Button) -> DrawingPad:
    """`open_button` brings the pad in the place of `box`, which holds `image`."""
    with gr.Column(elem_id="lr-drawing", elem_classes=["lr-drawing", "lr-hidden"]) as column:
        intro("draw_intro")
        pad = gr.HTML(
            "",
            html_template=_TEMPLATE,
            js_on_load=(ASSETS / "pad.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            elem_id="lr-pad",
            words={locale: {name: say(locale, f"draw_{name}") for name in _WORDS} for locale in LANGUAGES},
        )
        with gr.Row():
            take = gr.Button(T("draw_take"), variant="primary", scale=3, elem_id="lr-take-drawing")
            close = gr.Button(T("draw_close"), scale=1, min_width=90, elem_id="lr-close-drawing")
    return DrawingPad(image, box, open_button, column, pad, take, close)
