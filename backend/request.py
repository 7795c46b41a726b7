"""A request for one VAE stage: frozen data, the same from the page to the device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.job import VaeOptions
from backend.logs import new_id
from backend.models import ModelSpec
from backend.report import Direction

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StageRequest:
    """One direction of a model's VAE for a picture of `width` x `height` pixels."""

    direction: Direction
    spec: ModelSpec
    width: int
    height: int
    options: VaeOptions
    tensor: torch.Tensor | None = None
    """Encode: image (B, 3, H, W) in [-1, 1]. Decode: scaled latents (B, C, h, w). None in a forecast."""
    as_picture: bool = False
    """Decode: to uint8 (B, H, W, 3) where it is computed here: a quarter of the bytes, for what is only shown."""
    stays: bool = False
    """Leave the result on the device that computed it, for a stage that follows there."""
    run_id: str = field(default_factory=new_id)
    """Joins what a person reads to a line of the log, here and at an endpoint."""


def encode_request(
    spec: ModelSpec,
    image: torch.Tensor,
    options: VaeOptions,
    run_id: str | None = None,
    *,
    stays: bool = False,
) -> StageRequest:
    """To encode `image` (B, 3, H, W) in [-1, 1]."""
    height, width = image.shape[-2:]
    return StageRequest("encode", spec, width, height, options, image, stays=stays, run_id=run_id or new_id())


def decode_request(
    spec: ModelSpec,
    latents: torch.Tensor,
    options: VaeOptions,
    run_id: str | None = None,
    *,
    as_picture: bool = False,
) -> StageRequest:
    """To decode scaled latents (B, C, h, w)."""
    height, width = (side * spec.latents.downscale for side in latents.shape[-2:])
    return StageRequest(
        "decode", spec, width, height, options, latents, as_picture=as_picture, run_id=run_id or new_id()
    )
