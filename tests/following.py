"""Follow a run as the page does, without a browser: the changes to its widgets, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ui.form import Values
from ui.running import Bench, View, follow
from ui.runs import Runs


def page_view() -> View:
    """The widgets that runs write to, without a page around them."""
    with gr.Blocks():
        buttons = {name: gr.Button() for name in ("paint", "stop", "use", "again", "four", "sweep")}
        return View(
            run_id=gr.State(),
            viewer=gr.HTML(),
            panel=gr.HTML(),
            table=gr.HTML(),
            picture=gr.DownloadButton(),
            latents=gr.DownloadButton(),
            finish=gr.Row(),  # type: ignore[arg-type]
            gallery=gr.Gallery(),
            ids=gr.BrowserState([], secret="test"),
            **buttons,
        )


def follow_page(studio: Any, runs: Runs, values: Values) -> tuple[Iterator[dict[Any, Any]], View]:
    view = page_view()
    return follow(Bench(studio, runs, view, "en"), values), view
