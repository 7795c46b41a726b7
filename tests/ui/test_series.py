"""Variations and sweeps, followed as the page does: what it shows while two pictures are under way, and at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from backend.errors import Cancelled, RemoteError
from backend.events import Event, StageDone
from backend.job import Job, VaeOptions
from tests.fakes import FakeStudio
from tests.following import page_view
from ui.form import Values
from ui.run_view import RunContext
from ui.running import finish_another_way, follow_series
from ui.running import follow as follow_run
from ui.runs import Runs
from ui.theme import ASSETS

PICTURE = str(ASSETS / "sea.png")


def values(count: int = 3, **more: Any) -> list[Values]:
    return [Values(PICTURE, "a boat", seed=seed, mode="remote", **more) for seed in range(count)]


def follow(studio: FakeStudio, runs: Runs, series: list[Values]) -> tuple[list[dict[Any, Any]], Any, Any]:
    view, changes = page_view(), []
    error = None
    try:
        for change in follow_series(RunContext(studio, runs, view, "en"), series, lambda v: f"seed {v.seed}"):  # type: ignore[arg-type]
            changes.append(change)
    except gr.Error as raised:
        error = raised
    return changes, view, error


def test_each_picture_joins_the_history_and_all_end_on_one_sheet(tmp_path: Path) -> None:
    changes, view, error = follow(FakeStudio(), Runs(tmp_path), values())
    assert error is None
    histories = [change[view.ids] for change in changes if view.ids in change]
    assert [len(ids) for ids in histories] == [1, 2, 3], "the newest first, none lost to another"
    assert histories[-1][1:] == histories[-2]
    sheet = next(change for change in changes if "contact-sheet" in str(change.get(view.viewer)))
    assert "seed 0, seed 1, seed 2" in str(sheet[view.viewer])
    assert changes[-1][view.start]["interactive"] is True


def test_the_page_shows_the_picture_that_began_last(tmp_path: Path) -> None:
    """The one before, decoded behind it, only joins the history."""
    changes, view, _ = follow(FakeStudio(), Runs(tmp_path), values(2))
    shown = [change[view.run_id] for change in changes if view.run_id in change]
    second = next(i for i, change in enumerate(changes) if change.get(view.run_id) == shown[1])
    first_joins = next(i for i, change in enumerate(changes) if view.ids in change)
    assert first_joins > second and set(changes[first_joins]) == {view.ids, view.gallery}


def test_the_buttons_wait_until_all_is_over(tmp_path: Path) -> None:
    changes, view, _ = follow(FakeStudio(), Runs(tmp_path), values())
    pressed = [
        (i, change[view.stop]["interactive"]) for i, change in enumerate(changes) if view.stop in change
    ]
    assert pressed == [(0, True), (len(changes) - 1, False)]


def test_one_that_fails_leaves_its_latents_and_the_others(tmp_path: Path) -> None:
    studio = FakeStudio(fail={"decode": RemoteError("The endpoint broke.")})
    runs = Runs(tmp_path)
    changes, view, error = follow(studio, runs, values())
    assert error is not None and "broke" in str(error)
    last = changes[-1]
    assert "broke" in last[view.panel] and last[view.finish]["visible"] is True
    assert last[view.start]["interactive"] is True
    broken = runs.resume(last[view.run_id])
    assert broken is not None and (broken.folder / "denoise.safetensors").is_file()
    sheet = next(change for change in changes if "contact-sheet" in str(change.get(view.viewer)))
    assert "seed 1, seed 2" in str(sheet[view.viewer]) and "seed 0" not in str(sheet[view.viewer])


def test_the_stop_button_ends_the_whole_series(tmp_path: Path) -> None:
    studio, runs, view = FakeStudio(pause=0.01), Runs(tmp_path), page_view()
    changes = []
    for change in follow_series(RunContext(studio, runs, view, "en"), values(), lambda v: ""):  # type: ignore[arg-type]
        changes.append(change)
        if "step 2" in str(change.get(view.panel)):
            runs.stop(changes[0][view.run_id])
    assert len(studio.jobs) == 1 and "Stopped" in changes[-1][view.panel]
    assert changes[-1][view.start]["interactive"] is True


def test_without_a_picture_it_says_so_once(tmp_path: Path) -> None:
    series = [Values(None, "x"), Values(None, "x")]
    with pytest.raises(gr.Error):
        list(follow_series(RunContext(FakeStudio(), Runs(tmp_path), page_view(), "en"), series, lambda v: ""))  # type: ignore[arg-type]


def test_the_picture_is_opened_once_for_the_whole_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    picture = Values.picture
    monkeypatch.setattr(Values, "picture", lambda *args: opened.append(args) or picture(*args))
    changes, view, error = follow(FakeStudio(), Runs(tmp_path), values(4))
    assert error is None and len(opened) == 1
    assert len([change for change in changes if view.run_id in change]) == 4


def test_a_run_that_was_finished_another_way_is_finished(tmp_path: Path) -> None:
    studio, runs = FakeStudio(fail={"decode": RemoteError("The endpoint broke.")}), Runs(tmp_path)
    view = page_view()
    context = RunContext(studio, runs, view, "en")  # type: ignore[arg-type]
    shown: dict[Any, Any] = {}
    with pytest.raises(gr.Error, match="broke"):
        for change in follow_run(context, values(1)[0]):
            shown |= change
    for change in finish_another_way(context, shown[view.run_id], "tiled"):
        shown |= change
    assert shown[view.finish]["visible"] is False and shown[view.start]["interactive"] is True
    assert context.ids == [shown[view.run_id]] and "after" in str(shown[view.viewer])
    assert runs.resume(shown[view.run_id]) is None
    with pytest.raises(gr.Error, match="nothing to finish"):
        list(finish_another_way(context, shown[view.run_id], "tiled"))


def test_a_run_whose_latents_are_gone_cannot_be_finished_and_frees_the_buttons(tmp_path: Path) -> None:
    studio, runs = FakeStudio(fail={"decode": RemoteError("The endpoint broke.")}), Runs(tmp_path)
    changes, view, _ = follow(studio, runs, values(1))
    run_id = changes[-1][view.run_id]
    (tmp_path / run_id / "denoise.safetensors").unlink()
    shown: dict[Any, Any] = {}
    with pytest.raises(gr.Error, match="nothing to finish"):
        for change in finish_another_way(RunContext(studio, runs, view, "en"), run_id, "tiled"):  # type: ignore[arg-type]
            shown |= change
    assert shown[view.start]["interactive"] is True and "nothing to finish" in shown[view.panel]


def test_closing_a_series_ends_its_runs(tmp_path: Path) -> None:
    studio, runs, view = FakeStudio(), Runs(tmp_path), page_view()
    series = follow_series(RunContext(studio, runs, view, "en"), values(), lambda v: "")  # type: ignore[arg-type]
    run_id = next(series)[view.run_id]
    while not (tmp_path / run_id / "encode.safetensors").is_file():
        next(series)
    series.close()
    assert runs.resume(run_id) is not None, "what was finished is kept"


class Slow(FakeStudio):
    """Its decode takes until it is stopped, and says nothing meanwhile."""

    def __init__(self) -> None:
        super().__init__(fail={"decode": RemoteError("The endpoint broke.")})
        self.decoding, self.stopped = threading.Event(), threading.Event()

    def decode(
        self, latents: Any, model: str, options: VaeOptions, stop: Any = None, notify: Any = None
    ) -> Any:
        self._wait(stop)

    def events(self, job: Job, stop: threading.Event) -> Iterator[Event]:
        for event in super().events(job, stop):
            yield event
            if not self.fail or (isinstance(event, StageDone) and event.report.stage == "encode"):
                self._wait(stop)

    def _wait(self, stop: threading.Event) -> None:
        self.decoding.set()
        assert stop.wait(20)
        self.stopped.set()
        raise Cancelled("Stopped.")


def leave(studio: Slow, changes: Any) -> None:
    """Close the page while a stage is silent: each change comes soon, so that Gradio can look, and it stops."""
    for _ in range(20):
        start = time.monotonic()
        next(changes)
        assert time.monotonic() - start < 5
        if studio.decoding.is_set():
            break
    next(changes)  # only the sign that it goes on
    start = time.monotonic()
    changes.close()
    assert time.monotonic() - start < 1, "closing waits for nothing"
    assert studio.stopped.wait(5)


def test_a_page_closed_during_a_silent_stage_stops_it(tmp_path: Path) -> None:
    studio, runs = Slow(), Runs(tmp_path)
    leave(studio, follow_run(RunContext(studio, runs, page_view(), "en"), values(1)[0]))  # type: ignore[arg-type]


def test_a_page_closed_while_a_series_is_silent_stops_it(tmp_path: Path) -> None:
    studio, runs = Slow(), Runs(tmp_path)
    context = RunContext(studio, runs, page_view(), "en")  # type: ignore[arg-type]
    leave(studio, follow_series(context, values(2), lambda v: ""))


def test_a_page_closed_while_a_run_is_finished_another_way_stops_it(tmp_path: Path) -> None:
    broken, runs, view = FakeStudio(fail={"decode": RemoteError("It broke.")}), Runs(tmp_path), page_view()
    changes, view, _ = follow(broken, runs, values(1))
    run_id = changes[-1][view.run_id]
    studio = Slow()
    leave(studio, finish_another_way(RunContext(studio, runs, view, "en"), run_id, "tiled"))  # type: ignore[arg-type]
    assert runs.resume(run_id) is not None, "its latents are kept, and can be decoded again"
