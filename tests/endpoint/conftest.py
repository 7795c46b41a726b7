"""A served built-in VAE, and small random ones of other kinds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from backend.device.queue import DeviceQueue
from backend.endpoint import Limits, Served, Service, build_app
from backend.models import BUILTIN, LatentSpec
from backend.vae.tiled import Tiled
from backend.vae.whole import Whole
from tests.serving import serve

FLUX_LIKE = LatentSpec(channels=16, downscale=8, scaling_factor=0.3611, shift_factor=0.1159, packed=True)


@pytest.fixture(scope="session")
def builtin() -> Whole:
    """The built-in VAE in this process, to compare with."""
    module = AutoencoderKL.from_pretrained(BUILTIN.repository, subfolder="vae").eval().requires_grad_(False)
    return Whole(module, BUILTIN.latents)


@pytest.fixture(scope="session")
def flux_like() -> Whole:
    """A tiny AutoencoderKL with Flux's 16 channels, scale and shift, and random weights."""
    torch.manual_seed(3)
    return Whole(tiny_kl(latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159), FLUX_LIKE)


def tiny_kl(**options: Any) -> AutoencoderKL:
    kinds = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    module = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=2, layers_per_block=1, **kinds, **options
    )
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def service(builtin: Whole, flux_like: Whole) -> Service:
    queue = DeviceQueue()
    return Service(
        [
            Served(
                "builtin",
                builtin.spec,
                lambda: builtin,
                queue,
                load_low_memory=lambda: Tiled(builtin.module, builtin.spec, tile_size=64, tile_overlap=16),
            ),
            Served("flux", FLUX_LIKE, lambda: flux_like, queue),
        ],
        Limits(max_body_bytes=8 * 2**20, max_pixels=512 * 512, max_batch=4),
    )


@pytest.fixture(scope="session")
def base(service: Service) -> Iterator[str]:
    """URL of a server with two VAEs."""
    with serve(build_app(service)) as url:
        yield url


@pytest.fixture
def latents() -> torch.Tensor:
    """Latents of the built-in model for a picture of 96 by 64 pixels."""
    return torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(1))
