"""The third tab: a latents file back to a picture."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

import gradio as gr
from gradio.components import Component

from backend.errors import BadLatentsError, LatentRelayError
from backend.job import VaeOptions
from backend.latents import LatentsFile, load_latents
from backend.models import MODELS
from backend.report import Stage, StageReport
from backend.studio import Studio
from ui import remote_status
from ui.encode import finished
from ui.form import vae_options
from ui.pictures import file_url
from ui.render import Progress, cost_table, panel
from ui.runs import Runs
from ui.text import T, locale_of, say, translated
from ui.user_endpoints import UserEndpoints
from ui.widgets import (
    BY_THE_VAE,
    VaeModeSelect,
    decode_choices,
    failure,
    html,
    local,
    mode_choices,
    shows,
    tiles_and_transfer,
    uploads_only,
    viewer,
)

SHOWN: tuple[Stage, ...] = ("decode",)
"""The stages this tab has to do with."""


def decode_file(
    studio: Studio, runs: Runs, path: str | None, options: VaeOptions, locale: str
) -> tuple[Path, LatentsFile, StageReport]:
    """(picture, what the file said, report). The file names its model."""
    if not path:
        raise BadLatentsError(say(locale, "needs_latents"))
    file = load_latents(Path(path))
    run = runs.start()
    try:
        image, report = studio.decode(file.latents, file.model, options, run.stop)
        target = run.write("decoded.png", image.save)
    finally:
        runs.finish(run)
    return target, file, report


def intro(locale: str) -> str:
    return f'<p class="lr-intro">{escape(say(locale, "decode_intro"))}</p>'


def build(
    studio: Studio, runs: Runs, own: UserEndpoints, model: Component
) -> tuple[Callable[[], None], tuple[VaeModeSelect, ...]]:
    """`model` is where the main tab's model is chosen: which modes there are, until the file says its own."""
    spec, _ = studio.default_model()
    local(html(intro("en")), intro)
    with gr.Row(equal_height=False, elem_classes="lr-columns"):
        with gr.Column(scale=5, min_width=320):
            upload = uploads_only(
                gr.File(
                    label=T("latents_file"),
                    file_types=[".safetensors"],
                    elem_id="lr-latents-file",
                    height=160,
                )
            )
            mode = gr.Radio(
                mode_choices(spec),
                value="auto",
                label=T("where"),
                elem_classes="lr-list",
                elem_id="lr-decode-where",
            )
            remote_line = html("", elem_id="lr-decode-remote")
            tile, overlap, transfer = tiles_and_transfer("lr-decode-transfer")
            decode = gr.Button(T("decode_button"), variant="primary", elem_id="lr-decode")
        with gr.Column(scale=6, min_width=320):
            view = viewer("lr-decode-viewer", "decode")
            status = html(panel(Progress(say("en", "state_idle")), "en", SHOWN), elem_id="lr-decode-panel")
            save = gr.DownloadButton(T("download_picture"), interactive=False, elem_id="lr-decode-save")
            with gr.Accordion(T("numbers"), open=True):
                table = html(cost_table((), "en"))

    places = (VaeModeSelect(mode, model, decode_choices),)

    def run_decode(path: str, mode: str, tile: float, overlap: float, transfer: str, request: gr.Request):
        locale = locale_of(request)
        try:
            options = vae_options(mode, tile, overlap, transfer, own.of(request.session_hash))
            picture, file, report = decode_file(studio, runs, path, options, locale)
        except LatentRelayError as error:
            raise failure(translated(error.sentence, locale)) from error
        _, channels, h, w = file.latents.shape
        width, height = file.image_size
        sentence = say(
            locale,
            "decode_summary",
            channels=channels,
            w=w,
            h=h,
            width=width,
            height=height,
            model=MODELS[file.model].title,
        )
        value = shows(locale, before=file_url(picture)) | {
            "alt_before": say(locale, "decode_result"),
            "label_before": "",
        }
        return (
            value,
            finished([report], sentence, locale, SHOWN),
            gr.update(value=str(picture), interactive=True),
            cost_table([report], locale),
        )

    def wire() -> None:
        decode.click(
            run_decode,
            [upload, mode, tile, overlap, transfer],
            [view, status, save, table],
            show_progress="minimal",
            show_progress_on=status,
            **BY_THE_VAE,
            api_visibility="private",
        )

        remote_status.wire(studio, own, places[0], ("decode",), remote_line, upload)

    return wire, places
