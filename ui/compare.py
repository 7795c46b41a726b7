"""The tab that takes one picture, or one latents file, through several VAE modes, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image

from backend import images, quality
from backend.compare import Row, at_working_size, compare, conclusion, in_words, memory_share
from backend.errors import BadImageError, LatentRelayError
from backend.job import MAX_SIDE, VAE_MODES, VaeOptions, vae_modes
from backend.latents import load_latents, read_header
from backend.message import Message, literal
from backend.models import ModelSpec
from backend.report import Direction
from backend.studio import Studio
from backend.units import percent, seconds, size
from ui import remote_status
from ui.decode import recognised
from ui.form import vae_options
from ui.frame import Frame, Task, columns, form_column, result_column, start_and_stop, status_line
from ui.leaving import of_tab
from ui.pictures import file_url, open_picture
from ui.render import FigureRow, figures
from ui.tab import PageContext
from ui.text import T, locale_of, say, say_message
from ui.widgets import (
    BY_THE_VAE,
    empty_viewer,
    html,
    intro,
    local,
    model_choices,
    picture_input,
    quiet,
    shows,
    uploads_only,
)

MODES = tuple(mode for mode in VAE_MODES if mode != "auto")
FIRST = ("whole", "streamed", "tiled")
OWN_SIZE = 0
SIZES = (256, 512, 1024, 2048)
"""Of the longer side, in pixels."""
COLUMNS = ("mode", "time", "memory", "bytes", "psnr", "ssim", "colour", "seam")


@dataclass(frozen=True)
class CompareTab:
    context: PageContext
    picture: gr.Image
    latents: gr.File
    model: gr.Dropdown
    side: gr.Dropdown
    """Of the longer side, in pixels; OWN_SIZE for the picture's."""
    modes: gr.CheckboxGroup
    remote_line: gr.HTML
    """Whether the endpoint would work, and where it is, once "remote" is ticked."""
    tile: gr.Slider
    overlap: gr.Slider
    viewer: gr.HTML
    left: gr.Dropdown
    right: gr.Dropdown
    table: gr.HTML
    differences: gr.Accordion
    heat: gr.Image
    frame: Frame

    def wire(self) -> None:
        (start,) = self.frame.starts
        inputs = {self.picture, self.latents, self.model, self.side, self.modes, self.tile, self.overlap}
        outputs = {self.viewer, self.left, self.right, self.table, self.differences, self.heat}
        self.frame.on_start(start, self._compare, inputs, outputs, **BY_THE_VAE)
        self.frame.wire_stop()
        shown = [self.frame.run_id, self.left, self.right]
        gr.on([self.left.input, self.right.input], self._switch, shown, [self.viewer, self.heat], **quiet())
        self.model.change(self._list_modes, self.model, self.modes, **quiet())
        self.latents.upload(
            self._recognise, self.latents, [self.model, self.modes, self.frame.status], **quiet()
        )
        watched = {self.modes, self.model, self.picture, self.latents, self.side}
        gr.on(
            [widget.change for widget in watched], self._ask, watched, self.remote_line, **remote_status.EVENT
        )

    def _ask(self, data: Mapping[Component, Any], request: gr.Request) -> Iterator[str]:
        """Before anything is sent: what would go to which host."""
        studio, locale, model = self.context.studio, locale_of(request), data[self.model]
        if "remote" not in data[self.modes]:
            yield ""
            return
        directions: tuple[Direction, ...] = ("encode", "decode")
        picture, file = data[self.picture], data[self.latents]
        try:
            if file:
                model, directions = read_header(Path(file), studio.models, model).model.name, ("decode",)
        except LatentRelayError as error:
            yield remote_status.shown("broken", error.full_message, locale)
            return
        options, longest = VaeOptions("remote"), int(data[self.side]) or MAX_SIDE
        leaves = of_tab(studio, model, options, None if file else picture, file, locale, longest)
        for status in remote_status.ask(studio, model, [(one, options) for one in directions], locale):
            yield status + leaves

    def _compare(self, task: Task) -> None:
        studio, locale, folder = self.context.studio, task.locale, task.run.folder
        options = vae_options("whole", task.data[self.tile], task.data[self.overlap])
        wanted = (task.data[w] for w in (self.picture, self.latents, self.model, self.side))
        source, model, at_size = _source(studio, *wanted, locale)
        sized = say_message(at_size, locale)
        working = say(locale, "compare_working", mode=say(locale, "mode_name_whole"))
        task.tell(f"{working} {sized}", changes={self.table: table((), locale), self.heat: None})
        rows: list[Row] = []
        for row in compare(studio, source, model, task.data[self.modes], options, task.run.stop):
            rows.append(row)
            if row.image is not None:
                task.run.write(f"{row.mode}.png", row.image.save)
            task.show({self.table: table(rows, locale)})
        made = [row.mode for row in rows if row.image is not None]
        choices = [(say(locale, f"mode_name_{mode}"), mode) for mode in made]
        first, last = (made[0], made[-1]) if made else (None, None)
        task.tell(
            f"{say_message(conclusion(rows), locale)} {sized}",
            changes={
                self.differences: gr.update(open=len(made) > 1),
                self.left: gr.update(choices=choices, value=first),
                self.right: gr.update(choices=choices, value=last),
                self.viewer: _pair(folder, first, last, locale),
                self.heat: _heat(folder, first, last),
            },
        )

    def _switch(
        self, run_id: str | None, left: str | None, right: str | None, request: gr.Request
    ) -> tuple[Any, Any]:
        folder = self.context.runs.find(run_id or "")
        if folder is None or not {left, right} <= set(MODES):
            return gr.skip(), gr.skip()
        return _pair(folder, left, right, locale_of(request)), _heat(folder, left, right)

    def _recognise(self, path: str, request: gr.Request) -> dict[Component, Any]:
        """The model whose latents an uploaded file holds, and its modes; none where only a person can know it."""
        studio, locale = self.context.studio, locale_of(request)
        model, question = recognised(studio, path)
        if question is not None:
            return {self.model: None, self.frame.status: status_line(say_message(question, locale))}
        if model is None:
            return {self.model: gr.skip()}
        return {self.model: model, self.modes: self._list_modes(model)}

    def _list_modes(self, model: str) -> dict[str, Any]:
        return gr.update(choices=mode_boxes(self.context.studio.find_model(model)), value=list(FIRST))


def build(context: PageContext) -> CompareTab:
    spec, _ = context.studio.default_model()
    intro("compare_intro")
    with columns():
        with form_column():
            picture = picture_input(label=T("picture"), height=260, buttons=[], elem_id="lr-compare-picture")
            with gr.Accordion(T("compare_latents"), open=False):
                file = uploads_only(
                    gr.File(label=T("latents_file"), file_types=[".safetensors", ".latent"], height=120)
                )
            model = gr.Dropdown(
                model_choices(context.studio), value=spec.name, label=T("compare_model"), filterable=False
            )
            side = gr.Dropdown(
                [(T("compare_own_size"), OWN_SIZE), *((f"{size} px", size) for size in SIZES)],
                value=OWN_SIZE,
                label=T("compare_size"),
                info=T("compare_size_info"),
                filterable=False,
                elem_id="lr-compare-size",
            )
            modes = gr.CheckboxGroup(
                mode_boxes(spec), value=list(FIRST), label=T("compare_modes"), elem_id="lr-compare-modes"
            )
            remote_line = html("", elem_id="lr-compare-remote")
            with gr.Row():
                tile = gr.Slider(64, 1024, 128, step=64, label=T("tile_size"), buttons=[])
                overlap = gr.Slider(0, 256, 32, step=16, label=T("tile_overlap"), buttons=[])
            start, stop = start_and_stop("compare_button", "lr-compare")
        with result_column():
            verdict = html(status_line(say("en", "compare_idle")), elem_id="lr-compare-verdict")
            local(verdict, lambda locale: status_line(say(locale, "compare_idle")))
            view = empty_viewer("lr-compare-viewer", "compare")
            with gr.Row():
                left = gr.Dropdown([], label=T("compare_left"), interactive=True, filterable=False)
                right = gr.Dropdown([], label=T("compare_right"), interactive=True, filterable=False)
            shown = local(html(table((), "en"), elem_id="lr-compare-table"), lambda locale: table((), locale))
            with gr.Accordion(T("compare_heat"), open=False) as differences:
                intro("compare_heat_text", "lr-quiet")
                heat = gr.Image(
                    show_label=False, interactive=False, format="png", buttons=[], elem_id="lr-compare-heat"
                )
    frame = Frame(context, (start,), stop, verdict)
    return CompareTab(
        context,
        picture,
        file,
        model,
        side,
        modes,
        remote_line,
        tile,
        overlap,
        view,
        left,
        right,
        shown,
        differences,
        heat,
        frame,
    )


def mode_boxes(spec: ModelSpec) -> list[tuple[Any, str]]:
    """The modes of that model, as check boxes."""
    return [(T(f"mode_name_{mode}"), mode) for mode in vae_modes(spec) if mode != "auto"]


def _source(
    studio: Studio, picture: str | None, file: str | None, model: str | None, side: int, locale: str
) -> tuple[Any, str, Message]:
    """(picture at the size worked at, or latents; model; the size in a sentence).

    A latents file, where given, wins; `model` counts for one that does not name its own.
    """
    if file:
        latents = load_latents(Path(file), studio.models, model)
        downscale = studio.find_model(latents.model).latents.downscale
        height, width = (downscale * int(cells) for cells in latents.latents.shape[-2:])
        size = Message(
            "Compared at {width} × {height} pixels, the latents’ size.", width=width, height=height
        )
        return latents.latents, latents.model, size
    if not picture:
        raise BadImageError(literal(say(locale, "compare_needs")))
    image = images.to_rgb(open_picture(picture, locale))
    sized, at_size = at_working_size(studio, image, model, int(side) or None)
    return sized, model, at_size


def _pair(folder: Path, left: str | None, right: str | None, locale: str) -> dict[str, Any]:
    if left is None or right is None:
        return shows(locale, tab="compare")
    before, after = (file_url(folder / f"{mode}.png") for mode in (left, right))
    value = shows(locale, before=before, after=after, tab="compare")
    for side, mode in (("before", left), ("after", right)):
        value[f"label_{side}"] = value[f"alt_{side}"] = say(locale, f"mode_name_{mode}")
    return value


def _heat(folder: Path, left: str | None, right: str | None) -> Any:
    if left is None or right is None:
        return None
    with Image.open(folder / f"{left}.png") as a, Image.open(folder / f"{right}.png") as b:
        return quality.difference_picture(a, b)


def table(rows: Sequence[Row], locale: str) -> str:
    """A row a mode; unknown is a dash, a failure its sentence."""
    if not rows:
        return f'<p class="lr-quiet">{escape(say(locale, "compare_no_rows"))}</p>'
    headings = (say(locale, f"compare_{name}") for name in COLUMNS)
    whole = next((row for row in rows if row.mode == "whole"), None)
    return figures(headings, (_row(row, whole, locale) for row in rows), locale)


def _row(row: Row, whole: Row | None, locale: str) -> FigureRow:
    name = escape(say(locale, f"mode_name_{row.mode}"))
    if row.error is not None:
        return FigureRow(name, [escape(say_message(row.error, locale))])
    reference = row.mode == "whole"
    if row.psnr is not None and not reference:
        name += f"<small>{escape(say_message(in_words(row), locale))}</small>"
    share = None if reference or whole is None else memory_share(row, whole)
    of_whole = "" if share is None else f" ({percent(share)})"
    costs = (seconds(row.seconds), size(row.added_bytes) + of_whole, size(row.wire_bytes))
    distances = (
        _figure(row.psnr, "{:.1f} dB"),
        _figure(row.ssim, "{:.4f}"),
        _figure(row.colour_difference, "{:.2f}"),
        _figure(row.seam_score, "{:.2f}"),
    )
    cells = (*costs, *((say(locale, "compare_reference"),) if reference else distances))
    return FigureRow(name, [escape(cell) for cell in cells])


def _figure(value: float | None, form: str) -> str:
    if value is None:
        return "–"
    return "∞" if value == float("inf") else form.format(value)
