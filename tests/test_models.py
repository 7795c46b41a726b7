from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.errors import UnknownModelError
from backend.models import BUILTIN, FLUX, MODELS, SD_V1, SDXL, find_model


def test_the_built_in_model_s_data_agree_with_its_folder() -> None:
    config = json.loads((Path(BUILTIN.repository) / "vae" / "config.json").read_text())
    assert config["scaling_factor"] == BUILTIN.latents.scaling_factor
    assert config["latent_channels"] == BUILTIN.latents.channels
    assert tuple(config["block_out_channels"]) == BUILTIN.vae_block_out_channels
    assert 2 ** (len(config["block_out_channels"]) - 1) == BUILTIN.latents.downscale


def test_the_built_in_model_is_small_and_documented() -> None:
    folder = Path(BUILTIN.repository)
    weights = list(folder.rglob("*.safetensors"))
    assert len(weights) == 3 and sum(file.stat().st_size for file in weights) <= 40_000_000
    assert "can't do" in (folder / "README.md").read_text()
    assert not [file for file in folder.rglob("*") if file.suffix in (".bin", ".pt", ".ckpt", ".pkl")]


def test_public_facts() -> None:
    """The scalings that the Hybrid Inference protocol documents for each family."""
    assert (SD_V1.latents.scaling_factor, SD_V1.latents.shift_factor) == (0.18215, None)
    assert (SDXL.latents.scaling_factor, SDXL.latents.shift_factor) == (0.13025, None)
    assert (FLUX.latents.scaling_factor, FLUX.latents.shift_factor) == (0.3611, 0.1159)
    assert FLUX.latents.channels == 16 and FLUX.latents.packed


def test_public_endpoints_are_those_diffusers_names() -> None:
    from diffusers.utils import constants

    for spec, family in ((SD_V1, "SD_V1"), (SDXL, "SD_XL"), (FLUX, "FLUX")):
        assert spec.encode_endpoint == getattr(constants, f"ENCODE_ENDPOINT_{family}")
        assert spec.decode_endpoint == getattr(constants, f"DECODE_ENDPOINT_{family}")


def test_finding() -> None:
    assert find_model("builtin") is BUILTIN
    with pytest.raises(UnknownModelError, match="no model called"):
        find_model("../../etc/passwd")
    for spec in MODELS.values():
        if not spec.available:
            with pytest.raises(UnknownModelError, match="not ready"):
                find_model(spec.name)


@pytest.mark.parametrize("spec", MODELS.values(), ids=lambda s: s.name)
def test_every_preview_map_has_a_row_for_each_channel_and_the_bias(spec: object) -> None:
    assert len(spec.preview) in (0, spec.latents.channels + 1)  # type: ignore[attr-defined]
