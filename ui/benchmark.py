"""The Benchmark tab: the published tables, remade on this machine row by row, drawn beside the published cards."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from backend.bench import OOM, Bench, Case, Measured
from backend.errors import BadSettingError, Cancelled, LatentRelayError
from backend.job import VAE_MODES
from backend.models import find_model
from backend.placement.cards import DEFAULT_TILE, cells
from backend.studio import Studio
from ui.render import figures, seconds, size
from ui.runs import Runs
from ui.text import T, locale_of, say, translated
from ui.widgets import failure, html, intro, local, model_choices, quiet

SIZES = (64, 128, 256, 512, 1024, 2048)
MODES = tuple(mode for mode in VAE_MODES if mode not in ("auto", "remote", "tiny"))
RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
COLUMNS = ("size", "seconds", "memory", "series")


def build(studio: Studio, runs: Runs) -> Callable[[], None]:
    spec, _ = studio.default_model()
    intro("bench_intro")
    run_id = gr.State()
    with gr.Row(equal_height=False, elem_classes="lr-columns"):
        with gr.Column(scale=4, min_width=300):
            model = gr.Dropdown(
                model_choices(studio), value=spec.name, label=T("fit_model"), filterable=False
            )
            stage = gr.Radio(
                [(T("stage_encode"), "encode"), (T("stage_decode"), "decode")],
                value="decode",
                label=T("bench_stage"),
            )
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
            with gr.Row(elem_classes="lr-go"):
                start = gr.Button(T("bench_button"), variant="primary", scale=4, elem_id="lr-bench")
                stop = gr.Button(T("stop"), variant="stop", scale=1, min_width=90, interactive=False)
        with gr.Column(scale=7, min_width=320):
            status = html(_status(say("en", "bench_idle")), elem_id="lr-bench-status")
            local(status, lambda locale: _status(say(locale, "bench_idle")))
            shown = local(html(table((), "en"), elem_id="lr-bench-table"), lambda locale: table((), locale))
            save = gr.DownloadButton(T("bench_save"), interactive=False, elem_id="lr-bench-save")
            with gr.Row():
                times = _plot("seconds", "bench_times")
                memory = _plot("memory", "bench_memory")
    outputs = [run_id, status, shown, save, times, memory, start, stop]

    def run(
        model: str,
        stage: str,
        sizes: list[int],
        modes: list[str],
        count: float,
        overlays: list[str],
        request: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        locale = locale_of(request)
        run = runs.start()
        rows: list[Measured] = []
        try:
            wanted = cases(model, stage, sizes, modes)
            if not wanted:
                raise BadSettingError(say(locale, "bench_nothing"))
            yield {
                run_id: run.id,
                status: _status(say(locale, "bench_working", done=0, count=len(wanted))),
                shown: table((), locale),
                times: None,
                memory: None,
                save: gr.update(value=None, interactive=False),
                start: gr.update(interactive=False),
                stop: gr.update(interactive=True),
            }
            for row in Bench(studio.loader).run(wanted, int(count), run.stop):
                rows.append(row)
                done = say(locale, "bench_working", done=len(rows), count=len(wanted))
                yield {status: _status(done), shown: table(rows, locale)}
            yield {status: _status(say(locale, "bench_done", weights=rows[0].weights))}
        except Cancelled:
            yield {status: _status(say(locale, "state_stopped"))}
        except LatentRelayError as error:
            yield {status: _status(translated(error.sentence, locale))}
            raise failure(translated(error.sentence, locale)) from error
        finally:
            runs.finish(run)
            changes: dict[Any, Any] = {start: gr.update(interactive=True), stop: gr.update(interactive=False)}
            if rows:
                data = frame(rows, stage, model, overlays)
                file = run.keep("benchmark.csv", lambda path: export(rows, path))
                changes |= {
                    times: data,
                    memory: data,
                    save: gr.update(value=file and str(file), interactive=file is not None),
                }
            yield changes

    def wire() -> None:
        start.click(
            run,
            [model, stage, sizes, modes, count, overlays],
            outputs,
            show_progress="hidden",
            concurrency_limit=1,
            trigger_mode="once",
            api_visibility="private",
        )
        stop.click(runs.stop, run_id, None, **quiet())

    return wire


def cases(model: str, stage: str, sizes: Iterable[int], modes: Sequence[str]) -> list[Case]:
    """The cells to measure; tiles are half the picture where the default tile would hold all of it."""
    spec = find_model(model)
    result = []
    for side in sorted(sizes):
        for mode in modes:
            tile = min(DEFAULT_TILE.get(model, 512), max(64, side // 2))
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
    columns = ("size", "mode", "time", "memory")
    headings = (say(locale, f"bench_col_{name}") for name in columns)
    return figures(headings, (_row(row, locale) for row in rows), locale)


def _row(row: Measured, locale: str) -> str:
    mode = escape(say(locale, f"mode_name_{row.mode}"))
    if row.seconds is None:
        why = say(locale, "fit_oom") if row.error == OOM else row.error or "–"
        figures = f'<td colspan="2">{escape(why)}</td>'
    else:
        share = "" if row.memory_percent is None else f" ({row.memory_percent:.1f} %)"
        kind = "" if row.memory_kind is None else f" {row.memory_kind}"
        figures = f"<td>{seconds(row.seconds)}</td><td>{size(row.peak_bytes)}{kind}{share}</td>"
    return f'<tr><th scope="row">{row.size} × {row.size}</th><td>{mode}</td>{figures}</tr>'


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


def _status(sentence: str) -> str:
    return f'<p class="lr-verdict" role="status">{escape(sentence)}</p>'
