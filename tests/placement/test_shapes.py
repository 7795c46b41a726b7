"""Forecasts against measured peaks, with one thread and two; `.ci/run` repeats them as older processors compute.

Measured by what torch's CPU allocator reports: the peak is the highest running sum. Resident memory would also show
what the C library keeps for later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from backend.device.allocations import measure_allocations
from backend.device.convolution import convolution_probe
from backend.device.precision import bfloat16_pays
from backend.dtypes import dtype_name
from backend.models import BUILTIN, SD_V1
from backend.placement.shapes import (
    cpu_peak_bytes,
    multiply_adds,
    tiled_kept_bytes,
    tiled_pixels,
    tiny_peak_bytes,
)
from backend.vae.streamed import Streamed
from backend.vae.streamed import plan as streamed_plan
from backend.vae.tiled import Tiled
from backend.vae.whole import Whole

TOLERANCE = 0.15
SMALL = (16, 32, 64, 64)
TINY_SIZE = (96, 64)


@pytest.fixture(params=[1, 2], ids=["one-thread", "two-threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """oneDNN's workspace may depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest, threads: None) -> torch.dtype:
    kind: torch.dtype = request.param
    return kind


def peak_of(work: Callable[[], object]) -> int:
    with measure_allocations() as peak:
        work()
    assert peak.bytes is not None
    return peak.bytes


def blank_vae(channels: tuple[int, ...], dtype: torch.dtype) -> Any:
    """An AutoencoderKL of that architecture; memory does not depend on the weights' values."""
    if channels == BUILTIN.vae_block_out_channels:
        config = AutoencoderKL.load_config(BUILTIN.repository, subfolder="vae")
    else:
        levels = len(channels)
        config = {
            "block_out_channels": channels,
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "layers_per_block": 2,
            "norm_num_groups": 8,
        }
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(config)
    return zeroed(vae, dtype)


def zeroed(module: Any, dtype: torch.dtype) -> Any:
    module = module.to(dtype).to_empty(device="cpu").eval().requires_grad_(False)
    for weight in (*module.parameters(), *module.buffers()):
        weight.zero_()
    return module


def tensors(
    width: int, height: int, dtype: torch.dtype, downscale: int = 8
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(1, 3, height, width, dtype=dtype), torch.zeros(
        1, 4, height // downscale, width // downscale, dtype=dtype
    )


CASES = [
    pytest.param(BUILTIN.vae_block_out_channels, (96, 64), id="builtin"),
    pytest.param(BUILTIN.vae_block_out_channels, (32, 128), id="narrow"),
    pytest.param(SMALL, (96, 64), id="small"),
]


@pytest.mark.parametrize(("channels", "size"), CASES)
def test_a_whole_picture_on_a_processor(
    channels: tuple[int, ...], size: tuple[int, int], dtype: torch.dtype
) -> None:
    spec = replace(SD_V1.latents, downscale=2 ** (len(channels) - 1))
    vae = Whole(blank_vae(channels, dtype), spec)
    image, latents = tensors(*size, dtype, spec.downscale)
    for direction, work in (("encode", lambda: vae.encode(image)), ("decode", lambda: vae.decode(latents))):
        expected = cpu_peak_bytes(
            channels,
            direction,  # type: ignore[arg-type]
            *size,
            dtype.itemsize,
            convolution_probe(dtype_name(dtype)),
            layers_per_block=vae.module.config.layers_per_block,
        )
        assert expected == pytest.approx(peak_of(work), rel=TOLERANCE), direction


@pytest.mark.parametrize(("tile", "overlap"), [(64, 32), (64, 16)])
@pytest.mark.parametrize("size", [(96, 80)])
def test_tiles_on_a_processor(size: tuple[int, int], tile: int, overlap: int, dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and not bfloat16_pays():
        pytest.skip("this processor has no such products, or slow ones, so nothing picks the dtype here")
    vae = Tiled(blank_vae(SMALL, dtype), SD_V1.latents, tile_size=tile, tile_overlap=overlap)
    image, latents = tensors(*size, dtype)
    for direction, work in (("encode", lambda: vae.encode(image)), ("decode", lambda: vae.decode(latents))):
        one = streamed_plan(vae.module, tile, tile, direction=direction).peak_bytes  # type: ignore[arg-type]
        kept = tiled_kept_bytes(direction, *size, dtype.itemsize, tile, overlap)  # type: ignore[arg-type]
        assert one + kept == pytest.approx(peak_of(work), rel=TOLERANCE), direction


def test_the_tiny_vae_on_a_processor(dtype: torch.dtype) -> None:
    with torch.device("meta"):
        tiny = AutoencoderTiny()
    vae = Whole(zeroed(tiny, dtype), SD_V1.latents)
    image, latents = tensors(*TINY_SIZE, dtype)
    expected = tiny_peak_bytes(*TINY_SIZE, dtype.itemsize, convolution_probe(dtype_name(dtype)))
    for work in (lambda: vae.encode(image), lambda: vae.decode(latents)):
        assert expected == pytest.approx(peak_of(work), rel=TOLERANCE)


@pytest.mark.parametrize("channels", [SMALL, BUILTIN.vae_block_out_channels])
def test_the_streamed_plan_on_a_processor(channels: tuple[int, ...]) -> None:
    module = blank_vae(channels, torch.float32)
    vae = Streamed(module, replace(SD_V1.latents, downscale=2 ** (len(channels) - 1)))
    image, latents = tensors(256, 256, torch.float32, vae.spec.downscale)
    for direction, work in (("encode", lambda: vae.encode(image)), ("decode", lambda: vae.decode(latents))):
        planned = streamed_plan(module, 256, 256, direction=direction).peak_bytes  # type: ignore[arg-type]
        assert planned == pytest.approx(peak_of(work), rel=TOLERANCE), direction


def test_arithmetic_is_counted_as_torch_counts_it() -> None:
    """Against the sizes of all convolutions that a real module runs; the attention's few are left out."""
    module = blank_vae(SMALL, torch.float32)
    counted = 0.0

    def count(layer: Any, inputs: Any, output: torch.Tensor) -> None:
        nonlocal counted
        counted += output.numel() * layer.weight[0].numel()

    hooks = [
        layer.register_forward_hook(count) for layer in module.modules() if isinstance(layer, torch.nn.Conv2d)
    ]
    vae = Whole(module, SD_V1.latents)
    image, latents = tensors(128, 96, torch.float32)
    vae.encode(image)
    assert multiply_adds(SMALL, "encode", 128, 96) == pytest.approx(counted, rel=0.1)
    counted = 0.0
    vae.decode(latents)
    assert multiply_adds(SMALL, "decode", 128, 96) == pytest.approx(counted, rel=0.1)
    assert hooks


def test_tiles_compute_their_overlaps_again() -> None:
    assert tiled_pixels(512, 512, 512, 128) == 512 * 512
    assert tiled_pixels(1024, 1024, 512, 128) == (512 + 512 + 256) ** 2
    assert tiled_pixels(1024, 512, 512, 0) == 1024 * 512
