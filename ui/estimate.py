"""The line under the button: what the job would take, before it is pressed."""

from __future__ import annotations

from html import escape

from PIL import Image

from backend.errors import LatentRelayError
from backend.placement.estimate import Estimate
from backend.placement.fit import DIRECTIONS
from backend.studio import Studio
from backend.units import seconds, size
from ui.form import Values
from ui.leaving import leaving
from ui.pictures import picture_size
from ui.text import say


def sentence(estimate: Estimate, locale: str) -> str:
    """The figures in words; what is not known is left out or said to be unknown."""
    modes = say(
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
    return ", ".join([*parts, modes])


def line(estimate: Estimate | None = None, locale: str = "en") -> str:
    """The line as HTML; it keeps its place while there is nothing to say."""
    text = "" if estimate is None else sentence(estimate, locale)
    state = "bad" if estimate is not None and estimate.fits is False else ""
    return f'<p class="lr-estimate" data-state="{state}">{escape(text)}</p>'


def estimate_line(studio: Studio, values: Values, locale: str) -> str:
    """The line for the form's values, and what would leave this computer.

    Empty while they are half typed, since the button says what is wrong.
    """
    try:
        fitted = values.fitted(picture_size(values.image), studio.find_model(values.model))
        found = studio.estimate(values.job(Image.new("1", fitted)))
        leaves = (
            studio.departure(values.model, direction, *fitted, values.vae(direction))
            for direction in DIRECTIONS
        )
        return line(found, locale) + leaving(leaves, locale)
    except LatentRelayError:
        return line()
