"""The first tab: a picture and a sentence in, a picture out, with what each stage cost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from backend.errors import Cancelled, LatentRelayError
from backend.job import SCHEDULERS, Result, StageDone, StageStarted, Step, Waiting
from backend.models import ModelSpec, find_model
from backend.studio import Studio
from ui.form import AS_ABOVE, Form, Values
from ui.pictures import data_uri, file_url
from ui.recipe import save_png
from ui.render import Progress, cost_table, panel, seconds
from ui.runs import Run, Runs
from ui.text import T, locale_of, say
from ui.theme import ASSETS
from ui.widgets import html, mode_choices, model_choices, own_mode_choices, picture_input, shows, viewer

logger = logging.getLogger(__name__)

EXAMPLES = (
    ("mountains", "mountains with snow and a river, oil painting"),
    ("sea", "a boat on the sea at sunset"),
    ("castle", "a castle on a green hill, fantasy painting"),
)
_BEFORE_PAINTING, _AFTER_PAINTING = 0.08, 0.92
"""Where painting begins and ends on the progress line; encode and decode take the ends."""


@dataclass(frozen=True)
class View:
    """The widgets that a run writes to."""

    run_id: gr.State
    viewer: gr.HTML
    panel: gr.HTML
    table: gr.HTML
    picture: gr.DownloadButton
    latents: gr.DownloadButton
    paint: gr.Button
    stop: gr.Button

    def widgets(self) -> list[Component]:
        return list(vars(self).values())


def build(studio: Studio, runs: Runs) -> Callable[[], None]:
    """Lay out the tab; gives a function that wires it, to be called once everything exists."""
    spec, why = studio.default_model()
    with gr.Row(equal_height=False, elem_classes="lr-columns"):
        with gr.Column(scale=5, min_width=320, elem_classes="lr-form"):
            form, model_line, examples, paint, stop = _form(spec, why)
        with gr.Column(scale=6, min_width=320, elem_classes="lr-result"):
            view = View(
                run_id=gr.State(),
                viewer=viewer("lr-viewer"),
                panel=html(panel(Progress(say("en", "state_idle")), "en"), elem_id="lr-panel"),
                **_downloads(),
                table=_numbers(),
                paint=paint,
                stop=stop,
            )
    return lambda: _wire(studio, runs, form, view, model_line, examples)


def _downloads() -> dict[str, gr.DownloadButton]:
    with gr.Row(elem_classes="lr-downloads"):
        return {
            "picture": gr.DownloadButton(T("download_picture"), interactive=False, elem_id="lr-save-picture"),
            "latents": gr.DownloadButton(T("download_latents"), interactive=False, elem_id="lr-save-latents"),
        }


def _numbers() -> gr.HTML:
    with gr.Accordion(T("numbers"), open=True, elem_id="lr-numbers"):
        return html(cost_table((), "en"))


def _form(spec: ModelSpec, why: str) -> tuple[Form, gr.HTML, list[gr.Button], gr.Button, gr.Button]:
    image = picture_input(
        sources=["upload", "clipboard", "webcam"],
        label=T("step_picture"),
        placeholder="",
        height=300,
        elem_id="lr-picture",
        buttons=[],
    )
    with gr.Row(elem_classes="lr-examples", elem_id="lr-examples"):
        examples = [
            gr.Button(T(f"example_{name}"), icon=ASSETS / f"{name}.png", size="sm", min_width=80)
            for name, _ in EXAMPLES
        ]
    prompt = gr.Textbox(
        label=T("step_prompt"), placeholder=T("prompt_hint"), lines=2, max_lines=6, elem_id="lr-prompt"
    )
    with gr.Group(elem_classes="lr-change"):
        strength = gr.Slider(
            0, 1, spec.strength, step=0.05, label=T("step_change"), elem_id="lr-strength", buttons=[]
        )
        words = html(strength_words(spec.strength, spec.num_inference_steps, "en"), elem_id="lr-words")
    with gr.Row(elem_classes="lr-go"):
        paint = gr.Button(T("paint"), variant="primary", size="lg", scale=4, elem_id="lr-paint")
        stop = gr.Button(
            T("stop"), variant="stop", size="lg", scale=1, min_width=90, interactive=False, elem_id="lr-stop"
        )
    with gr.Group(elem_classes="lr-who"):
        model = gr.Dropdown(
            model_choices(), value=spec.name, label=T("model"), filterable=False, elem_id="lr-model"
        )
        model_line = html(_model_line(why), elem_id="lr-model-line")
    mode = gr.Radio(
        mode_choices(),
        value="auto",
        label=T("where"),
        info=T("where_info"),
        elem_id="lr-mode",
        elem_classes="lr-list",
    )
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
                [(T("scheduler_default"), "default"), *((name, name) for name in SCHEDULERS)],
                value="default",
                label=T("scheduler"),
                elem_id="lr-scheduler",
                filterable=False,
            )
        with gr.Row():
            width = gr.Number(0, label=T("width"), info=T("size_info"), precision=0, elem_id="lr-width")
            height = gr.Number(0, label=T("height"), info=T("size_info"), precision=0, elem_id="lr-height")
        fit = gr.Radio(
            [(T("fit_crop"), "crop"), (T("fit_fit"), "fit"), (T("fit_stretch"), "stretch")],
            value="crop",
            label=T("fit"),
            elem_id="lr-fit",
        )
        with gr.Row():
            tile_size = gr.Slider(
                64, 1024, 512, step=64, label=T("tile_size"), elem_id="lr-tile-size", buttons=[]
            )
            tile_overlap = gr.Slider(
                0, 256, 128, step=16, label=T("tile_overlap"), elem_id="lr-tile-overlap", buttons=[]
            )
        with gr.Row():
            encode_mode = gr.Dropdown(
                own_mode_choices(),
                value=AS_ABOVE,
                label=T("encode_where"),
                filterable=False,
                elem_id="lr-encode-mode",
            )
            decode_mode = gr.Dropdown(
                own_mode_choices(),
                value=AS_ABOVE,
                label=T("decode_where"),
                filterable=False,
                elem_id="lr-decode-mode",
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
    )

    def tell(strength: float, steps: float, request: gr.Request) -> str:
        return strength_words(strength, int(steps), locale_of(request))

    gr.on(
        [strength.change, steps.change],
        tell,
        [strength, steps],
        words,
        queue=False,
        show_progress="hidden",
        trigger_mode="always_last",
        api_visibility="private",
    )
    return form, model_line, examples, paint, stop


def _model_line(sentence: str) -> str:
    from html import escape

    return f'<p class="lr-note">{escape(sentence)}</p>'


def strength_words(strength: float, steps: int, locale: str) -> str:
    """The strength in words, and the number of steps it really means."""
    level = sum(strength > limit for limit in (0.0, 0.35, 0.65, 0.85))
    count = min(int(steps * strength), steps)
    sum_ = say(locale, "strength_steps", strength=f"{strength:g}", steps=steps, count=count)
    return f'<p class="lr-words"><span>{say(locale, f"strength_{level}")}</span><small>{sum_}</small></p>'


def _wire(
    studio: Studio,
    runs: Runs,
    form: Form,
    view: View,
    model_line: gr.HTML,
    examples: list[gr.Button],
) -> None:
    def paint(data: Mapping[Component, Any], request: gr.Request) -> Iterator[dict[Component, Any]]:
        yield from follow(studio, runs, form.read(data), view, locale_of(request))

    gr.on(
        [view.paint.click, form.prompt.submit],
        paint,
        form.widgets(),
        view.widgets(),
        show_progress="hidden",
        concurrency_limit=16,  # the backend gives turns on the device and says who waits
        trigger_mode="once",
        api_visibility="private",
    )
    view.stop.click(
        runs.stop, view.run_id, None, queue=False, show_progress="hidden", api_visibility="private"
    )

    def take_defaults(name: str) -> dict[Component, Any]:
        spec = find_model(name)
        return {
            form.strength: spec.strength,
            form.steps: spec.num_inference_steps,
            form.guidance: spec.guidance_scale,
            model_line: _model_line(spec.plain),
        }

    form.model.input(
        take_defaults,
        form.model,
        [form.strength, form.steps, form.guidance, model_line],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
    for button, (name, words) in zip(examples, EXAMPLES, strict=True):
        button.click(
            lambda name=name, words=words: (str(ASSETS / f"{name}.png"), words),
            None,
            [form.image, form.prompt],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )


def follow(
    studio: Studio, runs: Runs, values: Values, view: View, locale: str
) -> Iterator[dict[Component, Any]]:
    """Run the job and say, event by event, what changes on the page. Inputs are never touched."""
    run = runs.start()
    progress = Progress(say(locale, "state_starting"), running=True)
    picture = None
    try:
        picture = values.picture(locale)
        before = run.folder / "before.png"
        picture.save(before)
        seen = {"before": file_url(before), "prompt": values.prompt}
        yield {
            view.run_id: run.id,
            view.viewer: shows(locale, **seen),
            view.panel: panel(progress, locale),
            view.table: cost_table((), locale),
            view.picture: gr.update(value=None, interactive=False),
            view.latents: gr.update(value=None, interactive=False),
            view.paint: gr.update(interactive=False),
            view.stop: gr.update(interactive=True),
        }
        events = studio.img2img(values.job(picture), run.stop)
        spec = find_model(values.model)
        try:
            for event in events:
                changes: dict[Component, Any] = {}
                if isinstance(event, Step) and event.preview is not None:
                    changes[view.viewer] = shows(locale, after=data_uri(event.preview), running=True, **seen)
                if isinstance(event, StageDone):
                    run.reports.append(event.report)
                    changes[view.table] = cost_table(run.reports, locale)
                    if event.latents is not None:
                        run.keep_latents(event.latents, spec, event.report.stage)
                if isinstance(event, Result):
                    changes |= _finished(run, event, view, locale, seen)
                progress = advance(progress, event, locale)
                changes[view.panel] = panel(progress, locale)
                yield changes
        finally:
            events.close()
    except Cancelled:
        yield _over(run, view, replace(progress, message=say(locale, "state_stopped")), locale)
    except LatentRelayError as error:
        yield _over(
            run, view, replace(progress, message=error.sentence, failed=progress.active, tone="bad"), locale
        )
        raise gr.Error(error.sentence, print_exception=False) from error
    except Exception as error:
        logger.exception("A run failed in a way that no error of ours describes")
        sentence = say(locale, "unexpected")
        yield _over(
            run, view, replace(progress, message=sentence, failed=progress.active, tone="bad"), locale
        )
        raise gr.Error(sentence, print_exception=False) from error
    else:
        yield {view.paint: gr.update(interactive=True), view.stop: gr.update(interactive=False)}
    finally:
        runs.finish(run)


def _finished(
    run: Run, result: Result, view: View, locale: str, seen: dict[str, str]
) -> dict[Component, Any]:
    path = run.folder / f"latent-relay-{result.recipe['seed']}.png"
    save_png(path, result.image, result.recipe, result.reports)
    return {
        view.viewer: shows(locale, after=file_url(path), **seen),
        view.picture: gr.update(value=str(path), interactive=True),
        view.latents: gr.update(value=str(run.latents), interactive=True),
    }


def _over(run: Run, view: View, progress: Progress, locale: str) -> dict[Component, Any]:
    """The page after a run that gave no picture: reports and latents stay, the form is free again."""
    kept: Path | None = run.latents
    return {
        view.panel: panel(replace(progress, running=False), locale),
        view.table: cost_table(run.reports, locale),
        view.latents: gr.update(value=str(kept) if kept else None, interactive=kept is not None),
        view.paint: gr.update(interactive=True),
        view.stop: gr.update(interactive=False),
    }


def advance(progress: Progress, event: object, locale: str) -> Progress:
    """The progress after one more event."""
    match event:
        case Waiting(message):
            return replace(progress, message=message)
        case StageStarted(stage, mode, _, where):
            fraction = {"encode": 0.02, "denoise": _BEFORE_PAINTING, "decode": _AFTER_PAINTING}[stage]
            place = f"{say(locale, f'mode_name_{mode}')} · {where}"
            message = say(locale, f"state_{stage}", where=place)
            return replace(progress, message=message, fraction=fraction, active=stage, where=place, mode=mode)
        case Step(step, steps, _, left):
            message = say(locale, "state_step", step=step, steps=steps)
            if left is not None and left >= 1:
                message += f" · {say(locale, 'state_left', left=seconds(left))}"
            fraction = _BEFORE_PAINTING + (_AFTER_PAINTING - _BEFORE_PAINTING) * step / steps
            return replace(progress, message=message, fraction=fraction)
        case StageDone(report):
            return replace(progress, reports=(*progress.reports, report), active=None)
        case Result(reports=reports):
            total = sum(report.cost.seconds for report in reports)
            message = say(locale, "state_done", seconds=seconds(total))
            return replace(progress, message=message, fraction=1.0, running=False, active=None)
    return progress
