"""Whole and tiled against plain diffusers, and what all local modes promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import BadSettingError, NonFiniteError, OutOfMemoryError, UnsupportedVAEError, UserError
from backend.models import LatentSpec
from backend.vae.base import LocalVAE, is_out_of_memory
from backend.vae.tiled import Tiled
from backend.vae.whole import Whole

SPEC = LatentSpec(channels=4, downscale=4, scaling_factor=0.3, shift_factor=0.1)


@pytest.fixture(scope="module")
def module() -> Any:
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=32,
    ).eval()


def test_whole_is_plain_diffusers_with_the_mean_and_the_scaling_applied(module: Any) -> None:
    image = torch.rand(2, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        mean = module.encode(image).latent_dist.mean
        expected = module.decode(mean).sample.clamp(-1, 1)
    vae = Whole(module, SPEC)
    latents = vae.encode(image)
    assert torch.equal(latents, (mean - 0.1) * 0.3)
    assert torch.allclose(vae.decode(latents), expected, atol=1e-5)
    assert torch.equal(vae.encode(image), latents), "encode never samples"


def tiled_by_diffusers(module: Any, tile: int, overlap: int, given: torch.Tensor) -> torch.Tensor:
    """diffusers' own tiling, encode's mean or decode, by the channels of `given`."""
    before = {name: getattr(module, name) for name in vars(module) if name.startswith(("use_til", "tile_"))}
    module.enable_tiling()
    module.tile_sample_min_size, module.tile_latent_min_size = tile, tile // SPEC.downscale
    module.tile_overlap_factor = overlap / tile
    try:
        with torch.no_grad():
            if given.shape[1] == 3:
                return module.encode(given).latent_dist.mean
            return module.decode(given).sample
    finally:
        for name, value in before.items():
            setattr(module, name, value)


@pytest.mark.parametrize("size", [(64, 96), (40, 100), (68, 33), (24, 60), (36, 36), (100, 132)])
@pytest.mark.parametrize(("tile", "overlap"), [(32, 8), (32, 16), (32, 0), (48, 12), (32, 4)])
def test_tiled_is_diffusers_tiling_at_the_size_asked_for(
    module: Any, size: tuple[int, int], tile: int, overlap: int
) -> None:
    """Also where what is left for the last tiles is less than an overlap."""
    height, width = size
    vae = Tiled(module, SPEC, tile_size=tile, tile_overlap=overlap)
    image = torch.rand(2, 3, height, width // 4 * 4) * 2 - 1
    latents = vae.encode(image)
    torch.testing.assert_close(latents, SPEC.scale(tiled_by_diffusers(module, tile, overlap, image)))
    codes = torch.randn(2, 4, height // 4, width // 4)
    expected = tiled_by_diffusers(module, tile, overlap, SPEC.unscale(codes)).clamp(-1, 1)
    torch.testing.assert_close(vae.decode(codes), expected)
    if max(size) > 2 * tile:
        assert not torch.allclose(latents, Whole(module, SPEC).encode(image), atol=1e-3)


def test_tiled_leaves_no_trace_and_takes_what_is_left_of_a_picture(module: Any) -> None:
    before = dict(vars(module))
    image = torch.rand(1, 3, 50, 75) * 2 - 1  # the last tiles' sides are no multiple of four, or below it
    latents = Tiled(module, SPEC, tile_size=32, tile_overlap=8).encode(image)
    assert latents.shape == Whole(module, SPEC).encode(image).shape == (1, 4, 12, 18)
    assert dict(vars(module)) == before


def test_a_picture_smaller_than_a_tile_is_not_tiled(module: Any) -> None:
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(
        Tiled(module, SPEC, tile_size=64, tile_overlap=16).encode(image), Whole(module, SPEC).encode(image)
    )


@pytest.mark.parametrize(("size", "overlap"), [(16, 0), (33, 8), (64, 40), (64, -4), (64, 6)])
def test_senseless_tiles_are_refused(module: Any, size: int, overlap: int) -> None:
    with pytest.raises(BadSettingError, match="tile"):
        Tiled(module, SPEC, tile_size=size, tile_overlap=overlap)


def test_a_vae_without_tiling_is_refused() -> None:
    with pytest.raises(UnsupportedVAEError, match="Linear"):
        Tiled(torch.nn.Linear(1, 1), SPEC)


@given(st.floats(0.01, 10), st.one_of(st.none(), st.floats(-2, 2)))
def test_unscale_undoes_scale(factor: float, shift: float | None) -> None:
    spec = LatentSpec(4, 8, factor, shift)
    z = torch.linspace(-3, 3, 7)
    assert torch.allclose(spec.unscale(spec.scale(z)), z, atol=1e-4)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=5))
def test_wrong_shapes_get_a_sentence(module: Any, shape: list[int]) -> None:
    vae = Whole(module, SPEC)
    if not (len(shape) == 4 and shape[1] == 3 and min(shape[2:]) >= 4 and shape[0]):
        with pytest.raises(UserError, match="shape"):
            vae.encode(torch.zeros(shape))
    if not (len(shape) == 4 and shape[1] == 4 and 0 not in shape):
        with pytest.raises(UserError, match="shape"):
            vae.decode(torch.zeros(shape))


class Failing(LocalVAE):
    mode = "failing"

    def __init__(self, module: Any, error: Exception | None = None) -> None:
        super().__init__(module, SPEC)
        self.error = error

    def _encode(self, image: torch.Tensor) -> torch.Tensor:
        if self.error:
            raise self.error
        return torch.full((1, 4, 2, 2), torch.nan)

    def _decode(self, z: torch.Tensor) -> torch.Tensor:
        image = torch.zeros(1, 3, 8, 8)
        image[0, 1, 2, 3] = torch.inf
        return image


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_every_allocator_s_no_becomes_one_error(module: Any, error: Exception) -> None:
    with pytest.raises(OutOfMemoryError, match="not enough memory"):
        Failing(module, error).encode(torch.zeros(1, 3, 8, 8))


def test_other_errors_stay_what_they_are(module: Any) -> None:
    with pytest.raises(RuntimeError, match="shape mismatch"):
        Failing(module, RuntimeError("shape mismatch")).encode(torch.zeros(1, 3, 8, 8))
    assert not is_out_of_memory(None)


def test_a_single_bad_value_is_noticed(module: Any) -> None:
    with pytest.raises(NonFiniteError, match="encode"):
        Failing(module).encode(torch.zeros(1, 3, 8, 8))
    with pytest.raises(NonFiniteError, match="decode"):
        Failing(module).decode(torch.zeros(1, 4, 2, 2))
