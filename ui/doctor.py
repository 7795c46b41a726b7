"""The fold that examines the machine: the findings of `backend.doctor`, one line each, to be kept for a bug report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import gradio as gr

from backend.doctor.examine import as_json, as_line, conclusion, examine, without_home
from backend.doctor.finding import Finding
from ui.frame import Changes, Frame, Task, start_and_stop, status_line
from ui.tab import PageContext
from ui.text import T, say, say_message
from ui.widgets import html, intro, local


@dataclass(frozen=True)
class DoctorFold:
    context: PageContext
    findings: gr.HTML
    save: gr.DownloadButton
    frame: Frame

    def wire(self) -> None:
        (start,) = self.frame.starts
        self.frame.on_start(start, self._examine, set(), {self.findings, self.save}, concurrency_limit=1)
        self.frame.wire_stop()

    def _examine(self, task: Task) -> None:
        studio, locale = self.context.studio, task.locale
        found: list[Finding] = []
        nothing: Changes = {self.findings: "", self.save: gr.update(value=None, interactive=False)}
        task.tell(say(locale, "doctor_working"), changes=nothing)
        for finding in examine(studio.settings, self.context.runs.folder, studio.loader, stop=task.run.stop):
            found.append(finding)
            task.show({self.findings: listed(found, locale)})
        file = task.run.keep("doctor.txt", lambda path: export(found, path))
        save = gr.update(value=file and str(file), interactive=file is not None)
        task.tell(say_message(conclusion(found), locale), changes={self.save: save})


def build(context: PageContext) -> DoctorFold:
    intro("doctor_intro")
    start, stop = start_and_stop("doctor_button", "lr-doctor")
    status = html(status_line(say("en", "doctor_idle")), elem_id="lr-doctor-status")
    local(status, lambda locale: status_line(say(locale, "doctor_idle")))
    findings = html("", elem_id="lr-doctor-findings")
    save = gr.DownloadButton(T("doctor_save"), interactive=False, elem_id="lr-doctor-save")
    return DoctorFold(context, findings, save, Frame(context, (start,), stop, status))


def listed(findings: Sequence[Finding], locale: str) -> str:
    """One line a finding, in the visitor's language; what is wrong says so in words, not by its colour alone."""
    lines = []
    for finding in findings:
        status = escape(say(locale, f"doctor_{finding.status}"))
        text = escape(without_home(say_message(finding.message, locale)))
        lines.append(f'<li data-status="{finding.status}"><b>{status}</b> <span>{text}</span></li>')
    return f'<ul class="lr-findings">{"".join(lines)}</ul>'


def export(findings: Sequence[Finding], path: Path) -> None:
    """The lines and all figures, in English: what a person pastes into a bug report."""
    path.write_text("\n".join([*map(as_line, findings), "", as_json(findings), ""]))
