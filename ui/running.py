"""Following a run: events in, changes to the page out. One picture, a series of them, or a decode done over."""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image, ImageDraw

from backend.errors import BadLatentsError, Cancelled, LatentRelayError
from backend.events import Downloading, Event, Failed, Result, StageDone, StageStarted, Step, Waiting
from backend.job import MAX_SEED, Job
from backend.latents import load_latents
from backend.models import find_model
from backend.remote.user_endpoint import UserEndpoint
from backend.studio import Studio
from ui import history
from ui.form import Values, vae_options
from ui.pictures import data_uri, file_url
from ui.recipe import save_png
from ui.render import Progress, cost_table, panel, seconds, size, story
from ui.runs import Run, Runs
from ui.text import say, translated
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


def follow(
    bench: Bench, values: Values, start: Callable[[Job, Run], Iterator[Event]] | None = None
) -> Generator[Changes, None, Run | None]:
    """Run one job and say, event by event, what changes on the page; gives the run if it made a picture.

    Inputs are never touched, and what was finished stays, whatever happens. `start` gives the events, if not the
    studio itself.
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
        recipe = json.dumps(bench.studio.resolve(job).recipe())
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
        events = start(job, run) if start else bench.studio.img2img(job, run.stop)
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
        sentence = translated(error.sentence, locale)
        yield _over(bench, run, replace(progress, message=sentence, failed=progress.active, tone="bad"))
        raise failure(sentence) from error
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
    """Several runs after one another, then all that were finished on one contact sheet."""
    view, locale = bench.view, bench.locale
    try:
        jobs = [values.job(values.picture(locale)) for values in series]
    except LatentRelayError:
        yield from follow(bench, series[0])  # which says what is wrong
        return
    line = _Series(bench, series)
    batch = bench.studio.batch(jobs, line.stop)
    stopped = False  # a batch sets its stop event at its end, however that comes
    try:
        for item in batch:
            yield from line.take(item.index, item.event)
    except Exception as error:  # noqa: BLE001 - `follow` tells of it, and logs what is not ours
        stopped = isinstance(error, Cancelled)
        yield from line.take(line.front, error)
    finally:
        batch.close()
        line.close()
    done = [(run, caption(series[index])) for index, run in sorted(line.done.items())]
    pictures = [(run.picture, said) for run, said in done if run.picture]
    if pictures and not stopped:
        picture = contact_sheet(pictures)
        sheet = done[-1][0].keep("contact-sheet.png", picture.save)
        yield {
            view.viewer: shows(locale, before=file_url(sheet) if sheet else data_uri(picture))
            | {"alt_before": say(locale, "alt_sheet", captions=", ".join(said for _, said in pictures))},
            view.picture: _offer(sheet),
        }
    yield {**line.failed, **view.busy(False)}
    if line.error is not None:
        raise line.error


class _Series:
    """The runs of a batch, each followed as if it were alone; the page shows the one that began last."""

    def __init__(self, bench: Bench, series: Sequence[Values]) -> None:
        self.bench = bench
        self.series = series
        self.stop = threading.Event()
        self.front = 0
        self.done: dict[int, Run] = {}
        self.failed: Changes = {}
        """What the page says of the last one that failed; shown when all is over."""
        self.error: gr.Error | None = None
        self._ids = list(bench.ids)
        self._following: dict[int, Generator[Changes, None, Run | None]] = {}
        self._news: dict[int, Event | BaseException] = {}
        self._runs: dict[int, Run] = {}

    def take(self, index: int, event: Event | Failed | BaseException) -> Iterator[Changes]:
        """What changes on the page by an event of the run `index`, or by the error that ended it."""
        if index not in self._following:
            self.front = index
            self._following[index] = follow(
                self.bench, self.series[index], lambda _, run: self._events(index, run)
            )
            if shown := self._for_the_page(index, self._next(index)):
                yield shown
        self._news[index] = event.error if isinstance(event, Failed) else event
        changes = self._next(index)
        if isinstance(event, Failed | BaseException):
            self.failed = {**changes, self.bench.view.run_id: self._runs[index].id}
        if shown := self._for_the_page(index, changes):
            yield shown
        if isinstance(event, Result | Failed | BaseException):
            while self._next(index):
                pass  # only the buttons, which stay as they are until all is over

    def close(self) -> None:
        for one in self._following.values():
            one.close()

    def _events(self, index: int, run: Run) -> Iterator[Event]:
        self._runs[index] = run
        if run.stop.is_set():
            self.stop.set()
        run.stop = self.stop
        while True:
            news = self._news.pop(index)
            if isinstance(news, BaseException):
                raise news
            yield news
            if isinstance(news, Result):
                return

    def _next(self, index: int) -> Changes:
        """One run's next change; none when it is over."""
        try:
            return next(self._following[index])
        except StopIteration as end:
            if end.value is not None:
                self.done[index] = end.value
        except gr.Error as error:
            self.error = error
        return {}

    def _for_the_page(self, index: int, changes: Changes) -> Changes:
        """Of one run's changes what concerns the whole: while another is in front, only the history."""
        view = self.bench.view
        if view.ids in changes:
            newest = changes[view.ids][0]
            self._ids = [newest, *(known for known in self._ids if known != newest)][: history.KEEP]
            changes |= {view.ids: self._ids, view.gallery: history.gallery(self.bench.runs, self._ids)}
        if index != self.front:
            return {widget: changes[widget] for widget in (view.ids, view.gallery) if widget in changes}
        if index == 0 and view.run_id in changes:
            return changes  # the buttons begin to wait
        buttons = (view.paint, view.stop, view.again, view.four, view.sweep)
        return {widget: change for widget, change in changes.items() if widget not in buttons}


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


def finish_another_way(
    bench: Bench, run_id: str | None, place: str, own: Mapping[str, UserEndpoint] | None = None
) -> Generator[Changes, None, None]:
    """Decode the latents of a run that painted but could not finish, in another mode."""
    view, locale = bench.view, bench.locale
    run = bench.runs.resume(run_id)
    painted = run.folder / "denoise.safetensors" if run else None
    if run is None or painted is None or not painted.is_file():
        raise failure(say(locale, "nothing_to_finish"))
    seen = {"before": file_url(run.folder / "before.png"), "prompt": ""}
    try:
        recipe = json.loads((run.folder / "recipe.json").read_text(encoding="utf-8"))
        options = vae_options(place, recipe["tile_size"], recipe["tile_overlap"], recipe["transfer"], own)
        recipe["decode_mode"] = options.mode
        where = say(locale, f"mode_name_{options.mode}")
        progress = Progress(
            say(locale, "state_decode", where=where),
            _AFTER_PAINTING,
            "decode",
            where,
            reports=tuple(run.reports),
            running=True,
        )
        yield {view.panel: panel(progress, locale), **view.busy(True)}
        file = load_latents(painted)
        image, report = bench.studio.decode(file.latents, file.model, options, run.stop)
    except Cancelled:
        yield _over(bench, run, replace(progress, message=say(locale, "state_stopped")))
        return
    except (LatentRelayError, OSError, ValueError, KeyError) as error:
        sentence = (
            translated(error.sentence, locale)
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
            return replace(progress, message=translated(message, locale))
        case Downloading(title, done, total, left):
            message = say(locale, "state_download", title=title, done=size(done), total=size(total))
            if left is not None:
                message += f" · {say(locale, 'state_left', left=seconds(left))}"
            return replace(progress, message=message, fraction=done / total if total else 0.0)
        case StageStarted(stage, mode, _, where):
            fraction = {"encode": 0.02, "denoise": _BEFORE_PAINTING, "decode": _AFTER_PAINTING}[stage]
            place = f"{say(locale, f'mode_name_{mode}')} · {translated(where, locale)}"
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
