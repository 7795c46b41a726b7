"""Runs that a button starts: one picture, a series of them, or a decode done over.

Each is a generator of changes to the page. Inputs are never touched, and what was finished stays, whatever happens;
closing the generator stops the run.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

import gradio as gr

from backend.errors import BadLatentsError, Cancelled, LatentRelayError
from backend.events import Event, Failed, Result, StageDone, StageStarted
from backend.job import MAX_SEED, UserEndpoint
from backend.latents import load_latents
from backend.message import Message, literal
from backend.run.stream import HEARTBEAT_SECONDS, stream
from ui.contact_sheet import contact_sheet
from ui.form import Changes, Values, vae_options
from ui.pictures import data_uri, file_url
from ui.run_view import RunContext, RunView, offer
from ui.text import say
from ui.widgets import failure, shows

Steps = Generator[Changes, None, None]


def with_seed(values: Values) -> Values:
    """A random seed is drawn here, so that the recipe is known before anything runs."""
    if values.seed in (None, -1):
        return replace(values, seed=secrets.randbelow(MAX_SEED + 1))
    return values


def follow(context: RunContext, values: Values) -> Steps:
    """Run one job."""
    view = RunView(context, context.runs.start())

    def steps() -> Steps:
        seeded, studio = with_seed(values), context.studio
        job = seeded.job(seeded.picture(studio.find_model(seeded.model), context.locale))
        yield view.begin(job)
        with closing(studio.img2img(job, view.run.stop, HEARTBEAT_SECONDS)) as events:
            for event in events:
                yield _nothing(context) if event is None else view.apply(event)

    yield from _framed(view, steps())


def finish_another_way(
    context: RunContext, run_id: str | None, mode: str, endpoints: Mapping[str, UserEndpoint] | None = None
) -> Steps:
    """Decode the latents of a run that denoised but could not finish, in another mode."""
    run = context.runs.resume(run_id)
    if run is None:
        raise failure(say(context.locale, "nothing_to_finish"))
    view = RunView(context, run)

    def steps() -> Steps:
        try:
            recipe = json.loads((run.folder / "recipe.json").read_text(encoding="utf-8"))
            sizes = recipe["tile_size"], recipe["tile_overlap"]
            options = vae_options(mode, *sizes, recipe["transfer"], endpoints)
            view.resume(recipe["prompt"])
            latents = run.folder / "denoise.safetensors"
            latents.stat()  # so that a missing file is an OSError
            file = load_latents(latents, context.studio.models)
        except (OSError, ValueError, KeyError) as error:
            raise BadLatentsError(literal(say(context.locale, "nothing_to_finish"))) from error
        yield view.apply(StageStarted("decode", options.mode, Message(""), Message("")))

        def work(stop: threading.Event, notify: Callable[[Event], None]) -> None:
            before = tuple(run.reports)
            image, report = context.studio.decode(file.latents, file.model, options, stop)
            notify(StageDone(report))
            recipe["decode_mode"] = options.mode
            notify(Result(image, file.latents, (*before, report), recipe))

        with closing(stream(work, run.stop, HEARTBEAT_SECONDS)) as events:
            for event in events:
                yield _nothing(context) if event is None else view.apply(event)

    yield from _framed(view, steps())


def _nothing(context: RunContext) -> Changes:
    """A change that changes nothing."""
    return {context.widgets.panel: gr.skip()}


def _framed(view: RunView, steps: Steps) -> Steps:
    """The changes of one run, with the buttons waiting meanwhile, and its failure as the page shows one."""
    context, busy = view.context, view.context.widgets.busy
    try:
        yield next(steps) | busy(True)
        yield from steps
    except Exception as error:
        yield view.fail(error) | busy(False)
        if view.error is not None:
            raise view.error from error
        return
    finally:
        steps.close()
        context.runs.finish(view.run)
    yield busy(False)


def follow_series(context: RunContext, series: Sequence[Values], caption: Callable[[Values], str]) -> Steps:
    """Run several jobs that differ in seed or strength only, then show what was made on one contact sheet.

    Two of them may be under way at once; the page shows the one that began last, and only the history of others.
    """
    widgets, studio = context.widgets, context.studio
    try:
        picture = series[0].picture(studio.find_model(series[0].model), context.locale)
        jobs = [values.job(picture) for values in series]
    except LatentRelayError:
        yield from follow(context, series[0])  # which says what is wrong
        return
    stop = threading.Event()
    views: list[RunView] = []
    failed: Changes = {}
    error: gr.Error | None = None
    stopped = False

    def begin() -> Changes:
        run = context.runs.start()
        run.stop = stop
        views.append(RunView(context, run))
        return views[-1].begin(jobs[len(views) - 1])

    try:
        yield begin() | widgets.busy(True)
        with closing(studio.batch(jobs, stop, HEARTBEAT_SECONDS)) as batch:
            for item in batch:
                if item is None:
                    yield _nothing(context)
                    continue
                while item.index >= len(views):
                    yield begin()
                view = views[item.index]
                changes = view.apply(item.event)
                if isinstance(item.event, Failed):
                    failed, error = changes | {widgets.run_id: view.run.id}, view.error
                if isinstance(item.event, Failed | Result):
                    context.runs.finish(view.run)
                if view is not views[-1]:
                    changes = {w: changes[w] for w in (widgets.ids, widgets.gallery) if w in changes}
                if changes:
                    yield changes
    except Exception as raised:  # noqa: BLE001 - shown, and logged if it is not ours
        stopped = isinstance(raised, Cancelled)
        failed, error = views[-1].fail(raised) | {widgets.run_id: views[-1].run.id}, views[-1].error
    finally:
        for view in views:
            context.runs.finish(view.run)
    if not stopped:
        captions = [caption(values) for values in series]
        yield from _sheet(context, list(zip(views, captions, strict=False)))  # the last may not have begun
    yield failed | widgets.busy(False)
    if error is not None:
        raise error


def _sheet(context: RunContext, captioned: Sequence[tuple[RunView, str]]) -> Steps:
    """The contact sheet of those that have a picture; nothing without one."""
    done = [(view.run, text) for view, text in captioned if view.run.picture]
    if not done:
        return
    picture = contact_sheet([(run.picture, text) for run, text in done if run.picture])
    sheet = done[-1][0].keep("contact-sheet.png", picture.save)
    captions = ", ".join(text for _, text in done)
    yield {
        context.widgets.viewer: shows(context.locale, before=file_url(sheet) if sheet else data_uri(picture))
        | {"alt_before": say(context.locale, "alt_sheet", captions=captions)},
        context.widgets.picture: offer(sheet),
    }
