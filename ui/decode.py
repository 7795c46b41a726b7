"""A latents file back to a picture: the work, without widgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backend.errors import BadLatentsError
from backend.events import Event
from backend.job import VaeOptions
from backend.latents import LatentsFile, load_latents
from backend.message import literal
from backend.report import StageReport
from backend.studio import Studio
from ui.runs import Run
from ui.text import say


@dataclass(frozen=True)
class Decoded:
    """A picture, and the latents file that it was made from."""

    picture: Path
    file: LatentsFile
    report: StageReport


def decode_file(
    studio: Studio,
    run: Run,
    path: str | None,
    options: VaeOptions,
    locale: str,
    notify: Callable[[Event], None] = lambda _: None,
) -> Decoded:
    """Decode with the model that the file names.

    Raises:
        BadLatentsError: no file, or a broken one. LatentRelayError: as the stage raised it.
    """
    if not path:
        raise BadLatentsError(literal(say(locale, "needs_latents")))
    file = load_latents(Path(path), studio.models)
    image, report = studio.decode(file.latents, file.model, options, run.stop, notify)
    return Decoded(run.write("decoded.png", image.save), file, report)


def decoded_sentence(decoded: Decoded, title: str, locale: str) -> str:
    """`title`: of the model whose latents they are."""
    _, channels, h, w = decoded.file.latents.shape
    width, height = decoded.file.image_size
    sizes = {"channels": channels, "w": w, "h": h, "width": width, "height": height}
    return say(locale, "decode_summary", **sizes, model=title)
