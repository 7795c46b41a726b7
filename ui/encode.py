"""A picture, or many, to latents, and how much a round trip through the VAE loses: the work, without widgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend import images, latents, quality
from backend.encode import BulkEncoder, Summary
from backend.errors import BadImageError, Cancelled, LatentRelayError
from backend.events import Event, StageDone
from backend.job import VaeOptions, fit_size
from backend.message import literal
from backend.report import StageReport
from backend.studio import Studio
from ui.pictures import open_picture
from ui.runs import Run
from ui.text import say, say_message


@dataclass(frozen=True)
class Encoded:
    """A picture's latents: the file, beside it one for ComfyUI, and its channels as a picture."""

    file: Path
    channels: Path
    statistics: dict[str, Any]
    report: StageReport
    size: tuple[int, int]
    """(width, height) in pixels worked at."""


@dataclass(frozen=True)
class RoundTrip:
    """A picture at the size worked at, and what came back."""

    before: Path
    after: Path
    figures: dict[str, float]
    """{"psnr": dB, "ssim": 0 to 1}."""
    reports: list[StageReport]


def encode_picture(
    studio: Studio,
    run: Run,
    path: str | None,
    model: str,
    options: VaeOptions,
    locale: str,
    notify: Callable[[Event], None] = lambda _: None,
) -> Encoded:
    spec = studio.find_model(model)
    picture = images.to_rgb(open_picture(path, locale))
    size = fit_size(picture.size, spec)
    z, report = studio.encode(images.resize(picture, *size), model, options, run.stop, notify)
    file, _ = (
        run.write(f"latents{suffix}", lambda path: latents.save_latents(path, z, spec))
        for suffix in (latents.SUFFIX, latents.COMFYUI_SUFFIX)
    )
    channels = run.write("channels.png", latents.channels_picture(z).save)
    return Encoded(file, channels, latents.statistics(z), report, size)


def there_and_back(
    studio: Studio,
    run: Run,
    path: str | None,
    model: str,
    encode: VaeOptions,
    decode: VaeOptions,
    locale: str,
    notify: Callable[[Event], None] = lambda _: None,
) -> RoundTrip:
    picture = images.to_rgb(open_picture(path, locale))
    original = images.resize(picture, *fit_size(picture.size, studio.find_model(model)))
    before = run.write("before.png", original.save)
    z, encoded = studio.encode(original, model, encode, run.stop, notify)
    notify(StageDone(encoded))
    back, decoded = studio.decode(z, model, decode, run.stop, notify)
    after = run.write("round-trip.png", back.save)
    figures = {"psnr": quality.psnr(back, original), "ssim": quality.ssim(back, original)}
    return RoundTrip(before, after, figures, [encoded, decoded])


def encode_all(
    studio: Studio, run: Run, paths: Sequence[str], model: str, options: VaeOptions, locale: str
) -> Iterator[tuple[str, Path | None]]:
    """(how far it is, None) after each picture, at last (what became of all, the file, None if nothing could be read).

    Raises:
        BadImageError: no picture was given.
    """
    if not paths:
        raise BadImageError(literal(say(locale, "bulk_needs")))
    pictures = _named(paths)
    encoder = BulkEncoder(studio, studio.find_model(model), options, batch=1, shard=len(pictures))
    summary, out = Summary(), run.folder / "all"
    failure = ""
    steps = encoder.each(pictures, out, summary, run.stop)
    try:
        for progress in steps:
            yield say(locale, "bulk_progress", done=progress.done, total=progress.total), None
    except Cancelled:
        failure = say(locale, "state_stopped")
    except LatentRelayError as error:
        failure = say_message(error.full_message, locale)
    finally:
        steps.close()  # which writes what is there
    sentences = [failure, say(locale, "bulk_done", done=summary.encoded, total=len(pictures))]
    sentences += [say(locale, "bulk_unreadable", name=name) for name in summary.unreadable]
    shard = out / "shard-00000.safetensors"
    file = shard.replace(run.folder / "all-latents.safetensors") if shard.is_file() else None
    yield " ".join(filter(None, sentences)), file


def _named(paths: Sequence[str]) -> dict[str, Path]:
    """Uploads by their names; of two alike the second becomes “name (2).png”."""
    pictures: dict[str, Path] = {}
    for path in map(Path, paths):
        name, count = path.name, 1
        while name in pictures:
            count += 1
            name = f"{path.stem} ({count}){path.suffix}"
        pictures[name] = path
    return pictures


def encoded_sentence(encoded: Encoded, locale: str) -> str:
    _, channels, h, w = encoded.statistics["shape"]
    width, height = encoded.size
    mean, std = encoded.statistics["mean"], encoded.statistics["std"]
    sizes = {"width": width, "height": height, "channels": channels, "w": w, "h": h}
    return say(locale, "encode_summary", **sizes, mean=mean, std=std)


def round_trip_sentence(figures: dict[str, float], locale: str) -> str:
    key = "round_trip_identical" if figures["psnr"] == float("inf") else "round_trip_summary"
    return say(locale, key, **figures)
