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
    run_id: str = field(default_factory=new_id)
    """Joins what a person reads to a line of the log, here and at an endpoint."""


def encode_request(
    spec: ModelSpec, image: torch.Tensor, options: VaeOptions, run_id: str | None = None
) -> StageRequest:
    """To encode `image` (B, 3, H, W) in [-1, 1]."""
    height, width = image.shape[-2:]
    return StageRequest("encode", spec, width, height, options, image, run_id or new_id())


def decode_request(
    spec: ModelSpec, latents: torch.Tensor, options: VaeOptions, run_id: str | None = None
) -> StageRequest:
    """To decode scaled latents (B, C, h, w)."""
    height, width = (side * spec.latents.downscale for side in latents.shape[-2:])
    return StageRequest("decode", spec, width, height, options, latents, run_id or new_id())
