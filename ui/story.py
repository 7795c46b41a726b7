"""A run as one picture to put on a slide: before, after, the bar, the numbers and the machine.

Drawn with Pillow when it is asked for, in the visitor's language, in the font that the page uses.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gradio as gr
from PIL import Image, ImageDraw, ImageFont
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from backend.device.measure import PROCESSOR, processor_name
from backend.message import Message, literal
from backend.report import Stage, StageReport
from backend.units import seconds, size
from ui.history import earlier_run
from ui.runs import Runs
from ui.text import locale_of, say, say_message

SIZE = (1920, 1080)
_FONTS = Path(gr.__file__).parent / "templates" / "frontend" / "static" / "fonts" / "IBMPlexSans"
_PAPER, _INK, _QUIET, _LINE = "#faf8f4", "#1d1c1a", "#565047", "#e5e0d7"
COLOURS: dict[Stage, str] = {"encode": "#b7791f", "denoise": "#1f6b5b", "decode": "#6b5bb5"}
"""Of the stages, as in page.css."""
_MARGIN, _TOP, _BOX, _GAP = 64, 128, 560, 24
_BAR = _TOP + _BOX + 32
_COLUMNS = _BAR + 48


@dataclass(frozen=True)
class Column:
    """Figures of one stage, or of one way through the VAE."""

    title: str
    figure: str
    """The one to be read from afar."""
    lines: tuple[str, ...]
    colour: str


@dataclass(frozen=True)
class Story:
    before: Image.Image
    after: Image.Image
    headline: str
    total: str
    total_label: str
    bar: tuple[tuple[str, float], ...]
    """(colour, seconds) of each stage."""
    columns: tuple[Column, ...]
    footer: str


def draw(story: Story, locale: str) -> Image.Image:
    """The story as a picture of `SIZE`."""
    page = Image.new("RGB", SIZE, _PAPER)
    pen = ImageDraw.Draw(page)
    _header(pen)
    for index, (picture, label) in enumerate(((story.before, "before"), (story.after, "after"))):
        _place(page, pen, picture, _MARGIN + index * (_BOX + _GAP), say(locale, label))
    left = _MARGIN + 2 * (_BOX + _GAP) + 20
    room = SIZE[0] - _MARGIN - left
    y = _TOP - 8
    for line in _wrapped(story.headline, 44, room, 6, bold=True):
        pen.text((left, y), line, _INK, _font(44, bold=True))
        y += 56
    bottom = _TOP + _BOX
    pen.text((left, bottom - 196), story.total, _INK, _fitting(story.total, 120, room), anchor="ls")
    pen.text((left, bottom - 150), story.total_label, _QUIET, _font(32))
    _bar(pen, story.bar)
    width = (SIZE[0] - 2 * _MARGIN) // max(1, len(story.columns))
    for index, column in enumerate(story.columns):
        _column(pen, column, _MARGIN + index * width, width - 32)
    footer = next(_wrapped(story.footer, 24, SIZE[0] - 2 * _MARGIN, 1))
    pen.text((_MARGIN, SIZE[1] - 56), footer, _QUIET, _font(24))
    return page


def of_run(
    before: Image.Image,
    after: Image.Image,
    prompt: str,
    model: str,
    reports: Sequence[StageReport],
    locale: str,
) -> Story:
    """The story of a run; `model`: its title."""
    timed = sum(report.cost.seconds for report in reports)
    return Story(
        before,
        after,
        f"“{prompt}”" if prompt else say(locale, "title"),
        seconds(timed),
        say(locale, "total"),
        bar_of(reports),
        tuple(_stage_column(report, locale) for report in reports),
        " · ".join(
            (say(locale, "title"), model, f"{after.width} × {after.height}", machine(reports, locale))
        ),
    )


def bar_of(reports: Sequence[StageReport]) -> tuple[tuple[str, float], ...]:
    return tuple((COLOURS[report.stage], report.cost.seconds) for report in reports)


def _stage_column(report: StageReport, locale: str) -> Column:
    lines = [
        f"{say(locale, f'mode_name_{report.mode}')} · {place(report, locale)}",
        memory_line(report, locale),
    ]
    if report.traffic is not None:
        moved = report.traffic.bytes_sent + report.traffic.bytes_received
        lines.append(say(locale, "story_wire", size=size(moved)))
    name = say(locale, f"stage_{report.stage}")
    return Column(name, seconds(report.cost.seconds), tuple(filter(None, lines)), COLOURS[report.stage])


def memory_line(report: StageReport, locale: str) -> str:
    """Peak memory in a few words; empty where it is not known."""
    if report.cost.peak_bytes is None:
        return ""
    return say(locale, "story_memory", size=size(report.cost.peak_bytes))


def place(report: StageReport, locale: str) -> str:
    """Where a stage ran, a processor by its name: on a slide, “this computer” says nothing."""
    name = processor_name() if report.where == PROCESSOR else None
    return name or say_message(report.where, locale)


def machine(reports: Sequence[StageReport], locale: str) -> str:
    """Where the stages ran, each place once, and how many cores this machine has."""
    places = dict.fromkeys(place(report, locale) for report in reports)
    return " · ".join((*places, say(locale, "story_cores", count=os.cpu_count() or 1)))


# -- drawing ---------------------------------------------------------------------------------------------------


@cache
def _font(points: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_FONTS / f"IBMPlexSans-{'Bold' if bold else 'Regular'}.woff2"), points)


def _fitting(text: str, points: int, room: float) -> ImageFont.FreeTypeFont:
    """The bold font, no larger than lets `text` fit `room` pixels."""
    while points > 20 and _font(points, bold=True).getlength(text) > room:
        points -= 4
    return _font(points, bold=True)


def _wrapped(text: str, points: int, room: float, lines: int, *, bold: bool = False) -> Iterator[str]:
    """`text` in at most so many lines; what does not fit ends in an ellipsis."""
    font, rest = _font(points, bold=bold), " ".join(text.split())
    for number in range(1, lines + 1):
        line = rest
        while font.getlength(line) > room:
            shorter = line.rpartition(" ")[0] if number < lines else ""
            line = shorter or line[: int(len(line) * room / font.getlength(line)) - 1]
        rest = rest[len(line) :].lstrip()
        yield line if not rest or number < lines else line[:-1].rstrip() + "…"
        if not rest:
            return


def _header(pen: ImageDraw.ImageDraw) -> None:
    y = 66
    pen.line((_MARGIN + 14, y, _MARGIN + 122, y), _LINE, 5)
    for x, radius, colour in zip((14, 68, 122), (13, 20, 13), COLOURS.values(), strict=True):
        pen.ellipse((_MARGIN + x - radius, y - radius, _MARGIN + x + radius, y + radius), colour)
    pen.text((_MARGIN + 166, y), "Latent Relay", _INK, _font(40, bold=True), anchor="lm")


def _place(page: Image.Image, pen: ImageDraw.ImageDraw, picture: Image.Image, x: int, label: str) -> None:
    """`picture` as large as fits a square box, with its label."""
    scale = min(_BOX / picture.width, _BOX / picture.height)
    shown = picture.convert("RGB").resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))),
        Image.Resampling.LANCZOS,
    )
    left, top = x + (_BOX - shown.width) // 2, _TOP + (_BOX - shown.height) // 2
    page.paste(shown, (left, top))
    width = _font(26).getlength(label)
    box = (left + 14, top + shown.height - 58, left + 46 + width, top + shown.height - 14)
    pen.rounded_rectangle(box, 22, "#1d1c1a")
    pen.text((left + 30, top + shown.height - 36), label, "#ffffff", _font(26), anchor="lm")


def _bar(pen: ImageDraw.ImageDraw, bar: Sequence[tuple[str, float]]) -> None:
    total, x = sum(part for _, part in bar) or 1.0, float(_MARGIN)
    for colour, part in bar:
        width = (SIZE[0] - 2 * _MARGIN) * part / total
        pen.rectangle((x, _BAR, max(x + 3, x + width - 4), _BAR + 24), colour)
        x += width


def _column(pen: ImageDraw.ImageDraw, column: Column, x: int, room: int) -> None:
    pen.ellipse((x, _COLUMNS + 8, x + 20, _COLUMNS + 28), column.colour)
    pen.text((x + 34, _COLUMNS + 18), column.title, _INK, _font(30, bold=True), anchor="lm")
    pen.text((x, _COLUMNS + 44), column.figure, _INK, _fitting(column.figure, 56, room))
    y = _COLUMNS + 120
    for text in column.lines:
        pen.text((x, y), next(_wrapped(text, 25, room, 1)), _QUIET, _font(25))
        y += 33


# -- the address -----------------------------------------------------------------------------------------------


def story_url(run_id: str) -> str:
    """Where the browser gets a finished run's story; relative, so that a proxy's prefix does no harm."""
    return f"story/{run_id}"


def story_route(runs: Runs, titles: Mapping[str, Message]) -> Route:
    """Draws the story of a kept run; `titles` are the models', by name."""

    def story(request: Request) -> Response:
        found = earlier_run(runs, request.path_params["run_id"])
        if found is None or not (found[0] / "before.png").is_file():
            return PlainTextResponse("There is no such run.", 404)
        folder, picture, metadata = found
        locale = locale_of(gr.Request(request))
        with Image.open(folder / "before.png") as before, Image.open(picture) as after:
            model = str(metadata.recipe.get("model", ""))
            prompt = str(metadata.recipe.get("prompt", ""))
            title = say_message(titles.get(model, literal(model)), locale)
            told = of_run(before, after, prompt, title, metadata.reports, locale)
            drawn = draw(told, locale)
        body = io.BytesIO()
        drawn.save(body, "PNG")
        name = f"{picture.stem}-story.png"
        return Response(
            body.getvalue(),
            media_type="image/png",
            headers={
                "content-disposition": f'attachment; filename="{name}"',
                "x-content-type-options": "nosniff",
            },
        )

    return Route("/story/{run_id}", story)
