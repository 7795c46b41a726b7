"""A model's VAE without its weights: for plans and forecasts (on the meta device), or random for benchmarks."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from backend.lazy_import import diffusers_class
from backend.models import ModelSpec


def random_vae(spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> Any:
    """An AutoencoderKL of the model's architecture with random weights: the same work, not the same pictures."""
    kind = diffusers_class("AutoencoderKL")
    folder = Path(spec.repository) / "vae"
    torch.manual_seed(0)
    with torch.device("meta" if device.type == "meta" else "cpu"):
        if folder.is_dir():
            vae = kind.from_config(kind.load_config(folder))
        else:
            channels = spec.vae_block_out_channels
            vae = kind(
                block_out_channels=channels,
                down_block_types=("DownEncoderBlock2D",) * len(channels),
                up_block_types=("UpDecoderBlock2D",) * len(channels),
                layers_per_block=2,
                latent_channels=spec.latents.channels,
                norm_num_groups=math.gcd(32, *channels),  # diffusers' 32, where the channels allow it
                use_quant_conv=spec.family != "flux",
                use_post_quant_conv=spec.family != "flux",
            )
    return vae.to(device, dtype).eval().requires_grad_(False)


@lru_cache(maxsize=16)
def weightless_vae(spec: ModelSpec, dtype: torch.dtype = torch.float16) -> Any:
    """The same on the meta device: its shapes and nothing else, in milliseconds."""
    return random_vae(spec, dtype, torch.device("meta"))


def vae_bytes(spec: ModelSpec, dtype: torch.dtype) -> int:
    """What the weights of the model's VAE take in `dtype`, counted from their shapes."""
    return sum(weight.numel() for weight in weightless_vae(spec).parameters()) * dtype.itemsize
