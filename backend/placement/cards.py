"""What was published about the VAE's cost on consumer cards, as data.

`published.csv` holds the figures of diffusers' remote-VAE announcements (fp16, memory as % of the card, default
tiles of 512 pixels for SD v1 and 1024 for SDXL): one row a cell, `OOM` where it ran out of memory.

The published peaks are what torch held on the card with cuDNN at work, which is more than the feature maps: for
SD v1 2.9 times the maps, encode and decode alike; SDXL's decode twice that again, as it was run in float32. So for a
card of the tables' kind the forecast is `fixed + bytes_per_pixel * pixels`, fitted to the untiled and tiled cells at
once. The error that is left (14 % at most, tests/placement/test_fit.py) is the cards': convolutions choose their
workspace by the card and by what is free, and near a full card they take less. For other models SD v1's ratio is used.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from backend.models import ModelSpec
from backend.placement.shapes import vae_peak_bytes
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


_FITTED: dict[tuple[str, str], tuple[float, float]] = {
    ("encode", "sd-v1"): (162 * MIB, 3000.0),
    ("decode", "sd-v1"): (198 * MIB, 4554.0),
    ("encode", "sdxl"): (272 * MIB, 4066.0),
    ("decode", "sdxl"): (357 * MIB, 8750.0),
}
"""(fixed bytes, bytes a pixel): least worst error over the published cells that did not run out of memory."""

_WORKSPACE_RATIO = 2.95
_FIXED = 180 * MIB


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


def gpu_peak_bytes(
    model: ModelSpec, direction: Direction, width: int, height: int, tile: int | None = None
) -> int:
    """Bytes that diffusers' VAE holds at its peak on an NVIDIA card in half precision, whole or in tiles of `tile`."""
    fixed, per_pixel = _FITTED.get((direction, model.name), (_FIXED, 0.0))
    if not per_pixel:
        per_pixel = _WORKSPACE_RATIO * vae_peak_bytes(model.vae_block_out_channels, direction, 1, 1, 2)
    if tile is not None:
        width, height = min(width, tile), min(height, tile)
    return round(fixed + per_pixel * width * height)
