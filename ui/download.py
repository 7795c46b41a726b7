"""The offer above the tabs: a better model that would run well here, its download, and the switch to it.

Nothing waits for it. One coroutine for each open page looks every half second how things stand, and tells the browser
when something changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from backend.models import ModelSpec
from backend.run.model_downloads import OWNER, ModelDownload
from ui.form import Changes
from ui.img2img import Img2ImgTab
from ui.render import seconds, size
from ui.tab import PageContext
from ui.text import T, locale_of, say, say_message
from ui.widgets import html, quiet

_LOOK_SECONDS = 0.5
_HEARTBEAT_LOOKS = 20
"""After so many looks without news something is sent all the same, so that Gradio notices a page that was closed."""


@dataclass
class DownloadOffer:
    context: PageContext
    box: gr.Column
    text: gr.HTML
    start: gr.Button
    stop: gr.Button
    use: gr.Button
    close: gr.Button
    open_pages: dict[str, bool] = field(default_factory=dict)
    """Pages that are looked after, by session, and whether they have shown the offer."""
    main: Img2ImgTab = field(init=False)
    """The tab whose model it changes."""

    def wire(self, page: gr.Blocks, main: Img2ImgTab) -> None:
        self.main = main
        form, result = self.main.form, self.main.result
        mine, all_of_it = self._widgets, [*self._widgets, *self.main.filled_in]
        options: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        looked_at = {form.image, form.prompt, form.model, result.run_id}
        page.load(self._watch, None, mine, concurrency_limit=None, **options).then(
            self._settle, looked_at, all_of_it, **quiet()
        )
        self.start.click(self._start, None, mine, **quiet())
        self.stop.click(self._stop, None, mine, **quiet())
        self.use.click(self._use, {form.model}, all_of_it, **quiet())
        self.close.click(self._close, None, mine, **quiet())
        page.unload(self._leave)

    # -- events ----------------------------------------------------------------------------------------------

    async def _watch(self, request: gr.Request) -> AsyncIterator[Changes]:
        """What is known of the offer, as it changes, until the model is here or the page is closed."""
        downloads = self.context.studio.downloads
        me, shown, looks = str(request.session_hash), None, 0
        self.open_pages[me] = False
        while me in self.open_pages and (downloads.looking or downloads.offered):
            if spec := downloads.offered:
                state = downloads.state(spec)
                if state.status == "here":
                    break
                changes, looks = self._show(spec, state, request), looks + 1
                if changes != shown or looks >= _HEARTBEAT_LOOKS:
                    shown, looks = changes, 0
                    self.open_pages[me] = True
                    yield changes
            await asyncio.sleep(_LOOK_SECONDS)

    def _settle(self, data: Mapping[Component, Any], request: gr.Request) -> Changes:
        """The model is here: choose it where nothing is begun yet, and say so; else say that it is here."""
        spec, main = self.context.studio.downloads.offered, self.main
        had_seen_it = self.open_pages.pop(str(request.session_hash), None)
        if spec is None or had_seen_it is None or self.context.studio.downloads.state(spec).status != "here":
            return self._hidden()
        opened_with = main.form.model.value
        begun = data[main.form.image] or data[main.form.prompt] or data[main.result.run_id]
        if begun or data[main.form.model] != opened_with:
            return self._says("offer_here", spec, request, self.use, self.close)
        changes = self._says("offer_switched", spec, request, self.close) if had_seen_it else self._hidden()
        return changes | main.with_model(spec.name, opened_with, request)

    def _start(self, request: gr.Request) -> Changes:
        downloads = self.context.studio.downloads
        if (spec := downloads.offered) is None:
            return self._hidden()
        downloads.start(spec, str(request.session_hash))
        return self._show(spec, downloads.state(spec), request)

    def _stop(self, request: gr.Request) -> Changes:
        downloads = self.context.studio.downloads
        if (spec := downloads.offered) is None:
            return self._hidden()
        if self.context.studio.settings.only_owner_visits:
            downloads.stop(spec, OWNER)
        downloads.stop(spec, str(request.session_hash))
        return self._show(spec, downloads.state(spec), request)

    def _use(self, data: Mapping[Component, Any], request: gr.Request) -> Changes:
        spec = self.context.studio.downloads.offered
        if spec is None:
            return self._hidden()
        return self._hidden() | self.main.with_model(spec.name, data[self.main.form.model], request)

    def _close(self, request: gr.Request) -> Changes:
        self.open_pages.pop(str(request.session_hash), None)
        return self._hidden()

    def _leave(self, request: gr.Request) -> None:
        self.open_pages.pop(str(request.session_hash), None)
        self.context.studio.downloads.leave(str(request.session_hash))

    # -- what is shown ---------------------------------------------------------------------------------------

    @property
    def _widgets(self) -> list[Component | gr.Column]:
        return [self.box, self.text, self.start, self.stop, self.use, self.close]

    def _hidden(self) -> Changes:
        return {self.box: gr.update(visible=False)}

    def _says(self, key: str, spec: ModelSpec, request: gr.Request, *buttons: gr.Button) -> Changes:
        sentence = escape(say(locale_of(request), key, title=spec.title))
        return self._shown(f'<p class="lr-offer">{sentence}</p>', *buttons)

    def _shown(self, text: str, *buttons: gr.Button) -> Changes:
        every = (self.start, self.stop, self.use, self.close)
        shown = {button: gr.update(visible=button in buttons) for button in every}
        return {self.box: gr.update(visible=True), self.text: text, **shown}

    def _show(self, spec: ModelSpec, state: ModelDownload, request: gr.Request) -> Changes:
        """The offer, or the download under way, with the buttons that make sense for this visitor."""
        me, locale = str(request.session_hash), locale_of(request)
        text = offer_text(spec, state, me, locale)
        if state.status != "running":
            return self._shown(text, self.start, self.close)
        others = state.asked_by - {me}
        if self.context.studio.settings.only_owner_visits:
            others -= {OWNER}
        may_stop = me in state.asked_by or not others
        return self._shown(text, *([self.stop] if may_stop else []))


def offer_text(spec: ModelSpec, state: ModelDownload, me: str, locale: str) -> str:
    """The sentences of the offer, or of the download with its bar; `me`: the visitor, as in `state.asked_by`."""
    if state.status != "running":
        first = say(locale, "offer", title=spec.title, what=say_message(spec.plain, locale))
        if state.failure:
            first = f"{say(locale, 'offer_failed')} {say_message(state.failure, locale)}"
        lines = filter(None, (first, _size(state, locale)))
        return "".join(f'<p class="lr-offer">{escape(line)}</p>' for line in lines)
    figures = (
        [say(locale, "offer_of", done=size(state.done or 0), total=size(state.total))] if state.total else []
    )
    if state.speed:
        figures.append(say(locale, "offer_speed", size=size(round(state.speed))))
    if state.seconds_left is not None:
        figures.append(say(locale, "state_left", left=seconds(state.seconds_left)))
    running = " · ".join([say(locale, "offer_running", title=spec.title), *figures])
    note = say(locale, "offer_meanwhile" if me in state.asked_by or not state.asked_by else "offer_others")
    percent = round(100 * (state.done or 0) / state.total) if state.total else 0
    return (
        f'<p class="lr-offer" role="status">{escape(running)}</p>'
        f'<div class="lr-progress" role="progressbar" aria-label="{escape(spec.title)}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}"><i style="width:{percent}%"></i></div>'
        f'<p class="lr-quiet">{escape(note)}</p>'
    )


def _size(state: ModelDownload, locale: str) -> str:
    """How much there is to download, how much of it is here, and how long that would take, so far as it is known."""
    if state.total is None:
        return ""
    if state.done:
        text = say(locale, "offer_rest", done=size(state.done), total=size(state.total))
    else:
        text = say(locale, "offer_size", total=size(state.total))
    if state.seconds_left is not None:
        text += " " + say(locale, "offer_time", left=seconds(state.seconds_left))
    return text


def build(context: PageContext) -> DownloadOffer:
    """Lay it out; hidden until there is something to offer. Its `wire` connects it, once everything exists."""
    with gr.Column(visible=False, elem_id="lr-offer", elem_classes="lr-offer-box") as box:
        text = html("", elem_id="lr-offer-text")
        with gr.Row(elem_classes="lr-offer-buttons"):
            start = gr.Button(T("offer_start"), variant="primary", scale=0, elem_id="lr-offer-start")
            use = gr.Button(T("offer_use"), variant="primary", visible=False, scale=0, elem_id="lr-offer-use")
            stop = gr.Button(T("offer_stop"), variant="stop", visible=False, scale=0, elem_id="lr-offer-stop")
            close = gr.Button(T("offer_close"), scale=0, elem_id="lr-offer-close")
    return DownloadOffer(context, box, text, start, stop, use, close)
