"""Following a run: events in, changes to the page out. One picture, a series of them, or a decode done over."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image, ImageDraw

from backend.errors import BadLatentsError, Cancelled, LatentRelayError
from backend.job import MAX_SEED, Result, StageDone, StageStarted, Step, Waiting
from backend.latents import load_latents
from backend.models import find_model
from backend.studio import Studio
from ui import history
from ui.form import Values, vae_options
from ui.pictures import data_uri, file_url
from ui.recipe import save_png
from ui.render import Progress, cost_table, panel, seconds, story
from ui.runs import Run, Runs
from ui.text import say
from ui.widgets import failure, shows

logger = logging.getLogger(__name__)

Changes = dict[Component, Any]
_BEFORE_PAINTING, _AFTER_PAINTING = 0.08, 0.92
"""Where painting begins and ends on the progress line; encode and decode take the ends."""


@dataclass(frozen=True)
class View:
    """The widgets that a run writes to."""

    run_id: Component
    viewer: Component
    panel: Component
    table: Component
    picture: Component
    latents: Component
    paint: Component
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

    def widgets(self) -> list[Component]:
        return list(vars(self).values())

    def busy(self, now: bool) -> Changes:
        """The buttons while a run goes on, and when it is over."""
        return {
            self.stop: gr.update(interactive=now),
            **{
                button: gr.update(interactive=not now)
                for button in (self.paint, self.again, self.four, self.sweep)
            },
        }


@dataclass(frozen=True)
class Bench:
    """What every run needs: the studio, the runs, the widgets, and whose eyes they are for."""

    studio: Studio
    runs: Runs
    view: View
    locale: str
    ids: tuple[str, ...] = ()


def with_seed(values: Values) -> Values:
    """The dice are rolled at the page's edge, so that the recipe is known before anything runs."""
    if values.seed is None or values.seed < 0:
        return replace(values, seed=secrets.randbelow(MAX_SEED + 1))
    return values


def follow(bench: Bench, values: Values) -> Generator[Changes, None, Run | None]:
    """Run one job and say, event by event, what changes on the page; gives the run if it made a picture.

    Inputs are never touched, and what was finished stays, whatever happens.
    """
    view, locale = bench.view, bench.locale
    run = bench.runs.start()
    progress = Progress(say(locale, "state_starting"), running=True)
    events: Iterator[Any] | None = None
    try:
        values = with_seed(values)
        picture = values.picture(locale)
        before = run.keep("before.png", picture.save)
        job = values.job(picture)
        recipe = json.dumps(job.resolved().recipe())
        run.keep("recipe.json", lambda path: path.write_text(recipe, encoding="utf-8"))
        seen = {"before": file_url(before) if before else data_uri(picture), "prompt": job.prompt}
        yield {
            view.run_id: run.id,
            view.viewer: shows(locale, **seen),
            view.panel: panel(progress, locale),
            view.table: cost_table((), locale),
            view.picture: gr.update(value=None, interactive=False),
            view.latents: gr.update(value=None, interactive=False),
            view.use: gr.update(interactive=False),
            view.finish: gr.update(visible=False),
            **view.busy(True),
        }
        spec = find_model(values.model)
        events = bench.studio.img2img(job, run.stop)
        for event in events:
            changes: Changes = {}
            if isinstance(event, Step) and event.preview is not None:
                changes[view.viewer] = shows(locale, after=data_uri(event.preview), running=True, **seen)
            if isinstance(event, StageDone):
                run.reports.append(event.report)
                changes[view.table] = cost_table(run.reports, locale)
                if event.latents is not None:
                    run.keep_latents(event.latents, spec, event.report.stage)
            if isinstance(event, Result):
                changes |= finished(bench, run, event.image, event.recipe, seen)
            progress = advance(progress, event, locale)
            if isinstance(event, Result):
                progress = _told_if_unkept(progress, run, locale)
            changes[view.panel] = panel(progress, locale)
            yield changes
    except Cancelled:
        yield _over(bench, run, replace(progress, message=say(locale, "state_stopped")))
        return None
    except LatentRelayError as error:
        yield _over(bench, run, replace(progress, message=error.sentence, failed=progress.active, tone="bad"))
        raise failure(error.sentence) from error
    except Exception as error:
        logger.exception("A run failed in a way that no error of ours describes")
        sentence = say(locale, "unexpected")
        yield _over(bench, run, replace(progress, message=sentence, failed=progress.active, tone="bad"))
        raise failure(sentence) from error
    finally:
        if events is not None:
            events.close()  # type: ignore[attr-defined]
        bench.runs.finish(run)
    yield view.busy(False)
    return run


def finished(
    bench: Bench, run: Run, image: Image.Image, recipe: dict[str, Any], seen: dict[str, str]
) -> Changes:
    """A picture is there: saved with its recipe, shown, and in the history. On a full disk it is only shown."""
    view = bench.view
    run.picture = run.keep(
        f"latent-relay-{recipe['seed']}.png", lambda path: save_png(path, image, recipe, run.reports)
    )
    latents = {view.latents: _offer(run.latents)}
    if run.picture is None:
        return {view.viewer: shows(bench.locale, after=data_uri(image, quality=95), **seen), **latents}
    run.keep(history.THUMBNAIL, lambda path: history.save_thumbnail(path, image))
    ids = [run.id, *(known for known in bench.ids if known != run.id)][: history.KEEP]
    return {
        view.viewer: shows(bench.locale, after=file_url(run.picture), **seen),
        view.picture: _offer(run.picture),
        **latents,
        view.use: gr.update(interactive=True),
        view.ids: ids,
        view.gallery: history.gallery(bench.runs, ids),
    }


def _told_if_unkept(progress: Progress, run: Run, locale: str) -> Progress:
    if not run.disk_full:
        return progress
    return replace(progress, message=f"{progress.message} {say(locale, 'disk_full')}", tone="bad")


def _offer(path: Path | None) -> Any:
    """A download button's state: with a file behind it, or grey."""
    return gr.update(value=str(path) if path else None, interactive=path is not None)


def _over(bench: Bench, run: Run, progress: Progress) -> Changes:
    """The page after a run that gave no picture: reports and latents stay, the form is free again."""
    view = bench.view
    painted = any(report.stage == "denoise" for report in run.reports)
    return {
        view.panel: panel(replace(progress, running=False), bench.locale),
        view.table: cost_table(run.reports, bench.locale),
        view.latents: _offer(run.latents),
        view.finish: gr.update(visible=painted and run.latents is not None),
        **view.busy(False),
    }


def follow_series(
    bench: Bench, series: Sequence[Values], caption: Callable[[Values], str]
) -> Generator[Changes, None, None]:
    """Several runs after one another, then all of them on one contact sheet."""
    view = bench.view
    buttons = (view.paint, view.stop, view.again, view.four, view.sweep)
    done: list[tuple[Path, str]] = []
    run: Run | None = None
    for values in series:
        one = follow(bench, values)
        while True:
            try:
                changes = next(one)
            except StopIteration as end:
                run = end.value
                break
            if view.ids in changes:
                bench = replace(bench, ids=tuple(changes[view.ids]))
            # Between two runs the buttons stay as they are.
            if not (view.run_id in changes or view.finish in changes):
                changes = {widget: change for widget, change in changes.items() if widget not in buttons}
            if changes:
                yield changes
        if run is None or run.picture is None:
            yield view.busy(False)
            return
        done.append((run.picture, caption(values)))
    picture = contact_sheet(done)
    sheet = run.keep("contact-sheet.png", picture.save) if run else None
    yield {
        view.viewer: shows(bench.locale, before=file_url(sheet) if sheet else data_uri(picture))
        | {"alt_before": say(bench.locale, "alt_sheet", captions=", ".join(text for _, text in done))},
        view.picture: _offer(sheet),
        **view.busy(False),
    }


def contact_sheet(pictures: Sequence[tuple[Path, str]], gap: int = 12, line: int = 26) -> Image.Image:
    """The pictures two by two on warm paper, each with its caption."""
    opened = [(Image.open(path).convert("RGB"), text) for path, text in pictures]
    width, height = opened[0][0].size
    rows = (len(opened) + 1) // 2
    size = (2 * width + 3 * gap, rows * (height + line + gap) + gap)
    sheet = Image.new("RGB", size, (250, 248, 244))
    draw = ImageDraw.Draw(sheet)
    for index, (image, text) in enumerate(opened):
        x = gap + (index % 2) * (width + gap)
        y = gap + (index // 2) * (height + line + gap)
        sheet.paste(image, (x, y))
        draw.text((x + 2, y + height + 5), text, fill=(29, 28, 26), font_size=15)
    return sheet


def finish_another_way(bench: Bench, run_id: str | None, mode: str) -> Generator[Changes, None, None]:
    """Decode the latents of a run that painted but could not finish, in another mode."""
    view, locale = bench.view, bench.locale
    run = bench.runs.resume(run_id)
    painted = run.folder / "denoise.safetensors" if run else None
    if run is None or painted is None or not painted.is_file():
        raise failure(say(locale, "nothing_to_finish"))
    seen = {"before": file_url(run.folder / "before.png"), "prompt": ""}
    try:
        recipe = json.loads((run.folder / "recipe.json").read_text(encoding="utf-8")) | {"decode_mode": mode}
        place = say(locale, f"mode_name_{mode}")
        progress = Progress(
            say(locale, "state_decode", where=place),
            _AFTER_PAINTING,
            "decode",
            place,
            reports=tuple(run.reports),
            running=True,
        )
        yield {view.panel: panel(progress, locale), **view.busy(True)}
        file = load_latents(painted)
        options = vae_options(mode, recipe["tile_size"], recipe["tile_overlap"]).checked()
        image, report = bench.studio.decode(file.latents, file.model, options, run.stop)
    except Cancelled:
        yield _over(bench, run, replace(progress, message=say(locale, "state_stopped")))
        return
    except (LatentRelayError, OSError, ValueError, KeyError) as error:
        sentence = (
            error.sentence
            if isinstance(error, LatentRelayError)
            else str(BadLatentsError(say(locale, "nothing_to_finish")))
        )
        yield _over(bench, run, Progress(sentence, failed="decode", reports=tuple(run.reports), tone="bad"))
        raise failure(sentence) from error
    finally:
        bench.runs.finish(run)
    run.reports.append(report)
    told = Progress(story(run.reports, locale), 1.0, reports=tuple(run.reports))
    yield {
        **finished(bench, run, image, recipe, seen),
        view.panel: panel(_told_if_unkept(told, run, locale), locale),
        view.table: cost_table(run.reports, locale),
        view.finish: gr.update(visible=False),
        **view.busy(False),
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
            return replace(progress, message=message, fraction=fraction, active=stage, where=place)
        case Step(step, steps, _, left):
            message = say(locale, "state_step", step=step, steps=steps)
            if left is not None and left >= 1:
                message += f" · {say(locale, 'state_left', left=seconds(left))}"
            fraction = _BEFORE_PAINTING + (_AFTER_PAINTING - _BEFORE_PAINTING) * step / steps
            return replace(progress, message=message, fraction=fraction)
        case StageDone(report):
            return replace(progress, reports=(*progress.reports, report), active=None)
        case Result(reports=reports):
            return replace(progress, message=story(reports, locale), fraction=1.0, running=False, active=None)
    return progress
