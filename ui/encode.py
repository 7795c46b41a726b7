"""The tab that turns a picture, or many, into latents, and says how much a round trip through the VAE loses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from backend import images, latents, quality
from backend.encode import BulkEncoder, Summary
from backend.errors import BadImageError, Cancelled, LatentRelayError
from backend.events import Event, StageDone
from backend.job import VaeOptions, fit_size
from backend.message import literal
from backend.models import FLUX
from backend.report import Stage, StageReport
from backend.studio import Studio
from ui import remote_status
from ui.frame import Frame, StageResult, Task, VaeFields, columns, form_column, result_column, start_and_stop
from ui.pictures import file_url, open_picture
from ui.render import Progress, panel
from ui.runs import Run
from ui.tab import PageContext
from ui.text import T, locale_of, say, say_message
from ui.theme import ASSETS
from ui.widgets import (
    BY_THE_VAE,
    VaeModeSelect,
    follow_model,
    intro,
    mode_choices,
    model_choices,
    picture_input,
    quiet,
    shows,
    uploads_only,
)

STAGES: tuple[Stage, ...] = ("encode", "decode")


# -- work ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoded:
    """A picture's latents: the file, and its channels as a picture."""

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
    file = run.write("latents.safetensors", lambda path: latents.save_latents(path, z, spec))
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


# -- tab -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodeTab:
    """A picture to latents and back, and many pictures into one file."""

    context: PageContext
    image: gr.Image
    model: gr.Dropdown
    vae: VaeFields
    encode: gr.Button
    round_trip: gr.Button
    flux: gr.Button
    uploads: gr.File
    result: StageResult
    single: Frame
    bulk: Frame
    mode_selects: tuple[VaeModeSelect, ...]

    def wire(self) -> None:
        fields = {self.model, *self.vae.widgets()}
        result = {self.result.viewer, self.result.table}
        one, several = {self.image, *fields}, {self.uploads, *fields}
        self.single.on_start(self.encode, self._encode, one, {*result, self.result.save}, **BY_THE_VAE)
        self.single.on_start(self.round_trip, self._round_trip, one, result, **BY_THE_VAE)
        (start,) = self.bulk.starts
        self.bulk.on_start(start, self._encode_all, several, {self.result.save}, **BY_THE_VAE)
        self.bulk.wire_stop()
        self.flux.click(self._take_flux, None, [self.image, self.model, self.result.status], **quiet())
        (select,) = self.mode_selects
        follow_model(select, self.context.studio, self.context.endpoints)
        remote_status.wire(
            self.context.studio, self.context.endpoints, select, ("encode",), self.vae.remote_line
        )

    def _encode(self, task: Task) -> None:
        encoded = encode_picture(
            self.context.studio,
            task.run,
            task.data[self.image],
            task.data[self.model],
            self.vae.options(task),
            task.locale,
            task.notify,
        )
        sentence = encoded_sentence(encoded, task.locale)
        channels = shows(task.locale, before=file_url(encoded.channels))
        task.show(
            {
                self.result.viewer: channels
                | {"alt_before": say(task.locale, "encode_result"), "label_before": ""},
                self.result.save: gr.update(value=str(encoded.file), interactive=True),
                **self.result.finished(task, [encoded.report], sentence),
            }
        )

    def _round_trip(self, task: Task) -> None:
        options = self.vae.options(task)
        trip = there_and_back(
            self.context.studio,
            task.run,
            task.data[self.image],
            task.data[self.model],
            options,
            options,
            task.locale,
            task.notify,
        )
        sentence = round_trip_sentence(trip.figures, task.locale)
        before, after = file_url(trip.before), file_url(trip.after)
        task.show(
            {
                self.result.viewer: shows(task.locale, before=before, after=after, prompt=sentence),
                **self.result.finished(task, trip.reports, sentence),
            }
        )

    def _encode_all(self, task: Task) -> None:
        paths, model, options = task.data[self.uploads] or [], task.data[self.model], self.vae.options(task)
        sentence, file = "", None
        steps = encode_all(self.context.studio, task.run, paths, model, options, task.locale)
        for done, step in enumerate(steps, 1):
            sentence, file = step
            task.tell(sentence, min(1.0, done / len(paths)))
        task.show(
            {
                self.result.status: panel(Progress(sentence, 1.0), task.locale, self.bulk.stages),
                self.result.save: gr.update(value=file and str(file), interactive=file is not None),
            }
        )

    def _take_flux(self, request: gr.Request) -> tuple[str, str, str]:
        """The form filled in for a round trip through the VAE of Flux, and what is special about it."""
        locale, numbers = locale_of(request), FLUX.latents
        sentence = say(
            locale,
            "example_flux_told",
            channels=numbers.channels,
            scaling=numbers.scaling_factor,
            shift=numbers.shift_factor,
            button=say(locale, "round_trip_button"),
        )
        return str(ASSETS / "mountains.png"), FLUX.name, panel(Progress(sentence), locale, STAGES)


def build(context: PageContext) -> EncodeTab:
    spec, _ = context.studio.default_model()
    intro("encode_intro")
    with columns():
        with form_column():
            image = picture_input(label=T("picture"), height=300, buttons=[], elem_id="lr-encode-picture")
            model = gr.Dropdown(
                model_choices(context.studio), value=spec.name, label=T("model"), filterable=False
            )
            vae = VaeFields.build(spec, "lr-encode")
            with gr.Row():
                encode = gr.Button(T("encode_button"), variant="primary", elem_id="lr-encode")
                round_trip = gr.Button(T("round_trip_button"), elem_id="lr-round-trip")
            flux = gr.Button(
                T("example_flux"), icon=ASSETS / "mountains.png", size="sm", elem_id="lr-flux-trip"
            )
            with gr.Accordion(T("bulk"), open=False, elem_id="lr-bulk"):
                uploads = uploads_only(
                    gr.File(
                        label=T("bulk_pictures"),
                        file_count="multiple",
                        file_types=["image"],
                        height=160,
                        elem_id="lr-bulk-pictures",
                    )
                )
                start, stop = start_and_stop("bulk_button", "lr-bulk-encode", css_class=None)
        with result_column():
            result = StageResult.build("lr-encode", "encode", STAGES, "download_latents")
    return EncodeTab(
        context,
        image,
        model,
        vae,
        encode,
        round_trip,
        flux,
        uploads,
        result,
        single=Frame(context, (encode, round_trip), None, result.status, STAGES),
        bulk=Frame(context, (start,), stop, result.status, ("encode",)),
        mode_selects=(VaeModeSelect(vae.mode, model, mode_choices),),
    )
