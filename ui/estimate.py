"""The line under the button: what the job would take, before it is pressed."""

from __future__ import annotations

from html import escape

from PIL import ExifTags, Image

from backend.errors import LatentRelayError
from backend.images import BROKEN
from backend.placement.estimate import Estimate
from backend.studio import Studio
from ui.form import Values
from ui.render import seconds, size
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
    """The line for the form's values; empty while they are half typed, since the button says what is wrong."""
    try:
        blank = Image.new("1", values.fitted(picture_size(values.image), studio.find_model(values.model)))
        return line(studio.estimate(values.job(blank)), locale)
    except LatentRelayError:
        return line()


def picture_size(path: str | None) -> tuple[int, int]:
    """(width, height) as the picture is seen, that is, turned as its EXIF says; no pixel is read.

    (1, 1) without a picture, or with one that cannot be read, which is said when it is used.
    """
    if not path:
        return 1, 1
    try:
        with Image.open(path) as picture:
            # Pillow would read a whole PNG in search of EXIF behind the pixels.
            turned = picture.format != "PNG" or "exif" in picture.info
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1) if turned else 1
            width, height = picture.size
    except BROKEN:
        return 1, 1
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)
