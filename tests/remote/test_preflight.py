"""Preflight distinguishes a right endpoint from a wrong, sleeping or absent one, in a sentence."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
import requests
import torch

from backend.errors import Cancelled
from backend.models import BUILTIN, LatentSpec
from backend.remote.preflight import preflight
from backend.remote.vae import RemoteVae
from backend.wire import pack_tensor_reply
from tests.serving import scripted
from tests.waiting import CountedWaits

SPEC = BUILTIN.latents


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_ready_with_latency_and_limit(base: str, direction: Any) -> None:
    urls = f"{base}/vae/builtin/encode", f"{base}/vae/builtin/decode"
    found = preflight(RemoteVae(SPEC, *urls), direction)
    assert found.status == "ready" and found.max_pixels == 512 * 512 and found.latency and found.latency < 5
    assert f"is ready: a tiny {direction} took" in str(found.message) and "0.3 million pixels" in str(
        found.message
    )


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
    remote = RemoteVae(replace(SPEC, **change), f"{base}/vae/builtin/encode", f"{base}/vae/builtin/decode")
    for direction in ("encode", "decode"):
        found = preflight(remote, direction)  # type: ignore[arg-type]
        assert (
            found.status == "broken"
            and reason in str(found.message)
            and "another model" in str(found.message)
        )


def test_a_scale_that_differs_is_seen_without_a_description(base: str) -> None:
    # As on the public servers: nothing but POST, so only the pictures themselves can show it.
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
        assert preflight(RemoteVae(SPEC, None, f"{url}/decode"), "decode").status == "ready"
        found = preflight(RemoteVae(replace(SPEC, scaling_factor=0.18215), None, f"{url}/decode"), "decode")
        assert found.status == "broken" and "scales latents in another way" in str(found.message)


@pytest.mark.parametrize(
    ("answer", "status", "sentence"),
    [
        ((503, {"content-type": "text/html"}, b"<html>"), "starting", "busy or still starting"),
        ((401, {}, b""), "broken", "token"),
        ((404, {}, b""), "broken", "There is no VAE"),
        ((200, {"content-type": "text/html"}, b"<html>"), "broken", "a web page"),
        ((200, *pack_tensor_reply(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))), "broken", "8 × 8 pixels"),
    ],
)
def test_what_is_wrong_is_found_out_with_one_request(answer: Any, status: str, sentence: str) -> None:
    stop = CountedWaits()
    with scripted(answer) as (script, url):
        found = preflight(RemoteVae(SPEC, None, url, stop=stop), "decode")
    assert (found.status, sentence in str(found.message)) == (status, True), found
    assert len(script.requests) == 1 and stop.waits == []


def test_nobody_there_and_nobody_awake() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/decode"
        assert preflight(RemoteVae(SPEC, None, url), "decode").status == "broken"
    with scripted(lambda handler: time.sleep(2)) as (_, url):
        found = preflight(RemoteVae(SPEC, None, url), "decode", timeout=0.3)
        assert found.status == "starting" and "waking up" in str(found.message)
    assert preflight(RemoteVae(SPEC, None, None), "decode").status == "broken"


def test_the_token_goes_along_but_is_not_shown() -> None:
    with scripted((401, {}, b"")) as (script, url):
        found = preflight(RemoteVae(SPEC, None, f"{url}/vae/x/decode", token="s3cret"), "decode")
    assert {headers["authorization"] for _, headers, _ in script.requests} == {"Bearer s3cret"}
    assert "s3cret" not in repr(found)


def test_it_can_be_stopped() -> None:
    stop, released = threading.Event(), threading.Event()

    def stop_and_say_nothing(handler: Any) -> None:
        stop.set()
        released.wait(30)

    with scripted(stop_and_say_nothing) as (_, url), pytest.raises(Cancelled):
        preflight(RemoteVae(LatentSpec(4, 8, 1.0), None, url, stop=stop), "decode")
    released.set()


STRANGE = [
    {"limits": None},
    {"limits": [1, 2]},
    {"limits": "many"},
    {"limits": {"max_pixels": True}},
    {"limits": {"max_pixels": 0}},
    {"limits": {"max_pixels": -1}},
    {"limits": {"max_pixels": 10**400}},
    {"shift_factor": "0.1"},
    {"shift_factor": [0.1]},
    {"shift_factor": 10**400},
    {"scaling_factor": {"x": 1}},
    {"scaling_factor": True},
    {"channels": "4"},
    {"downscale": 4.5},
    {"fixed_scale": "no"},
]


@pytest.mark.parametrize("change", STRANGE, ids=lambda change: json.dumps(change)[:40])
def test_a_strange_description_does_no_harm(base: str, change: dict[str, Any]) -> None:
    """The tiny picture shows whether the endpoint works, whatever it says of itself."""
    description = requests.get(f"{base}/vae/builtin", timeout=10).json() | change

    def answer(handler: Any) -> None:
        path, headers, body = script.requests[-1]
        if handler.command == "GET":
            status, headers, content = (
                200,
                {"content-type": "application/json"},
                json.dumps(description).encode(),
            )
        else:
            reply = requests.post(f"{base}{path}", data=body, timeout=30)
            status, content = reply.status_code, reply.content
            headers = {key: reply.headers[key] for key in ("shape", "dtype")}
        handler.send_response(status)
        for key, value in {**headers, "content-length": str(len(content))}.items():
            handler.send_header(key, value)
        handler.end_headers()
        handler.wfile.write(content)

    with scripted(answer) as (script, url):
        found = preflight(RemoteVae(SPEC, None, f"{url}/vae/builtin/decode"), "decode")
    assert found.status == "ready" and found.latency is not None, found
    assert found.max_pixels == (512 * 512 if "fixed_scale" in change else None)
