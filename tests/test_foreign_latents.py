"""Latents of ComfyUI and of diffusers, written as those programs write them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from backend import images, latents
from backend.errors import BadLatentsError, UnnamedLatentsError
from backend.job import VaeOptions
from backend.models import BUILTIN, FLUX, MODELS, SD_V1, SDXL, ModelSpec
from backend.quality import psnr
from backend.studio import Studio

WHOLE = VaeOptions("whole")


def comfyui(path: Path, samples: torch.Tensor, weights: str = "", **metadata: str) -> Path:
    """A file as ComfyUI's node SaveLatent writes it (nodes.py, `SaveLatent.save`)."""
    if weights:
        loader = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": weights}}
        metadata["prompt"] = json.dumps({"4": loader})
    save_file(
        {"latent_tensor": samples, "latent_format_version_0": torch.tensor([])}, path, metadata=metadata
    )
    return path


def as_comfyui_loads(path: Path) -> torch.Tensor:
    """What its node LoadLatent makes of a file (nodes.py, `LoadLatent.load`)."""
    tensors = load_file(path, device="cpu")
    multiplier = 1.0 if "latent_format_version_0" in tensors else 1.0 / 0.18215
    return tensors["latent_tensor"].float() * multiplier


def scaled(raw: torch.Tensor, model: ModelSpec) -> torch.Tensor:
    return (raw - (model.latents.shift_factor or 0)) * model.latents.scaling_factor


def raw_of(model: ModelSpec, side: int = 8) -> torch.Tensor:
    """Latents as the VAE gives them: such that scaling brings them to about unit variance."""
    z = torch.randn(1, model.latents.channels, side, side, generator=torch.Generator().manual_seed(1))
    return z / model.latents.scaling_factor + (model.latents.shift_factor or 0)


@pytest.mark.parametrize("model", [BUILTIN, SD_V1, SDXL, FLUX], ids=lambda model: model.name)
def test_a_file_for_comfyui_holds_what_its_vae_decodes_and_comes_back(
    tmp_path: Path, model: ModelSpec
) -> None:
    z = torch.randn(1, model.latents.channels, 6, 4)
    latents.save_latents(tmp_path / "a.latent", z, model)
    raw = as_comfyui_loads(tmp_path / "a.latent")
    assert torch.allclose(scaled(raw, model), z, atol=1e-5)
    back = latents.load_latents(tmp_path / "a.latent")
    assert torch.allclose(back.latents, z, atol=1e-5) and back.model == model.name and back.note is None


def test_a_file_for_comfyui_of_another_vae_is_refused(tmp_path: Path) -> None:
    other = dataclasses.replace(BUILTIN, latents=dataclasses.replace(BUILTIN.latents, scaling_factor=0.3))
    latents.save_latents(tmp_path / "a.latent", torch.zeros(1, 4, 4, 4), other)
    with pytest.raises(BadLatentsError, match="their scaling_factor is"):
        latents.load_latents(tmp_path / "a.latent", named="builtin")


@pytest.mark.parametrize(
    ("weights", "model"),
    [
        ("v1-5-pruned-emaonly.safetensors", SD_V1),
        ("SDXL/sd_xl_base_1.0.safetensors", SDXL),
        ("sdxl\\sd_xl_turbo_1.0_fp16.safetensors", MODELS["sdxl-turbo"]),
        ("", FLUX),
    ],
)
def test_a_file_of_comfyui_is_read_by_the_model_that_its_graph_or_its_channels_name(
    tmp_path: Path, weights: str, model: ModelSpec
) -> None:
    raw = raw_of(model)
    file = latents.load_latents(comfyui(tmp_path / "a.latent", raw, weights))
    assert file.model == model.name and torch.allclose(file.latents, scaled(raw, model), atol=1e-5)
    assert file.note is not None and str(file.note) == f"Read as ComfyUI’s latents of {model.title}."


def test_a_file_of_comfyui_from_before_its_version_key_is_scaled(tmp_path: Path) -> None:
    z = torch.randn(1, 4, 4, 4)
    save_file({"latent_tensor": z}, tmp_path / "a.latent")
    assert torch.allclose(latents.load_latents(tmp_path / "a.latent", named="sd-v1").latents, z, atol=1e-5)


def test_what_the_file_does_not_say_is_asked_for(tmp_path: Path) -> None:
    file = comfyui(tmp_path / "a.latent", raw_of(SDXL), "my_merge_v3.safetensors", workflow="{}")
    with pytest.raises(UnnamedLatentsError, match="does not say which model") as caught:
        latents.load_latents(file)
    assert "Whose VAE?" in caught.value.hint
    named = latents.load_latents(file, named="sdxl")
    assert named.model == "sdxl" and torch.allclose(named.latents, scaled(raw_of(SDXL), SDXL), atol=1e-5)
    with pytest.raises(BadLatentsError, match="have 4 channels, and those of FLUX"):
        latents.load_latents(file, named="flux-schnell")
    with pytest.raises(BadLatentsError, match="those of nobody have –"):
        latents.load_latents(file, named="nobody")


def test_our_own_file_names_its_model_whatever_was_chosen(tmp_path: Path) -> None:
    latents.save_latents(tmp_path / "a.safetensors", torch.zeros(1, 4, 4, 4), BUILTIN)
    assert latents.load_latents(tmp_path / "a.safetensors", named="sdxl").model == "builtin"


def test_a_plain_tensor_is_scaled_as_pipelines_give_it_unless_it_spreads_wider(tmp_path: Path) -> None:
    raw = raw_of(SD_V1)
    for name, tensor in (("pipeline", scaled(raw, SD_V1)), ("vae", raw), ("vae_half", raw.half())):
        save_file({name: tensor}, tmp_path / f"{name}.safetensors")
    pipeline, vae, half = (
        latents.load_latents(tmp_path / f"{name}.safetensors", named="sd-v1")
        for name in ("pipeline", "vae", "vae_half")
    )
    assert torch.equal(pipeline.latents, scaled(raw, SD_V1)) and "scaled, as diffusers" in str(pipeline.note)
    assert torch.allclose(vae.latents, scaled(raw, SD_V1), atol=1e-5) and "unscaled, as its VAE" in str(
        vae.note
    )
    assert torch.allclose(half.latents, vae.latents, atol=1e-2)


def test_one_picture_without_its_batch_is_read(tmp_path: Path) -> None:
    save_file({"z": torch.randn(16, 4, 6)}, tmp_path / "a.safetensors")
    assert latents.load_latents(tmp_path / "a.safetensors").latents.shape == (1, 16, 4, 6)


def test_packed_latents_of_flux_need_their_size(tmp_path: Path) -> None:
    from diffusers import FluxPipeline

    z = torch.randn(1, 16, 4, 6)
    tokens = FluxPipeline._pack_latents(z, 1, 16, 4, 6)
    save_file({"latents": tokens}, tmp_path / "a.safetensors", metadata={"height": "32", "width": "48"})
    assert torch.equal(latents.load_latents(tmp_path / "a.safetensors").latents, z)
    for metadata in (None, {"height": "48", "width": "48"}, {"height": "x", "width": "48"}):
        save_file({"latents": tokens}, tmp_path / "a.safetensors", metadata=metadata)
        with pytest.raises(BadLatentsError, match="Flux’s packed latents"):
            latents.load_latents(tmp_path / "a.safetensors")


BAD: dict[str, tuple[dict[str, torch.Tensor], dict[str, str]]] = {
    "a video's": ({"latent_tensor": torch.zeros(1, 16, 5, 4, 4)}, {}),
    "several pictures": ({"latent_tensor": torch.zeros(2, 16, 4, 4)}, {}),
    "integers": ({"latent_tensor": torch.zeros(1, 16, 4, 4, dtype=torch.int32)}, {}),
    "not a number": ({"latent_tensor": torch.full((1, 16, 4, 4), torch.nan)}, {}),
    "too large": ({"latent_tensor": torch.zeros(1, 16, 1100, 1100, dtype=torch.float16)}, {}),
    "too many tensors": ({"a": torch.zeros(1, 16, 4, 4), "b": torch.zeros(1, 16, 4, 4)}, {}),
    "unknown channels": ({"a": torch.zeros(1, 7, 4, 4)}, {}),
    "no pixels": ({"a": torch.zeros(1, 16, 0, 4)}, {}),
    "a number": ({"a": torch.zeros(())}, {}),
    "an adapter": ({"up.lora_a": torch.zeros(4, 4), "up.lora_b": torch.zeros(4, 4)}, {}),
    "a later version of ours": (
        {"latents": torch.zeros(1, 16, 4, 4)}, {"format": "latent-relay/2", "model": "flux-schnell"}),
    "a broken graph": ({"latent_tensor": torch.zeros(1, 4, 4, 4)}, {"prompt": "[" * 100_000}),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_latents_of_one_picture_is_refused_in_words(tmp_path: Path, name: str) -> None:
    tensors, metadata = BAD[name]
    save_file(tensors, tmp_path / "a.latent", metadata=metadata)
    with pytest.raises(BadLatentsError, match=r"\.$"):
        latents.load_latents(tmp_path / "a.latent")


def test_pictures_encoded_for_training_are_read_one_by_one(tmp_path: Path) -> None:
    meaning = {"format": latents.SHARD_FORMAT, **latents.meaning(BUILTIN)}
    save_file({"lake.png": torch.ones(4, 6, 4)}, tmp_path / "one.safetensors", metadata=meaning)
    assert latents.load_latents(tmp_path / "one.safetensors").latents.shape == (1, 4, 6, 4)
    pair = {"lake.png": torch.ones(4, 6, 4), "latents": torch.ones(4, 6, 4)}
    save_file(pair, tmp_path / "two.safetensors", metadata=meaning)
    with pytest.raises(BadLatentsError, match="holds 2 pictures"):
        latents.load_latents(tmp_path / "two.safetensors")


def test_the_picture_is_the_one_that_diffusers_vae_decodes(
    tmp_path: Path, studio: Studio, picture: Image.Image
) -> None:
    """The raw mean of diffusers' AutoencoderKL, as ComfyUI has it, through the file and this app."""
    from diffusers import AutoencoderKL

    vae: Any = AutoencoderKL.from_pretrained(BUILTIN.repository, subfolder="vae")
    with torch.no_grad():
        raw = vae.encode(images.to_tensor(picture)).latent_dist.mean
        theirs = images.to_image(vae.decode(raw).sample)
    file = latents.load_latents(comfyui(tmp_path / "a.latent", raw.contiguous()), named="builtin")
    ours, _ = studio.decode(file.latents, file.model, WHOLE)
    assert psnr(ours, theirs) > 50
