"""Preflight tells a right endpoint from a wrong, sleeping or absent one, in a sentence."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
import requests
import torch

from backend.models import BUILTIN, LatentSpec
from backend.remote.preflight import preflight
from backend.remote.vae import Remote
from backend.wire import pack_tensor_reply
from tests.serving import scripted

SPEC = BUILTIN.latents


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_green_with_latency_and_limit(base: str, direction: Any) -> None:
    urls = f"{base}/vae/builtin/encode", f"{base}/vae/builtin/decode"
    found = preflight(Remote(SPEC, *urls), direction)
    assert found.light == "green" and found.max_pixels == 512 * 512 and found.latency and found.latency < 5
    assert f"is ready: a tiny {direction} took" in found.sentence and "0.3 million pixels" in found.sentence


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"channels": 16}, "Its latents have 4 channels, this model's 16."),
        ({"downscale": 16}, "shrinks by 4"),
        (
            {"scaling_factor": 0.18215},
            f"Its scaling_factor is {BUILTIN.latents.scaling_factor:g}, this model's 0.18215.",
        ),
        ({"shift_factor": 0.1159}, "Its shift_factor is None"),
    ],
)
def test_another_models_endpoint_is_explained(base: str, change: dict[str, Any], reason: str) -> None:
    remote = Remote(replace(SPEC, **change), f"{base}/vae/builtin/encode", f"{base}/vae/builtin/decode")
    for direction in ("encode", "decode"):
        found = preflight(remote, direction)  # type: ignore[arg-type]
        assert found.light == "red" and reason in found.sentence and "another model" in found.sentence


def test_a_scale_that_differs_is_seen_without_a_description(base: str) -> None:
    # As on the public servers: nothing but POST, so only the pictures themselves can tell.
    def forward(handler: Any) -> None:
        if handler.command == "GET":
            answer = (404, {}, b"")
        else:
            path, _, body = script.requests[-1]
            reply = requests.post(
                f"{base}/vae/builtin/decode{path[path.index('?') :]}", data=body, timeout=10
            )
            answer = (
                reply.status_code,
                {key: reply.headers[key] for key in ("shape", "dtype")},
                reply.content,
            )
        status, headers, content = answer
        handler.send_response(status)
        for key, value in {**headers, "content-length": str(len(content))}.items():
            handler.send_header(key, value)
        handler.end_headers()
        handler.wfile.write(content)

    with scripted(forward) as (script, url):
        assert preflight(Remote(SPEC, None, f"{url}/decode"), "decode").light == "green"
        found = preflight(Remote(replace(SPEC, scaling_factor=0.18215), None, f"{url}/decode"), "decode")
        assert found.light == "red" and "scales latents in another way" in found.sentence


@pytest.mark.parametrize(
    ("answer", "light", "sentence"),
    [
        ((503, {"content-type": "text/html"}, b"<html>"), "yellow", "busy or still starting"),
        ((401, {}, b""), "red", "token"),
        ((404, {}, b""), "red", "There is no VAE"),
        ((200, {"content-type": "text/html"}, b"<html>"), "red", "a web page"),
        ((200, *pack_tensor_reply(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))), "red", "8 × 8 pixels"),
    ],
)
def test_what_is_wrong_is_told_at_once(answer: Any, light: str, sentence: str) -> None:
    with scripted(answer) as (_, url):
        started = time.monotonic()
        found = preflight(Remote(SPEC, None, url), "decode")
    assert (found.light, sentence in found.sentence) == (light, True), found
    assert time.monotonic() - started < 2


def test_nobody_there_and_nobody_awake() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/decode"
        assert preflight(Remote(SPEC, None, url), "decode").light == "red"
    with scripted(lambda handler: time.sleep(2)) as (_, url):
        found = preflight(Remote(SPEC, None, url), "decode", timeout=0.3)
        assert found.light == "yellow" and "waking up" in found.sentence
    assert preflight(Remote(SPEC, None, None), "decode").light == "red"


def test_the_token_goes_along_but_is_not_told() -> None:
    with scripted((401, {}, b"")) as (script, url):
        found = preflight(Remote(SPEC, None, f"{url}/vae/x/decode", token="s3cret"), "decode")
    assert {headers["authorization"] for _, headers, _ in script.requests} == {"Bearer s3cret"}
    assert "s3cret" not in repr(found)


def test_it_can_be_stopped() -> None:
    from backend.errors import Cancelled

    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    with scripted(lambda handler: time.sleep(2)) as (_, url), pytest.raises(Cancelled):
        preflight(Remote(LatentSpec(4, 8, 1.0), None, url, stop=stop), "decode")
