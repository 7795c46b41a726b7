"""Mode "tiny": a distilled VAE (TAESD, https://github.com/madebyollin/taesd) in place of the model's own.

A few megabytes and a fraction of the time, at the price of fine detail. Its latents come scaled as the denoiser
expects them, so the model's own scaling is not applied.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from backend.models import LatentSpec
from backend.vae.whole import Whole


class Tiny(Whole):
    mode = "tiny"

    def __init__(self, module: Any, spec: LatentSpec) -> None:
        """`module` is a diffusers AutoencoderTiny for the latents that `spec` describes."""
        super().__init__(module, replace(spec, scaling_factor=1.0, shift_factor=None))
