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

from backend.job import MAX_SEED
from ui import first_sight, form_events, history
from ui.form import Changes, Form, Values, clean, shareable, vae_options
from ui.img2img_layout import FinishWidgets, FormHelpers, form_column, model_note, result_column
from ui.leaving import of_tab
from ui.looks import EXAMPLES, LOOKS, example_of, with_look
from ui.pictures import file_url
from ui.recipe import settings_in, settings_of
from ui.recipe_formats import OURS, Restored
from ui.render import Progress, cost_table, panel, summary
from ui.run_view import RunContext, RunWidgets, offer, offer_comfyui, offer_story
from ui.running import finish_another_way, follow, follow_series, with_seed
from ui.tab import PageContext
from ui.text import locale_of, say
from ui.theme import ASSETS
from ui.user_endpoints import PREFIX
from ui.widgets import (
    VaeModeSelect,
    failure,
    mode_choices,
    mode_name_choices,
    mode_override_choices,
    quiet,
    shows,
)

SWEEP = (0.3, 0.5, 0.7, 0.9)
"""The strengths that a sweep tries."""
_TO_CLIPBOARD = """(query) => {
  const link = location.origin + location.pathname + query;
  if (navigator.clipboard) navigator.clipboard.writeText(link).catch(() => {});
  return link;
}"""

Data = Mapping[Component, Any]
"""The values of an event's inputs."""


@dataclass(frozen=True)
class Img2ImgTab:
    context: PageContext
    form: Form
    helpers: FormHelpers
    result: RunWidgets
    finish: FinishWidgets

    @property
    def mode_selects(self) -> tuple[VaeModeSelect, ...]:
        form = self.form
        return (
            VaeModeSelect(form.mode, form.model, mode_choices),
            VaeModeSelect(form.encode_mode, form.model, mode_override_choices),
            VaeModeSelect(form.decode_mode, form.model, mode_override_choices),
            VaeModeSelect(self.finish.mode, form.model, mode_name_choices),
        )

    def wire(self) -> None:
        studio, endpoints, helpers = self.context.studio, self.context.endpoints, self.helpers
        self._wire_runs()
        self._wire_form()
        self._wire_link()
        self._wire_results()
        wire = partial(form_events.wire, studio, endpoints, self.form)
        wire(form_events.UNDERSTOOD, helpers.understood)
        wire(form_events.STRENGTH, helpers.strength_words)
        wire(form_events.CROP, helpers.crop_preview)
        wire(form_events.REMOTE, helpers.remote_status)
        # A run teaches how long things take.
        wire(form_events.ESTIMATE, helpers.estimate, also=[self.result.table])
        helpers.pad.wire(self.context.runs)
        first_sight.wire(self.form.image, self.result)

    def from_link(self, parameters: Mapping[str, str], request: gr.Request) -> Changes:
        """What a link's query says about the form; it may come from anyone, so nothing is run."""
        return self._fill_in(clean(parameters, self.context.studio.models), self.form.model.value, request)

    def _fill_in(self, settings: Mapping[str, Any], model: str, request: gr.Request) -> Changes:
        """Settings, with their choices and the note on another model than `model`, the one in the form now."""
        studio, locale = self.context.studio, locale_of(request)
        endpoints = self.context.endpoints.of(request.session_hash)
        changes = self.form.update(settings, studio, endpoints, locale, model=model)
        name = settings.get("model", model)
        if "model" in settings:
            changes[self.helpers.filled_for] = name
        if name != model:
            changes[self.helpers.model_note] = model_note(studio.find_model(name).plain, locale)
        return changes

    def with_model(self, name: str, current: str, request: gr.Request) -> Changes:
        """Choose the model `name` in place of `current`, with its own settings."""
        return self._fill_in({"model": name}, current, request)

    @property
    def filled_in(self) -> list[Component]:
        """What `with_model` changes."""
        return self._filled_in

    @property
    def _filled_in(self) -> list[Component]:
        """What `_fill_in` changes."""
        return [*self.form.settings(), self.helpers.model_note, self.helpers.filled_for]

    # -- events ----------------------------------------------------------------------------------------------

    def _wire_runs(self) -> None:
        form, result, runs = self.form, self.result, self.context.runs
        studio, endpoints = self.context.studio, self.context.endpoints

        def read(data: Data, request: gr.Request) -> Values:
            return replace(form.read(data), endpoints=endpoints.of(request.session_hash))

        def context(data: Data, request: gr.Request) -> RunContext:
            return RunContext(studio, runs, result, locale_of(request), history.known(runs, data[result.ids]))

        def start(data: Data, request: gr.Request) -> Iterator[Changes]:
            yield from follow(context(data, request), read(data, request))

        def again(data: Data, request: gr.Request) -> Iterator[Changes]:
            values = with_seed(replace(read(data, request), seed=-1))
            yield {form.seed: values.seed}
            yield from follow(context(data, request), values)

        def four(data: Data, request: gr.Request) -> Iterator[Changes]:
            first = with_seed(read(data, request))
            assert first.seed is not None
            series = [replace(first, seed=(first.seed + n) % (MAX_SEED + 1)) for n in range(4)]
            yield from follow_series(context(data, request), series, lambda values: f"seed {values.seed}")

        def sweep(data: Data, request: gr.Request) -> Iterator[Changes]:
            first = with_seed(read(data, request))
            series = [replace(first, strength=strength) for strength in SWEEP]
            yield from follow_series(
                context(data, request), series, lambda values: f"strength {values.strength:g}"
            )

        def finish(data: Data, request: gr.Request) -> Iterator[Changes]:
            mode, known = data[self.finish.mode], endpoints.of(request.session_hash)
            yield from finish_another_way(context(data, request), data[result.run_id], mode, known)

        everything = {*form.widgets(), result.ids}
        options: dict[str, Any] = {
            "outputs": [*result.all(), form.seed],
            "show_progress": "hidden",
            "concurrency_limit": None,  # the studio's queue has the limit, and says who waits
            "trigger_mode": "once",
            "api_visibility": "private",
        }
        gr.on([result.start.click, form.prompt.submit], start, everything, **options)
        result.again.click(again, everything, **options)
        result.four.click(four, everything, **options)
        result.sweep.click(sweep, everything, **options)
        self.finish.button.click(finish, {result.run_id, result.ids, self.finish.mode}, **options)
        result.stop.click(runs.stop, result.run_id, None, **quiet())

    def _wire_form(self) -> None:
        """What fills the form in: another model, an example, a look, a picture that says how it was made."""
        form, helpers, studio = self.form, self.helpers, self.context.studio

        def take_defaults(model: str, filled_for: str, mode: str, request: gr.Request) -> Changes:
            """Another model brings its own settings; the mode stays, if it has that."""
            if model == filled_for:
                return {form.model: gr.skip()}
            changes = self._fill_in({"model": model}, filled_for, request)
            del changes[form.model]  # which the visitor has just chosen
            select, endpoints = self.mode_selects[0], self.context.endpoints.of(request.session_hash)
            chosen = {form.model: model, form.mode: mode}
            return changes | select.update(studio, chosen, endpoints, locale_of(request))

        # Gradio tells of an input whenever a list is left, also by who walks past it with the Tab key.
        form.model.input(
            take_defaults, [form.model, helpers.filled_for, form.mode], self._filled_in, **quiet()
        )

        def show_example(name: str) -> Callable[[str, gr.Request], Changes]:
            def show(model: str, request: gr.Request) -> Changes:
                example = vars(example_of(model, name, locale_of(request))).items()
                settings = {setting: value for setting, value in example if value is not None}
                changes = form.update(settings, studio, {}, "en", model=model)  # no choices in any language
                return changes | {form.image: str(ASSETS / f"{name}.png")}

            return show

        shown = [form.image, form.prompt, form.strength, form.steps, form.guidance]
        for button, name in zip(helpers.examples, EXAMPLES, strict=True):
            button.click(show_example(name), form.model, shown, **quiet())
        for button, look in zip(helpers.looks, LOOKS, strict=True):
            button.click(
                lambda prompt, model, look=look: with_look(prompt, look, model),
                [form.prompt, form.model],
                form.prompt,
                **quiet(),
            )

        def restore(path: str | None, model: str, request: gr.Request) -> Changes:
            found = settings_in(Path(path), studio.models) if path else None
            if found is None:
                return {form.prompt: gr.skip()}
            gr.Info(escape(restored_sentence(found, locale_of(request)), quote=False))
            return self._fill_in(found.settings, model, request)

        # Queued, since Gradio drops what an event without a queue wants to be told.
        form.image.upload(
            restore,
            [form.image, form.model],
            self._filled_in,
            show_progress="hidden",
            concurrency_limit=None,
            api_visibility="private",
        )

    def _wire_link(self) -> None:
        """A link has what differs from the usual values, and always the model: another page may open with another."""
        form, link = self.form, self.helpers.link
        usual = replace(Values(None), model="")

        def query(data: Data) -> Changes:
            values = form.read(data)
            differing = {
                field.name: value
                for field in fields(values)
                if field.name not in ("image", "endpoints")
                and (value := getattr(values, field.name)) != getattr(usual, field.name)
            }
            return {link: gr.update(value="?" + urlencode(shareable(differing)), visible=True)}

        self.helpers.make_link.click(query, set(form.settings()), [link], **quiet()).then(
            None, link, link, js=_TO_CLIPBOARD, **quiet()
        )

    def _wire_results(self) -> None:
        form, result, runs = self.form, self.result, self.context.runs

        def use(run_id: str) -> Changes:
            folder = runs.find(run_id or "")
            picture = history.picture_of(folder) if folder else None
            return {form.image: str(picture) if picture else gr.skip()}

        result.use.click(use, result.run_id, [form.image], **quiet())

        def leaves(run_id: str, mode: str, request: gr.Request) -> str:
            """What finishing the run in that mode would send away."""
            folder, known = runs.find(run_id or ""), self.context.endpoints.of(request.session_hash)
            latents = folder / "denoise.safetensors" if folder else None
            if latents is None or not latents.is_file() or (mode.startswith(PREFIX) and mode not in known):
                return ""
            options = vae_options(mode, endpoints=known)
            return of_tab(self.context.studio, None, options, None, str(latents), locale_of(request))

        finish = self.finish
        finish.mode.change(leaves, [result.run_id, finish.mode], finish.leaves, **quiet())

        def recall(data: Data, chosen: gr.SelectData, request: gr.Request) -> Changes:
            """An earlier run, as it looked when it was done, and its settings in the form."""
            locale = locale_of(request)
            known = history.known(runs, data[result.ids])
            found = history.earlier_run(runs, known[chosen.index]) if chosen.index < len(known) else None
            if found is None:
                raise failure(say(locale, "history_gone"))
            folder, picture, metadata = found
            recipe, reports = metadata.recipe, metadata.reports
            latents = folder / "denoise.safetensors"
            progress = Progress(summary(reports, locale), 1.0, reports=reports)
            return {
                result.run_id: folder.name,
                result.viewer: shows(
                    locale,
                    before=file_url(folder / "before.png"),
                    after=file_url(picture),
                    prompt=str(recipe.get("prompt", "")),
                ),
                result.panel: panel(progress, locale),
                result.table: cost_table(reports, locale),
                result.picture: offer(picture),
                result.latents: offer(latents if latents.is_file() else None),
                result.comfyui: offer_comfyui(latents),
                result.story: offer_story(folder.name),
                result.use: gr.update(interactive=True),
                result.finish: gr.update(visible=False),
                **self._fill_in(settings_of(recipe, self.context.studio.models), data[form.model], request),
            }

        outputs = [widget for widget in result.all() if widget not in (result.ids, result.gallery)]
        result.gallery.select(recall, {result.ids, form.model}, [*outputs, *self._filled_in], **quiet())


def restored_sentence(found: Restored, locale: str) -> str:
    """What became of the settings that a picture brought along."""
    if found.program == OURS:
        return say(locale, "restored")
    sentence = say(locale, "restored_from", program=found.program)
    return f"{sentence} {say(locale, 'restored_model', model=found.model)}" if found.model else sentence


def build(context: PageContext) -> Img2ImgTab:
    """Lay out the tab; its `wire` connects it, once everything exists."""
    spec, why = context.studio.default_model()
    with gr.Row(equal_height=False, elem_classes="lr-columns"):
        with gr.Column(scale=5, min_width=320, elem_classes="lr-form"):
            form, helpers = form_column(context.studio, spec, why)
        with gr.Column(scale=6, min_width=320, elem_classes="lr-result"):
            result, finish = result_column(helpers.start, helpers.stop)
    return Img2ImgTab(context, form, helpers, result, finish)
