"""The tab between pictures and latents: encode, decode, there and back, and many pictures into one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from backend.errors import LatentRelayError
from backend.models import FLUX
from backend.report import Stage
from ui import remote_status
from ui.decode import decode_file, decoded_sentence, recognised
from ui.encode import encode_all, encode_picture, encoded_sentence, round_trip_sentence, there_and_back
from ui.form import Changes, vae_options
from ui.frame import Frame, StageResult, Task, VaeFields, columns, form_column, result_column, start_and_stop
from ui.leaving import of_tab
from ui.pictures import file_url
from ui.render import Progress, panel
from ui.run_view import offer
from ui.tab import PageContext
from ui.text import T, locale_of, say, say_message
from ui.theme import ASSETS
from ui.widgets import (
    BY_THE_VAE,
    VaeModeSelect,
    follow_model,
    html,
    intro,
    mode_choices,
    model_choices,
    picture_input,
    quiet,
    shows,
    uploads_only,
)

STAGES: tuple[Stage, ...] = ("encode", "decode")


@dataclass(frozen=True)
class EncodeDecodeTab:
    """A picture and latents, each with the button that makes the other of it."""

    context: PageContext
    picture: gr.Image
    latents: gr.File
    model: gr.Dropdown
    vae: VaeFields
    leaves: gr.HTML
    """What would leave this computer."""
    encode: gr.Button
    round_trip: gr.Button
    decode: gr.Button
    flux: gr.Button
    uploads: gr.File
    result: StageResult
    single: Frame
    bulk: Frame
    mode_selects: tuple[VaeModeSelect, ...]

    def wire(self) -> None:
        studio, endpoints, result = self.context.studio, self.context.endpoints, self.result
        fields = {self.model, *self.vae.widgets()}
        picture = {self.picture, *fields}
        on_start, shown = self.single.on_start, result.widgets()
        on_start(self.encode, self._encode, picture, {*shown, self.latents}, **BY_THE_VAE)
        on_start(self.round_trip, self._round_trip, picture, shown, **BY_THE_VAE)
        on_start(self.decode, self._decode, {self.latents, *fields}, shown, **BY_THE_VAE)
        (start,) = self.bulk.starts
        several = {self.uploads, *fields}
        self.bulk.on_start(start, self._encode_all, several, {result.save_latents}, **BY_THE_VAE)
        self.bulk.wire_stop()
        self.flux.click(self._take_flux, None, [self.picture, self.model, result.status], **quiet())
        (select,) = self.mode_selects
        follow_model(select, studio, endpoints)
        self.latents.upload(
            self._recognise,
            {self.latents, self.model, self.vae.mode},
            [self.model, self.vae.mode, self.result.status],
            **quiet(),
        )
        remote_status.wire(studio, endpoints, select, STAGES, self.vae.remote_line)  # type: ignore[arg-type]
        watched = {self.picture, self.latents, self.model, self.vae.mode, self.vae.transfer}
        changes = [widget.change for widget in watched]
        gr.on(changes, self._say_what_leaves, watched, self.leaves, **remote_status.EVENT)

    def _say_what_leaves(self, data: Mapping[Component, Any], request: gr.Request) -> str:
        try:
            options = vae_options(
                data[self.vae.mode],
                transfer=data[self.vae.transfer],
                endpoints=self.context.endpoints.of(request.session_hash),
            )
        except LatentRelayError:  # which the line beside the modes says
            return ""
        chosen = data[self.picture], data[self.latents]
        return of_tab(self.context.studio, data[self.model], options, *chosen, locale_of(request))

    def _encode(self, task: Task) -> None:
        data = task.data
        encoded = encode_picture(
            self.context.studio,
            task.run,
            data[self.picture],
            data[self.model],
            self.vae.options(task),
            task.locale,
            task.notify,
        )
        channels = shows(task.locale, before=file_url(encoded.channels))
        task.show(
            {
                self.result.viewer: channels
                | {"alt_before": say(task.locale, "encode_result"), "label_before": ""},
                **self.result.offers(latents=encoded.file),
                self.latents: str(encoded.file),  # so that they can be decoded at once
                **self.result.finished(task, [encoded.report], encoded_sentence(encoded, task.locale)),
            }
        )

    def _round_trip(self, task: Task) -> None:
        options, data = self.vae.options(task), task.data
        trip = there_and_back(
            self.context.studio,
            task.run,
            data[self.picture],
            data[self.model],
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
                **self.result.offers(trip.after),
                **self.result.finished(task, trip.reports, sentence),
            }
        )

    def _decode(self, task: Task) -> None:
        studio, locale = self.context.studio, task.locale
        options = self.vae.options(task)
        path, named = task.data[self.latents], task.data[self.model]
        decoded = decode_file(studio, task.run, path, options, locale, task.notify, named)
        sentence = decoded_sentence(
            decoded, say_message(studio.models[decoded.file.model].title_message, locale), locale
        )
        picture = shows(locale, before=file_url(decoded.picture))
        task.show(
            {
                self.result.viewer: picture
                | {"alt_before": say(locale, "decode_result"), "label_before": ""},
                **self.result.offers(decoded.picture),
                **self.result.finished(task, [decoded.report], sentence),
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
                self.result.save_latents: offer(file),
            }
        )

    def _recognise(self, data: Mapping[Component, Any], request: gr.Request) -> Changes:
        """The model whose latents an uploaded file holds, and its modes; none where only a person can know it."""
        studio, locale = self.context.studio, locale_of(request)
        model, question = recognised(studio, data[self.latents])
        if question is not None:
            asked = panel(Progress(say_message(question, locale)), locale, STAGES)
            return {self.model: None, self.result.status: asked}
        if model is None:
            return {self.model: gr.skip()}
        (select,) = self.mode_selects
        endpoints = self.context.endpoints.of(request.session_hash)
        modes = select.update(studio, {**data, self.model: model}, endpoints, locale)
        return {self.model: model, **modes}

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


def build(context: PageContext) -> EncodeDecodeTab:
    spec, _ = context.studio.default_model()
    intro("latents_intro")
    with columns():
        with form_column(css_class="lr-form"):
            picture = picture_input(label=T("picture"), height=260, buttons=[], elem_id="lr-encode-picture")
            with gr.Row():
                encode = gr.Button(T("encode_button"), variant="primary", elem_id="lr-encode")
                round_trip = gr.Button(T("round_trip_button"), elem_id="lr-round-trip")
            latents = uploads_only(
                gr.File(
                    label=T("latents_file"),
                    file_types=[".safetensors", ".latent"],
                    elem_id="lr-latents-file",
                    height=130,
                )
            )
            decode = gr.Button(T("decode_button"), variant="primary", elem_id="lr-decode")
            leaves = html("", elem_id="lr-latents-leaves")
            with gr.Column(elem_classes="lr-more"):
                model = gr.Dropdown(
                    model_choices(context.studio),
                    value=spec.name,
                    label=T("compare_model"),
                    filterable=False,
                    elem_id="lr-vae-model",
                )
                vae = VaeFields.build(spec, "lr-vae")
                flux = gr.Button(
                    T("example_flux"), icon=ASSETS / "mountains.png", size="sm", elem_id="lr-flux-trip"
                )
                uploads, start, stop = _bulk()
        with result_column(css_class="lr-result"):
            result = StageResult.build("lr-latents", "latents", STAGES)
    return EncodeDecodeTab(
        context,
        picture,
        latents,
        model,
        vae,
        leaves,
        encode,
        round_trip,
        decode,
        flux,
        uploads,
        result,
        single=Frame(context, (encode, round_trip, decode), None, result.status, STAGES),
        bulk=Frame(context, (start,), stop, result.status, ("encode",)),
        mode_selects=(VaeModeSelect(vae.mode, model, mode_choices),),
    )


def _bulk() -> tuple[gr.File, gr.Button, gr.Button]:
    """Many pictures at once, folded away."""
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
    return uploads, start, stop
