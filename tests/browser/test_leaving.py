"""A browser tab that is closed in the middle of a run: the run stops computing, and what is finished is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backend.events import Event, Step
from backend.job import Job
from tests.browser.doing import upload
from tests.browser.launching import WatchedPages, page_of
from tests.fakes import FakeStudio
from tests.waiting import wait_until


class Slow(FakeStudio):
    """Counts the steps that were really computed, and whether the run was told to end. With a gate, a run waits in
    its second step until that is open."""

    def __init__(self, pause: float, gate: threading.Event | None = None) -> None:
        super().__init__(pause=pause)
        self.gate = gate
        self.steps = 0
        self.ended = threading.Event()

    def events(self, job: Job, stop: threading.Event) -> Iterator[Event]:
        try:
            for event in super().events(job, stop):
                self.steps += isinstance(event, Step)
                yield event
                if self.gate and self.steps == 2:
                    assert self.gate.wait(60)
        finally:
            self.ended.set()


def leave_in_the_middle(watched: WatchedPages, url: str, studio: Slow) -> None:
    page = watched.open(url)
    upload(page)
    page.locator("#lr-paint").click()
    page.get_by_text("Painting, step").wait_for()
    page.context.close()
    watched.contexts.remove(page.context)
    at_closing = studio.steps
    assert studio.ended.wait(15), "the run went on for nobody"
    assert studio.steps <= at_closing + 2


def test_a_closed_tab_ends_its_run_and_keeps_what_was_finished(watched: WatchedPages, tmp_path: Path) -> None:
    studio = Slow(pause=1.0)
    with page_of(studio, tmp_path) as url:
        leave_in_the_middle(watched, url, studio)
        kept = [path.name for path in tmp_path.glob("*/*.safetensors")]
        assert kept == ["encode.safetensors"]
        watched.close()


def test_another_persons_run_goes_on(watched: WatchedPages, tmp_path: Path) -> None:
    gate = threading.Event()
    studio = Slow(pause=0.3, gate=gate)
    with page_of(studio, tmp_path) as url:
        other: Any = watched.open(url)
        upload(other)
        other.locator("#lr-paint").click()
        other.get_by_text("Painting, step").wait_for()
        page = watched.open(url)
        page.locator("#lr-paint").wait_for()
        page.context.close()
        watched.contexts.remove(page.context)
        gate.set()
        other.locator("#lr-viewer .lr-frame[data-state=done]").wait_for()
        wait_until(lambda: studio.ended.is_set())
        assert studio.steps == 12
        watched.close()
