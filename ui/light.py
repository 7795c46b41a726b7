"""The light beside the choice of mode: would the chosen remote do its part? Asked before anything is painted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from backend.errors import LatentRelayError
from backend.job import VaeOptions
from backend.latents import load_latents
from backend.message import Message
from backend.report import Direction
from backend.studio import Studio
from ui.form import vae_options
from ui.text import locale_of, say, translated
from ui.user_endpoints import UserEndpoints
from ui.widgets import Place

if TYPE_CHECKING:
    from backend.remote.preflight import Status

_STATES: dict[str, str] = {"ready": "up", "starting": "waking", "broken": "down"}


def shown(status: Status | None, sentence: Message | str, locale: str) -> str:
    """A light and its sentence; None while it is asked. A screen reader hears the sentence."""
    state = "unknown" if status is None else _STATES[status]
    told = translated(sentence, locale)
    return (
        f'<p class="lr-ask" role="status"><i class="lr-light" data-state="{state}"></i>'
        f"<span>{escape(told)}</span></p>"
    )


def ask(
    studio: Studio, model: str, stages: Sequence[tuple[Direction, VaeOptions]], locale: str
) -> Iterator[str]:
    """HTML, twice at most: that it is asked, then what was found. Empty if no stage goes to a remote."""
    remote = [(direction, options) for direction, options in stages if options.mode == "remote"]
    if not remote:
        yield ""
        return
    yield shown(None, say(locale, "light_asking"), locale)
    worst: tuple[Status, Message | str] = ("ready", say(locale, "light_own"))
    for direction, options in remote:
        try:
            found = studio.preflight(model, direction, options)
        except LatentRelayError as error:
            yield shown("broken", error.sentence, locale)
            return
        if found is not None and (found.status != "ready" or worst[0] == "ready"):
            worst = found.status, found.message
        if worst[0] == "broken":
            break
    yield shown(*worst, locale)


def wire(
    studio: Studio,
    own: UserEndpoints,
    place: Place,
    directions: Sequence[Direction],
    line: gr.HTML,
    file: Component | None = None,
) -> None:
    """Keep `line` telling whether the choice of `place` would work; a latents `file` names the model instead."""

    def look(data: Mapping[Component, Any], request: gr.Request) -> Iterator[str]:
        locale, model = locale_of(request), data[place.model]
        try:
            options = vae_options(data[place.widget], own=own.of(request.session_hash))
            if options.mode == "remote" and file is not None and data[file]:
                model = load_latents(Path(data[file])).model
        except LatentRelayError as error:
            yield shown("broken", error.sentence, locale)
            return
        yield from ask(studio, model, [(direction, options) for direction in directions], locale)

    watched = {place.widget, place.model} | ({file} if file is not None else set())
    gr.on([widget.change for widget in watched], look, watched, line, **EVENT)


EVENT: dict[str, Any] = {
    "show_progress": "hidden",
    "trigger_mode": "always_last",
    "concurrency_limit": 8,
    "api_visibility": "private",
}
"""How a question to an endpoint runs: aside, and only the last of several counts."""
