"""The tab that remakes the published tables on this machine row by row, drawn beside the published GPUs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import gradio as gr
import pandas as pd

from backend.bench import OOM, Bench, Case, Measured
from backend.errors import BadSettingError, LatentRelayError
from backend.job import VAE_MODES
from backend.message import literal
from backend.models import ModelSpec
from backend.placement.cards import DEFAULT_TILE, cells
from backend.units import percent, seconds, size
from ui.frame import Changes, Frame, Task, columns, form_column, result_column, start_and_stop, status_line
from ui.render import FigureRow, figures
from ui.tab import PageContext
from ui.text import T, say
from ui.widgets import html, intro, local, model_choices

SIZES = (64, 128, 256, 512, 1024, 2048)
MODES = tuple(mode for mode in VAE_MODES if mode not in ("auto", "remote", "tiny"))
RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
COLUMNS = ("size", "seconds", "memory", "series")


@dataclass(frozen=True)
class BenchmarkTab:
    context: PageContext
    model: gr.Dropdown
    stage: gr.Radio
    sizes: gr.CheckboxGroup
    modes: gr.CheckboxGroup
    count: gr.Slider
    overlays: gr.Dropdown
    """Published GPUs and saved results to draw beside what was measured."""
    table: gr.HTML
    save: gr.DownloadButton
    times: gr.LinePlot
    memory: gr.LinePlot
    frame: Frame

    def wire(self) -> None:
        (start,) = self.frame.starts
        inputs = {self.model, self.stage, self.sizes, self.modes, self.count, self.overlays}
        outputs = {self.table, self.save, self.times, self.memory}
        self.frame.on_start(start, self._measure, inputs, outputs, concurrency_limit=1)
        self.frame.wire_stop()

    def _measure(self, task: Task) -> None:
        data, locale = task.data, task.locale
        spec = self.context.studio.find_model(data[self.model])
        todo = cases(spec, data[self.stage], data[self.sizes], data[self.modes])
        if not todo:
            raise BadSettingError(literal(say(locale, "bench_nothing")))
        nothing: Changes = {
            self.table: table((), locale),
            self.times: None,
            self.memory: None,
            self.save: gr.update(value=None, interactive=False),
        }
        task.tell(say(locale, "bench_working", done=0, count=len(todo)), changes=nothing)
        rows: list[Measured] = []
        try:
            for row in Bench(self.context.studio.loader).run(todo, int(data[self.count]), task.run.stop):
                rows.append(row)
                done = say(locale, "bench_working", done=len(rows), count=len(todo))
                task.tell(done, changes={self.table: table(rows, locale)})
        except LatentRelayError:
            if rows:  # stopped or failed; what was measured stays true
                task.show(self._drawn(task, rows))
            raise
        task.tell(say(locale, "bench_done", weights=rows[0].weights), changes=self._drawn(task, rows))

    def _drawn(self, task: Task, rows: Sequence[Measured]) -> Changes:
        """The plots of what was measured, and its file."""
        data = frame(rows, task.data[self.stage], task.data[self.model], task.data[self.overlays])
        file = task.run.keep("benchmark.csv", lambda path: export(rows, path))
        save = gr.update(value=file and str(file), interactive=file is not None)
        return {self.times: data, self.memory: data, self.save: save}


def build(context: PageContext) -> BenchmarkTab:
    spec, _ = context.studio.default_model()
    intro("bench_intro")
    with columns():
        with form_column(scale=4, min_width=300):
            model = gr.Dropdown(
                model_choices(context.studio), value=spec.name, label=T("fit_model"), filterable=False
            )
            stages = [(T("stage_encode"), "encode"), (T("stage_decode"), "decode")]
            stage = gr.Radio(stages, value="decode", label=T("bench_stage"))
            sizes = gr.CheckboxGroup(
                [(str(s), s) for s in SIZES],
                value=[128, 256, 512],
                label=T("bench_sizes"),
                elem_id="lr-bench-sizes",
            )
            modes = gr.CheckboxGroup(
                [(T(f"mode_name_{mode}"), mode) for mode in MODES],
                value=list(MODES),
                label=T("compare_modes"),
            )
            count = gr.Slider(1, 10, 3, step=1, label=T("bench_runs"), buttons=[])
            overlays = gr.Dropdown(
                [*published_names(), *saved_names()],
                value=[],
                multiselect=True,
                label=T("bench_overlays"),
                info=T("bench_overlays_info"),
                elem_id="lr-bench-overlays",
            )
            start, stop = start_and_stop("bench_button", "lr-bench")
        with result_column(scale=7):
            status = html(status_line(say("en", "bench_idle")), elem_id="lr-bench-status")
            local(status, lambda locale: status_line(say(locale, "bench_idle")))
            shown = local(html(table((), "en"), elem_id="lr-bench-table"), lambda locale: table((), locale))
            save = gr.DownloadButton(T("bench_save"), interactive=False, elem_id="lr-bench-save")
            with gr.Row():
                times = _plot("seconds", "bench_times")
                memory = _plot("memory", "bench_memory")
    return BenchmarkTab(
        context,
        model,
        stage,
        sizes,
        modes,
        count,
        overlays,
        shown,
        save,
        times,
        memory,
        frame=Frame(context, (start,), stop, status),
    )


def cases(spec: ModelSpec, stage: str, sizes: Iterable[int], modes: Sequence[str]) -> list[Case]:
    """The cells to measure; tiles are half the picture where the default tile would hold all of it."""
    result = []
    for side in sorted(sizes):
        for mode in modes:
            tile = min(DEFAULT_TILE.get(spec.name, 512), max(64, side // 2))
            if mode == "tiled" and tile >= side:
                continue
            result.append(Case(stage, spec, side, mode, tile, tile // 4))
    return result


def published_names() -> list[str]:
    return list(dict.fromkeys(cell.gpu.removeprefix("NVIDIA GeForce ") for cell in cells()))


def saved_names() -> list[str]:
    """Results that `python -m benchmarks.vae` left here."""
    return sorted(path.stem for path in RESULTS.glob("vae-*.json"))


def frame(rows: Sequence[Measured], stage: str, model: str, overlays: Sequence[str]) -> pd.DataFrame:
    """What the plots draw: size in pixels a side, seconds, memory in GB, and the name of the line."""
    data: list[tuple[float, float | None, float | None, str]] = [
        (row.size, row.seconds, _gigabytes(row.peak_bytes), row.mode)
        for row in rows
        if row.seconds is not None
    ]
    for name in overlays:
        for cell in cells():
            same = (cell.stage, cell.model) == (stage, "sdxl" if model.startswith("sdxl") else "sd-v1")
            if same and cell.gpu == f"NVIDIA GeForce {name}" and cell.seconds is not None:
                line = f"{name}, tiled" if cell.tiled else name
                data.append((cell.size, cell.seconds, _gigabytes(cell.peak_bytes), line))
        path = RESULTS / f"{name}.json"
        if name in saved_names():
            for row in json.loads(path.read_text())["rows"]:
                if (row["stage"], row["model"]) == (stage, model) and row["seconds"] is not None:
                    line = f"{name}, {row['mode']}"
                    data.append((row["size"], row["seconds"], _gigabytes(row["peak_bytes"]), line))
    # An empty or mixed column would be drawn as names instead of numbers.
    kinds = {"size": float, "seconds": float, "memory": float, "series": str}
    return pd.DataFrame(data, columns=list(COLUMNS)).astype(kinds)


def export(rows: Sequence[Measured], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0].as_dict()))
        writer.writeheader()
        writer.writerows(row.as_dict() for row in rows)


def table(rows: Sequence[Measured], locale: str) -> str:
    if not rows:
        return f'<p class="lr-quiet">{escape(say(locale, "bench_no_rows"))}</p>'
    headings = (say(locale, f"bench_col_{name}") for name in ("size", "mode", "time", "memory"))
    return figures(headings, (_row(row, locale) for row in rows), locale)


def _row(row: Measured, locale: str) -> FigureRow:
    mode = escape(say(locale, f"mode_name_{row.mode}"))
    if row.seconds is None:
        reason = say(locale, "fit_oom") if row.error == OOM else row.error or "–"
        measured = [escape(reason)]
    else:
        share = "" if row.memory_percent is None else f" ({percent(row.memory_percent)})"
        kind = "" if row.memory_kind is None else f" {row.memory_kind}"
        measured = [seconds(row.seconds), f"{size(row.peak_bytes)}{kind}{share}"]
    return FigureRow(f"{row.size} × {row.size}", [mode, *measured])


def _plot(y: str, title: str) -> gr.LinePlot:
    """An empty plot. Not an empty table: Gradio keeps the list of lines of the first table it was given."""
    return gr.LinePlot(
        x="size",
        y=y,
        color="series",
        title=say("en", title),
        x_title=say("en", "bench_axis_size"),
        y_title=say("en", f"bench_axis_{y}"),
        y_lim=[0, None],
        x_lim=[0, None],
        height=280,
        min_width=260,
        buttons=[],
        elem_id=f"lr-plot-{y}",
    )


def _gigabytes(count: float | None) -> float | None:
    return None if count is None else count / 1e9
