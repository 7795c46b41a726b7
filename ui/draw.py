"""The sketch pad: draw with a finger or a mouse, and take it as the picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from ui.img2img import Tab
from ui.pictures import save_drawing
from ui.runs import Runs
from ui.text import T, say
from ui.widgets import html, local, quiet

COLOURS = ["#96c8eb", "#5f9646", "#7a7680", "#f6f6fa", "#ffdc5a", "#5a96d7", "#6e3c1e", "#1d1c1a"]
"""Sky, grass, rock, snow, sun, water, wood, ink."""


def intro(locale: str) -> str:
    return f'<p class="lr-intro">{say(locale, "draw_intro")}</p>'


def build(runs: Runs) -> Callable[[Tab, gr.Tabs], None]:
    local(html(intro("en")), intro)
    pad = gr.ImageEditor(
        type="pil",
        image_mode="RGBA",
        canvas_size=(512, 512),
        fixed_canvas=True,
        sources=(),
        transforms=(),
        layers=False,
        brush=gr.Brush(default_size=28, colors=COLOURS, default_color=COLOURS[0], color_mode="fixed"),
        eraser=gr.Eraser(default_size=28),
        label=T("draw_pad"),
        elem_id="lr-pad",
        height=620,
        buttons=[],
    )
    take = gr.Button(T("draw_take"), variant="primary", size="lg", elem_id="lr-take-drawing")

    def wire(tab: Tab, tabs: gr.Tabs) -> None:
        def use(drawing: dict[str, Any] | None) -> tuple[Any, Any]:
            picture = drawing and drawing.get("composite")
            if picture is None:
                return gr.skip(), gr.Tabs(selected="img2img")
            return save_drawing(picture, runs.folder), gr.Tabs(selected="img2img")

        take.click(use, pad, [tab.form.image, tabs], **quiet())

    return wire
