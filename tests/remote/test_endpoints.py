"""Which endpoint a stage goes to, with which token: the visitor's, else the configured one, else this app's."""

from __future__ import annotations

from typing import Any

import pytest

from backend.errors import ModelUnavailableError, UserError
from backend.job import UserEndpoint, VaeOptions
from backend.message import Message
from backend.models import BUILTIN, SD_V1
from backend.remote.endpoints import Endpoint, client, display_host, require, resolve
from backend.remote.net import shared_session
from backend.remote.preflight import Preflight
from backend.report import Direction
from backend.settings import EndpointPair, Settings
from backend.studio import Studio
from backend.token import Token

REMOTE = VaeOptions("remote")
SELF = "http://127.0.0.1:7860/"
CONFIGURED = Settings(
    endpoints={"builtin": EndpointPair(encode="https://vae.example:8443/encode")},
    tokens={"builtin": "s3cret"},
)
DIRECTIONS: tuple[Direction, ...] = ("encode", "decode")


def user(**changes: Any) -> UserEndpoint:
    given = {
        "name": "mine",
        "models": ("builtin",),
        "encode": "https://user.example/encode",
        "decode": None,
        "token": Token.bound_to("t0ken", "https://user.example"),
    }
    return UserEndpoint(**{**given, **changes})


def test_without_anything_a_model_has_no_endpoint() -> None:
    for direction in DIRECTIONS:
        assert resolve(BUILTIN, direction, REMOTE, Settings(), None) is None
        with pytest.raises(ModelUnavailableError) as caught:
            require(BUILTIN, direction, REMOTE, Settings(), None)
        assert str(caught.value) == f"No endpoint is known that could {direction} for {BUILTIN.title}."
        assert caught.value.hint == "Start the app with --endpoint builtin=URL, or choose another mode."


@pytest.mark.parametrize("self_url", [SELF, SELF.rstrip("/")])
def test_this_very_app_comes_last(self_url: str) -> None:
    found = resolve(BUILTIN, "decode", REMOTE, CONFIGURED, self_url)
    assert found is not None and found.is_self
    assert found.url == "http://127.0.0.1:7860/vae/builtin/decode"
    found = resolve(BUILTIN, "encode", REMOTE, CONFIGURED, self_url)
    assert found is not None and not found.is_self and found.url == "https://vae.example:8443/encode"


def test_a_public_default_comes_before_this_app_where_a_person_chose_remote() -> None:
    for direction in DIRECTIONS:
        found = resolve(SD_V1, direction, REMOTE, Settings(), SELF)
        url = Settings().default_endpoints(SD_V1).of(direction) or ""
        assert found == Endpoint(url, None, is_self=False, is_default=True)


@pytest.mark.parametrize("settings", [Settings(share=True), Settings(on_space=True)])
def test_a_public_page_calls_no_public_default(settings: Settings) -> None:
    for direction in DIRECTIONS:
        assert resolve(SD_V1, direction, REMOTE, settings, None) is None
        found = resolve(SD_V1, direction, REMOTE, settings, SELF)
        assert found == Endpoint(f"{SELF}vae/sd-v1/{direction}", None, is_self=True)


def test_auto_knows_no_public_default() -> None:
    for direction in DIRECTIONS:
        assert resolve(SD_V1, direction, VaeOptions("auto"), Settings(), None) is None
    configured = Settings(endpoints={"sd-v1": EndpointPair(decode="https://vae.example/decode")})
    found = resolve(SD_V1, "decode", VaeOptions("auto"), configured, None)
    assert found == Endpoint("https://vae.example/decode", None, is_self=False)


def test_it_is_said_beforehand_that_a_public_default_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = Preflight("ready", Message("The endpoint at {where} serves another model.", where="there"))
    monkeypatch.setattr("backend.remote.preflight.preflight", lambda *_: ready)
    found = Studio(Settings()).preflight("sd-v1", "decode", REMOTE)
    host = display_host(SD_V1.decode_endpoint or "")
    assert found is not None and str(found.message).endswith(f"what this stage sends goes to {host}.")
    configured = Settings(endpoints={"sd-v1": EndpointPair(decode="https://vae.example/decode")})
    assert Studio(configured).preflight("sd-v1", "decode", REMOTE) == ready


def test_the_visitors_endpoint_wins_and_only_its_token_goes_along() -> None:
    options = VaeOptions("remote", endpoint=user())
    found = resolve(BUILTIN, "encode", options, CONFIGURED, SELF)
    assert found == Endpoint("https://user.example/encode", user().token, is_self=False)
    assert "t0ken" not in repr(found)


def test_nothing_takes_the_place_of_a_direction_that_the_visitors_endpoint_lacks() -> None:
    options = VaeOptions("remote", endpoint=user())
    assert resolve(BUILTIN, "decode", options, CONFIGURED, SELF) is None
    with pytest.raises(UserError, match=r"^Your endpoint “mine” does not decode\.$") as caught:
        require(BUILTIN, "decode", options, CONFIGURED, SELF)
    assert caught.value.hint == "Choose another place for this stage."
    options = VaeOptions("remote", endpoint=user(encode=None))
    with pytest.raises(UserError, match=r"^Your endpoint “mine” does not encode\.$"):
        require(BUILTIN, "encode", options, CONFIGURED, SELF)


def test_the_visitors_endpoint_for_another_model_is_refused() -> None:
    options = VaeOptions("remote", endpoint=user())
    with pytest.raises(UserError) as caught:
        require(SD_V1, "encode", options, Settings(), None)
    assert str(caught.value) == f"Your endpoint “mine” serves no VAE for {SD_V1.title}."
    assert caught.value.hint == "Choose another place, or another model."


def test_a_visitor_who_gives_this_apps_address_is_served_by_this_app() -> None:
    options = VaeOptions("remote", endpoint=user(encode=f"{SELF}vae/builtin/encode", token=None))
    found = resolve(BUILTIN, "encode", options, Settings(serve_token="owners"), SELF)
    assert found == Endpoint(f"{SELF}vae/builtin/encode", None, is_self=True), "the owner's token is not lent"


def test_each_token_goes_where_it_belongs() -> None:
    settings = Settings(endpoints=CONFIGURED.endpoints, tokens=CONFIGURED.tokens, serve_token="serve")
    here = require(BUILTIN, "decode", REMOTE, settings, SELF)
    assert here.token is not None and here.token.for_url(here.url) == "serve"
    there = require(BUILTIN, "encode", REMOTE, settings, SELF)
    assert there.token is not None and there.token.for_url(there.url) == "s3cret"
    assert here.token.for_url(there.url) is None and there.token.for_url(here.url) is None


def test_an_address_that_only_begins_like_this_apps_is_another() -> None:
    settings = Settings(
        endpoints={"builtin": EndpointPair(decode="http://127.0.0.1:78601/vae/builtin/decode")},
        serve_token="serve",
    )
    found = resolve(BUILTIN, "decode", REMOTE, settings, "http://127.0.0.1:7860")
    assert found == Endpoint("http://127.0.0.1:78601/vae/builtin/decode", None, is_self=False)


@pytest.mark.parametrize("public_only", [True, False])
def test_the_client_of_a_visitors_address_keeps_to_public_ones(public_only: bool) -> None:
    options = VaeOptions("remote", transfer="png", endpoint=user(public_only=public_only))
    settings = Settings(remote_timeout=7.0)
    endpoint = require(BUILTIN, "encode", options, settings, None)
    vae = client(endpoint, BUILTIN, options, settings, request_id="run-1")
    assert vae.encode_url == endpoint.url and vae.transfer == "png" and vae.spec == BUILTIN.latents
    assert vae.client.session is shared_session(public_only) and vae.client.timeout == 7.0
    assert vae.client.token is endpoint.token and vae.client.request_id == "run-1"


def test_the_client_of_the_owners_endpoint_may_call_private_addresses() -> None:
    endpoint = require(BUILTIN, "decode", REMOTE, Settings(), SELF)
    assert client(endpoint, BUILTIN, REMOTE, Settings()).client.session is shared_session()


def test_a_host_is_shown_without_credentials() -> None:
    assert display_host("https://me:s3cret@example.org:8/a?b#c") == "example.org:8"
