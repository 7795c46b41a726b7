"""Mode "tiled": the tiles that diffusers' tiling computes, blended as it blends them, each put away once it is done.

diffusers keeps all tiles until the last one is there, and blends a seam row by row: some thousand kernels for a picture
of 1024 x 1024. Here a seam is one `lerp` along a ramp, and of a finished tile only the edges that its neighbours below
and to the right will blend with are kept. On a processor a tile is computed in strips, which takes less time and memory
there; on a GPU by diffusers' modules, which start fewer kernels. The result is diffusers' own, to rounding.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from backend.errors import BadSettingError, UnsupportedVAEError
from backend.models import LatentSpec
from backend.vae.base import LocalVAE
from backend.vae.streamed import Streamed
from backend.vae.whole import Whole

log = logging.getLogger(__name__)


class Tiled(Whole):
    mode = "tiled"

    def __init__(
        self,
        module: Any,
        spec: LatentSpec,
        *,
        tile_size: int = 512,
        tile_overlap: int = 128,
        stop: threading.Event | None = None,
    ) -> None:
        """`tile_size` and `tile_overlap` in pixels, multiples of the VAE's downscale; overlap at most half a tile.
        Setting `stop` ends a run on a processor with `Cancelled`; elsewhere the modules' hooks can.

        Raises:
            BadSettingError: sizes out of range. UnsupportedVAEError: not a VAE.
        """
        super().__init__(module, spec)
        if not all(callable(getattr(module, name, None)) for name in ("encode", "decode")):
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
        self.stop = stop

    def _encode(self, image: Tensor) -> Tensor:
        factor = self.spec.downscale
        size = [side // factor for side in image.shape[2:]]
        if max(image.shape[2:]) <= self.tile_size:
            return super()._encode(image)
        return self._in_tiles(self._for_tiles()._encode, image, (self.spec.channels, *size), (factor, 1))

    def _decode(self, z: Tensor) -> Tensor:
        factor = self.spec.downscale
        size = [side * factor for side in z.shape[2:]]
        if max(size) <= self.tile_size:
            return super()._decode(z)
        return self._in_tiles(self._for_tiles()._decode, z, (3, *size), (1, factor))

    def _for_tiles(self) -> LocalVAE:
        if self.device.type == "cpu":
            try:
                return Streamed(self.module, self.spec, stop=self.stop)
            except UnsupportedVAEError as error:
                log.debug("Tiles are computed as a whole: %s", error)
        return Whole(self.module, self.spec)

    def _in_tiles(
        self,
        compute: Callable[[Tensor], Tensor],
        given: Tensor,
        shape: Sequence[int],
        pixels: tuple[int, int],
    ) -> Tensor:
        """`compute` of `given` (B, C, H, W) tile by tile: (B, *shape). `pixels`: how many sides of a given and of a
        resulting element the downscale is long, (downscale, 1) or (1, downscale)."""
        per_given, per_result = pixels
        unit = self.spec.downscale
        tile, overlap = self.tile_size // unit * per_given, self.tile_overlap // unit * per_given
        stride = tile - overlap
        # What is left of a picture may be too little for one latent.
        tops, lefts = (range(0, side - per_given + 1, stride) for side in given.shape[2:])
        blend = _Blend(self.tile_overlap // unit * per_result, given)
        result = given.new_empty((len(given), *shape))
        kept = stride // per_given * per_result
        above: dict[int, Tensor] = {}
        for row, top in enumerate(tops):
            left: Tensor | None = None
            for column, start in enumerate(lefts):
                done = compute(given[:, :, top : top + tile, start : start + tile])
                if row:
                    blend(done, above.pop(column), 2)
                if left is not None:
                    blend(done, left, 3)
                y, x = row * kept, column * kept
                result[:, :, y : y + kept, x : x + kept] = done[:, :, :kept, :kept]
                left = blend.edge(done, 3) if column + 1 < len(lefts) else None
                if row + 1 < len(tops):
                    above[column] = blend.edge(done, 2)
                del done  # before the next is computed
        return result


class _Blend:
    """From one tile to the next over `extent` rows or columns, on the device and in the dtype of `like`."""

    def __init__(self, extent: int, like: Tensor) -> None:
        self.extent = extent
        self._like = like
        self._ramps: dict[int, Tensor] = {}

    def edge(self, tile: Tensor, dim: int) -> Tensor:
        """A copy of what the next tile along `dim` will be blended with, so that the tile itself can go."""
        count = min(self.extent, tile.shape[dim])
        return tile.narrow(dim, tile.shape[dim] - count, count).clone()

    def __call__(self, tile: Tensor, before: Tensor, dim: int) -> None:
        """Blend the first rows (`dim` 2) or columns (3) of `tile`, in place, with the last ones of the tile before.

        Over n of them, the y-th is tile * y / n + before * (1 - y / n); n is less where `tile` ends sooner.
        """
        count = min(before.shape[dim], tile.shape[dim])
        if count == 0:
            return
        share = self._share_of_before(count).view((-1, 1) if dim == 2 else (1, -1))
        tile.narrow(dim, 0, count).lerp_(before.narrow(dim, before.shape[dim] - count, count), share)

    def _share_of_before(self, count: int) -> Tensor:
        if count not in self._ramps:
            steps = torch.arange(count, 0, -1, device=self._like.device)
            self._ramps[count] = steps.div(count).to(self._like.dtype)
        return self._ramps[count]
