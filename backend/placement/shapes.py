"""How much memory and arithmetic a VAE stage needs, from tensor shapes alone; `learned.py` adds this machine.

At full resolution a decoder of the SD shape keeps three maps of its second-lowest channel count (residual input,
normalised, activated) and an encoder four of its lowest; deeper levels are a quarter of the size each, so the
full-resolution level is the peak. For SD v1 that is 768 and 512 elements a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator

from backend.device.convolution import ConvolutionMemory, Probe
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
    convolution: Probe,
    layers_per_block: int = 2,
) -> int:
    """Bytes at the peak on a CPU: the maps alive at the full-resolution level and what `convolution` says it adds.

    The maps are those of diffusers' AutoencoderKL; tests hold the sum within 15 % of torch's own count.
    """
    if direction == "encode":
        moments = list(_encoder_maps(block_out_channels, convolution, layers_per_block))
    else:
        moments = list(_decoder_maps(block_out_channels, convolution))
    pixels = width * height
    return round(max(alive * pixels + added.elements(pixels) for alive, added in moments) * element_bytes)


def tiled_kept_bytes(
    direction: Direction, width: int, height: int, element_bytes: int, tile_size: int, tile_overlap: int
) -> int:
    """Bytes that tiling holds beside the tile that is computed: the picture that tiles are put into, and what is left
    of a row of them and of the one before to blend with. Latents are too small to count."""
    if direction == "encode" or max(width, height) <= tile_size:
        return 0
    edges = sum(_sides(width, tile_size, tile_overlap)) + min(tile_size, height)
    return 3 * (width * height + tile_overlap * edges) * element_bytes


Moment = tuple[float, ConvolutionMemory]
"""Elements a pixel alive before a convolution, its input included, and what the convolution adds."""


def _encoder_maps(channels: tuple[int, ...], convolution: Probe, layers: int) -> Iterator[Moment]:
    """Of the first level: each residual block keeps the level's input, its own and the activated map."""
    lowest = channels[0]
    same = convolution(lowest, lowest, 3)
    yield (3 if layers > 1 else 2) * lowest, same
    # The downsampler keeps the level's input, its own and a padded copy; its output is a quarter. Where neighbourhoods
    # are written out, there are a quarter as many.
    unfolds = same.per_pixel > 4 * lowest
    yield 3 * lowest, ConvolutionMemory(same.per_pixel * (0.25 if unfolds else 0.625), same.fixed)


def _decoder_maps(channels: tuple[int, ...], convolution: Probe) -> Iterator[Moment]:
    """Of the last upsampler and the level after it."""
    lowest, second = channels[0], channels[min(1, len(channels) - 1)]
    third = channels[min(2, len(channels) - 1)]
    if len(channels) > 1:
        # The input and the output of the level above, a quarter each, and the enlarged map.
        yield third / 4 + second / 4 + second, convolution(second, second, 3)
    yield 2 * second, convolution(second, lowest, 3)
    if second != lowest:
        yield second + lowest, convolution(second, lowest, 1)
    yield second + 2 * lowest, convolution(lowest, lowest, 3)
    yield 3 * second, ConvolutionMemory(0.0)


def tiny_peak_bytes(width: int, height: int, element_bytes: int, convolution: Probe) -> int:
    """Bytes at the peak of an AutoencoderTiny as published: a block's input and its inner map, of 64 channels each."""
    pixels = width * height
    return round((2 * 64 * pixels + convolution(64, 64, 3).elements(pixels)) * element_bytes)


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


def vae_multiply_adds(
    block_out_channels: tuple[int, ...],
    direction: Direction,
    width: int,
    height: int,
    tile_size: int | None = None,
    tile_overlap: int = 0,
    *,
    attention: bool = True,
) -> float:
    """Multiply-adds of the convolutions and, if it has one, the attention, of which in tiles each has its own."""
    tiles = _tiles(width, height, tile_size or max(width, height), tile_overlap)
    total = sum(multiply_adds(block_out_channels, direction, pixels, 1) for pixels in tiles)
    if attention:
        total += sum(attention_multiply_adds(block_out_channels, pixels, 1) for pixels in tiles)
    return total


def vae_parameters(block_out_channels: tuple[int, ...]) -> int:
    """Weights of an AutoencoderKL, encoder and decoder: exact to 0.2 % for the SD shape, to 15 % for others."""
    return 138 * sum(channels**2 for channels in block_out_channels)


def tiled_pixels(width: int, height: int, tile_size: int, tile_overlap: int) -> int:
    """Pixels that tiling computes, overlaps counted as often as they are."""
    return sum(_tiles(width, height, tile_size, tile_overlap))


def _tiles(width: int, height: int, tile_size: int, tile_overlap: int) -> list[int]:
    """The pixels of each tile, in the order in which they are computed."""
    if max(width, height) <= tile_size:
        return [width * height]
    rows, columns = (_sides(side, tile_size, tile_overlap) for side in (height, width))
    return [row * column for row in rows for column in columns]


def _sides(side: int, tile_size: int, tile_overlap: int) -> list[int]:
    """Of the tiles that a side is cut into."""
    return [min(tile_size, side - start) for start in range(0, side, tile_size - tile_overlap)]
