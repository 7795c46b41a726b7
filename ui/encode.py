"""The second tab: a picture, or many, to latents, and how much a round trip through the VAE loses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from backend import images, latents, quality
from backend.encode import BulkEncoder, Summary
from backend.errors import BadImageError, Cancelled, LatentRelayError
from backend.job import VaeOptions, fit_size
from backend.models import FLUX, find_model
from backend.report import Stage, StageReport
from backend.studio import Studio
from ui import remote_status
from ui.form import vae_options
from ui.pictures import file_url, open_picture
from ui.render import Progress, cost_table, panel, seconds
from ui.runs import Run, Runs
from ui.text import T, locale_of, say, translated
from ui.theme import ASSETS
from ui.user_endpoints import UserEndpoints
from ui.widgets import (
    BY_THE_VAE,
    VaeModeSelect,
    failure,
    follow_model,
    html,
    local,
    mode_choices,
    model_choices,
    picture_input,
    quiet,
    shows,
    tiles_and_transfer,
    uploads_only,
    viewer,
)

SHOWN: tuple[Stage, ...] = ("encode", "decode")
"""The stages this tab has to do with."""


def encode_picture(
    studio: Studio, runs: Runs, path: str | None, model: str, options: VaeOptions, locale: str
) -> tuple[Path, Path, dict[str, Any], StageReport, tuple[int, int]]:
    """(latents file, picture of the channels, statistics, report, size worked at)."""
    spec = find_model(model)
    picture = images.to_rgb(open_picture(path, locale))
    size = fit_size(picture.size, spec)
    run = runs.start()
    try:
        z, report = studio.encode(images.resize(picture, *size), model, options, run.stop)
        file = run.write("latents.safetensors", lambda path: latents.save_latents(path, z, spec))
        channels = run.write("channels.png", latents.channels_picture(z).save)
    finally:
        runs.finish(run)
    return file, channels, latents.statistics(z), report, size


def encode_all(
    studio: Studio, run: Run, paths: Sequence[str], model: str, options: VaeOptions, locale: str
) -> Iterator[tuple[str, Path | None]]:
    """(how far it is, None) after each picture, at last (what became of all, the file, None if nothing could be read).

    Raises:
        BadImageError: no picture was given.
    """
    if not paths:
        raise BadImageError(say(locale, "bulk_needs"))
    pictures = _named(paths)
    encoder = BulkEncoder(studio, find_model(model), options, batch=1, shard=len(pictures))
    summary, out = Summary(), run.folder / "all"
    failure = ""
    steps = encoder.each(pictures, out, summary, run.stop)
    try:
        for progress in steps:
            yield say(locale, "bulk_progress", done=progress.done, total=progress.total), None
    except Cancelled:
        failure = say(locale, "state_stopped")
    except LatentRelayError as error:
        failure = translated(error.sentence, locale)
    finally:
        steps.close()  # which writes what is there
    told = [failure, say(locale, "bulk_done", done=summary.encoded, total=len(pictures))]
    told += [say(locale, "bulk_unreadable", name=name) for name in summary.unreadable]
    shard = out / "shard-00000.safetensors"
    if not shard.is_file():
        yield " ".join(filter(None, told)), None
        return
    file = out.parent / "all-latents.safetensors"
    shard.replace(file)
    yield " ".join(filter(None, told)), file


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


def there_and_back(
    studio: Studio,
    runs: Runs,
    path: str | None,
    model: str,
    encode: VaeOptions,
    decode: VaeOptions,
    locale: str,
) -> tuple[Path, Path, dict[str, float], list[StageReport]]:
    """(original at the size worked at, picture after the round trip, {"psnr", "ssim"}, reports)."""
    spec = find_model(model)
    picture = images.to_rgb(open_picture(path, locale))
    original = images.resize(picture, *fit_size(picture.size, spec))
    run = runs.start()
    try:
        before = run.write("before.png", original.save)
        z, encoded = studio.encode(original, model, encode, run.stop)
        back, decoded = studio.decode(z, model, decode, run.stop)
        after = run.write("round-trip.png", back.save)
    finally:
        runs.finish(run)
    figures = {"psnr": quality.psnr(back, original), "ssim": quality.ssim(back, original)}
    return before, after, figures, [encoded, decoded]


def round_trip_sentence(figures: dict[str, float], locale: str) -> str:
    key = "round_trip_identical" if figures["psnr"] == float("inf") else "round_trip_summary"
    return say(locale, key, **figures)


def finished(reports: list[StageReport], message: str, locale: str, shown: Sequence[Stage]) -> str:
    """The stage panel of work that is done."""
    took = say(locale, "state_done", seconds=seconds(sum(report.cost.seconds for report in reports)))
    return panel(Progress(f"{took} {message}", fraction=1.0, reports=tuple(reports)), locale, shown)


def intro(locale: str) -> str:
    return f'<p class="lr-intro">{escape(say(locale, "encode_intro"))}</p>'


def build(
    studio: Studio, runs: Runs, own: UserEndpoints
) -> tuple[Callable[[], None], tuple[VaeModeSelect, ...]]:
    spec, _ = studio.default_model()
    local(html(intro("en")), intro)
    with gr.Row(equal_height=False, elem_classes="lr-columns"):
        with gr.Column(scale=5, min_width=320):
            image = picture_input(
                label=T("picture"),
                height=300,
                buttons=[],
                elem_id="lr-encode-picture",
            )
            model = gr.Dropdown(model_choices(studio), value=spec.name, label=T("model"), filterable=False)
            mode = gr.Radio(
                mode_choices(spec),
                value="auto",
                label=T("where"),
                elem_classes="lr-list",
                elem_id="lr-encode-where",
            )
            remote_line = html("", elem_id="lr-encode-remote")
            tile, overlap, transfer = tiles_and_transfer("lr-encode-transfer")
            with gr.Row():
                encode = gr.Button(T("encode_button"), variant="primary", elem_id="lr-encode")
                trip = gr.Button(T("round_trip_button"), elem_id="lr-round-trip")
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
                with gr.Row():
                    bulk = gr.Button(T("bulk_button"), variant="primary", scale=4, elem_id="lr-bulk-encode")
                    stop = gr.Button(T("stop"), variant="stop", scale=1, min_width=90, interactive=False)
                bulk_run = gr.State()
        with gr.Column(scale=6, min_width=320):
            view = viewer("lr-encode-viewer", "encode")
            status = html(panel(Progress(say("en", "state_idle")), "en", SHOWN), elem_id="lr-encode-panel")
            file = gr.DownloadButton(T("download_latents"), interactive=False, elem_id="lr-encode-save")
            with gr.Accordion(T("numbers"), open=True):
                table = html(cost_table((), "en"))

    places = (VaeModeSelect(mode, model, mode_choices),)

    def run_encode(
        path: str, model: str, mode: str, tile: float, overlap: float, transfer: str, request: gr.Request
    ):
        locale = locale_of(request)
        try:
            options = vae_options(mode, tile, overlap, transfer, own.of(request.session_hash))
            z, channels, stats, report, (width, height) = encode_picture(
                studio, runs, path, model, options, locale
            )
        except LatentRelayError as error:
            raise failure(translated(error.sentence, locale)) from error
        _, count, h, w = stats["shape"]
        sentence = say(
            locale,
            "encode_summary",
            width=width,
            height=height,
            channels=count,
            w=w,
            h=h,
            mean=stats["mean"],
            std=stats["std"],
        )
        value = shows(locale, before=file_url(channels)) | {
            "alt_before": say(locale, "encode_result"),
            "label_before": "",
        }
        return (
            value,
            finished([report], sentence, locale, SHOWN),
            gr.update(value=str(z), interactive=True),
            cost_table([report], locale),
        )

    def run_trip(
        path: str, model: str, mode: str, tile: float, overlap: float, transfer: str, request: gr.Request
    ):
        locale = locale_of(request)
        try:
            options = vae_options(mode, tile, overlap, transfer, own.of(request.session_hash))
            before, after, figures, reports = there_and_back(
                studio, runs, path, model, options, options, locale
            )
        except LatentRelayError as error:
            raise failure(translated(error.sentence, locale)) from error
        sentence = round_trip_sentence(figures, locale)
        value = shows(locale, before=file_url(before), after=file_url(after), prompt=sentence)
        return value, finished(reports, sentence, locale, SHOWN), cost_table(reports, locale)

    def run_all(
        paths: list[str] | None,
        model: str,
        mode: str,
        tile: float,
        overlap: float,
        transfer: str,
        request: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        locale = locale_of(request)
        run = runs.start()
        yield {bulk_run: run.id, stop: gr.update(interactive=True), bulk: gr.update(interactive=False)}
        try:
            options = vae_options(mode, tile, overlap, transfer, own.of(request.session_hash))
            sentence, made = "", None
            for done, step in enumerate(encode_all(studio, run, paths or [], model, options, locale), 1):
                sentence, made = step
                share = min(1.0, done / len(paths or [1]))
                yield {status: panel(Progress(sentence, share, running=True), locale, ("encode",))}
            yield {
                status: panel(Progress(sentence, 1.0), locale, ("encode",)),
                file: gr.update(value=str(made) if made else None, interactive=made is not None),
            }
        except LatentRelayError as error:
            raise failure(translated(error.sentence, locale)) from error
        finally:
            run.stop.set()
            runs.finish(run)

    def take_flux(request: gr.Request) -> tuple[str, str, str]:
        """The form filled in for a round trip through the VAE of Flux, and what is special about it."""
        locale, numbers = locale_of(request), FLUX.latents
        told = say(
            locale,
            "example_flux_told",
            channels=numbers.channels,
            scaling=numbers.scaling_factor,
            shift=numbers.shift_factor,
            button=say(locale, "round_trip_button"),
        )
        return str(ASSETS / "mountains.png"), FLUX.name, panel(Progress(told), locale, SHOWN)

    def wire() -> None:
        inputs = [image, model, mode, tile, overlap, transfer]
        encode.click(
            run_encode,
            inputs,
            [view, status, file, table],
            show_progress="minimal",
            show_progress_on=status,
            **BY_THE_VAE,
            api_visibility="private",
        )
        bulk.click(
            run_all,
            [uploads, *inputs[1:]],
            [bulk_run, stop, bulk, status, file],
            show_progress="hidden",
            **BY_THE_VAE,
            api_visibility="private",
        ).then(
            lambda: (gr.update(interactive=True), gr.update(interactive=False)), None, [bulk, stop], **quiet()
        )
        stop.click(runs.stop, bulk_run, None, **quiet())
        flux.click(take_flux, None, [image, model, status], **quiet())
        trip.click(
            run_trip,
            inputs,
            [view, status, table],
            show_progress="minimal",
            show_progress_on=status,
            **BY_THE_VAE,
            api_visibility="private",
        )

        follow_model(places[0], studio, own)
        remote_status.wire(studio, own, places[0], ("encode",), remote_line)

    return wire, places
