"""Visitors who make trouble, for `benchmarks.load`: they leave in every stage, send hostile files, or take a finished
picture back to the page and paint it again.
"""

from __future__ import annotations

import io
import json
import random
import re
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
from PIL import Image

from benchmarks.visitor import PATIENCE, Visitor
from tests import hostile
from ui.theme import ASSETS

STAGES = ("encode", "denoise", "decode")
EXAMPLE = (ASSETS / "mountains.png").read_bytes()
BUSY_SIGNS = ("busy", "too many", "queue is full")
_PAINTED = re.compile(r"runs/[\w-]+/latent-relay-\d+\.png")
_LARGE = {"lr_width": 256, "lr_height": 256, "lr_steps": 12, "lr_strength": 1.0}
"""So that each stage lasts long enough to be left in."""


class WrongAnswerError(Exception):
    """An answer that nobody should get; its first argument is the outcome as in `load.OUTCOMES`."""


@dataclass
class Deeds:
    """What the troublesome visitors did, and what came of it."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    messages: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, deed: str, outcome: str, message: str = "") -> None:
        with self._lock:
            self.outcomes.setdefault(deed, Counter())[outcome] += 1
            if message:
                self.messages[f"{deed}: {message}"[:200]] += 1

    def count(self, *outcomes: str) -> int:
        return sum(counts[outcome] for counts in self.outcomes.values() for outcome in outcomes)

    def as_dict(self) -> dict[str, Any]:
        counts = {deed: dict(found) for deed, found in sorted(self.outcomes.items())}
        return {"outcomes": counts, "messages": dict(self.messages.most_common(8))}


@dataclass(frozen=True)
class Page:
    """The app's page, and what one picture painted on it alone looks like."""

    url: str
    """With a slash at its end."""
    config: dict[str, Any]
    pixels: bytes = b""

    def visitor(self) -> Visitor:
        return Visitor(self.url, self.config)


def page_of(url: str) -> Page:
    """Paints the picture that is restored later, while nothing else runs."""
    page = Page(f"{url}/", requests.get(f"{url}/config", timeout=PATIENCE).json())
    content, _ = paint(page.visitor(), EXAMPLE, "alone")
    return Page(page.url, page.config, pixels_of(content))


def pixels_of(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content)) as image:
        return image.convert("RGB").tobytes()


def values(nonce: str) -> dict[str, Any]:
    """Of the form. At guidance 1 the negative prompt, which carries the nonce, does not change the picture."""
    return {
        "lr_prompt": "a lake at sunset",
        "lr_negative": nonce,
        "lr_seed": 7,
        "lr_guidance": 1,
        "lr_steps": 4,
        "lr_strength": 0.5,
        "lr_width": 64,
        "lr_height": 64,
    }


def paint(visitor: Visitor, picture: bytes, nonce: str) -> tuple[bytes, str]:
    """(the finished picture's file, its address), through the page's own button.

    Raises:
        WrongAnswerError: no picture came.
    """
    with visitor.present():
        uploaded = visitor.upload("a.png", picture)
        started = visitor.start(visitor.dependency("lr-paint"), lr_picture=uploaded, **values(nonce))
        completed = _completed(visitor, started)
        found = completed["seen"]
        if not found:
            raise WrongAnswerError("failed", "a run that ended well shows no picture")
        reply = requests.get(visitor.url + found, timeout=60)
        reply.raise_for_status()
        return reply.content, found


def _completed(visitor: Visitor, started: requests.Response) -> dict[str, Any]:
    """The event's last message, and under `seen` the last painted picture's address that any of them held.

    Raises:
        WrongAnswerError: busy, failed, or no such message.
    """
    if started.status_code != 200:
        raise WrongAnswerError(_kind(started.text, started.status_code), started.text)
    seen = ""
    with closing(visitor.messages()) as messages:
        for message in messages:
            found = _PAINTED.findall(json.dumps(message))
            seen = found[-1] if found else seen
            if message["msg"] == "process_completed":
                if not message["success"]:
                    said = str(message["output"].get("error"))
                    raise WrongAnswerError(_kind(said), said)
                return message | {"seen": seen}
    raise WrongAnswerError("lost", "the stream ended without an answer")


def _kind(said: str, status: int = 200) -> str:
    return "busy" if status == 503 or any(sign in said.lower() for sign in BUSY_SIGNS) else "failed"


# -- deeds: each gives its outcome, or raises WrongAnswerError -------------------------------------------------


def restore(page: Page) -> str:
    """Paint, take the picture to a new page, find its settings there, and paint it again."""
    nonce = secrets.token_hex(8)
    content, _ = paint(page.visitor(), EXAMPLE, nonce)
    if pixels_of(content) != page.pixels:
        raise WrongAnswerError("swapped", "another picture than alone")
    visitor = page.visitor()
    with visitor.present():
        restoring = visitor.dependency("lr-picture", "upload")
        uploaded = visitor.upload("painted.png", content)
        answer = _completed(visitor, visitor.start(restoring, lr_picture=uploaded))
    if nonce not in json.dumps(answer["output"]["data"]):
        raise WrongAnswerError("swapped", "the restored settings are another picture's")
    again, _ = paint(page.visitor(), EXAMPLE, nonce)
    if pixels_of(again) != page.pixels:
        raise WrongAnswerError("swapped", "another picture the second time")
    return "ok"


def send_hostile_file(page: Page) -> str:
    """Give a file that means harm to the page: as a picture to restore from, to paint over, and to encode."""
    name, content = random.choice(sorted(hostile.bodies().items()))
    visitor = page.visitor()
    with visitor.present():
        try:
            uploaded = visitor.upload("a.png", content)
        except requests.HTTPError as error:
            if error.response.status_code >= 500 and error.response.status_code != 503:
                raise WrongAnswerError("failed", f"{name}: {error}") from error
            return "ok"
        for elem_id, event, field_name in (
            ("lr-picture", "upload", "lr_picture"),
            ("lr-paint", "click", "lr_picture"),
            ("lr-encode", "click", "lr_encode_picture"),
        ):
            started = visitor.start(
                visitor.dependency(elem_id, event), **{field_name: uploaded, "lr_steps": 2}
            )
            try:
                _completed(visitor, started)
            except WrongAnswerError as wrong:
                if "nobody planned" in str(wrong) or wrong.args[0] == "lost":
                    raise WrongAnswerError("failed", f"{name}: {wrong.args[1]}") from wrong
    return "ok"


def leave_in_queue(page: Page) -> str:
    return _leave(page, "lr-paint", lambda message: message["msg"] == "process_starts")


def leave_in(stage: str) -> Callable[[Page], str]:
    sign = f'lr-{stage}" data-state="active'

    def leave(page: Page) -> str:
        return _leave(page, "lr-paint", lambda message: sign in _shown(message))

    return leave


def leave_encoding(page: Page) -> str:
    return _leave(page, "lr-encode", lambda message: message["msg"] == "process_generating")


def _shown(message: dict[str, Any]) -> str:
    """All texts of a message's values."""
    return " ".join(part for part in _strings(message.get("output")))


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inside for text in _strings(one)]


def _leave(page: Page, button: str, until: Callable[[dict[str, Any]], bool]) -> str:
    """Start something large, and close the page at that message."""
    visitor = page.visitor()
    with visitor.present():
        uploaded = visitor.upload("a.png", EXAMPLE)
        chosen = {"lr_picture": uploaded, "lr_encode_picture": uploaded}
        started = visitor.start(visitor.dependency(button), **values("leaves") | _LARGE | chosen)
        if started.status_code != 200:
            raise WrongAnswerError(_kind(started.text, started.status_code), started.text)
        with closing(visitor.messages()) as messages:
            for message in messages:
                if until(message):
                    return "ok"
                if message["msg"] == "process_completed":
                    if message["success"]:
                        return "missed"
                    said = str(message["output"].get("error"))
                    raise WrongAnswerError(_kind(said), said)
    raise WrongAnswerError("lost", "the stream ended without an answer")


def leave_uploading(page: Page) -> str:
    """Half of an upload, then gone."""
    parts = urlsplit(page.url)
    head = (
        "POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    )
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(head.encode() + bytes(2_000_000))
    return "ok"


DEEDS: dict[str, Callable[[Page], str]] = {
    "leave in the queue": leave_in_queue,
    **{f"leave in {stage}": leave_in(stage) for stage in STAGES},
    "leave in the Encode tab": leave_encoding,
    "leave while uploading": leave_uploading,
    "hostile file": send_hostile_file,
    "restore and paint again": restore,
}


def trouble(page: Page, deeds: Deeds, end: float, first: int) -> None:
    """One troublesome visitor after the other until `end`; `first`: the deed to begin with."""
    names = list(DEEDS)
    count = first
    while time.monotonic() < end:
        name = names[count % len(names)]
        try:
            deeds.note(name, DEEDS[name](page))
            count += 1
        except WrongAnswerError as wrong:
            deeds.note(name, *wrong.args)
            count += wrong.args[0] != "busy"  # then once more
        except requests.Timeout as error:
            deeds.note(name, "lost", str(error))
            count += 1
        except (requests.RequestException, OSError) as error:
            deeds.note(name, "failed", repr(error))
            count += 1
        time.sleep(random.uniform(0.0, 1.0))
