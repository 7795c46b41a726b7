"""The interface all VAE modes share, and what the local ones have in common.

`image` is float (B, 3, H, W) in [-1, 1]. `latents` is (B, C, H/f, W/f), already scaled as the denoiser
expects them: `(z - shift_factor) * scaling_factor`. Encode gives the *mean* of the VAE's distribution in every
mode, so that modes compare exactly and a remote agrees with a local one (diffusers' img2img samples instead).
"""

from __future__ import annotations

import copy
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol, Self

import torch

from backend.device.precision import dtype_name, overflow_hint
from backend.errors import NonFiniteError, OutOfMemoryError, UserError
from backend.message import mode_name
from backend.models import LatentSpec


class VAE(Protocol):
    """Anything that turns pictures into latents and back."""

    mode: ClassVar[str]
    spec: LatentSpec

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] to scaled latents (B, C, H/f, W/f)."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents (B, C, h, w) to a float32 image (B, 3, h*f, w*f), clamped to [-1, 1]."""
        ...


def check_image(image: torch.Tensor, spec: LatentSpec) -> None:
    """Raise UserError unless `image` is (B, 3, H, W) and at least one latent large."""
    if image.ndim != 4 or 0 in image.shape or image.shape[1] != 3 or min(image.shape[2:]) < spec.downscale:
        raise UserError(
            "A picture tensor must have shape (batch, 3, height, width) with sides of at least {low}, "
            "this one has {shape}.",
            low=spec.downscale,
            shape=str(tuple(image.shape)),
        )


def check_latents(latents: torch.Tensor, spec: LatentSpec) -> None:
    """Raise UserError unless `latents` is (B, C, h, w) with this model's channels."""
    if latents.ndim != 4 or latents.shape[1] != spec.channels or 0 in latents.shape:
        raise UserError(
            "These latents have shape {shape}, but this model's VAE takes (batch, {channels}, height, width).",
            "They probably belong to another model.",
            shape=str(tuple(latents.shape)),
            channels=spec.channels,
        )


class LocalVAE(ABC):
    """A mode that computes with a VAE module in this process.

    `module` is a diffusers AutoencoderKL (or one of its shape) in eval mode, on its device; it is shared between
    modes, so a mode leaves it as it found it. Subclasses work on raw latents; scaling is done here, once.
    """

    mode: ClassVar[str]

    def __init__(self, module: Any, spec: LatentSpec) -> None:
        self.module = module
        self.spec = spec

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    def with_module(self, module: Any) -> Self:
        """The same mode, with the same sizes, around another module of the same kind."""
        other = copy.copy(self)
        other.module = module
        return other

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] to scaled latents (B, C, H/f, W/f) in the module's dtype.

        Raises:
            UserError: wrong shape. OutOfMemoryError: did not fit. NonFiniteError: NaN or infinite values.
        """
        check_image(image, self.spec)
        with torch.inference_mode(), map_out_of_memory(self.mode, "encode"):
            latents = self.spec.scale(self._encode(image.to(self.device, self.dtype)))
            return require_finite(latents, self.mode, "encode")

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents (B, C, h, w) to a float32 image (B, 3, h*f, w*f), clamped to [-1, 1].

        Raises:
            UserError: wrong shape. OutOfMemoryError: did not fit. NonFiniteError: NaN or infinite values.
        """
        check_latents(latents, self.spec)
        with torch.inference_mode(), map_out_of_memory(self.mode, "decode"):
            image = self._decode(self.spec.unscale(latents.to(self.device, self.dtype)))
            return require_finite(image, self.mode, "decode").float().clamp_(-1.0, 1.0)

    @abstractmethod
    def _encode(self, image: torch.Tensor) -> torch.Tensor:
        """Image to the mean of the raw latents."""

    @abstractmethod
    def _decode(self, z: torch.Tensor) -> torch.Tensor:
        """Raw latents to image."""


@contextmanager
def map_out_of_memory(mode: str, direction: str) -> Iterator[None]:
    """Turn the allocators' out-of-memory errors into ours, for CUDA, MPS and the CPU alike.

    Raises:
        OutOfMemoryError: an allocator had no room.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        clear_traceback_frames(error)
        raise OutOfMemoryError(
            "There was not enough memory to encode this picture in the mode “{mode}”."
            if direction == "encode"
            else "There was not enough memory to decode this picture in the mode “{mode}”.",
            "Choose a smaller size, or a mode that needs less memory.",
            mode=mode_name(mode),
        ) from error


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether `error` is some allocator saying no; the CPU's and MPS's have no class of their own in torch."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error) for sign in ("can't allocate memory", "out of memory", "not enough memory")
    )


def clear_traceback_frames(error: BaseException | None) -> None:
    """Clear the local variables of the frames that `error` came through. An error may be kept long after it was caught,
    and with it every activation that did not fit."""
    if error is not None:
        traceback.clear_frames(error.__traceback__)


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are: NaN and infinities pass into a sum. That is one kernel, `isfinite` of all values five."""
    # No sum of float32 overflows in float64.
    wide = torch.float32 if tensor.device.type == "mps" else torch.float64
    return bool(tensor.sum(dtype=wide).isfinite())


def require_finite(tensor: torch.Tensor, mode: str, direction: str) -> torch.Tensor:
    """`tensor` itself; a single NaN would show as a black or torn picture, so it is refused.

    Raises:
        NonFiniteError: any value is NaN or infinite.
    """
    if not is_finite(tensor):
        raise NonFiniteError(
            "The VAE's encode in the mode “{mode}” overflowed in {dtype}."
            if direction == "encode"
            else "The VAE's decode in the mode “{mode}” overflowed in {dtype}.",
            overflow_hint(tensor.dtype),
            mode=mode_name(mode),
            dtype=dtype_name(tensor.dtype),
        )
    return tensor
