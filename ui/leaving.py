"""What would leave this computer if a button were pressed: which bytes, to which host."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

from backend.errors import LatentRelayError
from backend.job import VaeOptions, fit_size
from backend.latents import read_header
from backend.run.departure import Departure
from backend.studio import Studio
from backend.units import size
from ui.pictures import picture_size
from ui.text import say


def leaving(departures: Iterable[Departure | None], locale: str) -> str:
    """A line of HTML for what surely leaves, and one for what leaves if memory runs short; empty if nothing does."""
    known = [one for one in departures if one is not None]
    lines = []
    for key, surely in (("leaves", True), ("leaves_perhaps", False)):
        said = [
            say(locale, f"leaves_{one.direction}", size=size(one.most_bytes), host=one.host)
            for one in known
            if one.surely == surely
        ]
        if said:
            sentence = escape(say(locale, key, what=", ".join(said)))
            lines.append(f'<p class="lr-leaves" data-surely="{str(surely).lower()}">{sentence}</p>')
    return "".join(lines)


def of_tab(
    studio: Studio,
    model: str | None,
    options: VaeOptions,
    picture: str | None,
    file: str | None,
    locale: str,
    longest: int | None = None,
) -> str:
    """For a tab whose buttons encode a picture or decode a latents file; what is not chosen yet is left out.

    The picture is resized to suit the model, or with `longest`, the longer side in pixels, to at most that.
    """
    found: list[Departure | None] = []
    try:
        if picture and model:
            width, height = picture_size(picture)
            if longest is None:
                width, height = fit_size((width, height), studio.find_model(model))
            scale = min(1.0, (longest or width + height) / max(width, height))
            width, height = (int(side * scale) for side in (width, height))
            found.append(studio.departure(model, "encode", width, height, options))
        if file:
            latents = read_header(Path(file), studio.models, model)
            found.append(studio.departure(latents.model.name, "decode", *latents.image_size, options))
        elif picture and model:  # there and back
            found.append(studio.departure(model, "decode", width, height, options))
    except LatentRelayError:  # which the button says
        return ""
    return leaving(found, locale)
