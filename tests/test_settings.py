from __future__ import annotations

import dataclasses

import pytest

from backend.errors import BadSettingError
from backend.models import BUILTIN, SD_V1
from backend.settings import (
    EndpointPair,
    Settings,
    cache_folder,
    merge_endpoints,
    parse_endpoint,
    read_settings,
)


def test_defaults_need_neither_flags_nor_environment() -> None:
    assert read_settings([], {}) == Settings(cache_folder=cache_folder({}))


def test_a_flag_wins_over_the_environment_which_wins_over_the_default() -> None:
    env = {"LATENT_RELAY_PORT": "7001", "LATENT_RELAY_HOST": "0.0.0.0", "LATENT_RELAY_SHARE": "1"}
    settings = read_settings(["--port", "7002"], env)
    assert (settings.port, settings.host, settings.share) == (7002, "0.0.0.0", True)


def test_every_flag_has_its_variable_and_help_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        read_settings(["--help"], {})
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in (
        "HOST",
        "PORT",
        "MODEL",
        "DEVICE",
        "SHARE",
        "ENDPOINTS",
        "REMOTE_TIMEOUT",
        "MODEL_PATHS",
        "LOW_MEMORY",
        "VISITOR_ENDPOINTS",
    ):
        assert f"LATENT_RELAY_{name}" in text


def test_the_space_is_recognised_and_public() -> None:
    settings = read_settings([], {"SPACE_ID": "somebody/latent-relay", "GRADIO_SERVER_NAME": "0.0.0.0"})
    assert settings.on_space and settings.is_public and settings.host == "0.0.0.0"


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "builtin=http://box:1/vae/x",
            EndpointPair("http://box:1/vae/x/encode", "http://box:1/vae/x/decode"),
        ),
        (
            "builtin=http://box:1/vae/x/",
            EndpointPair("http://box:1/vae/x/encode", "http://box:1/vae/x/decode"),
        ),
        ("builtin:encode=https://e.example/", EndpointPair(encode="https://e.example/")),
        ("builtin:decode=https://d.example/?a=b", EndpointPair(decode="https://d.example/?a=b")),
    ],
)
def test_endpoint_forms(text: str, expected: EndpointPair) -> None:
    assert parse_endpoint(text) == ("builtin", expected)


@pytest.mark.parametrize(
    "text", ["builtin", "nobody=http://x", "builtin=ftp://x", "builtin=x", "builtin:both=http://x", ""]
)
def test_a_bad_endpoint_is_explained(text: str) -> None:
    with pytest.raises(BadSettingError) as error:
        parse_endpoint(text)
    assert error.value.sentence.endswith((".", "sd-v1"))


def test_directions_merge() -> None:
    table = merge_endpoints(["builtin:encode=http://a/", "builtin:decode=http://b/"])
    assert table == {"builtin": EndpointPair("http://a/", "http://b/")}


def test_own_endpoints_win_over_the_family_s_public_ones() -> None:
    own = Settings(endpoints={"sd-v1": EndpointPair(decode="http://mine/")})
    pair = own.endpoint_pair(SD_V1)
    assert pair.decode == "http://mine/" and pair.encode == SD_V1.encode_endpoint
    assert Settings().endpoint_pair(BUILTIN) == EndpointPair()


@pytest.mark.parametrize("arguments", [["--model", "nobody"], ["--remote-timeout", "0"]])
def test_nonsense_is_refused_with_a_sentence(arguments: list[str]) -> None:
    with pytest.raises(BadSettingError):
        read_settings(arguments, {})
