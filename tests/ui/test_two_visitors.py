"""Two visitors of one page, through Gradio's routes and without a browser: neither gets at the other's work."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.browser.launching import page_of
from tests.fakes import FakeStudio, wait_until
from ui.theme import ASSETS

EXAMPLE = ASSETS / "mountains.png"


@dataclass
class Visitor:
    """One open page, as its browser speaks to Gradio."""

    url: str
    session: str = field(default_factory=lambda: secrets.token_hex(6))
    messages: list[dict[str, Any]] = field(default_factory=list)
    event: str = ""

    def __post_init__(self) -> None:
        self.config = requests.get(f"{self.url}config", timeout=60).json()
        self.components = {part["id"]: part for part in self.config["components"]}

    def post(self, route: str, **body: Any) -> requests.Response:
        return requests.post(f"{self.url}gradio_api/{route}", json=body, timeout=60)

    def dependency(self, elem_id: str) -> dict[str, Any]:
        """What a click on that button starts."""
        button = next(
            part["id"] for part in self.config["components"] if part["props"].get("elem_id") == elem_id
        )
        return next(fn for fn in self.config["dependencies"] if [button, "click"] in fn["targets"])

    def click(self, elem_id: str, **changed: Any) -> None:
        """Press a button, with the page's values, or others by their `elem_id` (`_` for `-`), or of all states."""
        fn = self.dependency(elem_id)
        data = []
        for number in fn["inputs"]:
            part = self.components[number]
            name = (part["props"].get("elem_id") or part["type"]).replace("-", "_")
            data.append(changed.get(name, part["props"].get("value")))
        asked = self.post("queue/join", data=data, fn_index=fn["id"], session_hash=self.session)
        assert asked.status_code == 200, asked.text
        self.event = asked.json()["event_id"]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        query = {"session_hash": self.session}
        route = f"{self.url}gradio_api/queue/data"
        with requests.get(route, params=query, timeout=120, stream=True) as stream:
            for line in stream.iter_lines():
                if line:
                    self.messages.append(json.loads(line.removeprefix(b"data: ")))

    def paint(self) -> None:
        files = {"files": ("a.png", EXAMPLE.read_bytes())}
        path = requests.post(f"{self.url}gradio_api/upload", files=files, timeout=60).json()[0]
        picture = {"path": path, "meta": {"_type": "gradio.FileData"}}
        self.click("lr-paint", lr_picture=picture, lr_prompt="a secret wish", lr_steps=8, lr_strength=1.0)
        wait_until(lambda: "step 1 " in str(self.messages))

    def done(self) -> bool:
        return any(message["msg"] == "process_completed" for message in self.messages)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    with page_of(FakeStudio(pause=0.3), tmp_path) as url:
        yield url, tmp_path


def test_nobody_but_its_page_ends_a_run_or_hears_of_it(page: tuple[str, Path]) -> None:
    url, folder = page
    one, other = Visitor(url), Visitor(url)
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
    last = one.messages[-2] if one.messages[-1]["msg"] == "close_stream" else one.messages[-1]
    assert last["success"] and "Stopped" not in str(one.messages)
    assert "latent-relay-" in str(one.messages), "it has its picture"
    for secret in ("a secret wish", run_id, one.session, one.event):
        assert secret not in str(other.messages)
        for route in ("config", "gradio_api/info", "gradio_api/queue/status", "monitoring/summary"):
            assert secret not in requests.get(url + route, timeout=60).text


def test_its_own_page_does_stop_it(page: tuple[str, Path]) -> None:
    """So that the test above tests something."""
    one = Visitor(page[0])
    one.paint()
    one.click("lr-stop")
    wait_until(lambda: "Stopped" in str(one.messages))


def test_a_forged_history_shows_only_what_its_ids_name(page: tuple[str, Path]) -> None:
    url, folder = page
    one, other = Visitor(url), Visitor(url)
    one.paint()
    wait_until(one.done)
    (run_id,) = (path.name for path in folder.iterdir())
    forged = ["", ".", "..", f"../{folder.name}", run_id[:-1], f"{run_id}/", run_id.swapcase(), "*", None, 7]
    load = next(fn for fn in other.config["dependencies"] if [None, "load"] in fn["targets"] or (any(
        target[1] == "load" for target in fn["targets"]) and len(fn["inputs"]) == 1))  # fmt: skip
    asked = other.post("queue/join", data=[forged], fn_index=load["id"], session_hash=other.session)
    assert asked.status_code == 200
    threading.Thread(target=other._listen, daemon=True).start()
    wait_until(other.done)
    assert run_id not in str(other.messages) and "a secret wish" not in str(other.messages)


def test_gradios_history_of_runs_is_off(page: tuple[str, Path]) -> None:
    """It would ask the hub with the owner's token for a visitor who seems to sit at this machine."""
    url, _ = page
    for route in ("runs", "run-history/buckets", "run-history/records?bucket_id=a/b"):
        assert requests.get(f"{url}gradio_api/{route}", timeout=60).status_code == 404, route
    connect = requests.post(f"{url}gradio_api/run-history/connect", json={"bucket_id": "a/b"}, timeout=60)
    assert connect.status_code == 404 or connect.status_code == 405
