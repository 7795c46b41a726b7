"""The frame of the tabs that start something: what a run shows, how it ends, and that a closed tab stops it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from backend.errors import Cancelled, OutOfMemoryError
from backend.events import Event
from backend.job import Job
from backend.studio import Studio
from tests.fakes import FakeStudio
from tests.following import follow_page
from ui import benchmark, compare, encode_decode
from ui.form import Values
from ui.frame import Frame, Task, one_run
from ui.runs import Runs
from ui.tab import PageContext
from ui.text import say
from ui.theme import ASSETS
from ui.user_endpoints import UserEndpoints

GERMAN: Any = SimpleNamespace(session_hash="page", headers={"accept-language": "de"})
ENGLISH: Any = SimpleNamespace(session_hash="page", headers={"accept-language": "en"})
Work = Callable[[Task], None]


@pytest.fixture
def context(tmp_path: Path) -> PageContext:
    return PageContext(FakeStudio(), Runs(tmp_path), UserEndpoints())  # type: ignore[arg-type]


@pytest.fixture
def frame(context: PageContext) -> Iterator[Frame]:
    with gr.Blocks():
        start, stop, status = gr.Button(), gr.Button(), gr.HTML()
        yield Frame(context, (start,), stop, status)


def test_a_run_shows_what_its_work_shows_and_begins_busy(frame: Frame) -> None:
    def work(task: Task) -> None:
        task.tell("One of two", 0.5)

    first, *rest, last = frame.follow(work, {}, ENGLISH)
    (start,) = frame.starts
    assert first[frame.run_id] and frame.stop is not None
    assert first[start]["interactive"] is False and first[frame.stop]["interactive"] is True
    assert ["One of two" in sentence for sentence in said(rest, frame.status)] == [True]
    assert last[start]["interactive"] is True and last[frame.stop]["interactive"] is False


def test_an_error_is_said_in_the_status_and_raised_for_the_page(frame: Frame) -> None:
    def work(task: Task) -> None:
        raise OutOfMemoryError("Too little <memory>.", "Try tiles.")

    changes = []
    with pytest.raises(gr.Error, match="Too little &lt;memory&gt;"):
        for change in frame.follow(work, {}, ENGLISH):
            changes.append(change)
    (start,) = frame.starts
    assert "Too little &lt;memory&gt;. Try tiles." in changes[-1][frame.status]
    assert changes[-1][start]["interactive"] is True


def test_stopping_is_no_error(frame: Frame) -> None:
    def work(task: Task) -> None:
        frame.context.runs.stop(task.run.id)
        assert task.run.stop.is_set()
        raise Cancelled("Stopped.")

    *_, last = frame.follow(work, {}, GERMAN)
    assert say("de", "state_stopped") in last[frame.status]


def test_what_nobody_planned_for_is_said_and_logged(frame: Frame, caplog: pytest.LogCaptureFixture) -> None:
    def work(task: Task) -> None:
        raise ZeroDivisionError

    with pytest.raises(gr.Error, match="nobody planned"):
        list(frame.follow(work, {}, ENGLISH))
    assert "ZeroDivisionError" in caplog.text


def test_an_error_of_gradio_reaches_the_person_as_it_is(frame: Frame) -> None:
    def work(task: Task) -> None:
        raise gr.Error("You have exceeded your <a>quota</a>.")

    with pytest.raises(gr.Error, match="<a>quota"):
        list(frame.follow(work, {}, ENGLISH))


def test_a_closed_tab_stops_its_work_and_closing_waits_for_nothing(frame: Frame) -> None:
    stopped, goes_on = threading.Event(), threading.Event()

    def work(task: Task) -> None:
        task.tell("Working")
        assert task.run.stop.wait(20)
        stopped.set()
        assert goes_on.wait(20)
        task.tell("Nobody hears this")

    seen = frame.follow(work, {}, ENGLISH)
    next(seen), next(seen)
    seen.close()  # type: ignore[attr-defined]
    assert stopped.wait(20) and not goes_on.is_set()
    goes_on.set()


def test_a_run_is_over_and_stopped_when_its_block_is_left(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    with pytest.raises(ZeroDivisionError), one_run(runs) as run:
        raise ZeroDivisionError
    assert run.stop.is_set()
    runs.stop(run.id)  # knows it no more


def laid_out(context: PageContext, build: Callable[..., Any]) -> Any:
    with gr.Blocks():
        return build(context)


def vae_values(tab: Any) -> dict[Any, Any]:
    return {tab.vae.mode: "auto", tab.vae.tile: 512, tab.vae.overlap: 128, tab.vae.transfer: "uint8"}


def said(changes: Iterable[dict[Any, Any]], status: gr.HTML) -> Iterator[str]:
    """What the status showed, without the signs of life."""
    for change in changes:
        if isinstance(change.get(status), str):
            yield change[status]


def page_after(changes: Iterable[dict[Any, Any]]) -> dict[Any, Any]:
    """The last change to each widget, signs of life left out."""
    return {w: v for change in changes for w, v in change.items() if v != gr.skip()}


def test_an_encode_shows_latents_and_a_round_trip_both_pictures(context: PageContext) -> None:
    tab = laid_out(context, encode_decode.build)
    data = {tab.picture: str(ASSETS / "sea.png"), tab.model: "builtin", **vae_values(tab)}
    changes = list(tab.single.follow(tab._encode, data, ENGLISH))
    assert 'data-state="running"' in changes[0][tab.result.status]
    last = page_after(changes)
    assert "4 channels of 64 × 64" in last[tab.result.status] and last[tab.result.save_latents]["interactive"]
    latents = last[tab.latents]
    assert latents == last[tab.result.save_latents]["value"], "it lies ready to be decoded"
    changes = list(tab.single.follow(tab._round_trip, data, ENGLISH))
    *_, before_last, _ = said(changes, tab.result.status)
    assert 'lr-encode" data-state="done"' in before_last
    last = page_after(changes)
    assert "PSNR" in last[tab.result.status] and last[tab.result.viewer]["after"]

    data |= {tab.latents: latents, tab.model: "sd-v1"}
    last = page_after(tab.single.follow(tab._decode, data, ENGLISH))
    assert "256 × 256 pixels" in last[tab.result.status]
    assert last[tab.result.save_picture]["interactive"] and not last[tab.result.save_latents]["interactive"]
    assert tab._recognise(data, ENGLISH)[tab.model] == "builtin", "as the file says"


def test_a_failed_encode_marks_its_stage(tmp_path: Path) -> None:
    class Failing(FakeStudio):
        def encode(self, *arguments: Any, **more: Any) -> Any:
            notify = arguments[4]
            notify(self._begin("encode", super().encode(*arguments)[1]))
            raise OutOfMemoryError("Too little memory.")

    tab = laid_out(PageContext(Failing(), Runs(tmp_path), UserEndpoints()), encode_decode.build)  # type: ignore[arg-type]
    data = {tab.picture: str(ASSETS / "sea.png"), tab.model: "builtin", **vae_values(tab)}
    shown: list[str] = []
    with pytest.raises(gr.Error, match="Too little memory"):
        for sentence in said(tab.single.follow(tab._encode, data, ENGLISH), tab.result.status):
            shown.append(sentence)
    assert 'lr-encode" data-state="active"' in shown[-2]
    assert 'lr-encode" data-state="failed"' in shown[-1] and 'data-state="bad"' in shown[-1]


def test_a_closed_tab_ends_an_encode(tmp_path: Path) -> None:
    ended = threading.Event()

    class Endless(FakeStudio):
        def encode(self, *arguments: Any, **more: Any) -> Any:
            assert arguments[3].wait(20)
            ended.set()
            raise Cancelled("Stopped.")

    runs = Runs(tmp_path)
    tab = laid_out(PageContext(Endless(), runs, UserEndpoints()), encode_decode.build)  # type: ignore[arg-type]
    data = {tab.picture: str(ASSETS / "sea.png"), tab.model: "builtin", **vae_values(tab)}
    seen = tab.single.follow(tab._encode, data, ENGLISH)
    next(seen)
    next(seen)  # a sign of life
    seen.close()
    assert ended.wait(20)


def test_compare_in_a_tab_makes_a_row_a_mode(context: PageContext) -> None:
    tab = laid_out(context, compare.build)
    data = {
        tab.picture: str(ASSETS / "sea.png"),
        tab.latents: None,
        tab.model: "builtin",
        tab.side: 256,
        tab.modes: ["whole", "tiled"],
        tab.tile: 128,
        tab.overlap: 32,
    }
    changes = list(tab.frame.follow(tab._compare, data, ENGLISH))
    tables = [change[tab.table] for change in changes if tab.table in change]
    assert [table.count("<tr>") - 1 for table in tables[1:]] == [1, 2]
    last = page_after(changes)
    assert last[tab.left]["value"] == "whole" and last[tab.right]["value"] == "tiled"
    assert "Compared at 256 × 256 pixels; the picture has 512 × 512." in str(last[tab.frame.status])
    assert last[tab.differences]["open"] and last[tab.heat] is not None
    data[tab.picture] = None
    with pytest.raises(gr.Error, match="hoose a picture"):
        list(tab.frame.follow(tab._compare, data, ENGLISH))


def test_a_stopped_benchmark_keeps_what_it_measured(
    context: PageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.ui.test_measuring import measured

    class Stopped:
        def __init__(self, loader: Any) -> None: ...

        def run(self, *_: Any) -> Iterator[Any]:
            yield measured(64, "whole")
            raise Cancelled("Stopped.")

    monkeypatch.setattr(benchmark, "Bench", Stopped)
    context.studio.loader = None  # type: ignore[assignment]
    tab = laid_out(context, benchmark.build)
    data = {
        tab.model: "sd-v1",
        tab.stage: "encode",
        tab.sizes: [64, 128],
        tab.modes: ["whole"],
        tab.count: 1,
        tab.overlays: [],
    }
    changes = list(tab.frame.follow(tab._measure, data, ENGLISH))
    drawn = next(change for change in changes if change.get(tab.times) is not None)
    assert len(drawn[tab.times]) == 1 and Path(drawn[tab.save]["value"]).read_text().count("\n") == 2
    assert "Stopped" in changes[-1][tab.frame.status]
    data[tab.sizes] = []
    with pytest.raises(gr.Error):
        list(tab.frame.follow(tab._measure, data, ENGLISH))


def test_a_run_that_says_nothing_for_long_can_be_left(tmp_path: Path) -> None:
    """A model that loads for minutes: the page is asked meanwhile whether anybody still waits, and may close."""
    loading, stopped = threading.Event(), threading.Event()

    class Loading(FakeStudio):
        def events(self, job: Job, stop: threading.Event) -> Iterator[Event]:
            loading.set()
            assert stop.wait(20)
            stopped.set()
            yield from ()

    steps, view = follow_page(Loading(), Runs(tmp_path), Values(str(ASSETS / "mountains.png"), "x"))
    next(steps)
    assert next(steps) == {view.panel: gr.skip()}, "after half a second, although nothing has happened"
    assert loading.is_set() and not stopped.is_set()
    steps.close()  # type: ignore[attr-defined]
    assert stopped.wait(10)


def test_a_run_on_the_page_has_one_thread(studio: Studio, tmp_path: Path) -> None:
    """The frame and the run each had one, that only passed on what the other gave."""
    before = set(threading.enumerate())
    values = Values(str(ASSETS / "mountains.png"), "x", width=64, height=64, steps=2)
    steps, _ = follow_page(studio, Runs(tmp_path), values)
    most = 0
    for _ in steps:
        begun = set(threading.enumerate()) - before
        most = max(most, sum(thread.name in ("job", "tab") for thread in begun))
    assert most == 1
