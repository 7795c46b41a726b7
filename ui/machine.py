"""The tab about the machine that serves the page, a fold each: what would fit, how fast it is, whether all works."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from ui import benchmark, doctor, fit
from ui.form import Changes
from ui.tab import PageContext
from ui.text import T


@dataclass(frozen=True)
class MachineTab:
    fitting: fit.FitTab
    benchmarking: benchmark.BenchmarkTab
    examining: doctor.DoctorFold | None
    """None on a public page: what the machine is, and minutes of its time, are its owner's."""
    folds: dict[str, gr.Accordion]
    """By the name that a link may open them with."""

    def wire(self) -> None:
        self.fitting.wire()
        self.benchmarking.wire()
        if self.examining is not None:
            self.examining.wire()

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
    folds = {"fit": fitting, "benchmark": benchmarking}
    examined = None
    if not context.studio.settings.is_public:
        with gr.Accordion(T("tab_doctor"), open=False, elem_id="lr-doctor-fold") as folds["doctor"]:
            examined = doctor.build(context)
    return MachineTab(fitted, measured, examined, folds)
