"""How close two pictures are. The metrics are scikit-image's; this module fixes their conventions."""

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
            "Pictures of different sizes cannot be compared: {size} and {other_size}.",
            size=str(image.size),
            other_size=str(reference.size),
        )
    return np.asarray(image.convert("RGB")), np.asarray(reference.convert("RGB"))


def colour_difference(image: Image.Image, reference: Image.Image) -> float:
    """Mean CIEDE2000 over all pixels: about 1 is just noticeable side by side, 0 is identical.

    Raises:
        BadImageError: the sizes differ.
    """
    from skimage.color import deltaE_ciede2000, rgb2lab

    a, b = _pair(image, reference)
    return float(deltaE_ciede2000(rgb2lab(b), rgb2lab(a)).mean())


def difference_picture(image: Image.Image, reference: Image.Image) -> Image.Image:
    """Where two pictures differ: black where they agree, through red and yellow to white at 32 or more levels apart.

    Raises:
        BadImageError: the sizes differ.
    """
    a, b = _pair(image, reference)
    gap = np.abs(a.astype(np.int16) - b.astype(np.int16)).max(axis=2).astype(np.float32) / 32
    heat = np.stack([np.clip(gap * 3, 0, 1), np.clip(gap * 3 - 1, 0, 1), np.clip(gap * 3 - 2, 0, 1)], axis=2)
    return Image.fromarray((heat * 255).astype(np.uint8))


def largest_gap(image: Image.Image, reference: Image.Image) -> int:
    """How far the two pictures are apart where they differ most, in levels of 255; 0 if they are the same.

    Raises:
        BadImageError: the sizes differ.
    """
    a, b = _pair(image, reference)
    return int(np.abs(a.astype(np.int16) - b.astype(np.int16)).max())


def tile_borders(length: int, tile_size: int, tile_overlap: int) -> list[int]:
    """Where, along a side of `length` pixels, each tile after the first begins to be blended in."""
    if tile_size >= length:
        return []
    return list(range(tile_size - tile_overlap, length, tile_size - tile_overlap))


def seam_score(
    image: Image.Image, reference: Image.Image, tile_size: int, tile_overlap: int, band: int = 8
) -> float | None:
    """How much more the error changes across tile borders than elsewhere: 1 is no seam, 2 clearly one.

    The error's brightness is averaged in bands of `band` pixels before a border and after the blended zone, over
    short stretches along the border, and the steps between the two bands are compared with those at all other places
    (a tile's own tone shows as a step there, even where blending hides the line itself). None where there is nothing
    to score: no border inside the picture, or no error at all.

    Raises:
        BadImageError: the sizes differ.
    """
    a, b = _pair(image, reference)
    error = (a.astype(np.float64) - b.astype(np.float64)).mean(axis=2)
    steps: list[npt.NDArray[np.float64]] = []
    others: list[npt.NDArray[np.float64]] = []
    for lines in (error, error.T):
        step = _steps(lines, tile_overlap, band)
        at_border = np.zeros(len(step), dtype=bool)
        at_border[
            [p - band for p in tile_borders(lines.shape[1], tile_size, tile_overlap) if p - band < len(step)]
        ] = 1
        steps.append(step[at_border])
        others.append(step[~at_border])
    found, elsewhere = np.concatenate(steps), np.concatenate(others)
    if not len(found) or not len(elsewhere) or elsewhere.mean() == 0:
        return None
    return float(found.mean() / elsewhere.mean())


def _steps(error: npt.NDArray[np.float64], gap: int, band: int) -> npt.NDArray[np.float64]:
    """For each position p >= band along the rows: the mean absolute difference between the bands that end at p and
    that begin at p + gap, each averaged over stretches of `band` rows.
    """
    height, width = error.shape
    rows = height // band
    if rows == 0 or width < gap + 2 * band:
        return np.zeros(0)
    stretches = error[: rows * band].reshape(rows, band, width).mean(axis=1)
    sums = np.concatenate([np.zeros((rows, 1)), np.cumsum(stretches, axis=1)], axis=1)
    means = (sums[:, band:] - sums[:, :-band]) / band
    before, after = means[:, : means.shape[1] - gap - band], means[:, gap + band :]
    return np.asarray(np.abs(after - before).mean(axis=0))
