"""What the page opens with: a finished example, painted once by `python -m ui.assets.paint`; nothing is computed here.

Its picture says how it was made, as every picture saved here does; words come in the visitor's language.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import gradio as gr

from backend.units import seconds
from ui.form import Changes
from ui.pictures import asset_url
from ui.recipe import PngMetadata, read_metadata
from ui.render import Progress, cost_table, panel
from ui.run_view import RunWidgets
from ui.text import locale_of, say
from ui.theme import ASSETS
from ui.widgets import quiet, shows

SKETCH, PAINTING = "sea", "example"
"""Before and after, by their names among the assets."""
TONE = "example"
"""The panel's state while it shows the example."""


@cache
def metadata() -> PngMetadata:
    """How the example was painted."""
    found = read_metadata(ASSETS / f"{PAINTING}.png")
    assert found is not None, "python -m ui.assets.paint writes it"
    return found


def viewer_value(locale: str) -> dict[str, Any]:
    prompt = str(metadata().recipe["prompt"])
    return shows(locale, before=asset_url(SKETCH), after=asset_url(PAINTING), prompt=prompt)


def panel_html(locale: str) -> str:
    reports = metadata().reports
    took = seconds(sum(report.cost.seconds for report in reports))
    return panel(Progress(say(locale, "example", seconds=took), 1.0, reports=reports, tone=TONE), locale)


def table_html(locale: str) -> str:
    return cost_table(metadata().reports, locale)


def wire(image: gr.Image, result: RunWidgets) -> None:
    """The example goes when the picture box is filled, whichever way; what a run has shown stays."""

    def clear(run_id: str | None, request: gr.Request) -> Changes:
        if run_id:
            return {result.panel: gr.skip()}
        locale = locale_of(request)
        return {
            result.viewer: shows(locale),
            result.panel: panel(Progress(say(locale, "state_idle")), locale),
            result.table: cost_table((), locale),
        }

    image.change(clear, result.run_id, [result.viewer, result.panel, result.table], **quiet())
