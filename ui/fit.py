"""The tab "Will it fit?": a card, a model and a size in, what each VAE mode would need out, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import gradio as gr

from backend.models import find_model
from backend.placement.fit import DIRECTIONS, Fit, advise, card_choices, will_it_fit
from backend.studio import Studio
from ui.render import figures, seconds
from ui.text import T, locale_of, say, translated
from ui.widgets import failure, intro, model_choices, quiet

OWN, THIS = "own", "this"
SIZES = (256, 512, 768, 1024, 1536, 2048, 3072, 4096)
GIB = 2**30
FIRST = "RTX 3070"


def build(studio: Studio, tab: gr.Tab) -> Callable[[], None]:
    """The forecast is made when `tab` is opened: the streamed mode's plan needs torch, which the first page does not
    wait for."""
    spec, _ = studio.default_model()
    # Nobody asks whether the built-in model fits.
    model_name = "sd-v1" if spec.name == "builtin" else spec.name
    cards = card_choices()
    intro("fit_intro")
    with gr.Row(elem_classes="lr-fit-form"):
        card = gr.Dropdown(
            [
                *((f"{name}, {size // GIB} GB", name) for name, size in cards.items()),
                (T("fit_this"), THIS),
                (T("fit_own"), OWN),
            ],
            value=FIRST,
            label=T("fit_card"),
            filterable=False,
            elem_id="lr-fit-card",
        )
        memory = gr.Number(8, label=T("fit_memory"), minimum=1, maximum=1000, elem_id="lr-fit-memory")
        model = gr.Dropdown(model_choices(studio), value=model_name, label=T("fit_model"), filterable=False)
        side = gr.Dropdown(
            [(f"{size} × {size}", size) for size in SIZES], value=2048, label=T("fit_size"), filterable=False
        )
    answer = intro("fit_thinking", "lr-quiet", elem_id="lr-fit-answer")

    def forecast(card: str, memory: float, model: str, side: int, request: gr.Request) -> str:
        locale = locale_of(request)
        if card == THIS:
            return _shown(studio.fits_here(model, int(side), int(side)), locale)
        if not memory or not 0 < memory <= 1000:
            raise failure(say(locale, "fit_bad_memory"))
        gpu = None if card == OWN else f"NVIDIA GeForce {card}"
        return _shown(will_it_fit(find_model(model), int(side), int(side), int(memory * GIB), gpu), locale)

    def take_memory(card: str) -> dict[str, object]:
        return gr.update(value=cards[card] // GIB) if card in cards else gr.skip()

    def wire() -> None:
        card.input(take_memory, card, memory, **quiet())
        memory.input(lambda: OWN, None, card, **quiet())
        gr.on(
            [tab.select, card.change, memory.change, model.change, side.change],
            forecast,
            [card, memory, model, side],
            answer,
            show_progress="minimal",
            trigger_mode="always_last",
            concurrency_limit=4,
            api_visibility="private",
        )

    return wire


def _shown(fits: Sequence[Fit], locale: str) -> str:
    """The choice for each direction in a sentence, and the table."""
    parts = []
    for direction in DIRECTIONS:
        _, reason = advise(fits, direction)
        said = say(
            locale, "fit_choice", stage=say(locale, f"stage_{direction}"), reason=translated(reason, locale)
        )
        parts.append(f'<p class="lr-verdict">{escape(said)}</p>')
    return "".join(parts) + table(fits, locale)


def table(fits: Sequence[Fit], locale: str) -> str:
    columns = ("stage", "mode", "forecast", "share", "fits", "published", "time")
    headings = (say(locale, f"fit_col_{name}") for name in columns)
    return figures(headings, (_row(fit, locale) for fit in fits), locale)


def _row(fit: Fit, locale: str) -> str:
    published = "–"
    if fit.published is not None:
        percent = fit.published.memory_percent
        published = say(locale, "fit_oom") if percent is None else f"{percent:.1f} %"
    state = "no" if not fit.fits else "tight" if fit.tight else "yes"
    cells = (
        say(locale, f"mode_name_{fit.mode}"),
        f"{fit.forecast_bytes / GIB:.1f} GB",
        f"{fit.percent:.0f} %",
        say(locale, f"fit_{state}"),
        published,
        seconds(fit.seconds),
    )
    return (
        f'<tr data-fits="{state}"><th scope="row"><i class="lr-dot lr-{fit.direction}"></i>'
        f"{escape(say(locale, f'stage_{fit.direction}'))}</th>"
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
    )
