"""The page: a header and one tab for each thing a person can do. `app.py` launches what `build_page` gives."""

from __future__ import annotations

from collections import ChainMap
from html import escape
from typing import Any

import gradio as gr
from gradio.blocks import BlocksConfig
from gradio.state_holder import SessionState
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from backend.studio import Studio
from ui import api, compare, download, encode_decode, endpoints, history, img2img, machine, tour
from ui.body_limits import BodyLimits
from ui.compressed_page import CompressedPage
from ui.ended_sessions import EndedSessions
from ui.form import Changes
from ui.pictures import asset_route, picture_route
from ui.runs import Runs
from ui.sessions import CAPACITY, Departures
from ui.story import story_route
from ui.tab import PageContext
from ui.text import I18N, T, locale_of, say
from ui.theme import ASSETS, css, script, theme
from ui.user_endpoints import UserEndpoints
from ui.widgets import html, keep_methods, local, locals_of

_LARGEST_UPLOAD = "256mb"
_SPARE_THREADS = 64
"""Beside one for each job that may wait, for whatever else the page does; so the stop button always finds one."""


PLACES = {
    "img2img": "img2img",
    "draw": "img2img",
    "latents": "latents",
    "encode": "latents",
    "decode": "latents",
    "compare": "compare",
    "machine": "machine",
    "fit": "machine",
    "benchmark": "machine",
    "doctor": "machine",
    "endpoints": "endpoints",
}
"""The tab that shows what a link names; a fold or the sketch pad is opened there."""


class PageConfig(BlocksConfig):
    """The page's components and events; a session's copy describes none of them.

    Gradio describes every component anew for each session, on its event loop: a tenth of a second and half a megabyte
    a visitor, kept for 10 000 of them. Only its deep links read that, and this page has links of its own.
    """

    def __copy__(self) -> BlocksConfig:
        session = super().__copy__()
        nothing: dict[str, Any] = {}
        session.config_for_block = lambda *_: nothing  # type: ignore[method-assign, misc, assignment]
        # What a session changes lies above what all have in common.
        session.blocks, session.fns = ChainMap({}, self.blocks), ChainMap({}, self.fns)  # type: ignore[assignment]
        return session


class Page(gr.Blocks):
    """Blocks whose sessions cost little, whose uploads stay as they are, and whose generators send every value whole.

    Gradio sends what changed since the last message, and the browser applies that to the very object which it handed
    over for the last one. Where two messages come at once the earlier has not been looked at by then, and loses what
    the later does not repeat: a finished picture, or a button that was set free.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.default_config = PageConfig(self)

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: SessionState | None) -> Any:
        """What a handler gave, for the client; in the session an upload keeps the methods that this app gave it.

        For an update, `gr.skip()` too, Gradio puts a new component in the place of the old one, which would open
        the upload to web addresses.
        """
        state = state or SessionState(self)
        data = await super().postprocess_data(block_fn, predictions, state)
        for block in block_fn.outputs:
            keep_methods(block, state.get(block._id))
        return data

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
        with gr.Row(elem_classes="lr-top"):
            local(html(header("en"), elem_id="lr-header"), header)
            start_tour = gr.Button(T("tour_button"), scale=0, min_width=110, elem_id="lr-tour-start")
        offer = download.build(context)
        with gr.Tabs(elem_id="lr-tabs", selected="img2img", overflow_behavior="wrap") as tabs:
            with gr.Tab(T("tab_img2img"), id="img2img"):
                main = img2img.build(context)
            with gr.Tab(T("tab_latents"), id="latents"):
                coding = encode_decode.build(context)
            with gr.Tab(T("tab_compare"), id="compare"):
                comparison = compare.build(context)
            with gr.Tab(T("tab_machine"), id="machine") as machine_tab:
                here = machine.build(context, machine_tab)
            with gr.Tab(T("tab_endpoints"), id="endpoints"):
                served = endpoints.build(context, main.form.model)
        guide = tour.build(context, main.form, start_tour)
        for tab in (main, coding, comparison, here, guide):
            tab.wire()
        offer.wire(page, main)
        served.wire((*main.mode_selects, *coding.mode_selects))
        api.build(context)
        _wire_loading(page, context, tabs, main, here, served)
    # Jobs wait in the studio's queue, which tells them their place, or that it is busy. This bounds all the rest; a
    # whole crowd that comes at once must get through it to that queue.
    return page.queue(max_size=2 * studio.settings.queue, api_open=False)


def _wire_loading(
    page: gr.Blocks,
    context: PageContext,
    tabs: gr.Tabs,
    main: img2img.Img2ImgTab,
    here: machine.MachineTab,
    served: endpoints.EndpointsTab,
) -> None:
    in_locale = locals_of(page)
    gallery = main.result.gallery

    def greet(ids: list[str], request: gr.Request) -> Changes:
        """The history of this browser, the place and the settings of a link, and the visitor's language."""
        locale = locale_of(request)
        changes: Changes = {gallery: history.gallery(context.runs, ids)}
        if locale != "en":
            changes |= {component: render(locale) for component, render in in_locale.items()}
        changes |= served.greet(request)
        query = dict(request.query_params)
        changes |= main.from_link(query, request)
        changes |= go_to(query.get("tab", ""))
        return changes

    def go_to(place: str) -> Changes:
        """`?tab=NAME` opens a tab, or what used to be one, where it is now."""
        changes: Changes = {tabs: gr.Tabs(selected=PLACES[place])} if place in PLACES else {}
        pad = main.helpers.pad.shows(True) if place == "draw" else {}
        return {**changes, **pad, **here.opened(place)}

    departures = Departures(page)

    def leave(request: gr.Request) -> None:
        context.endpoints.forget(request.session_hash)
        departures.left(request.session_hash or "")

    places = [tabs, *main.helpers.pad.shown, *here.folds.values()]
    # Some of what a link fills in is also in a language: each is named once.
    outputs = list(dict.fromkeys([gallery, *in_locale, *served.greeted, *main.filled_in, *places]))
    page.load(greet, main.result.ids, outputs, show_progress="hidden", api_visibility="private")
    page.unload(leave)


def launch_options(runs: Runs, studio: Studio) -> dict[str, Any]:
    """What Gradio 6 takes at `launch()` instead of in the Blocks. What lies in the folder of `runs` may be served."""
    runs.folder.mkdir(parents=True, exist_ok=True)
    return {
        "app_kwargs": {
            "routes": [*refusals(), *_pictures(runs, studio), *studio.routes()],
            "middleware": [
                Middleware(EndedSessions),
                Middleware(BodyLimits, uploaded=runs.uploaded),
                Middleware(CompressedPage),
            ],
        },
        "max_threads": studio.settings.queue + _SPARE_THREADS,
        "max_file_size": _LARGEST_UPLOAD,
        "state_session_capacity": CAPACITY,
        "theme": theme(),
        "css": css(),
        "js": script(),
        "i18n": I18N,
        "favicon_path": str(ASSETS / "icon.png"),
        "allowed_paths": [str(runs.folder)],
        "footer_links": ["api", "settings"],
        # Its routes ask the hub with the owner's token for whoever seems to sit at this machine, as all visitors do
        # behind a proxy on it; and the page has a history of its own.
        "run_history": False,
    }


def _pictures(runs: Runs, studio: Studio) -> list[Route]:
    titles = {name: spec.title_message for name, spec in studio.models.items()}
    return [picture_route(runs.folder), story_route(runs, titles), asset_route()]


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
