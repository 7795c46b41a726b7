"""A tensor too large for one request, computed in overlapping parts that are blended.

Like any tiling this is not exact: each part has its own GroupNorm statistics, so the report says how many there were.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch

OVERLAP = 32
"""What neighbouring parts share along a side, in latents; 256 pixels for a downscale of 8."""


def starts(length: int, max_length: int, overlap: int) -> tuple[int, list[int]]:
    """(part length, where each part starts) to cover `length` by equal parts of at most `max_length`."""
    if length <= max_length:
        return length, [0]
    overlap = min(overlap, max_length // 4)
    count = -(-(length - overlap) // (max_length - overlap))
    size = -(-(length + (count - 1) * overlap) // count)
    return size, [round(index * (length - size) / (count - 1)) for index in range(count)]


def ramp(size: int, overlap: int, first: bool, last: bool) -> torch.Tensor:
    """Blending weights (size,) in (0, 1] of one part along one side: rising where another part overlaps its
    start, falling where one overlaps its end, else 1."""
    weights = torch.ones(size)
    rise = torch.arange(1, overlap + 1) / (overlap + 1)
    if not first:
        weights[:overlap] = rise
    if not last:
        weights[size - overlap :] *= rise.flip(0)
    return weights


def in_parts(
    tensor: torch.Tensor,
    work: Callable[[torch.Tensor], torch.Tensor],
    max_length: int,
    *,
    unit: int,
    factor: float,
) -> tuple[torch.Tensor, int]:
    """`work` over overlapping parts of `tensor` (B, C, H, W), none longer than `max_length`, and how many there were.

    The result is float32 (B, C', H * factor, W * factor). Parts start and end at multiples of `unit` in the input.
    `factor` is what `work` multiplies a side by: 8 for a decode, 1/8 for an encode.
    """
    heights = starts(tensor.shape[2] // unit, max_length // unit, OVERLAP)
    widths = starts(tensor.shape[3] // unit, max_length // unit, OVERLAP)
    scale = unit * factor  # one unit, measured in the output
    total: torch.Tensor | None = None
    weights = torch.zeros(0)
    for row, top in enumerate(heights[1]):
        for column, left in enumerate(widths[1]):
            part = tensor[
                :, :, top * unit : (top + heights[0]) * unit, left * unit : (left + widths[0]) * unit
            ]
            done = work(part).float()
            if total is None:
                whole = [round(side // unit * scale) for side in tensor.shape[2:]]
                total = torch.zeros(*done.shape[:2], *whole)
                weights = torch.zeros(*whole)
            weight = torch.outer(
                _weights(heights, row, scale, done.shape[2]), _weights(widths, column, scale, done.shape[3])
            )
            y, x = round(top * scale), round(left * scale)
            total[:, :, y : y + done.shape[2], x : x + done.shape[3]] += done * weight
            weights[y : y + done.shape[2], x : x + done.shape[3]] += weight
    assert total is not None
    return total / weights, len(heights[1]) * len(widths[1])


def _weights(layout: tuple[int, list[int]], index: int, scale: float, size: int) -> torch.Tensor:
    """Weights (size,) of part number `index` along one side, whose layout `starts` has given."""
    length, begins = layout
    shared = length - min((after - before for before, after in pairwise(begins)), default=length)
    return ramp(size, round(shared * scale), index == 0, index == len(begins) - 1)
