"""How much memory a VAE stage will need, from tensor shapes alone. First version: activations, no time.

At full resolution a decoder of the SD shape keeps three maps of its second-lowest channel count (residual input,
normalised, activated) and an encoder four of its lowest; deeper levels are a quarter of the size each, so the
full-resolution level is the peak. For SD v1 that is 768 and 512 elements a pixel.
"""

from __future__ import annotations

from typing import Literal

Direction = Literal["encode", "decode"]


def elements_per_pixel(block_out_channels: tuple[int, ...], direction: Direction) -> int:
    """Elements alive at the peak for each pixel of the picture, for an AutoencoderKL in one piece."""
    lowest, second = block_out_channels[0], block_out_channels[min(1, len(block_out_channels) - 1)]
    return 4 * lowest if direction == "encode" else max(3 * second, 4 * lowest)


def vae_peak_bytes(
    block_out_channels: tuple[int, ...],
    direction: Direction,
    width: int,
    height: int,
    element_bytes: int,
    tile_size: int | None = None,
) -> int:
    """Bytes of activations at the peak, for the whole picture or, with `tile_size`, for one tile at a time."""
    if tile_size is not None:
        width, height = min(width, tile_size), min(height, tile_size)
    return elements_per_pixel(block_out_channels, direction) * width * height * element_bytes
