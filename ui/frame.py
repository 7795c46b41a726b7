"""The frame of a tab that starts something: the form beside the result, start and stop, progress, and what may fail."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from backend.errors import Cancelled, LatentRelayError
from backend.events import StageStarted
from backend.job import UserEndpoint, VaeOptions
from backend.models import ModelSpec
from backend.report import Stage, StageReport
from backend.run.stream import HEARTBEAT_SECONDS, stream
from backend.units import seconds
from ui.form import Changes, vae_options
from ui.render import Progress, cost_table, panel
from ui.run_view import advance, offer, offer_comfyui
from ui.runs import Run, Runs
from ui.tab import PageContext
from ui.text import T, locale_of, say, say_message
from ui.widgets import (
    download_buttons,
    empty_viewer,
    failure,
    html,
    local,
    mode_choices,
    quiet,
    tiles_and_transfer,
)

logger = logging.getLogger(__name__)


# -- layout ----------------------------------------------------------------------------------------------------


def columns() -> gr.Row:
    """Form and result side by side; on a phone one below the other."""
    return gr.Row(equal_height=False, elem_classes="lr-columns")


def form_column(scale: int = 5, min_width: int = 320, css_class: str | None = None) -> gr.Column:
    """`css_class`: "lr-form" has the result right under it on a phone, and only then what is in an "lr-more"."""
    return gr.Column(scale=scale, min_width=min_width, elem_classes=css_class)


def result_column(scale: int = 6, css_class: str | None = None) -> gr.Column:
    return gr.Column(scale=scale, min_width=320, elem_classes=css_class)


def start_and_stop(label: str, elem_id: str, css_class: str | None = "lr-go") -> tuple[gr.Button, gr.Button]:
    with gr.Row(elem_classes=css_class):
        start = gr.Button(T(label), variant="primary", scale=4, elem_id=elem_id)
        stop = gr.Button(T("stop"), variant="stop", scale=1, min_width=90, interactive=False)
    return start, stop


def status_line(sentence: str) -> str:
    """The status of a tab without stages, as HTML."""
    return f'<p class="lr-verdict" role="status">{escape(sentence)}</p>'


@dataclass(frozen=True)
class VaeFields:
    """Where a stage runs, and its tile size, tile overlap and transfer."""

    mode: gr.Radio
    remote_line: gr.HTML
    """Whether the chosen endpoint would work."""
    tile: gr.Slider
    overlap: gr.Slider
    transfer: gr.Dropdown

    @classmethod
    def build(cls, spec: ModelSpec, name: str) -> VaeFields:
        """`name`: what the widgets' ids begin with."""
        mode = gr.Radio(
            mode_choices(spec),
            value="auto",
            label=T("where"),
            elem_classes="lr-list",
            elem_id=f"{name}-where",
        )
        remote_line = html("", elem_id=f"{name}-remote")
        return cls(mode, remote_line, *tiles_and_transfer(f"{name}-transfer"))

    def widgets(self) -> set[Component]:
        return {self.mode, self.tile, self.overlap, self.transfer}

    def options(self, task: Task) -> VaeOptions:
        """Raises BadSettingError: sizes that make no sense, or an endpoint that is forgotten by now."""
        values = (task.data[widget] for widget in (self.mode, self.tile, self.overlap, self.transfer))
        return vae_options(*values, task.endpoints)


@dataclass(frozen=True)
class StageResult:
    """What came of encoding or decoding: picture, stage panel, files, and numbers."""

    viewer: gr.HTML
    status: gr.HTML
    save_picture: gr.DownloadButton
    save_latents: gr.DownloadButton
    save_comfyui: gr.DownloadButton
    """The same latents for ComfyUI."""
    table: gr.HTML
    stages: tuple[Stage, ...]

    @classmethod
    def build(cls, name: str, tab: str, stages: tuple[Stage, ...]) -> StageResult:
        """`name`: what the ids begin with; `tab`: whose sentences an empty viewer shows."""
        view = empty_viewer(f"{name}-viewer", tab)

        def idle(locale: str) -> str:
            return panel(Progress(say(locale, "state_idle")), locale, stages)

        def no_numbers(locale: str) -> str:
            return cost_table((), locale)

        status = local(html(idle("en"), elem_id=f"{name}-panel"), idle)
        with gr.Row(elem_classes="lr-downloads"):
            downloads = download_buttons(f"{name}-save", "picture", "latents", "comfyui")
        with gr.Accordion(T("numbers"), open=True):
            table = local(html(no_numbers("en")), no_numbers)
        return cls(view, status, *downloads, table, stages)

    def widgets(self) -> set[Component]:
        """All but the status, which the frame has."""
        return {self.viewer, self.save_picture, self.save_latents, self.save_comfyui, self.table}

    def offers(self, picture: Path | None = None, latents: Path | None = None) -> Changes:
        """The download buttons, with these files behind them or grey."""
        return {
            self.save_picture: offer(picture),
            self.save_latents: offer(latents),
            self.save_comfyui: offer_comfyui(latents),
        }

    def finished(self, task: Task, reports: list[StageReport], sentence: str) -> Changes:
        """Panel and numbers of stages that are done."""
        took = say(task.locale, "state_done", seconds=seconds(sum(report.cost.seconds for report in reports)))
        done = Progress(f"{took} {sentence}", fraction=1.0, reports=tuple(reports))
        return {
            self.status: panel(done, task.locale, self.stages),
            self.table: cost_table(reports, task.locale),
        }


# -- running ---------------------------------------------------------------------------------------------------


@contextmanager
def one_run(runs: Runs) -> Iterator[Run]:
    """A run that lasts as long as the block: then it is over, and whatever still computes for it is stopped."""
    run = runs.start()
    try:
        yield run
    finally:
        run.stop.set()
        runs.finish(run)


@dataclass
class Task:
    """One press of a start button, for the function that does the work: what it works on, and how it shows it."""

    frame: Frame
    data: Mapping[Component, Any]
    """Values of the widgets that were asked for."""
    locale: str
    endpoints: Mapping[str, UserEndpoint]
    """The visitor's, by their keys in a mode's list."""
    run: Run
    show: Callable[[Changes], None]
    """Change widgets at once."""
    progress: Progress

    def tell(self, sentence: str, fraction: float = 0.0, changes: Changes | None = None) -> None:
        """Say how far the work is (`fraction`: 0 to 1), and change other widgets with it."""
        self.progress = replace(self.progress, message=sentence, fraction=fraction)
        self.show({**self.frame.shows(self.progress, self.locale), **(changes or {})})

    def notify(self, event: object) -> None:
        """Say what an event of a stage tells; the stages are told apart by their share of the line."""
        self.progress = advance(self.progress, event, self.locale)
        if isinstance(event, StageStarted):
            stages = self.frame.stages
            self.progress = replace(self.progress, fraction=stages.index(event.stage) / len(stages))
        self.show(self.frame.shows(self.progress, self.locale))

    def ended(self, sentence: str, *, failed: bool = False) -> Changes:
        """The page after the work ended without a result."""
        over = replace(self.progress, message=sentence, running=False, active=None)
        if failed:
            over = replace(over, failed=self.progress.active, tone="bad")
        return {**self.frame.shows(over, self.locale), **self.frame.busy(False)}


@dataclass(frozen=True)
class Frame:
    """The widgets that start and stop one kind of work, and the one that says how it goes."""

    context: PageContext
    starts: tuple[gr.Button, ...]
    """None of them can be pressed while any of their work goes on."""
    stop: gr.Button | None
    status: gr.HTML
    stages: tuple[Stage, ...] = ()
    """Those that `status` shows as a panel; without any it is a single sentence."""
    run_id: gr.State = field(default_factory=gr.State)

    def shows(self, progress: Progress, locale: str) -> Changes:
        if self.stages:
            return {self.status: panel(progress, locale, self.stages)}
        return {self.status: status_line(progress.message)}

    def busy(self, now: bool) -> Changes:
        """The buttons while work goes on, and when it is over."""
        changes: Changes = {button: gr.update(interactive=not now) for button in self.starts}
        if self.stop is not None:
            changes[self.stop] = gr.update(interactive=now)
        return changes

    def follow(
        self, work: Callable[[Task], None], data: Mapping[Component, Any], request: gr.Request
    ) -> Iterator[Changes]:
        """Do `work` in a thread, and say what it changes on the page. Closing the generator stops the run."""
        locale = locale_of(request)
        endpoints = self.context.endpoints.of(request.session_hash)
        with one_run(self.context.runs) as run:
            started = Progress(say(locale, "state_starting"), running=True)
            task = Task(self, data, locale, endpoints, run, lambda _: None, started)

            def target(_: threading.Event, show: Callable[[Changes], None]) -> None:
                task.show = show
                work(task)

            shown = self.shows(started, locale) if self.stages else {}
            yield {self.run_id: run.id, **shown, **self.busy(True)}
            try:
                for changes in stream(target, run.stop, HEARTBEAT_SECONDS):
                    yield changes or {self.status: gr.skip()}
                yield self.busy(False)  # not by `then`, which Gradio's page leaves out after an error
            except Cancelled:
                yield task.ended(say(locale, "state_stopped"))
            except LatentRelayError as error:
                sentence = say_message(error.full_message, locale)
                yield task.ended(sentence, failed=True)
                raise failure(sentence) from error
            except gr.Error as error:
                yield task.ended(error.message, failed=True)
                raise
            except Exception as error:
                logger.exception("A tab's work failed in a way that no error of ours describes")
                sentence = say(locale, "unexpected")
                yield task.ended(sentence, failed=True)
                raise failure(sentence) from error

    def on_start(
        self,
        button: gr.Button,
        work: Callable[[Task], None],
        inputs: set[Component],
        outputs: set[Component],
        **concurrency: Any,
    ) -> None:
        """Do `work` when `button` is pressed; `outputs`: what it changes beside the frame's own widgets."""

        def start(data: Mapping[Component, Any], request: gr.Request) -> Iterator[Changes]:
            yield from self.follow(work, data, request)

        button.click(
            start,
            inputs,
            list({self.run_id, self.status, *self.busy(True), *outputs}),
            show_progress="hidden",
            trigger_mode="once",
            api_visibility="private",
            **concurrency,
        )

    def wire_stop(self) -> None:
        assert self.stop is not None
        self.stop.click(self.context.runs.stop, self.run_id, None, **quiet())
