"""The tab about the machine that serves the page: what would fit, and how fast it is. One fold each."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from ui import benchmark, fit
from ui.form import Changes
from ui.tab import PageContext
from ui.text import T


@dataclass(frozen=True)
class MachineTab:
    fitting: fit.FitTab
    benchmarking: benchmark.BenchmarkTab
    folds: dict[str, gr.Accordion]
    """By the name that a link may open them with."""

    def wire(self) -> None:
        self.fitting.wire()
        self.benchmarking.wire()

    def opened(self, name: str) -> Changes:
        """That fold open and the others closed; nothing if there is none of that name."""
        if name not in self.folds:
            return {}
        return {fold: gr.update(open=known == name) for known, fold in self.folds.items()}


def build(context: PageContext, tab: gr.Tab) -> MachineTab:
    """`tab` is the one that is laid out here."""
    with gr.Accordion(T("tab_fit"), open=True, elem_id="lr-fit-fold") as fitting:
        fitted = fit.build(context, tab)
    with gr.Accordion(T("tab_benchmark"), open=False, elem_id="lr-bench-fold") as benchmarking:
        measured = benchmark.build(context)
    return MachineTab(fitted, measured, {"fit": fitting, "benchmark": benchmarking})
