"""The page: a header and one tab for each thing a person can do. `app.py` launches what `build_page` gives."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr
from gradio.blocks import BlocksConfig
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from backend.studio import Studio
from ui import api, benchmark, compare, decode, draw, encode, endpoints, fit, history, img2img
from ui.body_limits import BodyLimits
from ui.form import Changes
from ui.pictures import picture_route
from ui.runs import Runs
from ui.tab import PageContext
from ui.text import I18N, T, locale_of, say
from ui.theme import ASSETS, css, theme
from ui.user_endpoints import UserEndpoints
from ui.widgets import html, local, locals_of

_LARGEST_UPLOAD = "256mb"
_SPARE_THREADS = 64
"""Beside one for each job that may wait, for whatever else the page does; so the stop button always finds one."""


class PageConfig(BlocksConfig):
    """The page's components and events; a session's copy describes none of them.

    Gradio describes every component anew for each session, on its event loop: a tenth of a second and half a megabyte
    a visitor, kept for 10 000 of them. Only its deep links read that, and this page has links of its own.
    """

    def __copy__(self) -> BlocksConfig:
        session = super().__copy__()
        session.config_for_block = lambda *_: {}  # type: ignore[method-assign, misc, assignment]
        return session


class Page(gr.Blocks):
    """Blocks whose sessions cost little, and whose generators send every value whole.

    Gradio sends what changed since the last message, and the browser applies that to the very object which it handed
    over for the last one. Where two messages come at once the earlier has not been looked at by then, and loses what
    the later does not repeat: a finished picture, or a button that was set free.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.default_config = PageConfig(self)

    def handle_streaming_diffs(
        self,
        block_fn: Any,
        data: list[Any],
        session_hash: str | None,
        run: str | None,
        final: bool,
        simple_format: bool = False,
    ) -> list[Any]:
        """`data` for the client, one for each output: as values in a run's first message, or for a client that
        understands nothing else; later as the edit that replaces the old value by the new one."""
        goes_on = run is not None and run in self.pending_diff_streams.get(session_hash, {})
        values = super().handle_streaming_diffs(block_fn, data, session_hash, run, final, simple_format=True)
        if final or simple_format or not goes_on:
            return values
        return [[["replace", [], value]] for value in values]


def build_page(studio: Studio, runs: Runs) -> gr.Blocks:
    """The whole page. `runs` keeps what it makes; pass it to `launch_options`, too."""
    context = PageContext(studio, runs, UserEndpoints())
    with Page(title="Latent Relay", analytics_enabled=False) as page:
        local(html(header("en"), elem_id="lr-header"), header)
        with gr.Tabs(elem_id="lr-tabs", selected="img2img") as tabs:
            with gr.Tab(T("tab_img2img"), id="img2img"):
                main = img2img.build(context)
            with gr.Tab(T("tab_draw"), id="draw"):
                drawing = draw.build(context)
            with gr.Tab(T("tab_encode"), id="encode"):
                encoding = encode.build(context)
            with gr.Tab(T("tab_decode"), id="decode"):
                decoding = decode.build(context, main.form.model)
            with gr.Tab(T("tab_compare"), id="compare"):
                comparison = compare.build(context)
            with gr.Tab(T("tab_fit"), id="fit") as fit_tab:
                fitting = fit.build(context, fit_tab)
            with gr.Tab(T("tab_benchmark"), id="benchmark"):
                benchmarking = benchmark.build(context)
            with gr.Tab(T("tab_endpoints"), id="endpoints"):
                served = endpoints.build(context, main.form.model)
        drawing.wire(main, tabs)
        for tab in (main, encoding, decoding, comparison, fitting, benchmarking):
            tab.wire()
        served.wire((*main.mode_selects, *encoding.mode_selects, *decoding.mode_selects))
        api.build(context)
        _wire_loading(page, context, main, served)
    # Jobs wait in the studio's queue, which tells them their place, or that it is busy. This bounds all the rest; a
    # whole crowd that comes at once must get through it to that queue.
    return page.queue(max_size=2 * studio.settings.queue, api_open=False)


def _wire_loading(
    page: gr.Blocks, context: PageContext, main: img2img.Img2ImgTab, served: endpoints.EndpointsTab
) -> None:
    in_locale = locals_of(page)
    gallery = main.result.gallery

    def greet(ids: list[str], request: gr.Request) -> Changes:
        """The history of this browser, the settings of a link, and the visitor's language."""
        locale = locale_of(request)
        changes: Changes = {gallery: history.gallery(context.runs, ids)}
        if locale != "en":
            changes |= {component: render(locale) for component, render in in_locale.items()}
        changes |= served.greet(request)
        changes |= main.from_link(dict(request.query_params), request)
        return changes

    def leave(request: gr.Request) -> None:
        context.endpoints.forget(request.session_hash)

    outputs = [gallery, *in_locale, *served.greeted, *main.form.settings()]
    page.load(greet, main.result.ids, outputs, show_progress="hidden", api_visibility="private")
    page.unload(leave)


def launch_options(runs: Runs, studio: Studio) -> dict[str, Any]:
    """What Gradio 6 takes at `launch()` instead of in the Blocks. What lies in the folder of `runs` may be served."""
    runs.folder.mkdir(parents=True, exist_ok=True)
    return {
        "app_kwargs": {
            "routes": [*refusals(), picture_route(runs.folder), *studio.routes()],
            "middleware": [Middleware(BodyLimits, uploaded=runs.uploaded)],
        },
        "max_threads": studio.settings.queue + _SPARE_THREADS,
        "max_file_size": _LARGEST_UPLOAD,
        "theme": theme(),
        "css": css(),
        "i18n": I18N,
        "favicon_path": str(ASSETS / "icon.png"),
        "allowed_paths": [str(runs.folder)],
        "footer_links": ["api", "settings"],
        # Its routes ask the hub with the owner's token for whoever seems to sit at this machine, as all visitors do
        # behind a proxy on it; and the page has a history of its own.
        "run_history": False,
    }


def refusals() -> list[Route]:
    """Routes in place of Gradio's that would fetch an address for anybody who asks."""

    def refuse(_: Request) -> PlainTextResponse:
        return PlainTextResponse("This app fetches nothing for others.", 403)

    paths = ("file=http:{rest:path}", "file=https:{rest:path}", "proxy={rest:path}")
    return [Route(f"{prefix}/{path}", refuse) for prefix in ("", "/gradio_api") for path in paths]


def header(locale: str) -> str:
    logo = (
        '<svg viewBox="0 0 96 40" aria-hidden="true"><path d="M14 20h68" /><circle cx="14" cy="20" r="9" />'
        '<circle cx="48" cy="20" r="14" /><circle cx="82" cy="20" r="9" /></svg>'
    )
    return (
        f'<header class="lr-header">{logo}<div><h1>{escape(say(locale, "title"))}</h1>'
        f"<p>{escape(say(locale, 'tagline'))}</p></div></header>"
    )
