"""A latents file back to a picture: the work, without widgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backend.errors import BadLatentsError, LatentRelayError, UnnamedLatentsError
from backend.events import Event
from backend.job import VaeOptions
from backend.latents import LatentsFile, load_latents, read_header
from backend.message import Message, literal
from backend.report import StageReport
from backend.studio import Studio
from ui.runs import Run
from ui.text import say, say_message


@dataclass(frozen=True)
class Decoded:
    """A picture, and the latents file that it was made from."""

    picture: Path
    file: LatentsFile
    report: StageReport


def recognised(studio: Studio, path: str) -> tuple[str | None, Message | None]:
    """(model whose latents an uploaded file holds, what to ask where only a person can know it).

    Both are None if something else is wrong with the file, which is said on use.
    """
    try:
        return read_header(Path(path), studio.models).model.name, None
    except UnnamedLatentsError as error:
        return None, error.full_message
    except LatentRelayError:
        return None, None


def decode_file(
    studio: Studio,
    run: Run,
    path: str | None,
    options: VaeOptions,
    locale: str,
    notify: Callable[[Event], None] = lambda _: None,
    named: str | None = None,
) -> Decoded:
    """Decode with the model that the file names, or with `named`, a person's choice, where it does not say.

    Raises:
        BadLatentsError: no file, or a broken one. LatentRelayError: as the stage raised it.
    """
    if not path:
        raise BadLatentsError(literal(say(locale, "needs_latents")))
    file = load_latents(Path(path), studio.models, named)
    image, report = studio.decode(file.latents, file.model, options, run.stop, notify)
    return Decoded(run.write("decoded.png", image.save), file, report)


def decoded_sentence(decoded: Decoded, title: str, locale: str) -> str:
    """`title`: of the model whose latents they are."""
    _, channels, h, w = decoded.file.latents.shape
    width, height = decoded.file.image_size
    sizes = {"channels": channels, "w": w, "h": h, "width": width, "height": height}
    sentence = say(locale, "decode_summary", **sizes, model=title)
    note = decoded.file.note
    return sentence if note is None else f"{sentence} {say_message(note, locale)}"
