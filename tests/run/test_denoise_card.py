"""A step of SD v1, SDXL and Flux on a card that is only pretended: the networks in their real sizes, one dtype each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    FluxImg2ImgPipeline,
    FluxTransformer2DModel,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from backend.device.measure import Meter
from backend.families import VaeConfigStub
from backend.job import Job
from backend.models import FLUX, SD_V1, SDXL, ModelSpec
from backend.run import denoise
from tests.pretended_card import CARD, PretendedCard


class Tokenizer:
    """As many tokens as asked for; which ones makes no difference."""

    added_tokens_encoder: dict[str, int] = {}  # noqa: RUF012 - as transformers has it

    def __init__(self, length: int) -> None:
        self.model_max_length = length

    def tokenize(self, text: str) -> list[str]:
        return [text]

    def batch_decode(self, _: object) -> list[str]:
        return [""]

    def __call__(self, text: str | list[str], max_length: int | None = None, **_: Any) -> Any:
        shape = (1 if isinstance(text, str) else len(text), max_length or self.model_max_length)
        tokens = torch.zeros(shape, dtype=torch.long)
        return SimpleNamespace(input_ids=tokens, attention_mask=torch.ones(shape, dtype=torch.long))


class Scheduler:
    """Reads no value, of which there are none; mixes latents and noise as the real ones do."""

    order, init_noise_sigma = 1, 1.0

    class Config(dict[str, Any]):
        __getattr__ = dict.get

    config = Config(num_train_timesteps=1000, steps_offset=1, clip_sample=False)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        self.timesteps = torch.zeros(num_inference_steps or len(sigmas), device=device)

    def set_begin_index(self, _: int) -> None:
        pass

    def add_noise(self, sample: torch.Tensor, noise: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return sample + noise

    def scale_noise(self, sample: torch.Tensor, _: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return sample + noise

    def scale_model_input(self, sample: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return sample

    def step(self, output: torch.Tensor, _: Any, sample: torch.Tensor, **__: Any) -> tuple[torch.Tensor]:
        return (sample - output,)


def clip(kind: type, width: int, layers: int, heads: int, act: str) -> Any:
    return kind(
        CLIPTextConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            hidden_act=act,
            projection_dim=width,
        )
    )


def vit_l(kind: type = CLIPTextModel) -> Any:
    return clip(kind, 768, 12, 12, "quick_gelu")


def sd_v1() -> Any:
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    return StableDiffusionImg2ImgPipeline(
        None, vit_l(), None, unet, Scheduler(), None, None, requires_safety_checker=False
    )


def sdxl() -> Any:
    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2048,
        attention_head_dim=(5, 10, 20),
        transformer_layers_per_block=(1, 2, 10),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    second = clip(CLIPTextModelWithProjection, 1280, 32, 20, "gelu")
    return StableDiffusionXLImg2ImgPipeline(
        None, vit_l(), second, None, None, unet, Scheduler(), add_watermarker=False
    )


def flux() -> Any:
    encoder = T5EncoderModel(
        T5Config(
            vocab_size=32128,
            d_model=4096,
            d_kv=64,
            d_ff=10240,
            num_layers=24,
            num_heads=64,
            feed_forward_proj="gated-gelu",
        )
    )
    transformer = FluxTransformer2DModel(guidance_embeds=False)
    return FluxImg2ImgPipeline(Scheduler(), None, vit_l(), None, encoder, None, transformer)


def on_card(card: PretendedCard, make: Callable[[], Any], spec: ModelSpec, dtype: torch.dtype) -> Any:
    with torch.device("meta"):
        pipeline = make()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            card.place(part, dtype)
    pipeline.tokenizer = Tokenizer(77)
    if spec.family != "sd":
        pipeline.tokenizer_2 = Tokenizer(512 if spec.family == "flux" else 77)
    pipeline.vae = VaeConfigStub(spec)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(
    ("spec", "make", "dtype", "negative"),
    [
        (SD_V1, sd_v1, torch.float16, ""),
        (SD_V1, sd_v1, torch.bfloat16, "blurred"),
        (SDXL, sdxl, torch.float16, "blurred"),
        (FLUX, flux, torch.bfloat16, ""),
    ],
    ids=["sd-v1-float16", "sd-v1-bfloat16", "sdxl", "flux"],
)
def test_a_step_mixes_no_devices_and_no_dtypes(
    spec: ModelSpec,
    make: Callable[[], Any],
    dtype: torch.dtype,
    negative: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(denoise, "_scheduler", lambda *_: Scheduler())
    monkeypatch.setattr(denoise, "preview", lambda *_: None)
    job = Job(
        Image.new("RGB", (64, 64)), "a lake", negative, strength=0.5, num_inference_steps=2, seed=1
    ).resolve(spec)
    with PretendedCard() as card:
        pipeline = on_card(card, make, spec, dtype)
        assert pipeline.device == CARD and pipeline.dtype == dtype
        latents = torch.randn(1, spec.latents.channels, 16, 16, dtype=dtype)
        card.forget()
        output, steps, _ = denoise._run_pipeline(
            pipeline, job, latents, CARD, threading.Event(), lambda _: None, Meter(CARD)
        )
        assert output.shape == latents.shape and output.dtype == dtype and steps == 1
        assert card.launches > 400
        assert card.syncs["__bool__"] <= 2 * steps, "one look for overflow a step, and one of diffusers' own"
