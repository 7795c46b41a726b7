"""Follow a run as the page does, without a browser: the changes to its widgets, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ui.form import Values
from ui.run_view import RunContext, RunWidgets
from ui.running import follow
from ui.runs import Runs


def page_view() -> RunWidgets:
    """The widgets that runs write to, without a page around them."""
    with gr.Blocks():
        buttons = {name: gr.Button() for name in ("start", "stop", "use", "again", "four", "sweep", "story")}
        return RunWidgets(
            run_id=gr.State(),
            viewer=gr.HTML(),
            panel=gr.HTML(),
            table=gr.HTML(),
            picture=gr.DownloadButton(),
            latents=gr.DownloadButton(),
            comfyui=gr.DownloadButton(),
            finish=gr.Row(),  # type: ignore[arg-type]
            gallery=gr.Gallery(),
            ids=gr.BrowserState([], secret="test"),
            **buttons,
        )


def follow_page(studio: Any, runs: Runs, values: Values) -> tuple[Iterator[dict[Any, Any]], RunWidgets]:
    view = page_view()
    return follow(RunContext(studio, runs, view, "en"), values), view
