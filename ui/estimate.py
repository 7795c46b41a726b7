"""The line under the button: what the job would take, before it is pressed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image

from backend.errors import LatentRelayError
from backend.job import fit_size
from backend.models import find_model
from backend.placement.estimate import Estimate
from backend.studio import Studio
from ui.form import Form, Values
from ui.render import seconds, size
from ui.text import locale_of, say
from ui.user_endpoints import UserEndpoints


def sentence(estimate: Estimate, locale: str) -> str:
    """The figures in words; what is not known is left out or said to be unknown."""
    ways = say(
        locale,
        "estimate_ways",
        encode=say(locale, f"mode_name_{estimate.encode_mode}"),
        decode=say(locale, f"mode_name_{estimate.decode_mode}"),
    )
    memory = {"need": size(estimate.peak_bytes), "free": size(estimate.free_bytes)}
    if estimate.fits is False:
        return say(locale, "estimate_too_big", **memory)
    parts = []
    if estimate.seconds is not None:
        parts.append(say(locale, "estimate_time", seconds=seconds(estimate.seconds)))
    if estimate.peak_bytes:
        parts.append(say(locale, "estimate_memory", **memory))
    return ", ".join([*parts, ways]) if parts else ways


def line(estimate: Estimate | None = None, locale: str = "en") -> str:
    """The line as HTML; it keeps its place while there is nothing to say."""
    text = "" if estimate is None else sentence(estimate, locale)
    state = "bad" if estimate is not None and estimate.fits is False else ""
    return f'<p class="lr-estimate" data-state="{state}">{escape(text)}</p>'


def wire(studio: Studio, form: Form, own: UserEndpoints, shown: gr.HTML, run_table: gr.HTML) -> None:
    """Tell anew whenever a setting that matters changes, and after a run, which taught how long things take."""

    def tell(data: Mapping[Component, Any], request: gr.Request) -> str:
        values = replace(form.read(data), own=own.of(request.session_hash))
        try:
            return line(studio.estimate(values.job(_stand_in(values))), locale_of(request))
        except LatentRelayError:
            return line()  # half-typed settings; the button itself will say what is wrong

    matter = (
        form.image,
        form.strength,
        form.model,
        form.mode,
        form.steps,
        form.guidance,
        form.width,
        form.height,
        form.tile_size,
        form.tile_overlap,
        form.encode_mode,
        form.decode_mode,
    )
    gr.on(
        [*(widget.change for widget in matter), run_table.change],
        tell,
        form.widgets(),
        shown,
        show_progress="hidden",
        trigger_mode="always_last",
        concurrency_limit=4,
        api_visibility="private",
    )


def _stand_in(values: Values) -> Image.Image:
    """A blank of the size the job would work at, so that no pixel is read for a guess."""
    shape = (1, 1)
    if values.image:
        try:
            with Image.open(values.image) as picture:
                shape = picture.size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            shape = (1, 1)  # said properly when the picture is used
    spec = find_model(values.model)
    return Image.new("1", fit_size(shape, spec, *values.size()))
