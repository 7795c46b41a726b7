"""What is kept of visitors who left."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import gradio as gr
import pytest
from gradio.state_holder import SessionState

from benchmarks.visitor import Visitor
from tests.browser.launching import page_of
from tests.fakes import FakeStudio
from tests.waiting import wait_until
from ui import page, sessions
from ui.theme import ASSETS


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[gr.Blocks]:
    """The pages that `page_of` builds; they keep two of the visitors who left."""
    built: list[gr.Blocks] = []
    monkeypatch.setattr(sessions.Departures.__init__, "__defaults__", (2,))
    make = page.build_page
    monkeypatch.setattr(
        "tests.browser.launching.build_page", lambda *given: built.append(make(*given)) or built[-1]
    )
    return built


def test_of_those_who_left_only_the_last_are_kept(tmp_path: Path, built: list[gr.Blocks]) -> None:
    with page_of(FakeStudio(), tmp_path) as url:
        config = Visitor.open(url).config
        visitors = [Visitor(url, config) for _ in range(5)]
        for visitor in visitors:
            with visitor.present():
                visitor.start(visitor.dependency("lr-paint"), lr_prompt="x")
                assert any(message["msg"] == "process_completed" for message in visitor.messages())
        (blocks,) = built
        kept = blocks.state_holder.session_data
        wait_until(lambda: not any(one.session in kept for one in visitors[:3]))
        assert all(one.session in kept for one in visitors[3:])
        assert not any(one.session in blocks._queue.pending_event_ids_session for one in visitors[:3])
        assert not any(one.session in blocks._queue.pending_messages_per_session for one in visitors[:3])


def test_who_lost_the_connection_for_a_moment_still_gets_the_answer(
    tmp_path: Path, built: list[gr.Blocks]
) -> None:
    """However many leave meanwhile. It had left, and was forgotten in the middle of its run."""
    with page_of(FakeStudio(pause=0.3), tmp_path) as url:
        config = Visitor.open(url).config
        back = Visitor(url, config)
        with back.present():
            uploaded = back.upload("a.png", (ASSETS / "castle.png").read_bytes())
        with back.present():
            back.start(back.dependency("lr-paint"), lr_picture=uploaded)
            others = [Visitor(url, config) for _ in range(6)]
            for other in others:
                with other.present():
                    other.start(other.dependency("lr-encode"))
            (blocks,) = built
            wait_until(
                lambda: (
                    not any(one.session in blocks._queue.pending_messages_per_session for one in others[:2])
                )
            )
            assert any(message["msg"] == "process_completed" for message in back.messages())


def test_a_session_costs_little() -> None:
    with page.Page() as blocks:
        for _ in range(300):
            gr.Textbox("x")
    tracemalloc.start()
    try:
        kept = [SessionState(blocks) for _ in range(20)]
        bytes_each = tracemalloc.get_traced_memory()[0] / len(kept)
    finally:
        tracemalloc.stop()
    assert bytes_each < 20_000, "it was 45 kB with a description and a table of its own"


def test_a_session_changes_nothing_of_the_others() -> None:
    with page.Page() as blocks:
        box = gr.Textbox("x")
    one, other = SessionState(blocks), SessionState(blocks)
    changed = gr.Textbox("y", render=False)
    one[box._id] = changed
    assert one[box._id] is changed and other[box._id] is box and blocks.default_config.blocks[box._id] is box
