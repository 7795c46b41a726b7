"""A visitor's endpoint, over real HTTP: discovered, probed, used; its token goes there and nowhere else."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from backend.endpoint import Served, Service, build_app
from backend.errors import BadSettingError, LatentRelayError, RemoteError, RemoteRefusedError, UserError
from backend.events import Result
from backend.job import Job, UserEndpoint, VaeOptions
from backend.models import BUILTIN, MODELS
from backend.remote.user_endpoint import discover, probe
from backend.settings import Settings, read_settings
from backend.studio import Studio
from backend.vae.whole import Whole
from tests.serving import scripted, serve

TOKEN = "hunter2-but-longer"


class Seen:
    """An ASGI app that notes the token each request brought."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.tokens: list[tuple[str, str | None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            self.tokens.append((request.url.path, request.headers.get("authorization")))
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def guarded(studio: Studio) -> Iterator[tuple[str, Seen]]:
    """A headless endpoint with the built-in VAE alone, behind a token."""
    module = studio.loader.vae(BUILTIN)
    served = Served("builtin", BUILTIN.latents, lambda: Whole(module, BUILTIN.latents))
    seen = Seen(build_app(Service([served], token=TOKEN)))
    with serve(seen) as url:
        yield url, seen


def discovered(url: str, token: str = "", **more: Any) -> UserEndpoint:
    return discover(url, token, models=MODELS, **{"public_only": False, **more})


@pytest.mark.parametrize(
    "path", ["", "/", "/vae", "/vae/builtin", "/vae/builtin/decode", "/vae/builtin/encode?x=1"]
)
def test_any_address_of_it_will_do_and_it_says_what_it_serves(guarded: tuple[str, Seen], path: str) -> None:
    url, _ = guarded
    found = discovered(url + path, TOKEN)
    assert found.models == ("builtin",) and found.name == url.removeprefix("http://")
    assert (found.encode, found.decode) == (f"{url}/vae/builtin/encode", f"{url}/vae/builtin/decode")


def test_probing_it_finds_its_limit_and_latency(guarded: tuple[str, Seen]) -> None:
    result = probe(discovered(guarded[0], TOKEN, name="the big one"), BUILTIN)
    assert result.endpoint is not None and result.endpoint.name == "the big one"
    assert result.preflight.status == "ready" and "million pixels" in str(result.preflight.message)
    assert result.preflight.latency is not None and result.preflight.max_pixels == 2048 * 2048


@pytest.mark.parametrize("token", ["", "wrong"])
def test_without_its_token_there_is_no_entrance(guarded: tuple[str, Seen], token: str) -> None:
    with pytest.raises(RemoteRefusedError, match="wants a token"):
        discovered(guarded[0], token)


def test_of_several_the_models_own_is_taken_and_else_one_is_asked_for(studio: Studio) -> None:
    assert studio.self_url is not None
    with pytest.raises(UserError, match="serves several VAEs") as failure:
        discovered(studio.self_url)
    assert "Choose the model" in failure.value.hint
    sdxl = discovered(studio.self_url, model="sdxl")
    assert sdxl.decode == f"{studio.self_url}/vae/sdxl/decode" and "sdxl-turbo" in sdxl.models
    assert "builtin" not in sdxl.models, "another scale would give a grey picture"


def test_a_server_that_says_nothing_of_itself_needs_the_model_named() -> None:
    with scripted((404, {}, b"")) as (_, url):
        with pytest.raises(UserError, match="does not say which VAE"):
            discovered(url)
        assert discovered(f"{url}/x", model="sd-v1").decode == f"{url}/x"


def test_what_fits_no_model_here_is_said() -> None:
    description = json.dumps({"vaes": [{"name": "odd", "channels": 7}, {"name": 5}, "x"]}).encode()
    with (
        scripted((200, {"content-type": "application/json"}, description)) as (_, url),
        pytest.raises(UserError, match="serves odd, but no VAE that fits"),
    ):
        discovered(url)


@pytest.mark.parametrize(
    "description",
    [b"[]", b"{", b'{"vaes": 3}', b'{"channels": 4, "shift_factor": "x"}', b"[" * 5000, b"x" * 10**6],
)
def test_nonsense_is_no_description(description: bytes) -> None:
    with (
        scripted((200, {"content-type": "application/json"}, description)) as (_, url),
        pytest.raises(UserError),
    ):
        discovered(url)


@pytest.mark.parametrize("url", ["", "ftp://x/", "http://me:secret@127.0.0.1/", "file:///etc/passwd"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(BadSettingError) as failure:
        discovered(url)
    assert "secret" not in failure.value.sentence


def test_a_token_of_several_lines_is_refused_and_not_quoted() -> None:
    with pytest.raises(BadSettingError) as failure:
        discovered("http://127.0.0.1:9/", "top\r\nsecret: 1")
    assert "secret" not in failure.value.sentence


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "10.0.0.1"])
def test_where_strangers_visit_no_private_address_is_asked(host: str) -> None:
    with pytest.raises(BadSettingError, match="private network"):
        discover(f"http://{host}:9/", TOKEN, models=MODELS, model="builtin")


def test_a_name_that_moves_inside_later_is_refused_at_the_socket(guarded: tuple[str, Seen]) -> None:
    """As with DNS rebinding: accepted once, and then it points inside."""
    url, seen = guarded
    before = len(seen.tokens)
    moved = replace(discovered(url, TOKEN), public_only=True)
    studio = Studio(Settings(device="cpu"))
    with pytest.raises(LatentRelayError, match="private network"):
        studio.encode(Image.new("RGB", (64, 64)), "builtin", VaeOptions("remote", endpoint=moved))
    assert len(seen.tokens) == before + 1, "only `discovered` itself has asked"


def test_a_job_decodes_there_and_only_there_is_the_token_seen(
    studio: Studio, guarded: tuple[str, Seen], picture: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    url, seen = guarded
    caplog.set_level(logging.DEBUG)
    endpoint = discovered(url, TOKEN)
    options = VaeOptions("remote", transfer="png", endpoint=endpoint)
    seen.tokens.clear()
    job = Job(picture, "a lake", strength=0.2, num_inference_steps=5, seed=3, decode=options)
    assert TOKEN not in repr(job)
    result = next(event for event in studio.img2img(job) if isinstance(event, Result))
    decoded = result.reports[2]
    assert decoded.mode == "remote" and str(decoded.where) == endpoint.host
    assert decoded.traffic is not None and decoded.traffic.transfer == "png"
    assert {token for _, token in seen.tokens} == {f"Bearer {TOKEN}"}
    recorded = json.dumps([result.recipe, [report.as_dict() for report in result.reports]]) + caplog.text
    assert TOKEN not in recorded and "Bearer" not in recorded
    assert result.recipe["decode_mode"] == "remote" and "endpoint" not in result.recipe


def test_the_token_stays_behind_when_the_endpoint_sends_us_elsewhere(guarded: tuple[str, Seen]) -> None:
    url, seen = guarded
    seen.tokens.clear()
    with scripted((307, {"location": f"{url}/vae"}, b"")) as (script, elsewhere):
        endpoint = discovered(elsewhere, TOKEN, model="builtin")
        studio = Studio(Settings(device="cpu"))
        with pytest.raises(RemoteError, match="has moved"):
            studio.encode(Image.new("RGB", (64, 64)), "builtin", VaeOptions("remote", endpoint=endpoint))
        assert script.requests
    assert seen.tokens == []


def test_an_endpoint_for_another_model_is_refused_before_anything_is_sent(guarded: tuple[str, Seen]) -> None:
    endpoint = discovered(guarded[0], TOKEN)
    with pytest.raises(UserError, match="serves no VAE for Stable Diffusion"):
        probe(endpoint, MODELS["sd-v1"])


def test_an_endpoint_of_one_direction_keeps_only_that(studio: Studio) -> None:
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def closed(_: Request) -> JSONResponse:
        return JSONResponse({"error": "no encoder here"}, 405)

    routes = [Route("/vae/builtin/encode", closed, methods=["POST"]), *studio.routes()]
    with serve(Starlette(routes=routes)) as url:
        result = probe(discovered(f"{url}/vae/builtin"), BUILTIN)
        assert (
            result.endpoint is not None
            and result.endpoint.encode is None
            and result.preflight.status == "ready"
        )
        with pytest.raises(UserError, match="does not encode"):
            studio.encode(
                Image.new("RGB", (64, 64)), "builtin", VaeOptions("remote", endpoint=result.endpoint)
            )


@pytest.mark.parametrize(
    ("flags", "environ", "takes", "alone"),
    [
        ([], {}, True, True),
        (["--host", "0.0.0.0"], {}, True, False),
        (["--share"], {}, False, False),
        ([], {"SPACE_ID": "a/b"}, False, False),
        ([], {"SPACE_ID": "a/b", "LATENT_RELAY_VISITOR_ENDPOINTS": "1"}, True, False),
        (["--no-visitor-endpoints"], {"LATENT_RELAY_VISITOR_ENDPOINTS": "1"}, False, True),
    ],
)
def test_who_may_add_one(flags: list[str], environ: dict[str, str], takes: bool, alone: bool) -> None:
    settings = read_settings(flags, environ)
    assert (settings.takes_visitor_endpoints, settings.only_owner_visits) == (takes, alone)
