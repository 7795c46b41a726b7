"""Campaigns against the whole app: what its page and its API are given, and what its VAE routes are sent in chunks."""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
from hypothesis import strategies as st

from backend.errors import LatentRelayError
from backend.models import MODELS
from backend.remote.client import EndpointClient
from backend.remote.description import fetch, mismatch
from backend.remote.net import new_session
from benchmarks.visitor import Visitor
from tests.fuzz.attacks import LATENTS
from tests.fuzz.campaign import LEAKS, PATIENCE, SHORT_PATIENCE, Tally
from tests.fuzz.structures import DESCRIPTIONS, chunked, json_bodies, latents_files, pngs
from tests.serving import quiet_server, start
from ui.text import say

UNEXPECTED = say("en", "unexpected")
ROUTES = (
    "queue/join", "run/encode", "run/predict", "call/decode", "component_server", "cancel", "reset", "upload",
    "vae/builtin/decode", "vae/builtin/encode",
)  # fmt: skip
_JSON = {"content-type": "application/json"}


class Target:
    """The app under fire. Each method sends one example and adds what came of it to the tally."""

    def __init__(self, url: str, tally: Tally) -> None:
        self.visitor = Visitor.open(f"{url}/")
        self.url, self.tally = url, tally
        self.session = requests.Session()
        api = {fn["api_name"]: fn["id"] for fn in self.visitor.config["dependencies"]}
        self._decode = api["decode"]
        self._restore = self.visitor.dependency("lr-picture", "upload")

    def restore(self, content: bytes) -> None:
        """A picture on the page, whose settings are looked for."""
        body = {"data": [self._upload("a.png", content), "builtin"], "fn_index": self._restore["id"]}
        self._post("run/predict", json.dumps(body | self._session()).encode(), f"restore {content[:400]!r}")

    def encode(self, content: bytes) -> None:
        """A picture for the VAE."""
        query = "scaling_factor=1"
        self._post(f"vae/builtin/encode?{query}", content, f"encode {content[:400]!r}", {})

    def decode(self, content: bytes) -> None:
        """A latents file for the API, as gradio_client sends it."""
        uploaded = self._upload("a.safetensors", content)
        if uploaded is None:
            return
        body = {"data": [uploaded, "auto", 128, 32, "uint8", ""], "fn_index": self._decode} | self._session()
        what = f"decode {content[:600]!r}"
        if self._post("queue/join", json.dumps(body).encode(), what) != 200:
            self.tally.findings.append(f"the queue refused: {what}")
            return
        started = time.monotonic()
        visitor = Visitor(self.visitor.url, self.visitor.config, body["session_hash"])
        for message in visitor.messages():
            if message["msg"] == "process_completed":
                said = json.dumps(message["output"])
                finding = f"it said {said[:200]}" if UNEXPECTED in said or _is_bare(message) else None
                self.tally.add(what, "done", time.monotonic() - started, finding or _leak(said, content))
                return
        self.tally.add(what, "none", time.monotonic() - started, "no answer")

    def json(self, example: tuple[str, bytes]) -> None:
        route, body = example
        self._post(route, body, f"{route} {body[:200]!r}", _JSON, told=route.startswith("run/"))

    def chunks(self, framed: bytes) -> None:
        """A decode whose body comes in chunks, on a connection of its own."""
        parts = urlsplit(self.url)
        head = (
            "POST /vae/builtin/decode?shape=1&shape=4&shape=2&shape=3&dtype=float32&output_type=pt HTTP/1.1\r\n"
            "Host: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        started = time.monotonic()
        status, finding = "none", None  # what breaks the frame may wait for its rest
        with socket.create_connection((parts.hostname, parts.port), timeout=SHORT_PATIENCE) as connection:
            try:
                connection.sendall(head.encode() + framed)
                with http.client.HTTPResponse(connection, method="POST") as response:
                    response.begin()
                    status = str(response.status)
                    finding = f"status {status}" if response.status >= 500 and status != "503" else None
            except (OSError, http.client.HTTPException):
                pass
        self.tally.add(f"chunks {framed[:200]!r}", status, time.monotonic() - started, finding)

    def _session(self) -> dict[str, str]:
        return {"session_hash": secrets.token_hex(6)}

    def _upload(self, name: str, content: bytes) -> dict[str, Any] | None:
        started = time.monotonic()
        reply = self.session.post(
            f"{self.url}/gradio_api/upload", files={"files": (name, content)}, timeout=PATIENCE
        )
        finding = f"status {reply.status_code}" if reply.status_code >= 500 else None
        self.tally.add(
            f"upload {content[:100]!r}", str(reply.status_code), time.monotonic() - started, finding
        )
        if reply.status_code != 200:
            return None
        return {"path": reply.json()[0], "meta": {"_type": "gradio.FileData"}}

    def _post(
        self, route: str, body: bytes, what: str, headers: dict[str, str] = _JSON, *, told: bool = False
    ) -> int:
        """The status. `told`: Gradio may say with a 500 in JSON what an event says of values that make no sense."""
        started = time.monotonic()
        try:
            reply = self.session.post(
                f"{self.url}/gradio_api/{route}", data=body, headers=headers, timeout=PATIENCE
            )
        except requests.RequestException as error:
            self.session = requests.Session()
            self.tally.add(what, "none", time.monotonic() - started, f"no answer ({type(error).__name__})")
            return 0
        finding = _leak(reply.text, body) if reply.status_code >= 400 else None
        if reply.status_code >= 500 and not (told and reply.text.startswith('{"error":')):
            finding = f"status {reply.status_code} {reply.text[:100]}"
        self.tally.add(what, str(reply.status_code), time.monotonic() - started, finding)
        return reply.status_code


def _is_bare(message: dict[str, Any]) -> bool:
    """Gradio's own generic error instead of a sentence."""
    return not message["success"] and message["output"].get("error") in (None, "Error", "")


def _leak(said: str, sent: bytes) -> str | None:
    known = sent.decode("latin-1")
    leaked = [sign for sign in LEAKS if sign in said and sign not in known]
    # Where uploads and results lie is told by Gradio's own FileData; see SECURITY.md.
    leaked = [sign for sign in leaked if "gradio.FileData" not in said]
    return f"it reveals {leaked} in {said[:200]}" if leaked else None


JOINED = st.fixed_dictionaries(
    {
        "data": st.lists(st.none() | st.integers() | st.text(max_size=9), max_size=20),
        "fn_index": st.integers(-2, 200) | st.none(),
        "session_hash": st.text(max_size=12) | st.none(),
    },
    optional={"event_data": st.none(), "trigger_id": st.integers(), "event_id": st.text(max_size=8)},
)
"""What the page's own routes are sent."""


@contextmanager
def described(tally: Tally) -> Iterator[Callable[[Any], None]]:
    """A function that lets a server describe itself by its argument, and reads that as a visitor's endpoint is."""
    body = b""

    def answer(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    server = quiet_server(answer)
    start(server)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        client = EndpointClient(new_session(), PATIENCE)

        def read(document: Any) -> None:
            nonlocal body
            body = json.dumps(document).encode()
            started, finding = time.monotonic(), None
            try:
                for found in fetch(url, client):
                    for model in MODELS.values():
                        mismatch(model.latents, found)
            except LatentRelayError:
                pass
            except Exception as error:  # noqa: BLE001 - that is what is looked for
                finding = f"{error!r}"
            tally.add(f"description {body[:300]!r}", "read", time.monotonic() - started, finding)

        yield read
    finally:
        server.shutdown()
        server.server_close()


def campaigns(target: Target, read: Callable[[Any], None]) -> dict[str, tuple[Any, Callable[[Any], None]]]:
    """Name → (strategy, what shoots an example of it)."""
    decoded = LATENTS.numpy().tobytes()
    return {
        "PNG chunks, to restore": (pngs(), target.restore),
        "PNG chunks, to encode": (pngs(), target.encode),
        "latents' metadata": (latents_files(), target.decode),
        "endpoint descriptions": (DESCRIPTIONS, read),
        "deep and wide JSON": (st.tuples(st.sampled_from(ROUTES), json_bodies(JOINED)), target.json),
        "chunked bodies": (chunked(decoded), target.chunks),
    }
