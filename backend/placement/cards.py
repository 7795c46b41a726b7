"""Will it fit? Memory of each VAE mode on a given card, forecast next to what was published.

The published peaks are what torch held on the card with cuDNN at work, which is more than the feature maps: for
SD v1 2.9 times the maps, encode and decode alike; SDXL's decode twice that again, as it was run in float32. So for a
card of the tables' kind the forecast is `fixed + bytes_per_pixel * pixels`, fitted to the untiled and tiled cells at
once. The error that is left (14 % at most, tests/placement/test_cards.py) is the cards': convolutions choose their
workspace by the card and by what is free, and near a full card they take less. For other models SD v1's ratio is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.device.measure import total_bytes
from backend.job import VaeOptions
from backend.models import ModelSpec
from backend.placement.published import CARDS, DEFAULT_TILE, Cell, cells
from backend.placement.shapes import Direction, vae_peak_bytes

if TYPE_CHECKING:
    from backend.studio import Studio

MIB = 2**20
DIRECTIONS: tuple[Direction, ...] = ("encode", "decode")

_FITTED: dict[tuple[str, str], tuple[float, float]] = {
    ("encode", "sd-v1"): (162 * MIB, 3000.0),
    ("decode", "sd-v1"): (198 * MIB, 4554.0),
    ("encode", "sdxl"): (272 * MIB, 4066.0),
    ("decode", "sdxl"): (357 * MIB, 8750.0),
}
"""(fixed bytes, bytes a pixel): least worst error over the published cells that did not run out of memory."""

_WORKSPACE_RATIO = 2.95
_FIXED = 180 * MIB
_COMFORTABLE = 80.0
"""Percent of a card above which a stage leaves no room for a denoiser beside it."""
_USABLE = 0.96
"""Of a card: the driver and the display take the rest; the published cells end there, too."""


@dataclass(frozen=True)
class Fit:
    """One mode for one direction on one card. Bytes; `seconds` only where they were published or measured here."""

    direction: Direction
    mode: str
    forecast_bytes: int
    card_bytes: int
    seconds: float | None = None
    published: Cell | None = None

    @property
    def fits(self) -> bool:
        """As published for this very card, where it was; near its limit a card makes do with less workspace."""
        if self.published is not None:
            return not self.published.out_of_memory
        return self.forecast_bytes <= self.card_bytes * _USABLE

    @property
    def tight(self) -> bool:
        """Whether it fits with hardly anything left for the rest of the model."""
        measured = self.published.memory_percent if self.published is not None else None
        return self.fits and (self.percent if measured is None else measured) > _COMFORTABLE

    @property
    def percent(self) -> float:
        return 100 * self.forecast_bytes / self.card_bytes


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


def streamed_forecast(model: ModelSpec, direction: Direction, width: int, height: int) -> int:
    """Bytes of the streamed mode in half precision on a card: its plan, which is exact, and the weights."""
    import torch

    from backend.vae.architecture import weightless_vae
    from backend.vae.streamed import plan

    module = weightless_vae(model)
    weights = sum(p.numel() for p in module.parameters()) * 2
    chosen = plan(module, height, width, direction=direction, dtype=torch.float16, device="cuda")
    return int(weights + chosen.peak_bytes)


def will_it_fit(
    model: ModelSpec, width: int, height: int, card_bytes: int, gpu: str | None = None
) -> list[Fit]:
    """Whole, streamed and tiled, for encode and for decode, on a card of that much memory.

    `gpu`: a name of the published tables, to show their figures beside; only square pictures have any.
    """
    tile = DEFAULT_TILE.get(model.name, 512)
    fits = []
    for direction in DIRECTIONS:
        for mode in ("whole", "streamed", "tiled"):
            if mode == "streamed":
                forecast = streamed_forecast(model, direction, width, height)
            else:
                forecast = gpu_peak_bytes(model, direction, width, height, tile if mode == "tiled" else None)
            cell = None
            if mode != "streamed" and width == height:
                cell = _published(direction, model.name, gpu, width, tiled=mode == "tiled")
            fits.append(Fit(direction, mode, forecast, card_bytes, cell.seconds if cell else None, cell))
    return fits


def fits_here(studio: Studio, model: ModelSpec, width: int, height: int) -> list[Fit]:
    """The same for the machine this app runs on, from its own calibrated forecast; seconds where they are known."""
    total = total_bytes(studio.loader.device)
    tile = DEFAULT_TILE.get(model.name, 512)
    fits = []
    for direction in DIRECTIONS:
        expected = studio.forecast(model.name, direction, width, height, VaeOptions("whole", tile, tile // 4))
        for mode in ("whole", "streamed", "tiled"):
            if (peak := expected[mode].peak_bytes) is not None:
                fits.append(Fit(direction, mode, peak, total, expected[mode].seconds))
    return fits


def choose(fits: Sequence[Fit], direction: Direction) -> tuple[str, str]:
    """(mode, reason): the whole picture where it fits, else the exact mode that does, else tiles, else elsewhere."""
    of = {fit.mode: fit for fit in fits if fit.direction == direction}
    whole = of["whole"]
    if whole.fits and not whole.tight:
        return "whole", f"The whole picture fits: {_gb(whole.forecast_bytes)} of {_gb(whole.card_bytes)}."
    card = _gb(whole.card_bytes)
    if whole.fits:
        short = f"the whole picture would leave nothing of {card} to the painter"
    else:
        short = f"the whole picture needs {_gb(whole.forecast_bytes)}, and there are {card}"
    if of["streamed"].fits:
        return (
            "streamed",
            f"Streamed gives the same picture in {_gb(of['streamed'].forecast_bytes)}; {short}.",
        )
    if of["tiled"].fits:
        return "tiled", f"Only tiles fit, in {_gb(of['tiled'].forecast_bytes)}, and seams may show; {short}."
    return "remote", f"Nothing fits; {short}."


def card_choices() -> dict[str, int]:
    """The published cards by name, with their memory in bytes."""
    return {name.removeprefix("NVIDIA GeForce "): size for name, size in CARDS.items()}


def _published(direction: Direction, model: str, gpu: str | None, size: int, *, tiled: bool) -> Cell | None:
    key = (direction, model, gpu, size, tiled)
    return next((c for c in cells() if (c.stage, c.model, c.gpu, c.size, c.tiled) == key), None)


def _gb(count: int) -> str:
    return f"{count / 2**30:.1f} GB"
