"""How close two pictures are. Metrics come from scikit-image; this module only agrees on their conventions."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from backend.errors import BadImageError


def psnr(image: Image.Image, reference: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB over 8-bit RGB; infinite for identical pictures.

    Raises:
        BadImageError: the sizes differ.
    """
    from skimage.metrics import peak_signal_noise_ratio

    a, b = _pair(image, reference)
    return math.inf if np.array_equal(a, b) else float(peak_signal_noise_ratio(b, a, data_range=255))


def ssim(image: Image.Image, reference: Image.Image) -> float:
    """Mean structural similarity (Wang et al. 2004) over 8-bit RGB, up to 1 for identical pictures.

    Raises:
        BadImageError: the sizes differ, or a side is under 7 pixels (one window).
    """
    from skimage.metrics import structural_similarity

    a, b = _pair(image, reference)
    if min(a.shape[:2]) < 7:
        raise BadImageError("SSIM needs pictures of at least 7 by 7 pixels.")
    return float(structural_similarity(b, a, channel_axis=2, data_range=255))


def _pair(image: Image.Image, reference: Image.Image) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    if image.size != reference.size:
        raise BadImageError(
            f"Pictures of different sizes cannot be compared: {image.size} and {reference.size}."
        )
    return np.asarray(image.convert("RGB")), np.asarray(reference.convert("RGB"))
