"""The Compare tab: one picture, or one latents file, through several VAE modes, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from backend import images, quality
from backend.compare import Row, compare, conclusion
from backend.errors import BadImageError, Cancelled, LatentRelayError
from backend.job import VAE_MODES, fit_size, vae_modes
from backend.latents import load_latents
from backend.models import find_model
from backend.studio import Studio
from ui.form import vae_options
from ui.pictures import file_url, open_picture
from ui.render import figures, seconds, size
from ui.runs import Runs
from ui.text import T, locale_of, say, translated
from ui.widgets import (
    BY_THE_VAE,
    failure,
    html,
    intro,
    local,
    model_choices,
    picture_input,
    quiet,
    shows,
    uploads_only,
    viewer,
)

MODES = tuple(mode for mode in VAE_MODES if mode != "auto")
FIRST = ("whole", "streamed", "tiled")
COLUMNS = ("mode", "time", "memory", "bytes", "psnr", "ssim", "colour", "seam")


def build(studio: Studio, runs: Runs) -> Callable[[], None]:
    spec, _ = studio.default_model()
    intro("compare_intro")
    run_id = gr.State()
    with gr.Row(equal_height=False, elem_classes="lr-columns"):
        with gr.Column(scale=5, min_width=320):
            picture = picture_input(label=T("picture"), height=260, buttons=[], elem_id="lr-compare-picture")
            with gr.Accordion(T("compare_latents"), open=False):
                file = uploads_only(gr.File(label=T("latents_file"), file_types=[".safetensors"], height=120))
            model = gr.Dropdown(
                model_choices(studio), value=spec.name, label=T("compare_model"), filterable=False
            )
            modes = gr.CheckboxGroup(
                ways(spec.name),
                value=list(FIRST),
                label=T("compare_modes"),
                elem_id="lr-compare-modes",
            )
            with gr.Row():
                tile = gr.Slider(64, 1024, 128, step=64, label=T("tile_size"), buttons=[])
                overlap = gr.Slider(0, 256, 32, step=16, label=T("tile_overlap"), buttons=[])
            with gr.Row(elem_classes="lr-go"):
                start = gr.Button(T("compare_button"), variant="primary", scale=4, elem_id="lr-compare")
                stop = gr.Button(T("stop"), variant="stop", scale=1, min_width=90, interactive=False)
        with gr.Column(scale=6, min_width=320):
            verdict = html(_verdict(say("en", "compare_idle")), elem_id="lr-compare-verdict")
            local(verdict, lambda locale: _verdict(say(locale, "compare_idle")))
            view = viewer("lr-compare-viewer", "compare")
            with gr.Row():
                left = gr.Dropdown([], label=T("compare_left"), interactive=True, filterable=False)
                right = gr.Dropdown([], label=T("compare_right"), interactive=True, filterable=False)
            shown = local(html(table((), "en"), elem_id="lr-compare-table"), lambda locale: table((), locale))
            with gr.Accordion(T("compare_heat"), open=False):
                intro("compare_heat_text", "lr-quiet")
                heat = gr.Image(
                    show_label=False, interactive=False, format="png", buttons=[], elem_id="lr-compare-heat"
                )
    outputs = [run_id, verdict, view, left, right, shown, heat, start, stop]

    def run(
        picture: str | None,
        file: str | None,
        model: str,
        modes: list[str],
        tile: float,
        overlap: float,
        request: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        locale = locale_of(request)
        run = runs.start()
        rows: list[Row] = []
        try:
            options = vae_options("whole", tile, overlap)
            source, name = _source(picture, file, model, locale)
            working = say(locale, "compare_working", mode=say(locale, "mode_name_whole"))
            yield {
                run_id: run.id,
                verdict: _verdict(working),
                shown: table((), locale),
                heat: None,
                start: gr.update(interactive=False),
                stop: gr.update(interactive=True),
            }
            for row in compare(studio, source, name, modes, options, run.stop):
                rows.append(row)
                if row.image is not None:
                    run.write(f"{row.mode}.png", row.image.save)
                yield {shown: table(rows, locale)}
            made = [row.mode for row in rows if row.image is not None]
            choices = [(say(locale, f"mode_name_{mode}"), mode) for mode in made]
            first, last = (made[0], made[-1]) if made else (None, None)
            yield {
                verdict: _verdict(translated(conclusion(rows), locale)),
                left: gr.update(choices=choices, value=first),
                right: gr.update(choices=choices, value=last),
                view: _pair(run.folder, first, last, locale),
                heat: _heat(run.folder, first, last),
            }
        except Cancelled:
            yield {verdict: _verdict(say(locale, "state_stopped"))}
        except LatentRelayError as error:
            yield {verdict: _verdict(translated(error.sentence, locale))}
            raise failure(translated(error.sentence, locale)) from error
        finally:
            runs.finish(run)
            yield {start: gr.update(interactive=True), stop: gr.update(interactive=False)}

    def switch(key: str | None, left: str | None, right: str | None, request: gr.Request) -> tuple[Any, Any]:
        folder = runs.find(key or "")
        if folder is None or not {left, right} <= set(MODES):
            return gr.skip(), gr.skip()
        return _pair(folder, left, right, locale_of(request)), _heat(folder, left, right)

    def wire() -> None:
        start.click(
            run,
            [picture, file, model, modes, tile, overlap],
            outputs,
            show_progress="hidden",
            **BY_THE_VAE,
            trigger_mode="once",
            api_visibility="private",
        )
        stop.click(runs.stop, run_id, None, **quiet())
        gr.on([left.input, right.input], switch, [run_id, left, right], [view, heat], **quiet())
        model.input(lambda name: gr.update(choices=ways(name), value=list(FIRST)), model, modes, **quiet())

    return wire


def ways(model: str) -> list[tuple[Any, str]]:
    """The modes of that model, as check boxes."""
    return [(T(f"mode_name_{mode}"), mode) for mode in vae_modes(find_model(model)) if mode != "auto"]


def _source(picture: str | None, file: str | None, model: str, locale: str) -> tuple[Any, str]:
    """(picture at the size worked at, or latents; model): a latents file, where given, wins and names its model."""
    if file:
        latents = load_latents(Path(file))
        return latents.latents, latents.model
    if not picture:
        raise BadImageError(say(locale, "compare_needs"))
    image = images.to_rgb(open_picture(picture, locale))
    return images.resize(image, *fit_size(image.size, find_model(model))), model


def _pair(folder: Path, left: str | None, right: str | None, locale: str) -> dict[str, Any]:
    if left is None or right is None:
        return shows(locale, tab="compare")
    names = {side: say(locale, f"mode_name_{mode}") for side, mode in (("before", left), ("after", right))}
    value = shows(
        locale,
        before=file_url(folder / f"{left}.png"),
        after=file_url(folder / f"{right}.png"),
        tab="compare",
    )
    return (
        value
        | {f"label_{side}": name for side, name in names.items()}
        | {f"alt_{side}": name for side, name in names.items()}
    )


def _heat(folder: Path, left: str | None, right: str | None) -> Any:
    if left is None or right is None:
        return None
    from PIL import Image

    with Image.open(folder / f"{left}.png") as a, Image.open(folder / f"{right}.png") as b:
        return quality.difference_picture(a, b)


def _verdict(sentence: str) -> str:
    return f'<p class="lr-verdict" role="status">{escape(sentence)}</p>'


def table(rows: Sequence[Row], locale: str) -> str:
    """A row a mode; unknown is a dash, a failure its sentence."""
    if not rows:
        return f'<p class="lr-quiet">{escape(say(locale, "compare_no_rows"))}</p>'
    headings = (say(locale, f"compare_{name}") for name in COLUMNS)
    return figures(headings, (_row(row, locale) for row in rows), locale)


def _row(row: Row, locale: str) -> str:
    name = f'<th scope="row">{escape(say(locale, f"mode_name_{row.mode}"))}</th>'
    if row.error is not None:
        return f'<tr>{name}<td colspan="{len(COLUMNS) - 1}">{escape(translated(row.error, locale))}</td></tr>'
    share = "" if row.peak_percent is None else f" ({row.peak_percent:.1f} %)"
    reference = row.mode == "whole"
    cells = (
        seconds(row.seconds),
        size(row.peak_bytes) + share,
        size(row.wire_bytes),
        say(locale, "compare_reference") if reference else _figure(row.psnr, "{:.1f} dB"),
        "" if reference else _figure(row.ssim, "{:.4f}"),
        "" if reference else _figure(row.colour_difference, "{:.2f}"),
        "" if reference else _figure(row.seam_score, "{:.2f}"),
    )
    return f"<tr>{name}{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _figure(value: float | None, form: str) -> str:
    if value is None:
        return "–"
    return "∞" if value == float("inf") else form.format(value)
