"""Tokens are sent to whom they were given for, and are to be found nowhere else."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import requests

from tests.serving import Scripted, scripted
from tests.ui.test_hostile import EXAMPLE, USUAL, call, file_data, upload

ROOT = Path(__file__).parents[2]
ENDPOINT_TOKEN, SERVE_TOKEN, HUB_TOKEN = "tok-endpoint-8f3a", "tok-serve-77c1", "hf_tokHub5d20"
TOKENS = (ENDPOINT_TOKEN, SERVE_TOKEN, HUB_TOKEN)


def echo_token(handler: BaseHTTPRequestHandler) -> None:
    """An endpoint that puts the token it was sent into its refusal, as a careless proxy does."""
    given = handler.headers.get("authorization", "nothing")
    body = json.dumps({"error": f"You sent {given}."}).encode()
    handler.send_response(422, f"Not for {given}")
    handler.send_header("content-length", str(len(body)))
    handler.send_header("x-you-sent", given)
    handler.end_headers()
    handler.wfile.write(body)


class App:
    """An app of its own with tokens, and all that it says and keeps."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.log = folder / "log"
        command = [
            sys.executable,
            "app.py",
            "--port",
            str(self.port),
            "--device",
            "cpu",
            "--model",
            "builtin",
        ]
        command += ["--folder", str(folder / "runs"), "--endpoint", f"builtin={endpoint}"]
        environment = {
            "LATENT_RELAY_TOKENS": f"builtin={ENDPOINT_TOKEN}",
            "LATENT_RELAY_SERVE_TOKEN": SERVE_TOKEN,
            "HF_TOKEN": HUB_TOKEN,
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}
            )
        deadline = time.monotonic() + 120
        while True:
            try:
                if requests.get(self.url, timeout=5).ok:
                    break
            except requests.ConnectionError:
                assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[tuple[Scripted, str]]:
    with scripted(echo_token) as found:
        yield found


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory, endpoint: tuple[Scripted, str]
) -> Iterator[dict[str, bytes]]:
    """Everything that the app shows, answers, logs and keeps, by where it was found, after good and bad runs."""
    folder = tmp_path_factory.mktemp("secrets")
    app = App(folder, endpoint[1])
    found: dict[str, bytes] = {}
    try:
        image = file_data(upload(app.url, "a.png", Path(EXAMPLE).read_bytes()))
        base = [image, *USUAL["img2img"][1:-3]]
        for modes in (["same", "same"], ["remote", "same"], ["same", "remote"]):
            worked, text = call(app.url, "img2img", *base, *modes)
            found[f"answer {modes}"] = text.encode()
            assert worked == (modes == ["same", "same"])
        found["answer of encode"] = call(app.url, "encode", image, "builtin", "remote")[1].encode()
        for path in ("", "config", "gradio_api/info", "gradio_api/openapi.json", "gradio_api/startup-events"):
            found[f"/{path}"] = requests.get(f"{app.url}/{path}", timeout=60).content
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Bearer {SERVE_TOKEN}"}):
            for path in ("vae", "vae/builtin", "vae/builtin/decode"):
                reply = requests.request(
                    "POST" if path.endswith("decode") else "GET",
                    f"{app.url}/{path}",
                    headers=headers,
                    data=b"x",
                    timeout=60,
                )
                found[f"/{path} {sorted(headers.values())}"[:40] + str(len(found))] = (
                    reply.content + str(reply.headers).encode()
                )
    finally:
        app.end()
    found["log"] = app.log.read_bytes()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    yield found


def test_the_endpoint_was_sent_its_token(found: dict[str, bytes], endpoint: tuple[Scripted, str]) -> None:
    sent = [headers.get("authorization") for _, headers, _ in endpoint[0].requests]
    assert sent and set(sent) == {f"Bearer {ENDPOINT_TOKEN}"}


def test_no_token_is_anywhere_else(found: dict[str, bytes]) -> None:
    assert any(name.endswith(".png") for name in found) and len(found["log"]) > 0
    assert any(name.endswith(".safetensors") for name in found)
    for name, content in found.items():
        for token in TOKENS:
            assert token.encode() not in content, f"{token} in {name}"


def test_an_endpoints_refusal_is_still_shown(found: dict[str, bytes]) -> None:
    answer = found["answer ['remote', 'same']"].decode()
    assert "You sent Bearer ..." in answer
