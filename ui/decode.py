"""The tab that turns a latents file back into a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from gradio.components import Component

from backend.errors import BadLatentsError
from backend.events import Event
from backend.job import VaeOptions
from backend.latents import LatentsFile, load_latents
from backend.message import literal
from backend.report import Stage, StageReport
from backend.studio import Studio
from ui import remote_status
from ui.frame import Frame, StageResult, Task, VaeFields, columns, form_column, result_column
from ui.pictures import file_url
from ui.runs import Run
from ui.tab import PageContext
from ui.text import T, say
from ui.widgets import (
    BY_THE_VAE,
    VaeModeSelect,
    decode_choices,
    intro,
    shows,
    uploads_only,
)

STAGES: tuple[Stage, ...] = ("decode",)


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


@dataclass(frozen=True)
class DecodeTab:
    context: PageContext
    upload: gr.File
    vae: VaeFields
    decode: gr.Button
    result: StageResult
    frame: Frame
    mode_selects: tuple[VaeModeSelect, ...]

    def wire(self) -> None:
        inputs = {self.upload, *self.vae.widgets()}
        outputs = {self.result.viewer, self.result.save, self.result.table}
        self.frame.on_start(self.decode, self._decode, inputs, outputs, **BY_THE_VAE)
        (select,) = self.mode_selects
        studio, endpoints = self.context.studio, self.context.endpoints
        remote_status.wire(studio, endpoints, select, ("decode",), self.vae.remote_line, self.upload)

    def _decode(self, task: Task) -> None:
        studio, locale = self.context.studio, task.locale
        path, options = task.data[self.upload], self.vae.options(task)
        decoded = decode_file(studio, task.run, path, options, locale, task.notify)
        _, channels, h, w = decoded.file.latents.shape
        width, height = decoded.file.image_size
        model = studio.models[decoded.file.model].title
        sizes = {"channels": channels, "w": w, "h": h, "width": width, "height": height}
        sentence = say(locale, "decode_summary", **sizes, model=model)
        picture = shows(locale, before=file_url(decoded.picture))
        task.show(
            {
                self.result.viewer: picture
                | {"alt_before": say(locale, "decode_result"), "label_before": ""},
                self.result.save: gr.update(value=str(decoded.picture), interactive=True),
                **self.result.finished(task, [decoded.report], sentence),
            }
        )


def build(context: PageContext, model: Component) -> DecodeTab:
    """`model` is where the main tab's model is chosen: which modes there are, until the file says its own."""
    spec, _ = context.studio.default_model()
    intro("decode_intro")
    with columns():
        with form_column():
            upload = uploads_only(
                gr.File(
                    label=T("latents_file"),
                    file_types=[".safetensors"],
                    elem_id="lr-latents-file",
                    height=160,
                )
            )
            vae = VaeFields.build(spec, "lr-decode")
            decode = gr.Button(T("decode_button"), variant="primary", elem_id="lr-decode")
        with result_column():
            result = StageResult.build("lr-decode", "decode", STAGES, "download_picture")
    frame = Frame(context, (decode,), None, result.status, STAGES)
    select = VaeModeSelect(vae.mode, model, decode_choices)
    return DecodeTab(context, upload, vae, decode, result, frame, (select,))
