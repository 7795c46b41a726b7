"""The page: a header and one tab for each thing a person can do. `app.py` launches what `build_page` gives."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from backend.studio import Studio
from ui import api, benchmark, compare, decode, encode, fit, img2img
from ui.runs import Runs
from ui.text import I18N, T, say
from ui.theme import ASSETS, css, theme
from ui.widgets import html

RUNS_FOLDER = Path(__file__).resolve().parent.parent / "runs"


def build_page(studio: Studio, folder: Path = RUNS_FOLDER) -> gr.Blocks:
    """The whole page. `folder` keeps what runs make; pass it to `launch_options` too."""
    runs = Runs(folder)
    with gr.Blocks(title="Latent Relay", analytics_enabled=False) as page:
        html(_header(), elem_id="lr-header")
        wirings = []
        with gr.Tabs(elem_id="lr-tabs"):
            for name, tab in (("img2img", img2img), ("encode", encode), ("decode", decode)):
                with gr.Tab(T(f"tab_{name}"), id=name):
                    wirings.append(tab.build(studio, runs))
            with gr.Tab(T("tab_compare"), id="compare"):
                wirings.append(compare.build(studio, runs))
            with gr.Tab(T("tab_fit"), id="fit") as fit_tab:
                wirings.append(fit.build(studio, fit_tab))
            with gr.Tab(T("tab_benchmark"), id="benchmark"):
                wirings.append(benchmark.build(studio, runs))
        for wire in wirings:
            wire()
        api.build(studio, runs)
    return page


def launch_options(folder: Path = RUNS_FOLDER) -> dict[str, Any]:
    """What Gradio 6 takes at `launch()` instead of in the Blocks."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "theme": theme(),
        "css": css(),
        "i18n": I18N,
        "favicon_path": str(ASSETS / "icon.png"),
        "allowed_paths": [str(folder)],
        "footer_links": ["api", "settings"],
    }


def _header() -> str:
    logo = (
        '<svg viewBox="0 0 96 40" aria-hidden="true"><path d="M14 20h68" /><circle cx="14" cy="20" r="9" />'
        '<circle cx="48" cy="20" r="14" /><circle cx="82" cy="20" r="9" /></svg>'
    )
    return (
        f'<header class="lr-header">{logo}<div><h1>{escape(say("en", "title"))}</h1>'
        f"<p>{escape(say('en', 'tagline'))}</p></div></header>"
    )
