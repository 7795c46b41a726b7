"""What was published about the VAE's cost on consumer cards, as data.

`published.csv` holds the figures of diffusers' remote-VAE announcements (fp16, memory as % of the card, default
tiles of 512 pixels for SD v1 and 1024 for SDXL): one row a cell, `OOM` where it ran out of memory.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

GIB = 2**30
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
