"""Tokens go to the hosts they are for and nowhere else: not into logs, errors, results, files, metrics or `repr`."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import asdict
from pathlib import Path

import pytest
import requests
import torch
from PIL import Image

from backend.endpoint import Served, Service, build_app
from backend.errors import LatentRelayError
from backend.events import Result, StageDone
from backend.job import Job, VaeOptions
from backend.latents import save_latents
from backend.message import Message
from backend.models import BUILTIN
from backend.remote.preflight import preflight
from backend.remote.vae import RemoteVae
from backend.settings import EndpointPair, Settings, read_settings
from backend.studio import Studio
from tests.faults import server
from tests.faults.server import Spoiler, spoiling
from tests.secrets import Texts, logged
from tests.serving import scripted, serve

CALL, SERVE = "call-t0ken/+=", "serve-t0ken ü"
"""With letters that look different percent-encoded, as base64, and in a header."""
SERVE_ASCII = "serve-t0ken-7"
REMOTE = VaeOptions("remote")


def job(picture: Image.Image) -> Job:
    options = {"encode": REMOTE, "decode": REMOTE, "strength": 0.3, "num_inference_steps": 3, "seed": 1}
    return Job(picture, "a lake", width=96, height=64, **options)  # type: ignore[arg-type]


def test_no_token_is_anywhere_but_on_its_way(studio: Studio, picture: Image.Image, tmp_path: Path) -> None:
    texts = Texts()
    ours = Service(studio._served, token=SERVE_ASCII)
    with logged(texts), serve(build_app(ours)) as url:
        pair = EndpointPair(f"{url}/vae/builtin/encode", f"{url}/vae/builtin/decode")
        settings = Settings(
            device="cpu",
            endpoints={"builtin": pair},
            tokens={"builtin": SERVE_ASCII},
            serve_token=SERVE_ASCII,
        )
        client = Studio(settings, loader=studio.loader)
        texts.add("settings", settings)
        for event in client.img2img(job(picture)):
            texts.add("event", event)
            if isinstance(event, StageDone):
                texts.add("report", event.report.as_dict())
            if isinstance(event, Result):
                texts.add("recipe", event.recipe)
                texts.add_picture("result", event.image)
                save_latents(tmp_path / "latents.safetensors", event.latents, BUILTIN)
                texts.add("latents", (tmp_path / "latents.safetensors").read_bytes())
        assert "result" in texts.found, "the token was accepted"
        headers = {"Authorization": f"Bearer {SERVE_ASCII}"}
        for path in ("/metrics", "/openapi.json", "/vae", "/health", "/vae/nobody"):
            reply = requests.get(url + path, headers=headers, timeout=10)
            texts.add(path, reply.content)
            texts.add(path, dict(reply.headers))
        for wrong in (
            {},
            {"Authorization": "Bearer wr0ng-guess"},
            {"Authorization": "Basic d3Iwbmc6Z3Vlc3M="},
        ):
            reply = requests.get(f"{url}/vae?token={SERVE_ASCII}", headers=wrong, timeout=10)
            assert reply.status_code == 401
            texts.add("refusal", reply.content)
    assert '"request_id"' in texts.found["log"] and '"run_id"' in texts.found["log"]
    assert texts.leaks([SERVE_ASCII, "wr0ng-guess", "d3Iwbmc6Z3Vlc3M="]) == []


@pytest.mark.parametrize("status", [200, 307, 400, 401, 403, 404, 413, 429, 500, 503])
def test_no_error_of_the_client_shows_a_token(status: int) -> None:
    """Even where the endpoint hands it back, or the owner put it into the address."""
    texts = Texts()
    notices: list[Message] = []
    echo = json.dumps({"error": "no", "hint": "no", "code": "x"}).encode()
    answer = (status, {"location": f"http://x.example/?token={CALL}", "retry-after": "99"}, echo)
    with logged(texts), scripted(answer) as (script, url):
        vae = RemoteVae(
            BUILTIN.latents,
            None,
            f"{url}/vae/decode?token={CALL}",
            token=CALL,
            timeout=5,
            notify=notices.append,
        )
        with pytest.raises(LatentRelayError) as caught:
            vae.decode(torch.zeros(1, 4, 8, 12))
        assert script.requests[-1][1]["authorization"] == f"Bearer {CALL}"
        texts.add("preflight", preflight(vae, "decode"))
    error = caught.value
    texts.add("error", f"{error} {error.sentence} {vars(error)} {error!r}")
    texts.add("client", [vae.client, vae.client.token, *map(str, notices), notices])
    assert texts.leaks([CALL]) == []


def test_nor_when_the_connection_breaks() -> None:
    texts = Texts()
    with logged(texts), spoiling(Spoiler("http://127.0.0.1:9", server.reset)) as url:
        vae = RemoteVae(BUILTIN.latents, None, f"{url}/decode?token={CALL}", token=CALL, timeout=1)
        with pytest.raises(LatentRelayError) as caught:
            vae.decode(torch.zeros(1, 4, 8, 12))
    texts.add("error", f"{caught.value.sentence} {vars(caught.value)}")
    assert texts.leaks([CALL]) == []


def test_bad_tokens_in_the_settings_are_not_quoted() -> None:
    texts = Texts()
    for text in (CALL, f"nobody={CALL}", f"builtin {CALL}"):
        with pytest.raises(LatentRelayError) as caught:
            read_settings([], {"LATENT_RELAY_TOKENS": text})
        texts.add("error", caught.value.sentence)
    good = read_settings([], {"LATENT_RELAY_TOKENS": f"builtin={CALL}", "LATENT_RELAY_SERVE_TOKEN": SERVE})
    texts.add("settings", good)
    assert texts.leaks([CALL, SERVE]) == []


def test_a_fault_of_ours_is_logged_without_what_was_sent() -> None:
    texts = Texts()

    def broken() -> object:
        raise KeyError("inner")

    service = Service([Served("only", BUILTIN.latents, broken)], token=SERVE_ASCII)  # type: ignore[arg-type]
    with logged(texts), serve(build_app(service)) as url:
        reply = requests.post(
            f"{url}/vae/only/decode?shape=1&shape=4&shape=1&shape=1&dtype=uint8&secret={CALL}",
            data=b"s3nt",
            headers={"Authorization": f"Bearer {SERVE_ASCII}"},
            timeout=10,
        )
        assert reply.status_code == 500 and "inner" not in reply.text
    assert "inner" in texts.found["log"] and reply.json()["request_id"] in texts.found["log"]
    assert texts.leaks([SERVE_ASCII, CALL, "s3nt"]) == []


def test_a_line_of_the_log_is_json_with_the_id_that_the_client_reads(studio: Studio) -> None:
    texts = Texts()
    with logged(texts) as stream:
        reply = requests.post(f"{studio.self_url}/vae/builtin/decode?x=1", data=b"{}", timeout=10)
        good = requests.get(f"{studio.self_url}/vae", headers={"X-Request-Id": "mine-0815"}, timeout=10)
        odd = requests.get(f"{studio.self_url}/vae", headers={"X-Request-Id": '<b>"x'}, timeout=10)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    mine = {line["request_id"]: line for line in lines if line["logger"] == "backend.endpoint.requests"}
    failed = mine[reply.json()["request_id"]]
    assert (
        failed["status"] == 400 and failed["code"] == "bad_wire" and failed["path"] == "/vae/builtin/decode"
    )
    assert {"time", "level", "logger", "message", "method", "seconds", "bytes_sent"} <= set(failed)
    assert good.headers["x-request-id"] == "mine-0815" and "mine-0815" in mine
    assert odd.headers["x-request-id"] in mine and "<" not in odd.headers["x-request-id"]


def test_the_gatherer_finds_what_is_there() -> None:
    """So that the tests above can fail."""
    texts = Texts()
    with logged(texts):
        logging.getLogger("anybody").warning("x", extra={"header": f"Bearer {CALL}"})
        threading.Thread(target=logging.getLogger("backend").info, args=("%s", SERVE_ASCII)).start()
    texts.add("error", ValueError(CALL))
    texts.add("address", "http://x.example/?token=call-t0ken/%2B%3D")
    texts.add("clean", {"a": 1})
    picture = Image.new("RGB", (8, 8))
    picture.info["prompt"] = CALL
    texts.add_picture("picture", picture)
    assert texts.leaks([CALL]) == ["log", "error", "address", "picture"]
    assert asdict(Settings())["tokens"] == {}
