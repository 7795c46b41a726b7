"""What a VAE stage would send to another computer, for the page to say before anything is pressed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from backend.job import Transfer
from backend.remote import endpoints
from backend.report import Direction
from backend.request import StageRequest
from backend.run.context import ExecutionContext

_PIXEL_BYTES: Mapping[Transfer, int] = {"uint8": 3, "png": 3, "jpg": 3, "float16": 6, "float32": 12}
"""Of an RGB picture as it is sent, at most: a PNG or JPEG mostly needs less."""
_LATENT_BYTES = 4
"""Of a float32, the widest that latents are sent in."""


@dataclass(frozen=True)
class Departure:
    """A stage's input on its way to another computer: a picture to be encoded, or latents to be decoded."""

    direction: Direction
    host: str
    """And port, without credentials."""
    most_bytes: int
    surely: bool
    """False: only if the modes that come first run out of memory."""


def departure(request: StageRequest, context: ExecutionContext) -> Departure | None:
    """None for a stage that stays with this app, whatever happens. Imports torch, sends nothing."""
    modes = [candidate.mode for candidate in context.planner.candidates(request)]
    if "remote" not in modes:
        return None
    endpoint = endpoints.resolve(
        request.spec, request.direction, request.options, context.settings, context.self_url
    )
    if endpoint is None or endpoint.is_self:
        return None
    host = endpoints.display_host(endpoint.url)
    return Departure(request.direction, host, most_bytes(request), modes[0] == "remote")


def most_bytes(request: StageRequest) -> int:
    """Of the stage's input as it is sent."""
    pixels = request.width * request.height
    if request.direction == "encode":
        # What does not get smaller in a PNG gets larger: a byte a row, five a block, and the chunks' heads.
        framing = request.height + pixels // 1000 + 1024
        return pixels * _PIXEL_BYTES[request.options.transfer] + framing
    latents = request.spec.latents
    return math.ceil(pixels / latents.downscale**2) * latents.channels * _LATENT_BYTES
