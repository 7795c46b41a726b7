"""The measures behind the evaluation's table, each a function of pictures alone."""

from itertools import combinations

import numpy as np
from PIL import Image

BLOCK = 16
SKYLINE_SIDE = 64
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


def skyline(picture: np.ndarray) -> np.ndarray:
    """The line where the sky ends: 64 rows in [0, 64), one a column, of a (H, W, 3) uint8 picture.

    Per pixel, how much the colours above and below differ, dimmed by the edges already met on the way
    down; then the strongest connected path across (Viterbi).
    """
    small = Image.fromarray(picture).resize((SKYLINE_SIDE, SKYLINE_SIDE), Image.Resampling.BOX)
    colours = np.asarray(small, np.float64) / 255
    reach = 3
    sums = np.cumsum(np.pad(colours, ((reach + 1, reach), (0, 0), (0, 0)), mode="edge"), 0)
    rows = np.arange(SKYLINE_SIDE)
    above = (sums[rows + reach] - sums[rows]) / reach
    below = (sums[rows + 2 * reach] - sums[rows + reach]) / reach
    edge = 1 - np.exp(-(np.linalg.norm(below - above, axis=-1) ** 2) / 0.02)
    met = np.cumsum(edge, 0) - edge
    strength = edge * np.exp(-0.25 * met)
    return strongest_path(strength)


def strongest_path(strength: np.ndarray, reach: int = 4, stiffness: float = 0.04) -> np.ndarray:
    """The row in each column that maximises the sum of (rows, columns) strengths, less `stiffness` a
    row climbed.
    """
    rows, columns = strength.shape
    shifts = np.arange(-reach, reach + 1)
    best = strength[:, 0].copy()
    came_from = np.zeros((columns, rows), int)
    for column in range(1, columns):
        padded = np.pad(best, reach, constant_values=-np.inf)
        options = np.stack([padded[reach + s : reach + s + rows] - stiffness * abs(s) for s in shifts])
        choice = options.argmax(0)
        came_from[column] = np.arange(rows) + shifts[choice]
        best = options.max(0) + strength[:, column]
    path = np.empty(columns, int)
    path[-1] = best.argmax()
    for column in range(columns - 1, 0, -1):
        path[column - 1] = came_from[column, path[column]]
    return path


def rough_skyline(picture: np.ndarray) -> np.ndarray:
    """The same for a picture with brushwork and blotches, where every stroke is an edge.

    Compares the mean of up to 24 rows above with the 6 below, relative to the column's strongest step.
    """
    small = Image.fromarray(picture).resize((SKYLINE_SIDE, SKYLINE_SIDE), Image.Resampling.BOX)
    sums = np.cumsum(np.pad(np.asarray(small, np.float64) / 255, ((1, 0), (0, 0), (0, 0))), 0)
    rows = np.arange(SKYLINE_SIDE)
    top, bottom = np.maximum(rows - 24, 0), np.minimum(rows + 6, SKYLINE_SIDE)
    above = (sums[rows] - sums[top]) / np.maximum(rows - top, 1)[:, None, None]
    below = (sums[bottom] - sums[rows]) / (bottom - rows)[:, None, None]
    step = np.linalg.norm(below - above, axis=-1)
    step[:4] = 0
    step = step / (step.max(0, keepdims=True) + 0.05)
    met = np.cumsum(np.maximum(step - 0.5, 0), 0) - np.maximum(step - 0.5, 0)
    return strongest_path(step * np.exp(-0.2 * met), stiffness=0.02)


def skyline_correlation(made: np.ndarray, wanted: np.ndarray) -> float | None:
    """Pearson correlation of a painted picture's skyline with a clean sketch's; None where that is level."""
    ours, theirs = rough_skyline(made).astype(float), skyline(wanted).astype(float)
    if theirs.std() < 1.5:
        return None
    return float(np.corrcoef(ours, theirs)[0, 1]) if ours.std() > 0 else 0.0


def closest_pair(pictures: np.ndarray) -> float:
    """The smallest RMS difference in [0, 1] between any two of (B, H, W, 3) uint8, seen at 32 x 32."""
    small = [
        np.asarray(Image.fromarray(p).resize((32, 32), Image.Resampling.BOX), np.float64) / 255
        for p in pictures
    ]
    return float(min(np.sqrt(((a - b) ** 2).mean()) for a, b in combinations(small, 2)))
