"""Uploaded pictures to plain RGB, and pictures to and from tensors.

The arithmetic is NumPy's, because any thread may do it: torch's would start OpenMP workers for each thread, and those
slow down the workers of the thread that computes.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageOps

from backend.errors import BadImageError

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 64_000_000

_OVERSHOOT = 2.0
"""Floats up to here are meant as 0 to 1: resampling and tone curves leave some a little above."""

BROKEN: tuple[type[Exception], ...] = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    ArithmeticError,
    LookupError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow's readers raise for broken or malicious files: it has no one class for that."""
Fit = Literal["crop", "fit", "stretch"]


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL picture as RGB: rotated as its EXIF says, first frame, transparency on white, wide greys as `_grey` says.

    Raises:
        BadImageError: no pixels, too many, or data that cannot be decoded.
    """
    if min(image.size) < 1 or image.width * image.height > MAX_PIXELS:
        raise BadImageError(
            "This picture has {width} × {height} pixels.",
            "At most {millions} million work.",
            width=image.width,
            height=image.height,
            millions=MAX_PIXELS // 10**6,
        )
    try:
        image.load()
        image = _upright(image)
    except BROKEN as error:
        raise BadImageError(
            "This picture is damaged and cannot be read.", "Please try another one."
        ) from error
    if image.mode.startswith("I") or image.mode == "F":
        image = _grey(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """A grey picture of 16 or 32 bit or of floats with 8 bit; Pillow would clip the values at 255.

    16 bit know their white, 65535, however dark they are. The others don't say theirs, so it is the least of 1 (floats
    only), 255 and 65535 that holds the brightest value, which is white itself beyond that. Floats that overshoot 1 a
    little still are 0 to 1. Below 0 is black; what is not a number is black, too, and infinity white.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=np.inf, neginf=0.0)
    finite = values[np.isfinite(values)]
    brightest = float(finite.max(initial=0.0))
    if image.mode.startswith("I;16"):
        white = 65535.0
    elif image.mode == "F" and brightest <= _OVERSHOOT:
        white = 1.0
    else:
        white = next((top for top in (255.0, 65535.0) if brightest <= top), brightest)
    return Image.fromarray((np.clip(values / white, 0, 1) * 255).round().astype(np.uint8))


def _upright(image: Image.Image) -> Image.Image:
    """Rotated as its EXIF says; as it is where the EXIF is damaged, since the pixels may be sound."""
    try:
        return ImageOps.exif_transpose(image)
    except BROKEN:
        return image


def resize(image: Image.Image, width: int, height: int, fit: Fit = "crop") -> Image.Image:
    """An RGB picture at exactly (width, height): cropped to the shape, fitted with borders, or stretched."""
    if image.size == (width, height):
        return image
    if fit == "crop":
        return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    if fit == "fit":
        return ImageOps.pad(image, (width, height), Image.Resampling.LANCZOS, color="white")
    return image.resize((width, height), Image.Resampling.LANCZOS)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """An RGB picture as float32 (1, 3, H, W) in [-1, 1]."""
    import torch

    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(127.5) - np.float32(1)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))


def to_pixels(image: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) in [-1, 1] to uint8 (B, H, W, 3) on the same device, rounded as `to_image` does; for the thread that
    computes."""
    import torch

    pixels = (image.float() / 2 + 0.5).clamp_(0, 1).mul_(255).round_()
    return pixels.permute(0, 2, 3, 1).to(torch.uint8, memory_format=torch.contiguous_format)


def to_image(tensor: torch.Tensor) -> Image.Image:
    """(1, 3, H, W) in [-1, 1] as an RGB picture, rounded as diffusers' VaeImageProcessor does; or `to_pixels` of it."""
    if not tensor.is_floating_point():
        return Image.fromarray(tensor[0].numpy())
    pixels = np.clip(tensor[0].float().cpu().numpy() / 2 + 0.5, 0, 1).transpose(1, 2, 0)
    return Image.fromarray((pixels * 255).round().astype(np.uint8))
