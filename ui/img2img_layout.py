"""The widgets of the main tab, group by group, in the order in which they are seen."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import gradio as gr

from backend.message import Message
from backend.models import ModelSpec
from backend.studio import Studio
from ui import crop_preview, draw, estimate, first_sight
from ui.explain import explain
from ui.form import MAX_SLIDER_GUIDANCE, MAX_SLIDER_STEPS, Form
from ui.form_events import strength_words
from ui.looks import EXAMPLES, LOOKS
from ui.run_view import RunWidgets
from ui.text import T, say_message
from ui.theme import ASSETS
from ui.widgets import (
    AS_ABOVE,
    download_buttons,
    html,
    local,
    mode_choices,
    mode_name_choices,
    mode_override_choices,
    model_choices,
    picture_input,
    scheduler_choices,
    transfer_input,
    viewer,
)


@dataclass(frozen=True)
class FormHelpers:
    """What stands between the form's widgets: buttons that fill it in, lines that say what it means."""

    examples: tuple[gr.Button, ...]
    pad: draw.DrawingPad
    looks: tuple[gr.Button, ...]
    understood: gr.HTML
    strength_words: gr.HTML
    estimate: gr.HTML
    model_note: gr.HTML
    filled_for: gr.State
    """The name of the model whose settings the form was last filled with."""
    remote_status: gr.HTML
    crop_preview: gr.HTML
    make_link: gr.Button
    link: gr.Textbox
    start: gr.Button
    stop: gr.Button


def form_column(studio: Studio, spec: ModelSpec, why: Message) -> tuple[Form, FormHelpers]:
    """The left column; `why` says why the page opens with the model `spec`."""
    image, examples, pad = _picture()
    prompt, understood, looks = _prompt()
    strength, words = _strength(spec)
    start, stop = _start_and_stop()
    estimated = html(estimate.line(), elem_id="lr-estimate")
    with gr.Column(elem_classes="lr-more"):
        model, note = _model(studio, spec, why)
        mode, status = _mode(spec)
        with gr.Accordion(T("advanced"), open=False, elem_id="lr-advanced"):
            negative_prompt, steps, guidance, seed, scheduler = _sampling(spec)
            width, height, fit, crop = _size()
            tile_size, tile_overlap, encode_mode, decode_mode = _vae(spec)
            transfer = transfer_input("lr-transfer")
            explain("strength", "guidance", "seed")
            make_link = gr.Button(T("link_button"), size="sm", elem_id="lr-make-link")
            link = gr.Textbox(
                label=T("link"), visible=False, interactive=False, buttons=["copy"], elem_id="lr-link"
            )
    form = Form(
        image=image,
        prompt=prompt,
        strength=strength,
        model=model,
        mode=mode,
        negative_prompt=negative_prompt,
        steps=steps,
        guidance=guidance,
        seed=seed,
        scheduler=scheduler,
        width=width,
        height=height,
        fit=fit,
        tile_size=tile_size,
        tile_overlap=tile_overlap,
        encode_mode=encode_mode,
        decode_mode=decode_mode,
        transfer=transfer,
    )
    helpers = FormHelpers(
        examples=examples,
        pad=pad,
        looks=looks,
        understood=understood,
        strength_words=words,
        estimate=estimated,
        model_note=note,
        filled_for=gr.State(spec.name),
        remote_status=status,
        crop_preview=crop,
        make_link=make_link,
        link=link,
        start=start,
        stop=stop,
    )
    return form, helpers


def _picture() -> tuple[gr.Image, tuple[gr.Button, ...], draw.DrawingPad]:
    """The picture box, and beside upload, clipboard and camera the other ways to fill it: examples and drawing."""
    with gr.Column() as box:
        image = picture_input(
            sources=["upload", "clipboard", "webcam"],
            label=T("step_picture"),
            height=280,
            elem_id="lr-picture",
            buttons=[],
        )
    open_pad = gr.Button(
        T("draw_open"), icon=ASSETS / "draw.png", size="sm", min_width=80, elem_id="lr-draw", render=False
    )
    pad = draw.build(image, box, open_pad)
    with gr.Row(elem_classes="lr-examples", elem_id="lr-examples"):
        examples = tuple(
            gr.Button(T(f"example_{name}"), icon=ASSETS / f"{name}.png", size="sm", min_width=80)
            for name in EXAMPLES
        )
        open_pad.render()
    return image, examples, pad


def _prompt() -> tuple[gr.Textbox, gr.HTML, tuple[gr.Button, ...]]:
    """The words, how a model that knows few understands them, and the looks."""
    with gr.Group(elem_classes="lr-plain"):
        prompt = gr.Textbox(
            label=T("step_prompt"),
            placeholder=T("prompt_hint"),
            lines=2,
            max_lines=6,
            elem_id="lr-prompt",
            submit_btn=False,
        )
        line = html("", elem_id="lr-understood")
        with gr.Row(elem_classes="lr-looks", elem_id="lr-looks"):
            looks = tuple(gr.Button(T(f"look_{name}"), size="sm", min_width=60, scale=0) for name in LOOKS)
    return prompt, line, looks


def _strength(spec: ModelSpec) -> tuple[gr.Slider, gr.HTML]:
    with gr.Group(elem_classes="lr-plain"):
        strength = gr.Slider(
            0, 1, spec.strength, step=0.05, label=T("step_change"), elem_id="lr-strength", buttons=[]
        )

        def words(locale: str) -> str:
            return strength_words(spec, spec.strength, spec.num_inference_steps, locale)

        line = local(html(words("en"), elem_id="lr-words"), words)
    return strength, line


def _start_and_stop() -> tuple[gr.Button, gr.Button]:
    with gr.Row(elem_classes="lr-go"):
        start = gr.Button(T("paint"), variant="primary", size="lg", scale=4, elem_id="lr-paint")
        stop = gr.Button(
            T("stop"), variant="stop", size="lg", scale=1, min_width=90, interactive=False, elem_id="lr-stop"
        )
    return start, stop


def _model(studio: Studio, spec: ModelSpec, why: Message) -> tuple[gr.Dropdown, gr.HTML]:
    with gr.Group(elem_classes="lr-plain"):
        model = gr.Dropdown(
            model_choices(studio), value=spec.name, label=T("model"), filterable=False, elem_id="lr-model"
        )
        note = html(model_note(why, "en"), elem_id="lr-model-line")
    return model, local(note, lambda locale: model_note(why, locale))


def model_note(message: Message, locale: str) -> str:
    """What there is to say about the chosen model."""
    return f'<p class="lr-note">{escape(say_message(message, locale))}</p>'


def _mode(spec: ModelSpec) -> tuple[gr.Radio, gr.HTML]:
    with gr.Group(elem_classes="lr-plain"):
        mode = gr.Radio(
            mode_choices(spec),
            value="auto",
            label=T("where"),
            info=T("where_info"),
            elem_id="lr-mode",
            elem_classes="lr-list",
        )
        status = html("", elem_id="lr-remote")
        explain("vae", "tiles", "leaves")
    return mode, status


def _sampling(spec: ModelSpec) -> tuple[gr.Textbox, gr.Slider, gr.Slider, gr.Number, gr.Dropdown]:
    negative = gr.Textbox(label=T("negative_prompt"), placeholder=T("negative_hint"), elem_id="lr-negative")
    with gr.Row():
        steps = gr.Slider(
            1,
            MAX_SLIDER_STEPS,
            spec.num_inference_steps,
            step=1,
            label=T("steps"),
            info=T("steps_info"),
            elem_id="lr-steps",
            buttons=[],
        )
        guidance = gr.Slider(
            0,
            MAX_SLIDER_GUIDANCE,
            spec.guidance_scale,
            step=0.5,
            label=T("guidance"),
            info=T("guidance_info"),
            elem_id="lr-guidance",
            buttons=[],
        )
    with gr.Row():
        seed = gr.Number(-1, label=T("seed"), info=T("seed_info"), precision=0, elem_id="lr-seed")
        scheduler = gr.Dropdown(
            scheduler_choices(spec),
            value="default",
            label=T("scheduler"),
            info=T("scheduler_info"),
            filterable=False,
            elem_id="lr-scheduler",
        )
    return negative, steps, guidance, seed, scheduler


def _size() -> tuple[gr.Number, gr.Number, gr.Radio, gr.HTML]:
    with gr.Row():
        width, height = (
            gr.Number(0, label=T(side), info=T("size_info"), precision=0, elem_id=f"lr-{side}")
            for side in ("width", "height")
        )
    fit = gr.Radio(
        [(T("fit_crop"), "crop"), (T("fit_fit"), "fit"), (T("fit_stretch"), "stretch")],
        value="crop",
        label=T("fit"),
        elem_id="lr-fit",
    )
    return width, height, fit, crop_preview.build()


def _vae(spec: ModelSpec) -> tuple[gr.Slider, gr.Slider, gr.Dropdown, gr.Dropdown]:
    with gr.Row():
        tile_size = gr.Slider(
            64, 1024, 512, step=64, label=T("tile_size"), elem_id="lr-tile-size", buttons=[]
        )
        tile_overlap = gr.Slider(
            0, 256, 128, step=16, label=T("tile_overlap"), elem_id="lr-tile-overlap", buttons=[]
        )
    with gr.Row():
        encode_mode, decode_mode = (
            gr.Dropdown(
                mode_override_choices(spec),
                value=AS_ABOVE,
                label=T(key),
                filterable=False,
                elem_id=f"lr-{direction}-mode",
            )
            for direction, key in (("encode", "encode_where"), ("decode", "decode_where"))
        )
    return tile_size, tile_overlap, encode_mode, decode_mode


@dataclass(frozen=True)
class FinishWidgets:
    """With which mode and button a failed run is finished, and what would leave this computer then."""

    mode: gr.Dropdown
    button: gr.Button
    leaves: gr.HTML


def result_column(start: gr.Button, stop: gr.Button) -> tuple[RunWidgets, FinishWidgets]:
    """The right column: what a run writes to, and how a failed one is finished."""
    picture_view = viewer("lr-viewer", first_sight.viewer_value)
    status = local(html(first_sight.panel_html("en"), elem_id="lr-panel"), first_sight.panel_html)
    with gr.Row(visible=False, equal_height=True, elem_id="lr-finish", elem_classes="lr-finish") as finish:
        finish_mode = gr.Dropdown(
            mode_name_choices(),
            value="whole",
            label=T("finish_where"),
            filterable=False,
            elem_id="lr-finish-mode",
        )
        finish_button = gr.Button(T("finish_button"), variant="primary", elem_id="lr-finish-button")
        leaves = html("", elem_id="lr-finish-leaves")
    with gr.Row(elem_classes="lr-downloads"):
        picture, latents, comfyui = download_buttons("lr-save", "picture", "latents", "comfyui")
        story = gr.Button(T("download_story"), interactive=False, min_width=120, elem_id="lr-save-story")
    with gr.Row(elem_classes="lr-next"):
        use, again, four, sweep = (
            gr.Button(T(name), size="sm", min_width=120, interactive=name != "use", elem_id=f"lr-{name}")
            for name in ("use", "again", "four", "sweep")
        )
    with gr.Accordion(T("numbers"), open=True, elem_id="lr-numbers"):
        table = local(html(first_sight.table_html("en")), first_sight.table_html)
    gallery = gr.Gallery(
        label=T("history"),
        columns=6,
        rows=1,
        height="auto",
        allow_preview=False,
        object_fit="cover",
        visible=False,
        elem_id="lr-history",
        buttons=[],
        interactive=False,
    )
    widgets = RunWidgets(
        run_id=gr.State(),
        viewer=picture_view,
        panel=status,
        table=table,
        picture=picture,
        latents=latents,
        comfyui=comfyui,
        story=story,
        start=start,
        stop=stop,
        use=use,
        again=again,
        four=four,
        sweep=sweep,
        finish=finish,
        gallery=gallery,
        # Ids only; without a secret of its own the list would not outlive a restart of the app.
        ids=gr.BrowserState([], storage_key="latent-relay-history", secret="latent-relay"),
    )
    return widgets, FinishWidgets(finish_mode, finish_button, leaves)
