"""One run as the page shows it: `RunView.apply(event)` gives what changes.

Nothing here loops or waits; `ui.running` feeds it with events.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image

from backend.errors import Cancelled, LatentRelayError
from backend.events import Downloading, Event, Failed, Result, StageDone, StageStarted, Step, Waiting
from backend.job import Job
from backend.latents import COMFYUI_SUFFIX
from backend.models import ModelSpec
from backend.studio import Studio
from backend.units import seconds, size
from ui import history
from ui.form import Changes
from ui.pictures import data_uri, file_url
from ui.recipe import save_png
from ui.render import Progress, cost_table, panel, summary
from ui.runs import Run, Runs
from ui.story import story_url
from ui.text import say, say_message
from ui.widgets import failure, shows

logger = logging.getLogger(__name__)

_DENOISE_BEGINS, _DENOISE_ENDS = 0.08, 0.92
"""Fractions of the whole run; encode and decode take the ends."""


@dataclass(frozen=True)
class RunWidgets:
    """The widgets that a run writes to."""

    run_id: Component
    viewer: Component
    panel: Component
    table: Component
    picture: Component
    latents: Component
    comfyui: Component
    """The same latents for ComfyUI."""
    story: Component
    start: Component
    stop: Component
    use: Component
    again: Component
    four: Component
    sweep: Component
    finish: Component
    """The row that offers to finish a failed run another way."""
    gallery: Component
    ids: Component
    """The ids of this visitor's runs, newest first; the browser keeps them."""

    def all(self) -> list[Component]:
        return list(vars(self).values())

    def busy(self, now: bool) -> Changes:
        """The buttons while a run goes on, and when it is over."""
        starting = (self.start, self.again, self.four, self.sweep)
        return {
            self.stop: gr.update(interactive=now),
            **{button: gr.update(interactive=not now) for button in starting},
        }


@dataclass(frozen=True)
class RunContext:
    """What the runs that one press of a button starts have in common."""

    studio: Studio
    runs: Runs
    widgets: RunWidgets
    locale: str
    ids: list[str] = field(default_factory=list)
    """The visitor's runs, newest first; a finished one is put in front."""


class RunView:
    """The state of one run: what came of it so far, and how far it is.

    `apply` also keeps what an event brings in the run's folder, so that a later failure loses nothing.
    """

    def __init__(self, context: RunContext, run: Run) -> None:
        """`run` may be one that goes on: what it reported before is still shown."""
        self.context = context
        self.run = run
        reports = tuple(run.reports)
        self.progress = Progress(say(context.locale, "state_starting"), reports=reports, running=True)
        self.error: gr.Error | None = None
        """What to raise when all is over, after a failure."""
        self._spec: ModelSpec | None = None
        self._input: dict[str, str] = {}
        """The picture before and the prompt, for the viewer."""

    def begin(self, job: Job) -> Changes:
        """Keep what the run starts from, and clear what an earlier one showed.

        Raises:
            LatentRelayError: settings that make no sense.
        """
        widgets, locale, run = self.context.widgets, self.context.locale, self.run
        self._spec = self.context.studio.find_model(job.model)
        before = run.keep("before.png", job.image.save)
        recipe = json.dumps(self.context.studio.resolve(job).recipe())
        run.keep("recipe.json", lambda path: path.write_text(recipe, encoding="utf-8"))
        self._input = {"before": file_url(before) if before else data_uri(job.image), "prompt": job.prompt}
        return {
            widgets.run_id: run.id,
            widgets.viewer: shows(locale, **self._input),
            widgets.panel: panel(self.progress, locale),
            widgets.table: cost_table((), locale),
            widgets.picture: offer(None),
            widgets.latents: offer(None),
            widgets.comfyui: offer(None),
            widgets.story: offer_story(None),
            widgets.use: gr.update(interactive=False),
            widgets.finish: gr.update(visible=False),
        }

    def resume(self, prompt: str) -> None:
        """In place of `begin`, for a run that goes on: the page still shows it."""
        self._input = {"before": file_url(self.run.folder / "before.png"), "prompt": prompt}

    def apply(self, event: Event | Failed) -> Changes:
        """What the event changes on the page, but for the buttons that start and stop runs."""
        if isinstance(event, Failed):
            return self.fail(event.error)
        widgets, locale, run = self.context.widgets, self.context.locale, self.run
        self.progress = advance(self.progress, event, locale)
        changes: Changes = {}
        match event:
            case Step(preview=Image.Image() as preview):
                changes[widgets.viewer] = shows(locale, after=data_uri(preview), running=True, **self._input)
            case StageDone(report, latents):
                run.reports.append(report)
                changes[widgets.table] = cost_table(run.reports, locale)
                if latents is not None and self._spec is not None:
                    run.keep_latents(latents, self._spec, report.stage)
            case Result(image=image, recipe=recipe):
                changes |= self._finish(image, recipe)
                if run.disk_full:
                    message = f"{self.progress.message} {say(locale, 'disk_full')}"
                    self.progress = replace(self.progress, message=message, tone="bad")
        return changes | {widgets.panel: panel(self.progress, locale)}

    def fail(self, error: Exception) -> Changes:
        """The page after a run that gave no picture: reports and latents stay, and can be used."""
        widgets, locale, run = self.context.widgets, self.context.locale, self.run
        if isinstance(error, Cancelled):
            self.progress = replace(self.progress, message=say(locale, "state_stopped"))
        else:
            if isinstance(error, gr.Error):  # ZeroGPU's, on a quota that is used up
                self.error, sentence = error, str(error.message)
            else:
                self.error, sentence = self._described(error)
            failed = self.progress.active
            self.progress = replace(self.progress, message=sentence, failed=failed, tone="bad")
        self.progress = replace(self.progress, running=False)
        denoised = any(report.stage == "denoise" for report in run.reports)
        return {
            widgets.panel: panel(self.progress, locale),
            widgets.table: cost_table(run.reports, locale),
            widgets.latents: offer(run.latents),
            widgets.comfyui: offer_comfyui(run.latents),
            widgets.finish: gr.update(visible=denoised and run.latents is not None),
        }

    def _described(self, error: Exception) -> tuple[gr.Error, str]:
        locale = self.context.locale
        if isinstance(error, LatentRelayError):
            sentence = say_message(error.full_message, locale)
        else:
            logger.error("A run failed in a way that no error of ours describes", exc_info=error)
            sentence = say(locale, "unexpected")
        return failure(sentence), sentence

    def _finish(self, image: Image.Image, recipe: dict[str, Any]) -> Changes:
        """Save the picture with its recipe, show it, put it into the history. On a full disk it is only shown."""
        context, widgets, locale, run = self.context, self.context.widgets, self.context.locale, self.run
        run.picture = run.keep(
            f"latent-relay-{recipe['seed']}.png", lambda path: save_png(path, image, recipe, run.reports)
        )
        changes = {
            widgets.latents: offer(run.latents),
            widgets.comfyui: offer_comfyui(run.latents),
            widgets.finish: gr.update(visible=False),
        }
        if run.picture is None:
            after = data_uri(image, quality=95)
            return changes | {widgets.viewer: shows(locale, after=after, **self._input)}
        run.keep(history.THUMBNAIL, lambda path: history.save_thumbnail(path, image))
        ids = [run.id, *(known for known in context.ids if known != run.id)][: history.KEEP]
        context.ids[:] = ids
        return changes | {
            widgets.viewer: shows(locale, after=file_url(run.picture), **self._input),
            widgets.picture: offer(run.picture),
            widgets.story: offer_story(run.id),
            widgets.use: gr.update(interactive=True),
            widgets.ids: ids,
            widgets.gallery: history.gallery(context.runs, ids),
        }


def offer(path: Path | None) -> Any:
    """A download button's state: with a file behind it, or grey."""
    return gr.update(value=str(path) if path else None, interactive=path is not None)


def offer_comfyui(latents: Path | None) -> Any:
    """As `offer`, for the file that lies beside a latents file."""
    path = latents and latents.with_suffix(COMFYUI_SUFFIX)
    return offer(path if path and path.is_file() else None)


def offer_story(run_id: str | None) -> Any:
    """The story button's state: it leads to the story of a finished run, which is drawn then, or is grey."""
    return gr.update(link=story_url(run_id) if run_id else None, interactive=run_id is not None)


def advance(progress: Progress, event: Event, locale: str) -> Progress:
    """The progress after one more event."""
    match event:
        case Waiting(message):
            return replace(progress, message=say_message(message, locale))
        case Downloading(title, done, total, left):
            message = say(locale, "state_download", title=title, done=size(done), total=size(total))
            message += _time_left(left, locale)
            return replace(progress, message=message, fraction=done / total if total else 0.0)
        case StageStarted(stage, mode, _, where):
            fraction = {"encode": 0.02, "denoise": _DENOISE_BEGINS, "decode": _DENOISE_ENDS}[stage]
            place = " · ".join(filter(None, (say(locale, f"mode_name_{mode}"), say_message(where, locale))))
            message = say(locale, f"state_{stage}", where=place)
            return replace(progress, message=message, fraction=fraction, active=stage, where=place)
        case Step(step, steps, _, left):
            message = say(locale, "state_step", step=step, steps=steps)
            message += _time_left(left if left is not None and left >= 1 else None, locale)
            fraction = _DENOISE_BEGINS + (_DENOISE_ENDS - _DENOISE_BEGINS) * step / steps
            return replace(progress, message=message, fraction=fraction)
        case StageDone(report):
            return replace(progress, reports=(*progress.reports, report), active=None)
        case Result(reports=reports):
            return replace(
                progress, message=summary(reports, locale), fraction=1.0, running=False, active=None
            )
    return progress


def _time_left(left: float | None, locale: str) -> str:
    return "" if left is None else f" · {say(locale, 'state_left', left=seconds(left))}"
