"""Will it fit? Memory of each VAE mode on a given card, forecast next to what was published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backend.job import VaeOptions
from backend.message import Message
from backend.models import ModelSpec
from backend.placement.cards import CARDS, DEFAULT_TILE, Cell, cells, gpu_peak_bytes
from backend.placement.learned import ExpectedCost
from backend.report import Direction
from backend.request import StageRequest

DIRECTIONS: tuple[Direction, ...] = ("encode", "decode")

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


def fits_here(
    model: ModelSpec,
    width: int,
    height: int,
    device_bytes: int,
    expect: Callable[[StageRequest, str], ExpectedCost],
) -> list[Fit]:
    """The same for the machine this app runs on: `expect(request, mode)` is its forecast, with seconds where known."""
    tile = DEFAULT_TILE.get(model.name, 512)
    options = VaeOptions("whole", tile, tile // 4)
    fits = []
    for direction in DIRECTIONS:
        request = StageRequest(direction, model, width, height, options)
        for mode in ("whole", "streamed", "tiled"):
            expected = expect(request, mode)
            if expected.peak_bytes is not None:
                fits.append(Fit(direction, mode, expected.peak_bytes, device_bytes, expected.seconds))
    return fits


def advise(fits: Sequence[Fit], direction: Direction) -> tuple[str, Message]:
    """(mode, reason): the whole picture where it fits, else the exact mode that does, else tiles, else elsewhere."""
    of = {fit.mode: fit for fit in fits if fit.direction == direction}
    whole = of["whole"]
    needs = {mode: _gb(fit.forecast_bytes) for mode, fit in of.items()}
    has = _gb(whole.card_bytes)
    if whole.fits and not whole.tight:
        return "whole", Message("The whole picture fits: {whole} of {has}.", whole=needs["whole"], has=has)
    if whole.fits:
        short = Message("the whole picture would leave nothing of {has} to the painter", has=has)
    else:
        short = Message("the whole picture needs {whole}, and there are {has}", whole=needs["whole"], has=has)
    if of["streamed"].fits:
        return "streamed", Message(
            "Streamed gives the same picture in {streamed}; {why}.", streamed=needs["streamed"], why=short
        )
    if of["tiled"].fits:
        return "tiled", Message(
            "Only tiles fit, in {tiled}, and seams may show; {why}.", tiled=needs["tiled"], why=short
        )
    return "remote", Message("Nothing fits; {why}.", why=short)


def card_choices() -> dict[str, int]:
    """The published cards by name, with their memory in bytes."""
    return {name.removeprefix("NVIDIA GeForce "): size for name, size in CARDS.items()}


def _published(direction: Direction, model: str, gpu: str | None, size: int, *, tiled: bool) -> Cell | None:
    key = (direction, model, gpu, size, tiled)
    return next((c for c in cells() if (c.stage, c.model, c.gpu, c.size, c.tiled) == key), None)


def _gb(count: int) -> str:
    return f"{count / 2**30:.1f} GB"
