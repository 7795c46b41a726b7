"""Stage reports as HTML, in the visitor's language: pure functions, whose results are escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from backend.report import Stage, StageReport, avoided_bytes
from backend.units import UNKNOWN, percent, seconds, size
from ui.text import say, say_message

STAGES: tuple[Stage, ...] = ("encode", "denoise", "decode")


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    message: str
    """In the visitor's language."""
    fraction: float = 0.0
    """Of the whole run, 0 to 1; denoising is nearly all of it."""
    active: Stage | None = None
    where: str = ""
    """Mode and device of the active stage, in the visitor's language."""
    reports: tuple[StageReport, ...] = ()
    failed: Stage | None = None
    running: bool = False
    tone: str = ""
    """"" while all is well, "bad" after a failure, "example" for what was painted elsewhere."""


def summary(reports: Sequence[StageReport], locale: str) -> str:
    """A run in one line: what happened where, how long it took, what went over the wire."""
    parts = []
    for report in reports:
        place = (
            say(locale, "at", where=say_message(report.where, locale))
            if report.mode == "remote"
            else say(locale, "here")
        )
        values = {"place": place, "seconds": seconds(report.cost.seconds), "steps": report.steps or 0}
        parts.append(say(locale, f"story_{report.stage}", **values))
    moved = sum(r.traffic.bytes_sent + r.traffic.bytes_received for r in reports if r.traffic)
    if moved:
        parts.append(say(locale, "story_wire", size=size(moved)))
    sentence = ", ".join(parts)
    return sentence[:1].upper() + sentence[1:] + "."


def memory(report: StageReport) -> str:
    cost = report.cost
    if cost.peak_bytes is None:
        return UNKNOWN
    share = "" if cost.peak_percent is None else f" ({percent(cost.peak_percent)})"
    return f"{size(cost.peak_bytes)} {cost.memory_kind}{share}"


def panel(progress: Progress, locale: str, stages: Sequence[Stage] = STAGES) -> str:
    """Status line, progress, the stages lighting up, and the bar to scale. Always the same height."""
    done = {report.stage: report for report in progress.reports}
    items = "".join(_stage(stage, done.get(stage), progress, locale) for stage in stages)
    percent = round(100 * min(1.0, max(0.0, progress.fraction)))
    state = "running" if progress.running else progress.tone or "still"
    return (
        f'<div class="lr-panel" data-state="{state}">'
        f'<p class="lr-status" role="status">{escape(progress.message)}</p>'
        f'<div class="lr-progress" role="progressbar" aria-label="{escape(progress.message)}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}"><i style="width:{percent}%"></i></div>'
        f'<ol class="lr-stages" data-count="{len(stages)}">{items}</ol>{bar(progress.reports, locale)}</div>'
    )


def _stage(stage: Stage, report: StageReport | None, progress: Progress, locale: str) -> str:
    state = "done" if report else "failed" if progress.failed == stage else "waiting"
    if report is None and progress.active == stage and progress.running:
        state = "active"
    if report:
        mode = say(locale, f"mode_name_{report.mode}") if report.mode else ""
        where, took = f"{mode} · {say_message(report.where, locale)}", seconds(report.cost.seconds)
    elif state == "active" and progress.where:
        where, took = progress.where, "…"
    else:
        where, took = say(locale, f"stage_{stage}_what"), ""
    title = say_message(report.reason, locale) if report else where
    return (
        f'<li class="lr-stage lr-{stage}" data-state="{state}" title="{escape(title)}">'
        f'<b>{escape(say(locale, f"stage_{stage}"))}</b><span class="lr-took">{escape(took)}</span>'
        f'<span class="lr-where">{escape(where)}</span></li>'
    )


def bar(reports: Sequence[StageReport], locale: str) -> str:
    """The stages side by side, as wide as they were long."""
    total = sum(report.cost.seconds for report in reports)
    if not total:
        return '<div class="lr-bar" aria-hidden="true"></div>'
    label = " · ".join(
        f"{say(locale, f'stage_{report.stage}')} {seconds(report.cost.seconds)}, {say_message(report.where, locale)}"
        for report in reports
    )
    parts = "".join(
        f'<i class="lr-{report.stage}" style="flex-grow:{max(report.cost.seconds / total, 0.004):.4f}" '
        f'title="{escape(say(locale, f"stage_{report.stage}"))} {seconds(report.cost.seconds)}"></i>'
        for report in reports
    )
    return f'<div class="lr-bar" role="img" aria-label="{escape(label)}">{parts}</div>'


@dataclass(frozen=True)
class FigureRow:
    """A row of `figures`, in HTML. With fewer cells than headings, the last one takes the rest."""

    name: str
    cells: Sequence[str]
    attributes: str = ""
    """Of the `<tr>`."""


def figures(headings: Iterable[str], rows: Iterable[FigureRow], locale: str) -> str:
    """A table; on a phone each row is a block, and each figure stands beside its heading."""
    names = tuple(headings)
    return _table(names, (_figure_row(row, names) for row in rows), locale, "lr-table lr-figures")


def _figure_row(row: FigureRow, headings: Sequence[str]) -> str:
    last = len(row.cells) - 1
    cells = []
    for index, cell in enumerate(row.cells):
        rest = len(headings) - 1 - last
        span = f' colspan="{rest}"' if index == last and rest > 1 else ""
        label = "" if span else f' data-label="{escape(headings[index + 1])}"'
        cells.append(f"<td{span}{label}><span>{cell}</span></td>")
    return f'<tr{row.attributes}><th scope="row">{row.name}</th>{"".join(cells)}</tr>'


def _table(headings: Iterable[str], rows: Iterable[str], locale: str, css: str, foot: str = "") -> str:
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    return (
        f'<div class="lr-scroll" tabindex="0" role="group" aria-label="{escape(say(locale, "numbers"))}">'
        f'<table class="{css}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody>{foot}</table></div>"
    )


def cost_table(reports: Sequence[StageReport], locale: str) -> str:
    """The numbers, one row a stage and its reason under it; unknown is a dash, never 0. Stacked on a phone."""
    if not reports:
        return f'<p class="lr-quiet">{escape(say(locale, "no_numbers"))}</p>'
    columns = ("stage", "where", "time", "memory", "traffic", "wire")
    headings = [say(locale, f"col_{name}") for name in columns]
    total = seconds(sum(report.cost.seconds for report in reports))
    foot = (
        f'<tfoot><tr><th scope="row">{escape(say(locale, "total"))}</th><td></td>'
        f'<td data-label="{escape(headings[2])}"><span>{total}</span></td><td colspan="3"></td></tr></tfoot>'
    )
    rows = (_cost_row(report, headings, locale) for report in reports)
    return _table(headings, rows, locale, "lr-table lr-figures lr-costs", foot) + _avoided(reports, locale)


def _avoided(reports: Sequence[StageReport], locale: str) -> str:
    """One line for a run that never needed the VAE here."""
    count = avoided_bytes(reports)
    return (
        "" if count is None else f'<p class="lr-quiet">{escape(say(locale, "spared", size=size(count)))}</p>'
    )


def _cost_row(report: StageReport, headings: Sequence[str], locale: str) -> str:
    """A stage's numbers, and under them why it ran there."""
    name, reason = say(locale, f"stage_{report.stage}"), say_message(report.reason, locale)
    cells = (
        _place(report, locale),
        seconds(report.cost.seconds),
        memory(report),
        *_traffic(report, locale),
    )
    stage = FigureRow(f'<i class="lr-dot lr-{report.stage}"></i>{escape(name)}', cells)
    why = f"<div>{escape(say(locale, 'why', reason=reason))}</div>"
    return f'{_figure_row(stage, headings)}<tr class="lr-why"><td colspan="{len(headings)}">{why}</td></tr>'


def _place(report: StageReport, locale: str) -> str:
    """The mode that ran and where, and the one that was asked for if that is another."""
    mode = say(locale, f"mode_name_{report.mode}")
    requested = ""
    if report.requested_mode and report.requested_mode != report.mode:
        name = say(locale, f"mode_name_{report.requested_mode}")
        requested = f"<small>{escape(say(locale, 'asked_for', mode=name))}</small>"
    return f"{escape(mode)} · {escape(say_message(report.where, locale))}{requested}"


def _traffic(report: StageReport, locale: str) -> tuple[str, str]:
    """(bytes sent and received, seconds at the server and on the way); dashes for what stayed here."""
    traffic = report.traffic
    if traffic is None:
        return UNKNOWN, UNKNOWN
    moved = f"{size(traffic.bytes_sent)} / {size(traffic.bytes_received)}"
    if traffic.transfer is not None:
        kept = say(locale, "wire_lossless" if traffic.lossless else "wire_lossy", form=traffic.transfer)
        moved += f"<small>{escape(kept)}</small>"
    network = traffic.network_seconds(report.cost.seconds)
    return moved, f"{seconds(traffic.server_seconds)} / {seconds(network)}"
