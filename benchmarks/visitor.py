"""One open page, as its browser speaks to Gradio: the same routes and messages, without the browser."""

from __future__ import annotations

import json
import secrets
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import requests

PATIENCE = 180.0
"""Seconds after which an answer counts as lost."""


@dataclass
class Visitor:
    """A session of its own. `url` ends with a slash; `config` is the page's description, the same for everybody."""

    url: str
    config: dict[str, Any]
    session: str = field(default_factory=lambda: secrets.token_hex(6))
    event: str = ""
    """The id of what was started last."""

    @classmethod
    def open(cls, url: str) -> Self:
        return cls(url, requests.get(f"{url}config", timeout=PATIENCE).json())

    @property
    def components(self) -> dict[int, dict[str, Any]]:
        return {part["id"]: part for part in self.config["components"]}

    def post(self, route: str, **body: Any) -> requests.Response:
        return requests.post(f"{self.url}gradio_api/{route}", json=body, timeout=PATIENCE)

    def upload(self, name: str, content: bytes) -> dict[str, Any]:
        """The value of a file's widget. Raises requests.HTTPError: it was refused."""
        reply = requests.post(
            f"{self.url}gradio_api/upload", files={"files": (name, content)}, timeout=PATIENCE
        )
        reply.raise_for_status()
        return {"path": reply.json()[0], "meta": {"_type": "gradio.FileData"}}

    def dependency(self, elem_id: str, event: str = "click") -> dict[str, Any]:
        """What an event of that widget starts; of several the one with most outputs."""
        number = next(
            part["id"] for part in self.config["components"] if part["props"].get("elem_id") == elem_id
        )
        found = [fn for fn in self.config["dependencies"] if [number, event] in fn["targets"]]
        return max(found, key=lambda fn: len(fn["outputs"]))

    def start(self, fn: dict[str, Any], **changed: Any) -> requests.Response:
        """Start an event with the page's values, or others by their `elem_id` (`_` for `-`), or of all states."""
        data = []
        components = self.components
        for number in fn["inputs"]:
            part = components[number]
            name = (part["props"].get("elem_id") or part["type"]).replace("-", "_")
            data.append(changed.get(name, part["props"].get("value")))
        reply = self.post("queue/join", data=data, fn_index=fn["id"], session_hash=self.session)
        self.event = reply.json().get("event_id", "")
        return reply

    def messages(self) -> Generator[dict[str, Any], None, None]:
        """What Gradio says of the events that were started. Closing this hangs up, as a closed tab does."""
        query = {"session_hash": self.session}
        route = f"{self.url}gradio_api/queue/data"
        with requests.get(route, params=query, timeout=PATIENCE, stream=True) as stream:
            for line in stream.iter_lines():
                if line:
                    yield json.loads(line.removeprefix(b"data: "))

    @contextmanager
    def present(self) -> Iterator[None]:
        """The page is open while the block lasts: by this connection Gradio notices that it is closed."""
        route = f"{self.url}gradio_api/heartbeat/{self.session}"
        with requests.get(route, timeout=PATIENCE, stream=True) as alive:
            beats = alive.iter_content(8)  # let go of, it would hang up
            next(beats)
            yield
