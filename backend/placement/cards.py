"""What was published about the VAE's cost on consumer cards, as data.

`published.csv` holds the figures of diffusers' remote-VAE announcements (memory as % of the card, default
tiles of 512 pixels for SD v1 and 1024 for SDXL): one row a cell, `OOM` where it ran out of memory.

**Two figures of memory.** Convolutions choose their workspace by the card and by what is free, so a stage has no
single peak. `gpu_memory` gives both ends, each as weights plus a multiple of what the shapes say:
- `least`: the feature maps, and the widest convolution's input and output once more, rearranged for the tensor cores:
  5/4 of the maps for encode, 4/3 for decode. Nothing is fitted; the published cells only confine it: at 2048 x 2048
  SDXL's encode ran out of 10 GiB (more than 1.16 times its maps), SD v1's ran in 8 GiB (less than 1.9 times).
- `full`: what a card takes that has room for the fastest algorithms: 2.95 times the maps, and in float32 1.97 times for
  encode. Least worst relative error over the published cells with a fifth of the card free, which is 14 %;
  tests/placement/test_cards.py finds both again.

SD v1 was published in float16. SDXL has the same VAE, but its published peaks are those of float32: its weights (seen
in a 256 x 256 encode) and its decode's maps take twice the bytes. In half precision it is forecast as SD v1's.
A model with other widths uses the same multiples of its own maps.

**Seconds** follow from the published cells of the same precision, as multiply-adds a second of that card: interpolated
between sizes, and from the nearest size beyond them.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import log
from pathlib import Path

from backend.models import MODELS, ModelSpec
from backend.placement import shapes
from backend.report import Direction

MIB, GIB = 2**20, 2**30
CARDS: dict[str, int] = {
    "NVIDIA GeForce RTX 4090": 24 * GIB,
    "NVIDIA GeForce RTX 4080 SUPER": 16 * GIB,
    "NVIDIA GeForce RTX 4080": 16 * GIB,
    "NVIDIA GeForce RTX 4070 Ti": 12 * GIB,
    "NVIDIA GeForce RTX 3090": 24 * GIB,
    "NVIDIA GeForce RTX 3080": 10 * GIB,
    "NVIDIA GeForce RTX 3070": 8 * GIB,
}
"""Memory of each card in the tables, in bytes as its maker names them."""

DEFAULT_TILE = {"sd-v1": 512, "sdxl": 1024}


PUBLISHED_ELEMENT_BYTES = {"sd-v1": 2, "sdxl": 4}
"""The precision that each model's published figures were taken in; see above for SDXL's."""

_FULL_SPEED = 2.95
_FULL_SPEED_ENCODE_FLOAT32 = 1.97
"""Bytes at full speed as multiples of the feature maps; see above."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a stage holds on a card at its peak, weights included."""

    least: int
    """With the smallest workspace: below that it runs out of memory."""
    full: int
    """At full speed."""


@dataclass(frozen=True)
class Cell:
    """One published measurement. `seconds` and `memory_percent` are None where it ran out of memory."""

    stage: str
    model: str
    gpu: str
    size: int
    tiled: bool
    seconds: float | None
    memory_percent: float | None

    @property
    def out_of_memory(self) -> bool:
        return self.seconds is None

    @property
    def peak_bytes(self) -> float | None:
        return None if self.memory_percent is None else self.memory_percent / 100 * CARDS[self.gpu]


@cache
def cells() -> tuple[Cell, ...]:
    """Every cell of the published tables, untiled and tiled."""

    def number(text: str) -> float | None:
        return None if text == "OOM" else float(text)

    with (Path(__file__).parent / "published.csv").open(newline="") as file:
        return tuple(
            Cell(
                row["stage"],
                row["model"],
                row["gpu"],
                int(row["size"]),
                tiled,
                number(row[f"{prefix}seconds"]),
                number(row[f"{prefix}memory_percent"]),
            )
            for row in csv.DictReader(file)
            for tiled, prefix in ((False, ""), (True, "tiled_"))
        )


def gpu_memory(
    model: ModelSpec,
    direction: Direction,
    width: int,
    height: int,
    element_bytes: int = 2,
    tile: int | None = None,
) -> Memory:
    """What diffusers' VAE holds at its peak on an NVIDIA card, whole or in tiles of `tile`."""
    channels = model.vae_block_out_channels
    weights = shapes.vae_parameters(channels) * element_bytes
    maps = shapes.vae_peak_bytes(channels, direction, width, height, element_bytes, tile)
    rearranged = 5 / 4 if direction == "encode" else 4 / 3
    slim = direction == "encode" and element_bytes == 4
    full = _FULL_SPEED_ENCODE_FLOAT32 if slim else _FULL_SPEED
    return Memory(round(weights + rearranged * maps), round(weights + full * maps))


def published_cell(
    model: str, direction: Direction, gpu: str | None, size: int, *, tiled: bool
) -> Cell | None:
    """The figure of a square picture of `size` pixels, if there is one."""
    key = (direction, model, gpu, size, tiled)
    return next((c for c in cells() if (c.stage, c.model, c.gpu, c.size, c.tiled) == key), None)


def published_seconds(
    model: ModelSpec,
    direction: Direction,
    gpu: str | None,
    width: int,
    height: int,
    element_bytes: int = 2,
    tile: int | None = None,
) -> float | None:
    """Seconds on a card of the tables, by what was published for the same network in the same precision.

    None where there is nothing of the kind: another network, or a stage that was not run on that card.
    """
    channels = model.vae_block_out_channels
    if channels != MODELS["sd-v1"].vae_block_out_channels:
        return None
    rates = []
    for cell in cells():
        same = cell.stage == direction and cell.gpu == gpu and cell.tiled == (tile is not None)
        if same and cell.seconds is not None and PUBLISHED_ELEMENT_BYTES[cell.model] == element_bytes:
            published_tile = DEFAULT_TILE[cell.model] if cell.tiled else None
            work = _work(channels, direction, cell.size, cell.size, published_tile)
            rates.append((2 * log(cell.size), work / cell.seconds))
    if not rates:
        return None
    return _work(channels, direction, width, height, tile) / _interpolated(log(width * height), sorted(rates))


def _work(
    channels: tuple[int, ...], direction: Direction, width: int, height: int, tile: int | None
) -> float:
    """Multiply-adds, those of the attention included, with diffusers' overlap of a quarter of a tile."""

    def whole(width: int, height: int) -> float:
        return shapes.multiply_adds(channels, direction, width, height) + shapes.attention_multiply_adds(
            channels, width, height
        )

    if tile is None or max(width, height) <= tile:
        return whole(width, height)
    return whole(tile, tile) * shapes.tiled_pixels(width, height, tile, tile // 4) / tile**2


def _interpolated(x: float, points: Sequence[tuple[float, float]]) -> float:
    """Linear between the (x, y) of `points`, which are sorted, and constant beyond them."""
    below = [point for point in points if point[0] <= x]
    above = [point for point in points if point[0] > x]
    if not below or not above:
        return (below[-1] if below else above[0])[1]
    (x0, y0), (x1, y1) = below[-1], above[0]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
