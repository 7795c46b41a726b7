"""Tiny models with random weights, of diffusers' real classes, saved as folders in its format."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    FluxTransformer2DModel,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from backend.models import BUILTIN, ModelSpec
from backend.models.local import local_model

FAMILIES = ("sd", "sd-lcm", "sdxl", "flux")
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def tiny_model(family: str, folder: Path) -> ModelSpec:
    """A model of that family in `folder`, with a tiny VAE beside it, to compute in float32."""
    torch.manual_seed(11)
    pipeline = {"sd": _sd, "sd-lcm": _lcm, "sdxl": _sdxl, "flux": _flux}[family]()
    pipeline.save_pretrained(folder)
    taesd = tiny_autoencoder(channels=16 if family == "flux" else 4)
    taesd.save_pretrained(folder / "taesd")
    spec = local_model(f"tiny-{family}", folder)
    schedulers = ("default",) if family == "sd-lcm" else spec.schedulers
    return replace(spec, dtype="float32", tiny_vae=str(folder / "taesd"), schedulers=schedulers)


def tiny_vae(channels: int = 4, **config: Any) -> AutoencoderKL:
    """An AutoencoderKL of the usual four levels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        latent_channels=channels,
        sample_size=64,
        **config,
    ).eval()


def tiny_autoencoder(channels: int = 4) -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
        latent_channels=channels,
    ).eval()


def tiny_unet(context: int, **config: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        norm_num_groups=4,
        layers_per_block=1,
        attention_head_dim=(2, 4),
        cross_attention_dim=context,
        sample_size=8,
        **config,
    ).eval()


def _tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(Path(BUILTIN.repository) / "tokenizer")


def _text_config(**changes: Any) -> CLIPTextConfig:
    words = _tokenizer()
    return CLIPTextConfig(
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=len(words),
        max_position_embeddings=words.model_max_length,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.eos_token_id,
        projection_dim=32,
        **changes,
    )


def _sd(scheduler: Any = None, **unet: Any) -> StableDiffusionImg2ImgPipeline:
    return StableDiffusionImg2ImgPipeline(
        vae=tiny_vae(scaling_factor=0.18215),
        text_encoder=CLIPTextModel(_text_config()).eval(),
        tokenizer=_tokenizer(),
        unet=tiny_unet(32, **unet),
        scheduler=scheduler or DDIMScheduler(clip_sample=False, steps_offset=1, **NOISE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _lcm() -> StableDiffusionImg2ImgPipeline:
    return _sd(LCMScheduler(steps_offset=1, **NOISE), time_cond_proj_dim=16)


def _sdxl() -> StableDiffusionXLImg2ImgPipeline:
    return StableDiffusionXLImg2ImgPipeline(
        vae=tiny_vae(scaling_factor=0.13025),
        text_encoder=CLIPTextModel(_text_config(hidden_act="quick_gelu")).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(hidden_act="gelu")).eval(),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        unet=tiny_unet(
            64,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + 6 * 8,
        ),
        scheduler=EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1, **NOISE),
    )


def _flux() -> FluxImg2ImgPipeline:
    words = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((f"▁{word}", -2.0) for word in ["a", "lake", "at"]),
    ]
    return FluxImg2ImgPipeline(
        vae=tiny_vae(
            16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
        ),
        text_encoder=CLIPTextModel(_text_config()).eval(),
        tokenizer=_tokenizer(),
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=200, d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
        ).eval(),
        tokenizer_2=T5Tokenizer(vocab=words),
        transformer=FluxTransformer2DModel(
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
    )


def copy_of(spec: ModelSpec, folder: Path, name: str) -> ModelSpec:
    """The same model under another name and in another folder."""
    shutil.copytree(spec.repository, folder)
    return replace(spec, name=name, title=name, repository=str(folder))
