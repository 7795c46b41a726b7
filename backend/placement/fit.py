"""Will it fit? Memory of each VAE mode on a given card, forecast next to what was published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from backend.job import VaeOptions
from backend.message import Message
from backend.models import ModelSpec
from backend.placement.cards import (
    CARDS,
    DEFAULT_TILE,
    PUBLISHED_ELEMENT_BYTES,
    Cell,
    gpu_memory,
    published_cell,
    published_seconds,
)
from backend.placement.learned import ExpectedCost
from backend.report import Direction
from backend.request import StageRequest
from backend.units import card_size

DIRECTIONS: tuple[Direction, ...] = ("encode", "decode")

_COMFORTABLE = 0.8
"""Of a card: a stage that needs more at full speed leaves no room for a denoiser beside it."""
_USABLE = 0.96
"""Of a card: the driver and the display take the rest; the published cells end there, too."""

Verdict = Literal["yes", "tight", "no"]
TimeSource = Literal["published", "interpolated", "here", "similar"]
"""On a card of that name, for this very picture or from its other sizes; on this machine, by this very model and mode
or by others that are alike."""


@dataclass(frozen=True)
class Fit:
    """One mode for one direction on one card. Bytes; `seconds` is None where nothing is known."""

    direction: Direction
    mode: str
    least_bytes: int
    """Below that it runs out of memory."""
    full_bytes: int
    """What it takes at full speed; the same as `least_bytes` where no workspace is chosen."""
    card_bytes: int
    seconds: float | None = None
    seconds_from: TimeSource | None = None
    published: Cell | None = None
    """What was published for this card and picture, maybe in another precision."""
    published_in_float32: bool = False
    """Whether `published` is in float32 and this forecast in half precision."""

    @property
    def verdict(self) -> Verdict:
        """From the forecast alone: "tight" runs with a smaller workspace, or with hardly anything left beside it."""
        if self.least_bytes > self.card_bytes * _USABLE:
            return "no"
        return "tight" if self.full_bytes > self.card_bytes * _COMFORTABLE else "yes"


def streamed_forecast(
    model: ModelSpec,
    direction: Direction,
    width: int,
    height: int,
    element_bytes: int = 2,
    card_bytes: int | None = None,
) -> int:
    """Bytes of the streamed mode on a card of `card_bytes`, where nothing else is: its plan, which is exact, and the
    weights."""
    import torch

    from backend.vae.architecture import weightless_vae
    from backend.vae.streamed import plan

    module = weightless_vae(model)
    weights = sum(p.numel() for p in module.parameters()) * element_bytes
    dtype = torch.float32 if element_bytes == 4 else torch.float16
    limit = None if card_bytes is None else round(card_bytes * _COMFORTABLE) - weights
    chosen = plan(module, height, width, direction=direction, dtype=dtype, device="cuda", max_memory=limit)
    return int(weights + chosen.peak_bytes)


def will_it_fit(
    model: ModelSpec,
    width: int,
    height: int,
    card_bytes: int,
    gpu: str | None = None,
    element_bytes: int | None = None,
) -> list[Fit]:
    """Whole, streamed and tiled, for encode and for decode, on a card of that much memory.

    `gpu`: a name of the published tables, for seconds and to show their figures beside; only square pictures have any.
    `element_bytes`: 2 or 4, of the precision it runs in; None is the model's on a card.
    """
    tile = DEFAULT_TILE.get(model.name, 512)
    if element_bytes is None:
        element_bytes = 4 if model.dtype == "float32" else 2
    fits = []
    for direction in DIRECTIONS:
        for mode in ("whole", "streamed", "tiled"):
            if mode == "streamed":
                forecast = streamed_forecast(model, direction, width, height, element_bytes, card_bytes)
                fits.append(Fit(direction, mode, forecast, forecast, card_bytes))
                continue
            tiles = tile if mode == "tiled" else None
            memory = gpu_memory(model, direction, width, height, element_bytes, tiles)
            seconds = published_seconds(model, direction, gpu, width, height, element_bytes, tiles)
            cell = None
            if width == height:
                cell = published_cell(model.name, direction, gpu, width, tiled=tiles is not None)
            other_dtype = cell is not None and PUBLISHED_ELEMENT_BYTES[cell.model] > element_bytes
            source: TimeSource | None = "interpolated" if cell is None or other_dtype else "published"
            if seconds is None:
                source = None
            sizes = (memory.least, memory.full, card_bytes)
            fits.append(Fit(direction, mode, *sizes, seconds, source, cell, other_dtype))
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
            full = expected.peak_bytes
            if full is None:
                continue
            least = full if expected.least_bytes is None else min(full, expected.least_bytes)
            source: TimeSource | None = "similar" if expected.measured_seconds is None else "here"
            if expected.seconds is None:
                source = None
            fits.append(Fit(direction, mode, least, full, device_bytes, expected.seconds, source))
    return fits


def advise(fits: Sequence[Fit], direction: Direction) -> tuple[str, Message]:
    """(mode, reason): the whole picture where it fits, else the exact mode that does, else tiles, else elsewhere."""
    of = {fit.mode: fit for fit in fits if fit.direction == direction}
    whole = of["whole"]
    if whole.verdict == "yes":
        return "whole", Message(
            "The whole picture fits: {whole} of {has}.",
            whole=card_size(whole.full_bytes),
            has=card_size(whole.card_bytes),
        )
    why = _why_not_whole(whole)
    if of["streamed"].verdict != "no":
        return "streamed", Message(
            "Streamed gives the same picture in {streamed}; {why}.",
            streamed=card_size(of["streamed"].full_bytes),
            why=why,
        )
    if of["tiled"].verdict != "no":
        return "tiled", Message(
            "Only tiles fit, in {tiled}, and seams may show; {why}.",
            tiled=card_size(of["tiled"].full_bytes),
            why=why,
        )
    return "remote", Message("Nothing fits; {why}.", why=why)


def _why_not_whole(whole: Fit) -> Message:
    figures = {
        "least": card_size(whole.least_bytes),
        "full": card_size(whole.full_bytes),
        "has": card_size(whole.card_bytes),
    }
    if whole.verdict == "no" and whole.least_bytes == whole.full_bytes:
        return Message("the whole picture needs {full}, and there are {has}", **figures)
    if whole.verdict == "no":
        return Message("the whole picture needs at least {least}, and there are {has}", **figures)
    if whole.full_bytes > whole.card_bytes * _USABLE:
        return Message(
            "the whole picture needs at least {least}, runs at full speed with {full}, and there are {has}",
            **figures,
        )
    return Message("the whole picture takes {full} of {has}, which leaves little for the denoiser", **figures)


def card_choices() -> dict[str, int]:
    """The published cards by name, with their memory in bytes."""
    return {name.removeprefix("NVIDIA GeForce "): size for name, size in CARDS.items()}
