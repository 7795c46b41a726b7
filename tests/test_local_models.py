from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image
from safetensors.torch import save_file

from backend.device.loading import Loader
from backend.errors import BadSettingError, ModelUnavailableError
from backend.events import Result
from backend.job import Job, VaeOptions, vae_modes
from backend.models import BUILTIN, MODELS, SD_V1, SD_V2, SDXL
from backend.models.local import local_model, parse_model_path
from backend.run.model_downloads import PARTS
from backend.settings import Settings, read_settings
from backend.studio import Studio
from tests.factories import _sd, tiny_model
from tests.hubbing import Hub, hub_here
from tests.original import save_checkpoint


def folder(path: Path, pipeline: str = "StableDiffusionXLPipeline", **vae: object) -> Path:
    """A model folder with configs and no weights."""
    config = {"latent_channels": 4, "block_out_channels": [8, 8, 8, 8], "scaling_factor": 0.5} | vae
    for name, content in (
        ("model_index.json", {"_class_name": pipeline}),
        ("vae/config.json", config),
        ("unet/config.json", {"sample_size": 96}),
    ):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(json.dumps(content))
    return path


def test_a_folder_says_what_its_latents_mean(tmp_path: Path) -> None:
    spec = local_model("mine", folder(tmp_path))
    assert (spec.family, spec.pipeline) == ("sdxl", SDXL.pipeline)
    assert spec.latents.scaling_factor == 0.5 and spec.vae_block_out_channels == (8, 8, 8, 8)
    assert spec.native_size == 768 and spec.vae_repository is None and spec.is_local
    assert spec.encode_endpoint is None, "the public endpoints hold other weights"


def test_a_vae_may_shrink_by_something_else(tmp_path: Path) -> None:
    spec = local_model("mine", folder(tmp_path, block_out_channels=[8, 8, 8]))
    assert (spec.latents.downscale, spec.size_multiple, spec.native_size) == (4, 4, 96 * 4)


def test_the_familys_tiny_vae_and_preview_are_for_the_familys_latents_only(tmp_path: Path) -> None:
    """A stand-in that shrinks by 8 would give a picture of twice the size from latents that shrink by 4."""
    same = local_model("same", folder(tmp_path / "same", scaling_factor=SDXL.latents.scaling_factor))
    assert same.tiny_vae == SDXL.tiny_vae and same.preview == SDXL.preview
    for name, other in (("small", {"block_out_channels": [8, 8, 8]}), ("scaled", {"scaling_factor": 0.5})):
        spec = local_model(name, folder(tmp_path / name, **other))
        assert spec.tiny_vae is None and spec.preview == () and "tiny" not in vae_modes(spec)


def test_a_vae_config_without_its_channels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSettingError, match="makes no sense"):
        local_model("mine", folder(tmp_path, block_out_channels=[]))


def test_the_built_in_model_is_such_a_folder() -> None:
    spec = local_model("again", Path(BUILTIN.repository))
    assert spec.latents == BUILTIN.latents and spec.native_size == BUILTIN.native_size and spec.family == "sd"


def test_half_precision_files_are_found(tmp_path: Path) -> None:
    folder(tmp_path)
    half = tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    half.touch()
    assert local_model("mine", tmp_path).variant == "fp16"
    half.rename(half.with_name("diffusion_pytorch_model.safetensors"))
    assert local_model("mine", tmp_path).variant is None


@pytest.mark.parametrize(
    ("tensor", "family"),
    [
        ("cond_stage_model.transformer.text_model.x", SD_V1),
        ("cond_stage_model.model.x", SD_V2),
        ("conditioner.embedders.1.model.x", SDXL),
    ],
)
def test_a_checkpoint_tells_its_family_by_its_tensors(tmp_path: Path, tensor: str, family: object) -> None:
    file = tmp_path / "model.safetensors"
    save_file({tensor: torch.zeros(1)}, file)
    spec = local_model("mine", file)
    assert spec.is_checkpoint and spec.family == family.family  # type: ignore[attr-defined]
    assert spec.native_size == family.native_size  # type: ignore[attr-defined]


def test_what_is_no_model_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("hello there, this is text")
    save_file({"lora": torch.zeros(1)}, tmp_path / "lora.safetensors")
    (tmp_path / "empty").mkdir()
    for name in ("text.safetensors", "lora.safetensors", "empty", "missing"):
        with pytest.raises(BadSettingError, match=r"\.$|safetensors|missing"):
            local_model("mine", tmp_path / name)
    with pytest.raises(BadSettingError, match="cannot run"):
        local_model("mine", folder(tmp_path / "sd3", "StableDiffusion3Pipeline"))
    with pytest.raises(BadSettingError, match="8 channels"):
        local_model("mine", folder(tmp_path / "odd", latent_channels=8))


@pytest.mark.parametrize("text", ["", "mine", "mine=", "=x", "../up=x", "a b=x"])
def test_the_flag_s_form(text: str) -> None:
    with pytest.raises(BadSettingError):
        parse_model_path(text)


def test_own_models_come_from_flags_or_the_environment(tmp_path: Path) -> None:
    folder(tmp_path / "a")
    folder(tmp_path / "b")
    paths = f"a={tmp_path / 'a'} b={tmp_path / 'b'}"
    settings = read_settings(["--model", "b"], {"LATENT_RELAY_MODEL_PATHS": paths})
    assert [spec.name for spec in settings.local_models] == ["a", "b"] and settings.model == "b"
    settings = read_settings(
        ["--model-path", f"c={tmp_path / 'a'}", "--endpoint", "c=http://box/"],
        {"LATENT_RELAY_MODEL_PATHS": paths},
    )
    assert [spec.name for spec in settings.local_models] == ["c"] and "c" in settings.endpoints
    with pytest.raises(BadSettingError, match="low-memory"):
        read_settings(["--low-memory", "much"], {})


def test_a_checkpoint_runs_without_the_hub_and_paints_what_its_folder_paints(
    tmp_path: Path, picture: Image.Image
) -> None:
    """In the original repository's layout; configs and tokenizer from a folder of its name next to it."""
    spec = tiny_model("sd", tmp_path / "mine")
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(tmp_path / "mine", dtype=torch.float32)
    save_checkpoint(pipeline, tmp_path / "mine.safetensors")
    single = replace(local_model("single", tmp_path / "mine.safetensors"), dtype="float32")
    assert single.is_checkpoint
    studio = Studio(Settings(device="cpu", local_models=(spec, single)))
    both = [
        list(
            studio.img2img(
                Job(
                    picture,
                    "a lake",
                    model=name,
                    strength=0.5,
                    num_inference_steps=4,
                    guidance_scale=3.0,
                    seed=1,
                    width=64,
                    height=64,
                    encode=VaeOptions("whole"),
                    decode=VaeOptions("whole"),
                )
            )
        )[-1]
        for name in (spec.name, "single")
    ]
    assert spec.name not in MODELS, "the table of built-in models stays as it is"
    folder, file = both
    assert isinstance(folder, Result) and isinstance(file, Result)
    assert torch.equal(folder.latents, file.latents) and folder.image.tobytes() == file.image.tobytes()


def test_a_checkpoint_alone_without_the_hub_says_what_is_missing(tmp_path: Path) -> None:
    save_checkpoint(_sd(), tmp_path / "lonely.safetensors")
    spec = local_model("lonely", tmp_path / "lonely.safetensors")
    with pytest.raises(
        ModelUnavailableError, match="weights only; its configs and tokenizer come from"
    ) as caught:
        Loader(Settings(device="cpu")).denoiser(spec)
    assert str(tmp_path / "lonely") in caught.value.hint


def test_a_checkpoint_s_configs_come_from_the_hub_before_the_device_waits_for_them(tmp_path: Path) -> None:
    tiny_model("sd", tmp_path / "theirs")
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(tmp_path / "theirs", dtype=torch.float32)
    save_checkpoint(pipeline, tmp_path / "mine.safetensors")
    spec = local_model("mine", tmp_path / "mine.safetensors")
    files = {
        path.relative_to(tmp_path / "theirs").as_posix(): path.read_bytes()
        for path in (tmp_path / "theirs").rglob("*")
        if path.is_file()
    }
    hub = Hub({SD_V1.repository: files})
    loader = Loader(Settings(device="cpu"))
    with hub_here(hub, tmp_path):
        assert len(loader.missing(spec, PARTS)) == 1, "for VAE and denoiser together"
        loader.fetch(spec, PARTS, lambda _: None)
        assert not loader.missing(spec, PARTS)
        assert not hub.sent, "no weights were taken"
        hub.asked.clear()
        loader.vae(spec)
        loader.denoiser(spec)
        assert not hub.asked, "loading holds the device's place, so it asks no network"
