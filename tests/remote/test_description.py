"""Descriptions of endpoints, of which anything may be wrong: read with care or not at all, and never an error."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings

from backend.errors import RemoteRefusedError, RemoteUnreachableError
from backend.models import BUILTIN, FLUX_LATENTS, MODELS
from backend.remote.client import EndpointClient
from backend.remote.description import EndpointDescription, fetch, mismatch, parse
from backend.remote.net import new_session
from tests.faults import server
from tests.fuzz.structures import DESCRIPTIONS
from tests.fuzz.structures import GOOD_DESCRIPTION as GOOD
from tests.serving import scripted

SPEC = BUILTIN.latents
URL = "https://vae.example/vae/builtin"
JSON = {"content-type": "application/json"}
PARSED = EndpointDescription(
    URL,
    "builtin",
    SPEC.channels,
    SPEC.downscale,
    SPEC.scaling_factor,
    None,
    fixed_scale=False,
    max_pixels=4096,
)


def test_a_good_description() -> None:
    assert parse(GOOD, URL) == [PARSED] and mismatch(SPEC, PARSED) is None


@pytest.mark.parametrize("limits", [None, [], [4096], "4096", 4096, {}, {"max_pixels": None}])
def test_strange_limits_are_no_limits(limits: Any) -> None:
    assert parse({**GOOD, "limits": limits}, URL) == [replace(PARSED, max_pixels=None)]


@pytest.mark.parametrize("value", [True, False, 0, -1, 4.5, "4096", [4096], 10**400, float("nan")])
def test_a_limit_is_a_positive_integer(value: Any) -> None:
    assert parse({**GOOD, "limits": {"max_pixels": value}}, URL) == [replace(PARSED, max_pixels=None)]


@pytest.mark.parametrize("key", ["channels", "downscale", "scaling_factor", "shift_factor"])
@pytest.mark.parametrize("value", ["4", [4], {"x": 4}, True, 10**400, float("nan"), float("inf")])
def test_what_decides_the_match_is_of_the_right_type_or_there_is_no_description(key: str, value: Any) -> None:
    assert parse({**GOOD, key: value}, URL) == []


@pytest.mark.parametrize(
    "key", ["downscale", "scaling_factor", "shift_factor", "fixed_scale", "limits", "name"]
)
def test_all_but_the_channels_may_be_left_out(key: str) -> None:
    (found,) = parse({name: value for name, value in GOOD.items() if name != key}, URL)
    assert mismatch(SPEC, found) is None


@pytest.mark.parametrize(
    ("key", "value"), [("name", 5), ("name", None), ("fixed_scale", "no"), ("fixed_scale", 1)]
)
def test_a_wrong_type_elsewhere_counts_as_absent(key: str, value: Any) -> None:
    (found,) = parse({**GOOD, key: value}, URL)
    assert (found.name, found.fixed_scale) == ("" if key == "name" else "builtin", False)


def test_a_list_gives_each_with_its_address() -> None:
    listed = [GOOD, {**GOOD, "name": "a/b ü"}, {"name": "none"}, {**GOOD, "name": 5}, "x", None]
    urls = ["https://vae.example/vae/builtin", "https://vae.example/vae/a%2Fb%20%C3%BC"]
    for base in ("https://vae.example", "https://vae.example/vae"):
        assert [found.url for found in parse({"vaes": listed}, base)] == urls


@settings(deadline=None)
@given(DESCRIPTIONS)
def test_anything_json_can_say_is_read_or_left(document: Any) -> None:
    for found in parse(document, URL):
        types = {"url": str, "name": str, "channels": int, "fixed_scale": bool}
        for field in fields(found):
            value = getattr(found, field.name)
            assert isinstance(value, types.get(field.name, int | float | None)), field
            assert field.name == "fixed_scale" or not isinstance(value, bool)
        for model in MODELS.values():
            assert isinstance(str(mismatch(model.latents, found)), str)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"channels": 16}, f"Its latents have 16 channels, this model's {SPEC.channels}."),
        ({"downscale": 16}, f"Its VAE shrinks by 16, this model's by {SPEC.downscale}."),
        ({"scaling_factor": 0.5}, f"Its scaling_factor is 0.5, this model's {SPEC.scaling_factor:g}."),
        ({"shift_factor": 0.1159}, "Its shift_factor is 0.1159, this model's None."),
    ],
)
def test_a_mismatch_is_one_sentence(change: dict[str, Any], sentence: str) -> None:
    assert str(mismatch(SPEC, replace(PARSED, **change))) == sentence


def test_factors_do_not_matter_where_they_cannot_be_chosen_or_are_not_said() -> None:
    assert mismatch(SPEC, replace(PARSED, scaling_factor=0.5, shift_factor=1.0, fixed_scale=True)) is None
    assert mismatch(SPEC, replace(PARSED, scaling_factor=None)) is None
    flux = EndpointDescription(URL, "flux", 16, 8, FLUX_LATENTS.scaling_factor, FLUX_LATENTS.shift_factor)
    assert mismatch(FLUX_LATENTS, flux) is None


def client(timeout: float = 20.0) -> EndpointClient:
    return EndpointClient(new_session(), timeout)


@pytest.mark.parametrize(
    "answer",
    [
        (404, {}, b""),
        (405, JSON, b"{}"),
        (307, {"location": "http://127.0.0.1:9/"}, b""),
        (500, JSON, json.dumps(GOOD).encode()),
        (503, {"retry-after": "0"}, b""),
        (200, {"content-type": "text/html"}, json.dumps(GOOD).encode()),
        (200, JSON, b"{"),
        (200, JSON, b"[" * 50_000),
        (200, JSON, b"1" * 10_000),
        (200, JSON, b" " * 300_000 + b"{}"),
    ],
)
def test_a_page_that_describes_nothing(answer: Any) -> None:
    with scripted(answer) as (script, url):
        assert fetch(url, client()) == []
        assert len(script.requests) == 1


def test_a_page_that_does() -> None:
    with scripted((200, JSON, json.dumps(GOOD).encode())) as (_, url):
        assert fetch(url, client()) == [replace(PARSED, url=url)]


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_wanted(status: int) -> None:
    with (
        scripted((status, {}, b"")) as (_, url),
        pytest.raises(RemoteRefusedError, match="wants a token") as caught,
    ):
        fetch(url, client())
    assert caught.value.status == status


def test_nothing_there_and_nothing_said() -> None:
    with server.refusing() as url, pytest.raises(RemoteUnreachableError, match="Nothing answers at http"):
        fetch(url, client())
    with (
        scripted(lambda handler: handler.rfile.read(1)) as (_, url),
        pytest.raises(RemoteUnreachableError, match="Nothing answers at http"),
    ):
        fetch(url, client(0.3))
