"""Mode "tiled": diffusers' own tiling with an explicit tile size and overlap.

`enable_tiling()` takes no sizes and does nothing below the config's `sample_size` (1024 for SDXL), so the sizes are
set here explicitly and put back afterwards, because the module is shared with the other modes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from backend.errors import BadSettingError, UnsupportedVAEError
from backend.models import LatentSpec
from backend.vae.whole import Whole

# The attributes of AutoencoderKL that set its tiling.
_STATE = ("use_tiling", "tile_sample_min_size", "tile_latent_min_size", "tile_overlap_factor")


class Tiled(Whole):
    mode = "tiled"

    def __init__(
        self, module: Any, spec: LatentSpec, *, tile_size: int = 512, tile_overlap: int = 128
    ) -> None:
        """`tile_size` and `tile_overlap` in pixels, multiples of the VAE's downscale; overlap below half a tile.

        Raises:
            BadSettingError: sizes out of range. UnsupportedVAEError: a VAE without such tiling.
        """
        super().__init__(module, spec)
        if not all(hasattr(module, name) for name in _STATE):
            raise UnsupportedVAEError(
                "{kind} cannot work in tiles of a chosen size.", kind=type(module).__name__
            )
        factor = spec.downscale
        if tile_size < 8 * factor or tile_size % factor:
            raise BadSettingError(
                "The tile size must be a multiple of {factor} and at least {low}, not {value}.",
                factor=factor,
                low=8 * factor,
                value=tile_size,
            )
        if tile_overlap < 0 or tile_overlap > tile_size // 2 or tile_overlap % factor:
            raise BadSettingError(
                "The tile overlap must be a multiple of {factor} between 0 and {high}, not {value}.",
                factor=factor,
                high=tile_size // 2,
                value=tile_overlap,
            )
        self.tile_size = tile_size
        self.tile_overlap = tile_overlap

    def _encode(self, image: torch.Tensor) -> torch.Tensor:
        with self._tiling():
            return super()._encode(image)

    def _decode(self, z: torch.Tensor) -> torch.Tensor:
        with self._tiling():
            return super()._decode(z)

    @contextmanager
    def _tiling(self) -> Iterator[None]:
        before = {name: getattr(self.module, name) for name in _STATE}
        wanted = (
            True,
            self.tile_size,
            self.tile_size // self.spec.downscale,
            self.tile_overlap / self.tile_size,
        )
        try:
            for name, value in zip(_STATE, wanted, strict=True):
                setattr(self.module, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(self.module, name, value)
