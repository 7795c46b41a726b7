from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from backend.errors import BadSettingError, UnknownModelError
from backend.models import BUILTIN, MODELS, SD_V1
from backend.settings import (
    SETTINGS,
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
    assert {"HOST", "MODEL_PATHS", "LOW_MEMORY", "VISITOR_ENDPOINTS", "KEEP_GB"} < {
        s.variable for s in SETTINGS
    }
    for setting in SETTINGS:
        assert (f"LATENT_RELAY_{setting.variable}" in text) == (setting.flag is not None)


def test_each_setting_is_one_row_and_each_row_a_field() -> None:
    """But for the two that other programs' variables decide: the cache folder, and whether this is a Space."""
    fields = [field.name for field in dataclasses.fields(Settings)]
    assert sorted(fields) == sorted([*(row.field for row in SETTINGS), "cache_folder", "on_space"])


def test_each_variable_sets_its_field(tmp_path: Path) -> None:
    """Each one differs from the default, alone."""
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text('{"block_out_channels": [128, 256, 512, 512]}')
    values = {
        "HOST": "0.0.0.0",
        "PORT": "7001",
        "MODEL": "sd-v1",
        "DEVICE": "cpu",
        "MODEL_PATHS": f"mine={tmp_path}",
        "LOW_MEMORY": "group",
        "SHARE": "1",
        "ENDPOINTS": "sd-v1=http://box/ builtin:encode=http://box/",
        "TOKENS": "sd-v1=a=b builtin=c",
        "SERVE_TOKEN": "secret",
        "VISITOR_ENDPOINTS": "0",
        "REMOTE_TIMEOUT": "1.5",
        "QUEUE": "3",
        "FOLDER": str(tmp_path),
        "KEEP_DAYS": "0.5",
        "KEEP_GB": "0.25",
    }
    assert set(values) == {row.variable for row in SETTINGS}
    default = read_settings([], {})
    for row in SETTINGS:
        found = read_settings([], {f"LATENT_RELAY_{row.variable}": values[row.variable]})
        changed = [
            f.name for f in dataclasses.fields(found) if getattr(found, f.name) != getattr(default, f.name)
        ]
        assert changed == [row.field]


def test_a_flag_may_be_repeated_and_replaces_the_variable() -> None:
    env = {"LATENT_RELAY_ENDPOINTS": "sd-v2=http://v2/"}
    found = read_settings(["--endpoint", "sd-v1=http://a/", "--endpoint", "builtin=http://b/"], env)
    assert set(found.endpoints) == {"sd-v1", "builtin"}


def test_visitors_endpoints_are_asked_for_yes_or_no() -> None:
    assert read_settings([], {}).visitor_endpoints is None
    env = {"LATENT_RELAY_VISITOR_ENDPOINTS": "1"}
    assert read_settings([], env).visitor_endpoints is True
    assert read_settings(["--no-visitor-endpoints"], env).visitor_endpoints is False


def test_a_variable_of_the_wrong_type_is_refused_like_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_settings([], {"LATENT_RELAY_QUEUE": "many"})
    assert "argument --queue: invalid int value: 'many'" in capsys.readouterr().err


def test_the_folder_follows_the_xdg_rule() -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/var/cache"}) == Path("/var/cache/latent-relay")
    assert cache_folder({}).name == "latent-relay"


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


def test_what_the_owner_configured_and_the_public_defaults_are_two_things() -> None:
    settings = Settings(endpoints={"sd-v1": EndpointPair(decode="http://mine/")})
    assert settings.configured_endpoints(SD_V1) == EndpointPair(decode="http://mine/")
    assert settings.default_endpoints(SD_V1) == EndpointPair(SD_V1.encode_endpoint, SD_V1.decode_endpoint)
    assert Settings().configured_endpoints(SD_V1) == EndpointPair() == Settings().default_endpoints(BUILTIN)
    for public in (Settings(share=True), Settings(on_space=True)):
        assert public.default_endpoints(SD_V1) == EndpointPair()


@pytest.mark.parametrize("arguments", [["--model", "nobody"], ["--remote-timeout", "0"]])
def test_nonsense_is_refused_with_a_sentence(arguments: list[str]) -> None:
    with pytest.raises(BadSettingError):
        read_settings(arguments, {})


def test_the_owner_s_models_stand_beside_the_built_in_ones_and_leave_the_table_alone() -> None:
    mine = dataclasses.replace(SD_V1, name="mine")
    better = dataclasses.replace(BUILTIN, title="Better")
    settings = Settings(local_models=(mine, better))
    assert settings.find_model("mine") is mine and settings.find_model("builtin") is better
    assert list(settings.models) == [*MODELS, "mine"]
    assert "mine" not in MODELS and MODELS["builtin"] is BUILTIN
    with pytest.raises(UnknownModelError, match="There is no model called “mine”"):
        Settings().find_model("mine")
    with pytest.raises(UnknownModelError, match="not ready"):
        Settings(local_models=(dataclasses.replace(mine, available=False),)).find_model("mine")
