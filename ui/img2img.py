"""The first tab: a picture and a sentence in, a picture out, with what each stage cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import gradio as gr
from gradio.components import Component

from backend import families
from backend.errors import LatentRelayError
from backend.job import MAX_SEED
from backend.models import MODELS, ModelSpec, find_model
from backend.studio import Studio
from ui import cut, estimate, history, light
from ui.explain import explain
from ui.form import AS_ABOVE, Form, Values, clean, shareable
from ui.looks import EXAMPLES, LOOKS, example_of, with_look
from ui.pictures import file_url
from ui.recipe import settings_in, settings_of
from ui.render import Progress, cost_table, panel, story
from ui.running import Bench, Changes, View, finish_another_way, follow, follow_series, with_seed
from ui.runs import Runs
from ui.text import T, locale_of, say, say_message, translated
from ui.theme import ASSETS
from ui.user_endpoints import UserEndpoints
from ui.widgets import (
    Place,
    failure,
    html,
    local,
    mode_choices,
    mode_name_choices,
    model_choices,
    own_mode_choices,
    picture_input,
    quiet,
    scheduler_choices,
    shows,
    transfer_input,
    viewer,
)

SWEEP = (0.3, 0.5, 0.7, 0.9)
"""The strengths that a sweep tries."""
_TO_CLIPBOARD = """(query) => {
  const link = location.origin + location.pathname + query;
  if (navigator.clipboard) navigator.clipboard.writeText(link).catch(() => {});
  return link;
}"""


@dataclass(frozen=True)
class Tab:
    """What the page and the other tabs need of this one."""

    form: Form
    view: View
    wire: Callable[[], None]
    model_line: Component
    why: str
    link: Component
    places: tuple[Place, ...]


def build(studio: Studio, runs: Runs, own: UserEndpoints) -> Tab:
    """Lay out the tab; `wire` connects it, to be called once everything exists."""
    spec, why = studio.default_model()
    with gr.Row(equal_height=False, elem_classes="lr-columns"):
        with gr.Column(scale=5, min_width=320, elem_classes="lr-form"):
            form, parts = _form(spec, why)
        with gr.Column(scale=6, min_width=320, elem_classes="lr-result"):
            view, after = _result(parts["paint"], parts["stop"])
    parts |= after

    def wire() -> None:
        _wire_running(studio, runs, own, form, view, parts)
        _wire_form(own, form, parts)
        _wire_results(runs, form, view)
        cut.wire(form, parts["cut_line"])
        _wire_light(studio, own, form, parts["remote_line"])
        estimate.wire(studio, form, own, parts["estimated"], view.table)

    places = (
        Place(form.mode, form.model, mode_choices),
        Place(form.encode_mode, form.model, own_mode_choices),
        Place(form.decode_mode, form.model, own_mode_choices),
        Place(parts["finish_mode"], form.model, mode_name_choices),
    )
    return Tab(form, view, wire, parts["model_line"], why, parts["link"], places)


# -- layout ----------------------------------------------------------------------------------------------------


def _form(spec: ModelSpec, why: str) -> tuple[Form, dict[str, Any]]:
    image = picture_input(
        sources=["upload", "clipboard", "webcam"],
        label=T("step_picture"),
        height=280,
        elem_id="lr-picture",
        buttons=[],
    )
    with gr.Row(elem_classes="lr-examples", elem_id="lr-examples"):
        examples = [
            gr.Button(T(f"example_{name}"), icon=ASSETS / f"{name}.png", size="sm", min_width=80)
            for name in EXAMPLES
        ]
    with gr.Group(elem_classes="lr-plain"):
        prompt = gr.Textbox(
            label=T("step_prompt"),
            placeholder=T("prompt_hint"),
            lines=2,
            max_lines=6,
            elem_id="lr-prompt",
            submit_btn=False,
        )
        with gr.Row(elem_classes="lr-looks", elem_id="lr-looks"):
            looks = [gr.Button(T(f"look_{name}"), size="sm", min_width=60, scale=0) for name in LOOKS]
    with gr.Group(elem_classes="lr-plain"):
        strength = gr.Slider(
            0, 1, spec.strength, step=0.05, label=T("step_change"), elem_id="lr-strength", buttons=[]
        )
        words = html(strength_words(spec, spec.strength, spec.num_inference_steps, "en"), elem_id="lr-words")
    with gr.Row(elem_classes="lr-go"):
        paint = gr.Button(T("paint"), variant="primary", size="lg", scale=4, elem_id="lr-paint")
        stop = gr.Button(
            T("stop"), variant="stop", size="lg", scale=1, min_width=90, interactive=False, elem_id="lr-stop"
        )
    estimated = html(estimate.line(), elem_id="lr-estimate")
    with gr.Column(elem_classes="lr-more"):
        with gr.Group(elem_classes="lr-plain"):
            model = gr.Dropdown(
                model_choices(), value=spec.name, label=T("model"), filterable=False, elem_id="lr-model"
            )
            model_line = html(note(str(why)), elem_id="lr-model-line")
            local(model_line, lambda locale: note(translated(why, locale)))
        with gr.Group(elem_classes="lr-plain"):
            mode = gr.Radio(
                mode_choices(spec),
                value="auto",
                label=T("where"),
                info=T("where_info"),
                elem_id="lr-mode",
                elem_classes="lr-list",
            )
            remote_line = html("", elem_id="lr-remote")
            explain("vae", "tiles", "leaves")
        with gr.Accordion(T("advanced"), open=False, elem_id="lr-advanced"):
            negative = gr.Textbox(
                label=T("negative_prompt"), placeholder=T("negative_hint"), elem_id="lr-negative"
            )
            with gr.Row():
                steps = gr.Slider(
                    1,
                    100,
                    spec.num_inference_steps,
                    step=1,
                    label=T("steps"),
                    info=T("steps_info"),
                    elem_id="lr-steps",
                    buttons=[],
                )
                guidance = gr.Slider(
                    0,
                    20,
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
            with gr.Row():
                width = gr.Number(0, label=T("width"), info=T("size_info"), precision=0, elem_id="lr-width")
                height = gr.Number(
                    0, label=T("height"), info=T("size_info"), precision=0, elem_id="lr-height"
                )
            fit = gr.Radio(
                [(T("fit_crop"), "crop"), (T("fit_fit"), "fit"), (T("fit_stretch"), "stretch")],
                value="crop",
                label=T("fit"),
                elem_id="lr-fit",
            )
            cut_line = cut.build()
            with gr.Row():
                tile_size = gr.Slider(
                    64, 1024, 512, step=64, label=T("tile_size"), elem_id="lr-tile-size", buttons=[]
                )
                tile_overlap = gr.Slider(
                    0, 256, 128, step=16, label=T("tile_overlap"), elem_id="lr-tile-overlap", buttons=[]
                )
            with gr.Row():
                encode_mode = gr.Dropdown(
                    own_mode_choices(spec),
                    value=AS_ABOVE,
                    label=T("encode_where"),
                    filterable=False,
                    elem_id="lr-encode-mode",
                )
                decode_mode = gr.Dropdown(
                    own_mode_choices(spec),
                    value=AS_ABOVE,
                    label=T("decode_where"),
                    filterable=False,
                    elem_id="lr-decode-mode",
                )
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
        negative_prompt=negative,
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
    parts = {
        "examples": examples,
        "looks": looks,
        "words": words,
        "paint": paint,
        "stop": stop,
        "estimated": estimated,
        "model_line": model_line,
        "remote_line": remote_line,
        "cut_line": cut_line,
        "make_link": make_link,
        "link": link,
    }
    return form, parts


def _result(paint: gr.Button, stop: gr.Button) -> tuple[View, dict[str, Any]]:
    picture_view = viewer("lr-viewer")
    status = html(panel(Progress(say("en", "state_idle")), "en"), elem_id="lr-panel")
    with gr.Row(visible=False, equal_height=True, elem_id="lr-finish", elem_classes="lr-finish") as finish:
        finish_mode = gr.Dropdown(
            mode_name_choices(),
            value="whole",
            label=T("finish_where"),
            filterable=False,
            elem_id="lr-finish-mode",
        )
        finish_button = gr.Button(T("finish_button"), variant="primary", elem_id="lr-finish-button")
    with gr.Row(elem_classes="lr-downloads"):
        picture = gr.DownloadButton(
            T("download_picture"), interactive=False, min_width=140, elem_id="lr-save-picture"
        )
        latents = gr.DownloadButton(
            T("download_latents"), interactive=False, min_width=140, elem_id="lr-save-latents"
        )
    with gr.Row(elem_classes="lr-next"):
        use, again, four, sweep = (
            gr.Button(T(name), size="sm", min_width=120, interactive=name != "use", elem_id=f"lr-{name}")
            for name in ("use", "again", "four", "sweep")
        )
    with gr.Accordion(T("numbers"), open=True, elem_id="lr-numbers"):
        table = html(cost_table((), "en"))
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
    view = View(
        run_id=gr.State(),
        viewer=picture_view,
        panel=status,
        table=table,
        picture=picture,
        latents=latents,
        paint=paint,
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
    return view, {"finish_mode": finish_mode, "finish_button": finish_button}


def note(sentence: str) -> str:
    return f'<p class="lr-note">{escape(sentence)}</p>'


def strength_words(spec: ModelSpec, strength: float, steps: int, locale: str) -> str:
    """The strength in words, and the number of steps it really means."""
    level = sum(strength > limit for limit in (0.0, 0.35, 0.7, 0.85))
    count = families.steps_to_run(spec, steps, strength)
    total = say(locale, "strength_steps", strength=f"{strength:g}", steps=steps, count=count)
    sentence = escape(say(locale, f"strength_{level}"))
    return f'<p class="lr-words"><span>{sentence}</span><small>{escape(total)}</small></p>'


# -- wiring ----------------------------------------------------------------------------------------------------


def _wire_running(
    studio: Studio, runs: Runs, own: UserEndpoints, form: Form, view: View, parts: dict[str, Any]
) -> None:
    def read(data: Mapping[Component, Any], request: gr.Request) -> Values:
        return replace(form.read(data), own=own.of(request.session_hash))

    def bench(data: Mapping[Component, Any], request: gr.Request) -> Bench:
        return Bench(studio, runs, view, locale_of(request), tuple(history.known(runs, data[view.ids])))

    def paint(data: Mapping[Component, Any], request: gr.Request) -> Iterator[Changes]:
        yield from follow(bench(data, request), read(data, request))

    def again(data: Mapping[Component, Any], request: gr.Request) -> Iterator[Changes]:
        values = with_seed(replace(read(data, request), seed=-1))
        yield {form.seed: values.seed}
        yield from follow(bench(data, request), values)

    def four(data: Mapping[Component, Any], request: gr.Request) -> Iterator[Changes]:
        first = with_seed(read(data, request))
        assert first.seed is not None
        series = [replace(first, seed=(first.seed + n) % (MAX_SEED + 1)) for n in range(4)]
        yield from follow_series(bench(data, request), series, lambda values: f"seed {values.seed}")

    def sweep(data: Mapping[Component, Any], request: gr.Request) -> Iterator[Changes]:
        first = with_seed(read(data, request))
        series = [replace(first, strength=strength) for strength in SWEEP]
        yield from follow_series(bench(data, request), series, lambda values: f"strength {values.strength:g}")

    def finish(data: Mapping[Component, Any], request: gr.Request) -> Iterator[Changes]:
        place = data[parts["finish_mode"]]
        mine = own.of(request.session_hash)
        yield from finish_another_way(bench(data, request), data[view.run_id], place, mine)

    everything = {*form.widgets(), view.ids}
    options = {
        "outputs": [*view.widgets(), form.seed],
        "show_progress": "hidden",
        "concurrency_limit": None,  # the studio's line has the limit, and says who waits
        "trigger_mode": "once",
        "api_visibility": "private",
    }
    gr.on([view.paint.click, form.prompt.submit], paint, everything, **options)
    view.again.click(again, everything, **options)
    view.four.click(four, everything, **options)
    view.sweep.click(sweep, everything, **options)
    parts["finish_button"].click(finish, {view.run_id, view.ids, parts["finish_mode"]}, **options)
    view.stop.click(runs.stop, view.run_id, None, **quiet())


def _wire_form(own: UserEndpoints, form: Form, parts: dict[str, Any]) -> None:
    def tell(model: str, strength: float, steps: float, request: gr.Request) -> str:
        return strength_words(find_model(model), strength or 0.0, int(steps or 1), locale_of(request))

    gr.on(
        [form.strength.change, form.steps.change],
        tell,
        [form.model, form.strength, form.steps],
        parts["words"],
        trigger_mode="always_last",
        **quiet(),
    )

    def take_defaults(name: str, mode: str, request: gr.Request) -> Changes:
        spec, locale, mine = find_model(name), locale_of(request), own.of(request.session_hash)
        modes = mode_choices(spec, mine, locale)
        return {
            form.strength: spec.strength,
            form.steps: spec.num_inference_steps,
            form.guidance: spec.guidance_scale,
            form.scheduler: gr.update(choices=scheduler_choices(spec), value="default"),
            form.mode: gr.update(choices=modes, value=mode if mode in {key for _, key in modes} else "auto"),
            form.encode_mode: gr.update(choices=own_mode_choices(spec, mine, locale), value=AS_ABOVE),
            form.decode_mode: gr.update(choices=own_mode_choices(spec, mine, locale), value=AS_ABOVE),
            parts["model_line"]: note(say_message(spec.plain, locale)),
        }

    changed = [
        form.strength,
        form.steps,
        form.guidance,
        form.scheduler,
        form.mode,
        form.encode_mode,
        form.decode_mode,
    ]
    form.model.input(take_defaults, [form.model, form.mode], [*changed, parts["model_line"]], **quiet())

    def show_example(name: str, model: str) -> Changes:
        example = example_of(model, name)
        settings = {"strength": example.strength, "steps": example.steps, "guidance": example.guidance}
        known = {key: value for key, value in settings.items() if value is not None}
        return form.shows({"prompt": example.prompt, **known}) | {form.image: str(ASSETS / f"{name}.png")}

    for button, name in zip(parts["examples"], EXAMPLES, strict=True):
        button.click(
            partial(show_example, name),
            form.model,
            [form.image, form.prompt, form.strength, form.steps, form.guidance],
            **quiet(),
        )
    for button, look in zip(parts["looks"], LOOKS, strict=True):
        button.click(
            lambda prompt, model, look=look: with_look(prompt, look, model),
            [form.prompt, form.model],
            form.prompt,
            **quiet(),
        )

    settings = sorted(form.widgets() - {form.image}, key=lambda widget: widget._id)

    def restore(path: str | None, request: gr.Request) -> Changes:
        """A picture that says how it was made brings its settings along."""
        found = settings_in(Path(path)) if path else {}
        if not found:
            return {form.prompt: gr.skip()}
        gr.Info(say(locale_of(request), "restored"))
        return form.shows(_fitting(found))

    form.image.upload(restore, form.image, settings, **quiet())

    def query(data: Mapping[Component, Any]) -> Changes:
        values = form.read({form.image: None, **data})
        standard = Values(None)
        told = {
            field.name: getattr(values, field.name)
            for field in fields(values)
            if field.name not in ("image", "own")
            and getattr(values, field.name) != getattr(standard, field.name)
        }
        return {parts["link"]: gr.update(value="?" + urlencode(shareable(told)), visible=True)}

    parts["make_link"].click(query, set(settings), [parts["link"]], **quiet()).then(
        None, parts["link"], parts["link"], js=_TO_CLIPBOARD, **quiet()
    )


def _fitting(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for the widgets' ranges, and for the model they name: not every model has every scheduler."""
    settings = dict(settings)
    if "steps" in settings:
        settings["steps"] = min(settings["steps"], 100)
    if "guidance" in settings:
        settings["guidance"] = min(settings["guidance"], 20)
    spec = MODELS.get(settings.get("model", "builtin"))
    if spec is not None and settings.get("scheduler", "default") not in spec.schedulers:
        settings["scheduler"] = "default"
    return settings


def from_link(form: Form, parameters: Mapping[str, str]) -> Changes:
    """What a link's query says about the form; a link may come from anyone, so the prompt is never run by itself."""
    return form.shows(_fitting(clean(dict(parameters))))


def _wire_light(studio: Studio, own: UserEndpoints, form: Form, shown: gr.HTML) -> None:
    """Ask a remote as soon as one is chosen, so that a wrong or sleeping one is known before the button."""

    def look(data: Mapping[Component, Any], request: gr.Request) -> Iterator[str]:
        locale = locale_of(request)
        values = replace(form.read({form.image: None, **data}), own=own.of(request.session_hash))
        try:
            stages = [("encode", values.vae("encode")), ("decode", values.vae("decode"))]
        except LatentRelayError as error:
            yield light.shown("red", error.sentence, locale)
            return
        yield from light.ask(studio, values.model, stages, locale)

    gr.on(
        [widget.change for widget in (form.mode, form.model, form.encode_mode, form.decode_mode)],
        look,
        form.widgets() - {form.image},
        shown,
        **light.EVENT,
    )


def _wire_results(runs: Runs, form: Form, view: View) -> None:
    def use(run_id: str) -> Changes:
        folder = runs.find(run_id or "")
        picture = history.picture_of(folder) if folder else None
        return {form.image: str(picture) if picture else gr.skip()}

    view.use.click(use, view.run_id, [form.image], **quiet())

    def recall(ids: list[str], chosen: gr.SelectData, request: gr.Request) -> Changes:
        """An earlier run, as it looked when it was done, and its settings in the form."""
        locale = locale_of(request)
        known = history.known(runs, ids)
        found = history.story_of(runs, known[chosen.index]) if chosen.index < len(known) else None
        if found is None:
            raise failure(say(locale, "history_gone"))
        folder, picture, told = found
        latents = folder / "denoise.safetensors"
        before = folder / "before.png"
        progress = Progress(story(told.reports, locale), 1.0, reports=told.reports)
        return {
            view.run_id: folder.name,
            view.viewer: shows(
                locale,
                before=file_url(before),
                after=file_url(picture),
                prompt=str(told.recipe.get("prompt", "")),
            ),
            view.panel: panel(progress, locale),
            view.table: cost_table(told.reports, locale),
            view.picture: gr.update(value=str(picture), interactive=True),
            view.latents: gr.update(
                value=str(latents) if latents.is_file() else None, interactive=latents.is_file()
            ),
            view.use: gr.update(interactive=True),
            view.finish: gr.update(visible=False),
            **form.shows(_fitting(settings_of(told.recipe))),
        }

    outputs = {*view.widgets(), *form.widgets()} - {form.image, view.ids, view.gallery}
    view.gallery.select(recall, view.ids, sorted(outputs, key=lambda widget: widget._id), **quiet())
