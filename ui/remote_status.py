"""The line beside a choice of mode: would the chosen remote do its part? Asked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from backend.errors import LatentRelayError
from backend.job import VaeOptions
from backend.message import Message
from backend.report import Direction
from backend.studio import Studio
from ui.form import Values, vae_options
from ui.text import locale_of, say, say_message
from ui.user_endpoints import UserEndpoints
from ui.widgets import VaeModeSelect

_STATES: dict[str, str] = {"ready": "up", "starting": "waking", "broken": "down"}
"""The `data-state` of the coloured dot, by the status that `backend.remote.preflight` found."""

EVENT: dict[str, Any] = {
    "show_progress": "hidden",
    "trigger_mode": "always_last",
    "concurrency_limit": 8,
    "api_visibility": "private",
}
"""Options of an event that asks an endpoint: several run at once, and of one page only the last counts."""


def shown(status: str | None, sentence: Message | str, locale: str) -> str:
    """A status (None while it is asked for) and its sentence as HTML; a screen reader hears the sentence."""
    state = "unknown" if status is None else _STATES[status]
    text = say_message(sentence, locale) if isinstance(sentence, Message) else sentence
    return (
        f'<p class="lr-ask" role="status"><i class="lr-light" data-state="{state}"></i>'
        f"<span>{escape(text)}</span></p>"
    )


def ask(
    studio: Studio, model: str, stages: Sequence[tuple[Direction, VaeOptions]], locale: str
) -> Iterator[str]:
    """One or two pieces of HTML: that it is asked, then what was found. Empty if no stage goes to a remote."""
    remote = [(direction, options) for direction, options in stages if options.mode == "remote"]
    if not remote:
        yield ""
        return
    yield shown(None, say(locale, "light_asking"), locale)
    worst: tuple[str, Message | str] = ("ready", say(locale, "light_own"))
    for direction, options in remote:
        try:
            found = studio.preflight(model, direction, options)
        except LatentRelayError as error:
            yield shown("broken", error.full_message, locale)
            return
        if found is not None and (found.status != "ready" or worst[0] == "ready"):
            worst = found.status, found.message
        if worst[0] == "broken":
            break
    yield shown(*worst, locale)


def remote_status(studio: Studio, values: Values, locale: str) -> Iterator[str]:
    """`ask` about both directions that the form's values name."""
    try:
        stages: list[tuple[Direction, VaeOptions]] = [
            ("encode", values.vae("encode")),
            ("decode", values.vae("decode")),
        ]
    except LatentRelayError as error:
        yield shown("broken", error.full_message, locale)
        return
    yield from ask(studio, values.model, stages, locale)


def wire(
    studio: Studio,
    endpoints: UserEndpoints,
    select: VaeModeSelect,
    directions: Sequence[Direction],
    line: gr.HTML,
) -> None:
    """Keep `line` saying whether the chosen mode would work."""

    def look(data: Mapping[Component, Any], request: gr.Request) -> Iterator[str]:
        locale, model = locale_of(request), data[select.model]
        try:
            options = vae_options(data[select.widget], endpoints=endpoints.of(request.session_hash))
        except LatentRelayError as error:
            yield shown("broken", error.full_message, locale)
            return
        if not model:  # a file does not say whose latents it has, and nobody has chosen yet
            yield ""
            return
        yield from ask(studio, model, [(direction, options) for direction in directions], locale)

    watched = {select.widget, select.model}
    gr.on([widget.change for widget in watched], look, watched, line, **EVENT)
