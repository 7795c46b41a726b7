"""Follow a run as the page does, without a browser: the changes to its widgets, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ui.form import Values
from ui.img2img import View, follow
from ui.runs import Runs


def follow_page(studio: Any, runs: Runs, values: Values) -> tuple[Iterator[dict[Any, Any]], View]:
    with gr.Blocks():
        view = View(
            run_id=gr.State(),
            viewer=gr.HTML(),
            panel=gr.HTML(),
            table=gr.HTML(),
            picture=gr.DownloadButton(),
            latents=gr.DownloadButton(),
            paint=gr.Button(),
            stop=gr.Button(),
        )
    return follow(studio, runs, values, view, "en"), view
