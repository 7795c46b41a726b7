"""How much memory and arithmetic a VAE stage needs, from tensor shapes alone; `learned.py` adds this machine.

At full resolution a decoder of the SD shape keeps three maps of its second-lowest channel count (residual input,
normalised, activated) and an encoder four of its lowest; deeper levels are a quarter of the size each, so the
full-resolution level is the peak. For SD v1 that is 768 and 512 elements a pixel.
"""

from __future__ import annotations

from backend.report import Direction


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


def cpu_peak_bytes(
    block_out_channels: tuple[int, ...],
    direction: Direction,
    width: int,
    height: int,
    element_bytes: int,
    tile_size: int | None = None,
    tile_overlap: int = 0,
) -> int:
    """Bytes at the peak on a CPU, where torch's convolutions (oneDNN) also hold their input and output rearranged.

    The counts of maps are measured with torch's profiler (profile_memory) on torch 2.13; tests hold them within 15 %
    for float32 and bfloat16. In two bytes an element, the rearranged maps of a decoder are padded to 32 channels.
    """
    lowest, second = block_out_channels[0], block_out_channels[min(1, len(block_out_channels) - 1)]
    if direction == "encode":
        elements = 5.0 * lowest
    elif element_bytes == 4:
        elements = max(3.8 * second, 5.0 * lowest)
    else:
        elements = max(3.0 * second + 2 * -(-second // 32) * 32, 5.0 * lowest)
    kept = 0.0
    if tile_size is not None:
        if direction == "decode" and max(width, height) > tile_size:
            # Finished tiles wait, overlaps and all, to be blended when the last is there.
            kept = 3 * width * height * (tile_size / (tile_size - tile_overlap)) ** 2
        width, height = min(width, tile_size), min(height, tile_size)
    return round((elements * width * height + kept) * element_bytes)


def tiny_peak_bytes(width: int, height: int, element_bytes: int) -> int:
    """Bytes at the peak of an AutoencoderTiny as published: four maps of its 64 channels at full size."""
    return 260 * width * height * element_bytes


def multiply_adds(
    block_out_channels: tuple[int, ...], direction: Direction, width: int, height: int
) -> float:
    """Multiply-adds of the convolutions of an AutoencoderKL with the usual two layers a block, for a whole picture."""
    levels = list(enumerate(block_out_channels))
    deepest = block_out_channels[-1]
    total = 2 * 18.0 * deepest**2 / 4 ** (len(levels) - 1)
    for level, channels in levels:
        share = 4.0**-level
        if direction == "encode":
            before = block_out_channels[max(0, level - 1)]
            resnets = 9 * (before * channels + channels**2) + 18 * channels**2
        else:
            before = block_out_channels[min(len(levels) - 1, level + 1)]
            resnets = 9 * (before * channels + channels**2) + 36 * channels**2
        total += share * resnets
        if level:  # the convolution of the upsampler or downsampler between this level and the one above
            total += 9 * channels**2 * (4 * share if direction == "decode" else share)
    return total * width * height


def attention_multiply_adds(block_out_channels: tuple[int, ...], width: int, height: int) -> float:
    """Multiply-adds of the one attention, in the deepest level: they grow with the square of the pixels."""
    positions = width * height / 4.0 ** (len(block_out_channels) - 1)
    return 2 * block_out_channels[-1] * positions**2


def vae_parameters(block_out_channels: tuple[int, ...]) -> int:
    """Weights of an AutoencoderKL, encoder and decoder: exact to 0.2 % for the SD shape, to 15 % for others."""
    return 138 * sum(channels**2 for channels in block_out_channels)


def tiled_pixels(width: int, height: int, tile_size: int, tile_overlap: int) -> int:
    """Pixels that diffusers' tiling computes, overlaps counted as often as they are."""
    if max(width, height) <= tile_size:
        return width * height
    stride = tile_size - tile_overlap

    def covered(side: int) -> int:
        return sum(min(tile_size, side - start) for start in range(0, side, stride))

    return covered(width) * covered(height)
