"""Two visitors of one page, through Gradio's routes and without a browser: neither gets at the other's work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from benchmarks.visitor import Visitor
from tests.browser.launching import page_of
from tests.fakes import FakeStudio
from tests.waiting import wait_until
from ui.theme import ASSETS

EXAMPLE = ASSETS / "mountains.png"


@dataclass
class Listening(Visitor):
    """An open page that hears what comes, in a thread."""

    heard: list[dict[str, Any]] = field(default_factory=list)

    def click(self, elem_id: str, **changed: Any) -> None:
        """Press a button."""
        asked = self.start(self.dependency(elem_id), **changed)
        assert asked.status_code == 200, asked.text
        self.listen()

    def listen(self) -> None:
        threading.Thread(target=lambda: self.heard.extend(self.messages()), daemon=True).start()

    def paint(self) -> None:
        picture = self.upload("a.png", EXAMPLE.read_bytes())
        self.click("lr-paint", lr_picture=picture, lr_prompt="a secret wish", lr_steps=8, lr_strength=1.0)
        wait_until(lambda: "step 1 " in str(self.heard))

    def done(self) -> bool:
        return any(message["msg"] == "process_completed" for message in self.heard)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    with page_of(FakeStudio(pause=0.3), tmp_path) as url:
        yield url, tmp_path


def test_nobody_but_its_page_ends_a_run_or_hears_of_it(page: tuple[str, Path]) -> None:
    url, folder = page
    one, other = Listening.open(url), Listening.open(url)
    one.paint()
    (run_id,) = (path.name for path in folder.iterdir())
    paint, stop = one.dependency("lr-paint"), one.dependency("lr-stop")
    for event in (other.session, "", "0" * 32, one.event[:-1], one.event.upper(), f"{one.event} "):
        for session in (other.session, "", "0"):
            other.post("cancel", session_hash=session, fn_index=paint["id"], event_id=event)
        other.post("reset", event_id=event)
    # Whoever was given a picture's address knows the run's id, and still cannot stop what goes on there.
    other.click("lr-stop", state=run_id)
    other.post("run/predict", data=[run_id], fn_index=stop["id"], session_hash=other.session)
    with requests.get(f"{url}gradio_api/heartbeat/{other.session}", stream=True, timeout=30) as alive:
        next(alive.iter_content(8))
    wait_until(one.done)
    last = one.heard[-2] if one.heard[-1]["msg"] == "close_stream" else one.heard[-1]
    assert last["success"] and "Stopped" not in str(one.heard)
    assert "latent-relay-" in str(one.heard), "it has its picture"
    for secret in ("a secret wish", run_id, one.session, one.event):
        assert secret not in str(other.heard)
        for route in ("config", "gradio_api/info", "gradio_api/queue/status", "monitoring/summary"):
            assert secret not in requests.get(url + route, timeout=60).text


def test_its_own_page_does_stop_it(page: tuple[str, Path]) -> None:
    """So that the test above tests something."""
    one = Listening.open(page[0])
    one.paint()
    one.click("lr-stop")
    wait_until(lambda: "Stopped" in str(one.heard))


def test_a_forged_history_shows_only_what_its_ids_name(page: tuple[str, Path]) -> None:
    url, folder = page
    one, other = Listening.open(url), Listening.open(url)
    one.paint()
    wait_until(one.done)
    (run_id,) = (path.name for path in folder.iterdir())
    forged = ["", ".", "..", f"../{folder.name}", run_id[:-1], f"{run_id}/", run_id.swapcase(), "*", None, 7]
    load = next(fn for fn in other.config["dependencies"] if [None, "load"] in fn["targets"] or (any(
        target[1] == "load" for target in fn["targets"]) and len(fn["inputs"]) == 1))  # fmt: skip
    asked = other.post("queue/join", data=[forged], fn_index=load["id"], session_hash=other.session)
    assert asked.status_code == 200
    other.listen()
    wait_until(other.done)
    assert run_id not in str(other.heard) and "a secret wish" not in str(other.heard)


def test_gradios_history_of_runs_is_off(page: tuple[str, Path]) -> None:
    """It would ask the hub with the owner's token for a visitor who seems to sit at this machine."""
    url, _ = page
    for route in ("runs", "run-history/buckets", "run-history/records?bucket_id=a/b"):
        assert requests.get(f"{url}gradio_api/{route}", timeout=60).status_code == 404, route
    connect = requests.post(f"{url}gradio_api/run-history/connect", json={"bucket_id": "a/b"}, timeout=60)
    assert connect.status_code == 404 or connect.status_code == 405
