"""What leaves the device after a stage, and as what."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backend import images
from backend.job import VaeOptions
from backend.models import BUILTIN
from backend.request import decode_request, encode_request
from backend.run.stage import _compute, run_stage
from backend.studio import Studio

WHOLE = VaeOptions("whole")
SIDE = 64 // BUILTIN.latents.downscale


def test_a_picture_that_is_only_shown_comes_as_eight_bit(studio: Studio) -> None:
    latents = torch.randn(1, BUILTIN.latents.channels, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    values, _ = run_stage(decode_request(BUILTIN, latents, WHOLE), studio.context)
    pixels, _ = run_stage(decode_request(BUILTIN, latents, WHOLE, as_picture=True), studio.context)
    assert values.dtype == torch.float32 and values.shape == (1, 3, 64, 64)
    assert pixels.dtype == torch.uint8 and pixels.shape == (1, 64, 64, 3)
    assert images.to_image(pixels).tobytes() == images.to_image(values).tobytes()


def test_latents_stay_where_the_next_stage_is() -> None:
    """The meta device stands for a card: nothing can be copied from it, so what would be raises."""
    there = torch.empty(1, 4, SIDE, SIDE, device="meta")
    vae: Any = SimpleNamespace(module=None, encode=lambda _: there)
    image = torch.zeros(1, 3, 64, 64)
    assert _compute(vae, encode_request(BUILTIN, image, WHOLE, stays=True), None) is there
    with pytest.raises(NotImplementedError, match="meta"):
        _compute(vae, encode_request(BUILTIN, image, WHOLE), None)
