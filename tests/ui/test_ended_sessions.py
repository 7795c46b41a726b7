"""Sessions that are over: one that the server does not know, callers of the API who left, and a page that was closed
while its model was being loaded."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from backend.device.loading import Loader
from backend.errors import Cancelled
from backend.job import Job
from backend.models import ModelSpec
from backend.settings import Settings
from backend.studio import Studio
from benchmarks.visitor import Visitor
from tests.browser.launching import page_of
from tests.fakes import FakeStudio
from tests.waiting import wait_until
from ui.theme import ASSETS


class Encoding(FakeStudio):
    """An encode goes on until it is stopped or may end."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_end, self.stopped = (threading.Event() for _ in range(3))

    def encode(self, *arguments: Any, **more: Any) -> Any:
        stop: threading.Event = arguments[3]
        self.begun.set()
        while not self.may_end.wait(0.05):
            if stop.is_set():
                self.stopped.set()
                raise Cancelled("Stopped.")
        return super().encode(*arguments, **more)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Encoding]]:
    studio = Encoding()
    with page_of(studio, tmp_path) as url:
        yield url, studio
        studio.may_end.set()


def call_encode(url: str, route: str = "") -> Visitor:
    """As gradio_client does it, or over the simple `call/encode`."""
    visitor = Visitor.open(url)
    picture = visitor.upload("a.png", (ASSETS / "mountains.png").read_bytes())
    data = [picture, "builtin", "auto", 512, 128, "uint8"]
    if route:
        visitor.event = visitor.post(route, data=data).json()["event_id"]
        return visitor
    fn = next(fn for fn in visitor.config["dependencies"] if fn["api_name"] == "encode")
    asked = visitor.post("queue/join", data=data, fn_index=fn["id"], session_hash=visitor.session)
    assert asked.status_code == 200
    return visitor


def test_a_call_ends_when_its_caller_is_gone(served: tuple[str, Encoding]) -> None:
    url, studio = served
    visitor = call_encode(url)
    with closing(visitor.messages()) as messages:
        assert next(messages)["msg"] == "estimation" or studio.begun.wait(20)
        assert studio.begun.wait(20) and not studio.stopped.is_set()
    assert studio.stopped.wait(20)


def test_a_cancelled_call_ends(served: tuple[str, Encoding]) -> None:
    url, studio = served
    visitor = call_encode(url, "call/encode")
    assert studio.begun.wait(20)
    fn = next(fn for fn in visitor.config["dependencies"] if fn["api_name"] == "encode")
    visitor.post("cancel", session_hash=visitor.event, fn_index=fn["id"], event_id=visitor.event)
    with requests.get(f"{url}gradio_api/call/encode/{visitor.event}", stream=True, timeout=60) as stream:
        next(stream.iter_content(1), b"")
    assert studio.stopped.wait(20)


def test_a_call_whose_answer_is_asked_for_later_goes_on(served: tuple[str, Encoding]) -> None:
    url, studio = served
    visitor = call_encode(url, "call/encode")
    assert studio.begun.wait(20)
    assert not studio.stopped.wait(1.5)
    studio.may_end.set()
    answer = requests.get(f"{url}gradio_api/call/encode/{visitor.event}", timeout=60).text
    assert "event: complete" in answer and ".safetensors" in answer


def test_a_session_that_nobody_knows_is_told_so_and_is_no_error(
    served: tuple[str, Encoding], caplog: pytest.LogCaptureFixture
) -> None:
    url, _ = served
    with caplog.at_level(logging.INFO):
        reply = requests.get(f"{url}gradio_api/queue/data?session_hash=nobody", timeout=60)
        wait_until(lambda: "not known" in caplog.text)
    assert reply.status_code == 200 and '"session_not_found":true' in reply.text
    assert "Traceback" not in caplog.text and "Exception" not in caplog.text


def test_who_leaves_while_a_model_loads_stops_nobody_else(tmp_path: Path) -> None:
    """With the real studio, whose loading cannot be interrupted: Gradio closes the run on its event loop."""
    loading, loaded = threading.Event(), threading.Event()

    class SlowLoader(Loader):
        def vae(self, spec: ModelSpec, tiny: bool = False) -> Any:
            loading.set()
            assert loaded.wait(60)
            return super().vae(spec, tiny)

    class Watched(Studio):
        def img2img(self, job: Job, stop: Any = None, heartbeat: float | None = None) -> Any:
            self.stop = stop
            return super().img2img(job, stop, heartbeat)

    settings = Settings(device="cpu", model="builtin")
    studio = Watched(settings, loader=SlowLoader(settings))
    with page_of(studio, tmp_path) as url:
        visitor = Visitor.open(url)
        with visitor.present():
            picture = visitor.upload("a.png", (ASSETS / "mountains.png").read_bytes())
            visitor.start(visitor.dependency("lr-paint"), lr_picture=picture, lr_prompt="x", lr_steps=2)
            with closing(visitor.messages()) as messages:
                next(messages)
                assert loading.wait(60)
        try:
            wait_until(studio.stop.is_set)  # Gradio has closed the run
            for _ in range(3):
                assert requests.get(url, timeout=10).ok
            assert studio.job_queue.waiting == 1, "it still loads"
        finally:
            loaded.set()
        wait_until(lambda: studio.job_queue.waiting == 0)
