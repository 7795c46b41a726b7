"""The measures behind the evaluation's table, each a function of pictures alone."""

from itertools import combinations

import numpy as np
from PIL import Image, ImageFilter

BLOCK = 16
NEAR_IDENTICAL = 0.04


def psnr(made: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Decibels of each picture of two (B, H, W, 3) uint8 stacks."""
    error = ((made.astype(np.float64) - wanted) ** 2).mean((1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-9))


def colour_drift(made: np.ndarray, wanted: np.ndarray) -> float:
    """Mean CIEDE2000 between block averages (16 pixels) of two (H, W, 3) uint8 pictures.

    Averaging leaves out lost detail, which PSNR tells of, and keeps what the eye sees as a change of colour.
    """
    from skimage.color import deltaE_ciede2000, rgb2lab

    def blocks(picture: np.ndarray) -> np.ndarray:
        height, width = (side // BLOCK for side in picture.shape[:2])
        cut = picture[: height * BLOCK, : width * BLOCK].reshape(height, BLOCK, width, BLOCK, 3)
        return rgb2lab(cut.mean((1, 3)) / 255)

    return float(deltaE_ciede2000(blocks(wanted), blocks(made)).mean())


def blotches(picture: np.ndarray, skyline: np.ndarray) -> float | None:
    """How strong the middle frequencies (about 4 to 24 pixels) are in the sky of (256, 256, 3) uint8, as a standard
    deviation of grey values; `skyline` (64,) in rows of 64. None where there is too little sky to tell.
    """
    grey = Image.fromarray(picture).convert("L")
    fine, broad = (np.asarray(grey.filter(ImageFilter.GaussianBlur(r)), np.float32) for r in (2, 10))
    rows = np.arange(256)[:, None]
    inside = (rows < np.repeat(skyline * 4, 4)[None] - 14) & (rows > 8)
    return float((fine - broad)[inside].std()) if inside.sum() > 2000 else None


def kernel_distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The squared maximum mean discrepancy of two sets of features (N, D) under the kernel (x y / D + 1)^3, unbiased
    (Bińkowski et al. 2018, "Demystifying MMD GANs"). It can be a little below 0 for two sets from one distribution.
    """

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def among(a: np.ndarray) -> float:
        products = kernel(a, a)
        return float((products.sum() - np.trace(products)) / (len(a) * (len(a) - 1)))

    return among(ours) + among(theirs) - 2 * float(kernel(ours, theirs).mean())


def closest_pair(pictures: np.ndarray) -> float:
    """The smallest RMS difference in [0, 1] between any two of (B, H, W, 3) uint8, seen at 32 x 32."""
    small = [
        np.asarray(Image.fromarray(p).resize((32, 32), Image.Resampling.BOX), np.float64) / 255
        for p in pictures
    ]
    return float(min(np.sqrt(((a - b) ** 2).mean()) for a, b in combinations(small, 2)))
