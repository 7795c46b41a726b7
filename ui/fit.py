"""The tab "Will it fit?": a GPU, a model and a size in, what each VAE mode would need out, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import gradio as gr

from backend.placement.fit import DIRECTIONS, Fit, advise, card_choices, will_it_fit
from backend.units import GIB, card_size, percent, seconds
from ui.render import FigureRow, figures
from ui.tab import PageContext
from ui.text import T, locale_of, say, say_message
from ui.widgets import failure, intro, model_choices, quiet

OTHER_GPU, THIS_COMPUTER = "own", "this"
SIZES = (256, 512, 768, 1024, 1536, 2048, 3072, 4096)
FIRST = "RTX 3070"
AS_THE_MODEL = 0


@dataclass(frozen=True)
class FitTab:
    context: PageContext
    tab: gr.Tab
    gpu: gr.Dropdown
    memory: gr.Number
    """In GiB."""
    model: gr.Dropdown
    side: gr.Dropdown
    """Of a square picture, in pixels."""
    precision: gr.Dropdown
    """Bytes an element, or AS_THE_MODEL for the model's own."""
    answer: gr.HTML

    def wire(self) -> None:
        """The forecast is made when the tab is opened: the streamed mode's plan needs torch, for which the first page
        does not wait."""
        self.gpu.input(_take_memory, self.gpu, self.memory, **quiet())
        self.memory.input(lambda: OTHER_GPU, None, self.gpu, **quiet())
        gr.on(
            [
                self.tab.select,
                self.gpu.change,
                self.memory.change,
                self.model.change,
                self.side.change,
                self.precision.change,
            ],
            self._forecast,
            [self.gpu, self.memory, self.model, self.side, self.precision],
            self.answer,
            show_progress="minimal",
            trigger_mode="always_last",
            concurrency_limit=4,
            api_visibility="private",
        )

    def _forecast(
        self, gpu: str, memory: float, model: str, side: int, precision: int, request: gr.Request
    ) -> str:
        locale, spec, side = locale_of(request), self.context.studio.find_model(model), int(side)
        if gpu == THIS_COMPUTER:
            return _shown(self.context.studio.fits_here(model, side, side), locale)
        if not memory or not 0 < memory <= 1000:
            raise failure(say(locale, "fit_bad_memory"))
        name, shown = (None, "") if gpu == OTHER_GPU else (f"NVIDIA GeForce {gpu}", gpu)
        fits = will_it_fit(spec, side, side, int(memory * GIB), name, int(precision) or None)
        return _shown(fits, locale, shown)


def _take_memory(gpu: str) -> dict[str, object]:
    known = card_choices()
    return gr.update(value=known[gpu] // GIB) if gpu in known else gr.skip()


def build(context: PageContext, tab: gr.Tab) -> FitTab:
    """`tab` is the one that is laid out here."""
    spec, _ = context.studio.default_model()
    # Nobody asks whether the built-in model fits.
    model_name = "sd-v1" if spec.name == "builtin" else spec.name
    published = [(f"{name}, {size // GIB} GB", name) for name, size in card_choices().items()]
    intro("fit_intro")
    with gr.Row(elem_classes="lr-fit-form"):
        gpu = gr.Dropdown(
            [*published, (T("fit_this"), THIS_COMPUTER), (T("fit_own"), OTHER_GPU)],
            value=FIRST,
            label=T("fit_card"),
            filterable=False,
            elem_id="lr-fit-card",
        )
        memory = gr.Number(8, label=T("fit_memory"), minimum=1, maximum=1000, elem_id="lr-fit-memory")
        model = gr.Dropdown(
            model_choices(context.studio), value=model_name, label=T("fit_model"), filterable=False
        )
        side = gr.Dropdown(
            [(f"{size} × {size}", size) for size in SIZES], value=2048, label=T("fit_size"), filterable=False
        )
        precision = gr.Dropdown(
            [(T("fit_models"), AS_THE_MODEL), ("float16, bfloat16", 2), ("float32", 4)],
            value=AS_THE_MODEL,
            label=T("fit_precision"),
            filterable=False,
            elem_id="lr-fit-precision",
        )
    answer = intro("fit_thinking", "lr-quiet", elem_id="lr-fit-answer")
    return FitTab(context, tab, gpu, memory, model, side, precision, answer)


def _shown(fits: Sequence[Fit], locale: str, gpu: str = "") -> str:
    """The choice for each direction in a sentence, and the table. `gpu`: the card's short name, if it is published."""
    parts = []
    for direction in DIRECTIONS:
        _, why = advise(fits, direction)
        reason = say_message(why, locale)
        sentence = say(locale, "fit_choice", stage=say(locale, f"stage_{direction}"), reason=reason)
        parts.append(f'<p class="lr-verdict">{escape(sentence)}</p>')
    return "".join(parts) + table(fits, locale, gpu)


def table(fits: Sequence[Fit], locale: str, gpu: str = "") -> str:
    columns = ("stage", "mode", "least", "full", "share", "fits", "published", "time")
    headings = (say(locale, f"fit_col_{name}") for name in columns)
    return figures(headings, (_row(fit, locale, gpu) for fit in fits), locale)


def _row(fit: Fit, locale: str, gpu: str) -> FigureRow:
    cells = (
        escape(say(locale, f"mode_name_{fit.mode}")),
        card_size(fit.least_bytes),
        card_size(fit.full_bytes),
        _share(fit),
        f'<b class="lr-fits">{escape(say(locale, f"fit_{fit.verdict}"))}</b>',
        _published(fit, locale),
        _time(fit, locale, gpu),
    )
    stage = escape(say(locale, f"stage_{fit.direction}"))
    name = f'<i class="lr-dot lr-{fit.direction}"></i>{stage}'
    return FigureRow(name, cells, f' data-fits="{fit.verdict}"')


def _share(fit: Fit) -> str:
    """Of the card, from the least to full speed; a stage that has less than that takes what there is."""
    least, full = (100 * count / fit.card_bytes for count in (fit.least_bytes, fit.full_bytes))
    if fit.verdict == "no" or round(least) == round(full):
        return f"{least:.0f} %"
    return f"{least:.0f}–{min(full, 100):.0f} %"


def _published(fit: Fit, locale: str) -> str:
    if fit.published is None:
        return "–"
    share = fit.published.memory_percent
    figure = say(locale, "fit_oom") if share is None else percent(share)
    if not fit.published_in_float32:
        return escape(figure)
    return f"{escape(figure)} <small>{escape(say(locale, 'fit_in_float32'))}</small>"


def _time(fit: Fit, locale: str, gpu: str) -> str:
    """With where it is from; none for what does not fit."""
    if fit.seconds_from is None or fit.verdict == "no":
        return "–"
    source = say(locale, f"fit_time_{fit.seconds_from}", card=gpu)
    return f"{seconds(fit.seconds)} <small>{escape(source)}</small>"
