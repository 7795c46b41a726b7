"""The tour: one picture on four ways through the VAE, to be shown to a room.

The work goes on by itself, way after way; who presents turns the slides with the arrow keys or a clicker, and sees on
each what is known by then. It ends on one picture of it all.
"""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr
from PIL import Image

from backend import images, quality
from backend.compare import Row, compare
from backend.device.interrupt import raise_if_stopped
from backend.errors import LatentRelayError
from backend.events import Result
from backend.job import Job, UserEndpoint, VaeOptions
from backend.models import ModelSpec
from backend.remote.endpoints import display_host, own_endpoint
from backend.report import StageReport
from backend.run.stream import HEARTBEAT_SECONDS
from backend.studio import Studio
from backend.units import seconds, size
from ui import first_sight
from ui.form import Form
from ui.frame import Frame, Task, status_line
from ui.pictures import file_url, open_picture
from ui.render import bar
from ui.run_view import advance
from ui.story import COLOURS, Column, Story, draw, machine, place
from ui.tab import PageContext
from ui.text import T, say, say_message
from ui.theme import ASSETS
from ui.widgets import html

WAYS = ("whole", "tiled", "streamed", "remote")
_SIDE = 512
"""Of the picture, in pixels; more where the model's own size is larger."""
_COLOURS = dict(zip(WAYS, (*COLOURS.values(), "#3c6ea0"), strict=True))


def resized(picture: Image.Image, spec: ModelSpec) -> Image.Image:
    """At a size that a room can see seams in, and that two cores decode in a moment."""
    scale = max(_SIDE, spec.native_size) / max(picture.size)
    step = spec.size_multiple
    width, height = (max(1, round(length * scale / step)) * step for length in picture.size)
    return images.resize(picture, width, height)


def tiles(picture: Image.Image) -> VaeOptions:
    """Tiles of half the picture, so that there are some."""
    tile = max(64, max(picture.size) // 2)
    return VaeOptions("tiled", tile_size=tile, tile_overlap=tile // 8)


def remote_endpoint(studio: Studio, spec: ModelSpec) -> UserEndpoint | None:
    """This app's own where the owner configured none, so that nothing leaves without being asked; None for theirs."""
    if studio.settings.configured_endpoints(spec).decode or studio.self_url is None:
        return None
    return own_endpoint(spec, studio.settings, studio.self_url)


@dataclass
class Tour:
    """What is known so far, as slides in the visitor's language."""

    run_id: str
    locale: str
    before: str
    """Address of the picture."""
    sizes: tuple[str, str]
    """Of the picture in pixels, and of the latents."""
    own_host: str | None
    """This app's, to say so where it is its own remote."""
    status: str = ""
    """How far the work is."""
    rows: dict[str, Row] = field(default_factory=dict)
    """By way."""
    pictures: dict[str, str] = field(default_factory=dict)
    """Addresses of what was decoded, by way."""
    maps: dict[str, str] = field(default_factory=dict)
    """Addresses of the differences from the whole picture."""
    gaps: dict[str, int] = field(default_factory=dict)
    """The largest difference from the whole picture, of 255 levels."""
    bar: str = ""
    """Of the run that painted."""
    story: str = ""
    """Address of the picture of it all."""

    def value(self) -> dict[str, Any]:
        """For tour.js."""
        start = {
            "headline": self._say("tour_start"),
            "pictures": [[self.before, self._say("before")]],
            "figures": [
                (self.sizes[0], self._say("tour_pixels")),
                (self.sizes[1], self._say("tour_latents")),
            ],
        }
        end = {"headline": self._say("tour_end"), "story": self.story, "waiting": not self.story}
        names = ("next", "back", "stop", "save", "keys", "dialog")
        words = {name: self._say(f"tour_{name}") for name in names}
        ways = [self._say(f"mode_name_{way}") for way in WAYS]
        slides = [start, *(self._slide(way) for way in WAYS), end]
        return {"run": self.run_id, "slides": slides, "words": words, "ways": ways}

    def columns(self) -> tuple[Column, ...]:
        """The ways that were gone, for the picture of it all."""
        columns = []
        for way, row in self.rows.items():
            if row.error is None:
                (first, _), *others = self._figures(way)
                lines = (self._where(row.reports[-1]), *(f"{label}: {value}" for value, label in others))
                columns.append(Column(self._say(f"mode_name_{way}"), first, lines, _COLOURS[way]))
        return tuple(columns)

    def _say(self, key: str, **values: object) -> str:
        return say(self.locale, key, **values)

    def _slide(self, way: str) -> dict[str, Any]:
        row, slide = self.rows.get(way), {"headline": self._say(f"tour_{way}")}
        if row is None:
            waiting = self.status or self._say("tour_waiting")
            return slide | {
                "waiting": True,
                "pictures": [[self.before, self._say("before")]],
                "note": waiting,
            }
        if row.error is not None:
            return slide | {"note": say_message(row.error, self.locale)}
        shown = [[self.pictures[way], self._say(f"mode_name_{way}")]]
        if way == "whole":
            shown.insert(0, [self.before, self._say("before")])
        elif way in self.maps:
            shown.append([self.maps[way], self._say("tour_map")])
        where = self._say("tour_where", where=self._where(row.reports[-1]))
        return slide | {"pictures": shown, "figures": self._figures(way), "note": where, "bar": self.bar}

    def _figures(self, way: str) -> list[tuple[str, str]]:
        """(value, label) of seconds, of memory or bytes that travelled, and of the difference."""
        row = self.rows[way]
        figures = [(seconds(row.seconds), self._say("tour_time"))]
        if row.wire_bytes is not None:
            figures.append((size(row.wire_bytes), self._say("tour_moved")))
        elif row.added_bytes is not None:
            figures.append((size(row.added_bytes), self._say("tour_memory")))
        if way in self.gaps:
            gap = (
                self._say("tour_levels", levels=self.gaps[way]) if self.gaps[way] else self._say("tour_same")
            )
            figures.append((gap, self._say("tour_gap")))
        return figures

    def _where(self, report: StageReport) -> str:
        where = place(report, self.locale)
        return self._say("tour_self") if where == self.own_host else where


@dataclass(frozen=True)
class TourGuide:
    """The button that starts a tour, and the slides that lie over the page meanwhile."""

    context: PageContext
    form: Form
    start: gr.Button
    slides: gr.HTML
    frame: Frame

    def wire(self) -> None:
        inputs = {self.form.image, self.form.prompt}
        self.frame.on_start(self.start, self._travel, inputs, {self.slides}, concurrency_limit=None)
        self.frame.wire_stop()

    def _travel(self, task: Task) -> None:
        """Paint once, then decode what was painted on each way, and draw the picture of it all."""
        spec, _ = self.context.studio.default_model()
        picture, prompt = self._picture(task, spec)
        before = task.run.write("before.png", picture.save)
        self_url = self.context.studio.self_url
        own_host = display_host(self_url) if self_url else None
        latents = (spec.latents.channels, *(side // spec.latents.downscale for side in picture.size))
        sizes = f"{picture.width} × {picture.height}", " × ".join(map(str, latents))
        tour = Tour(task.run.id, task.locale, file_url(before), sizes, own_host)
        task.show({self.slides: tour.value()})
        try:
            width, height = picture.size
            job = Job(picture, prompt, model=spec.name, width=width, height=height)
            painted = self._paint(task, tour, job)
        except Exception as error:  # the slides lie over whatever else says so
            tour.status = say(task.locale, "unexpected")
            if isinstance(error, LatentRelayError):
                tour.status = say_message(error.full_message, task.locale)
            task.show({self.slides: tour.value()})
            raise
        tour.bar, tour.status = bar(painted.reports, task.locale), ""
        self._decode(task, tour, spec, picture, painted)
        story = self._story(task, tour, spec, picture, painted)
        tour.story = file_url(task.run.write("tour.png", draw(story, task.locale).save))
        task.tell("", changes={self.slides: tour.value()})

    def _decode(self, task: Task, tour: Tour, spec: ModelSpec, picture: Image.Image, painted: Result) -> None:
        studio = self.context.studio
        options = replace(tiles(picture), endpoint=remote_endpoint(studio, spec))
        whole: Image.Image | None = None
        for way, row in zip(
            WAYS, compare(studio, painted.latents, spec.name, WAYS, options, task.run.stop), strict=True
        ):
            tour.rows[way] = row
            if row.image is not None:
                whole = row.image if way == "whole" else whole
                self._keep(task, tour, way, row.image, whole)
            task.tell("", changes={self.slides: tour.value()})

    def _story(self, task: Task, tour: Tour, spec: ModelSpec, picture: Image.Image, painted: Result) -> Story:
        took = sum(report.cost.seconds for report in painted.reports)
        gone = ((way, row) for way, row in tour.rows.items() if row.error is None)
        return Story(
            picture,
            painted.image,
            say(task.locale, "tour_end"),
            seconds(took),
            say(task.locale, "tour_painted"),
            tuple((_COLOURS[way], row.seconds or 0.0) for way, row in gone),
            tour.columns(),
            " · ".join(
                (
                    say_message(spec.title_message, task.locale),
                    tour.sizes[0],
                    machine(painted.reports, task.locale),
                )
            ),
        )

    def _picture(self, task: Task, spec: ModelSpec) -> tuple[Image.Image, str]:
        """The visitor's picture and prompt, or else the example's."""
        path, prompt = task.data[self.form.image], task.data[self.form.prompt] or ""
        if not path:
            path = str(ASSETS / f"{first_sight.SKETCH}.png")
            prompt = prompt or str(first_sight.metadata().recipe["prompt"])
        return resized(images.to_rgb(open_picture(path, task.locale)), spec), prompt

    def _paint(self, task: Task, tour: Tour, job: Job) -> Result:
        stop = threading.Event()  # its own, since a job that is over sets it
        with closing(self.context.studio.img2img(job, stop, HEARTBEAT_SECONDS)) as events:
            for event in events:
                raise_if_stopped(task.run.stop)
                if event is None:
                    continue
                task.progress = advance(task.progress, event, task.locale)
                tour.status = task.progress.message
                task.tell(tour.status, changes={self.slides: tour.value()})
                if isinstance(event, Result):
                    return event
        raise AssertionError("a run that raised nothing ends in a result")

    def _keep(self, task: Task, tour: Tour, way: str, image: Image.Image, whole: Image.Image | None) -> None:
        tour.pictures[way] = file_url(task.run.write(f"{way}.png", image.save))
        if whole is None or image is whole:
            return
        difference = quality.difference_picture(image, whole)
        tour.maps[way] = file_url(task.run.write(f"{way}-difference.png", difference.save))
        tour.gaps[way] = quality.largest_gap(image, whole)


def build(context: PageContext, form: Form, start: gr.Button) -> TourGuide:
    """The slides; `start`, the button that opens them, is laid out elsewhere."""
    with gr.Column(elem_id="lr-tour"):
        slides = gr.HTML(
            {},
            html_template=(ASSETS / "tour.html").read_text(encoding="utf-8"),
            js_on_load=(ASSETS / "tour.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            elem_id="lr-tour-slides",
        )
        status = html(status_line(""), elem_id="lr-tour-status")
        stop = gr.Button(T("stop"), interactive=False, elem_id="lr-tour-end", elem_classes="lr-hidden")
    return TourGuide(context, form, start, slides, Frame(context, (start,), stop, status))
