"""The last layer: how the finished scene is rendered, as a photograph, in oil, in pencil."""

import numpy as np
from PIL import Image, ImageFilter

from training.painter.canvas import Canvas
from training.painter.noise import COLUMNS, ROWS, SIZE, patch, smoothstep, strokes, unit

STROKE_SHEETS = 6
FINEST_BRUSH = 1


def finish(canvas: Canvas, style: str) -> np.ndarray:
    """(256, 256, 3) uint8."""
    with canvas.by_look():
        pixels = STYLES[style](canvas, np.clip(canvas.pixels, 0, 1))
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)


def photo(_: Canvas, pixels: np.ndarray) -> np.ndarray:
    """Muted colours and a vignette."""
    vignette = 1 - 0.24 * 2 * ((COLUMNS / SIZE - 0.5) ** 2 + (ROWS / SIZE - 0.5) ** 2)
    return saturate(pixels, 0.88) * vignette[..., None]


def digital(canvas: Canvas, pixels: np.ndarray) -> np.ndarray:
    """Vivid colours, strong contrast, clean surfaces."""
    return contrast(saturate(pixels, canvas.between(1.2, 1.4)), 0.45)


def oil(canvas: Canvas, pixels: np.ndarray) -> np.ndarray:
    return brush(canvas, saturate(pixels, 1.1), width=int(canvas.rng.integers(3, 5)), strength=0.88)


def fantasy(canvas: Canvas, pixels: np.ndarray) -> np.ndarray:
    """Saturated and glowing, sometimes with soft brushwork."""
    pixels = contrast(saturate(pixels, canvas.between(1.25, 1.5)), 0.4)
    glow = resample(blur(resample(pixels, 64), 4), SIZE)
    pixels = 1 - (1 - pixels) * (1 - glow * 0.24)
    return brush(canvas, pixels, width=3, strength=0.5) if canvas.chance(0.35) else pixels


def watercolor(canvas: Canvas, pixels: np.ndarray) -> np.ndarray:
    """Pale washes on white paper: colours pooled by a median filter, darker where one wash ends."""
    wash = filtered(pixels, ImageFilter.MedianFilter(7))
    pooled = canvas.noise("soft")[..., None]
    wash = 1 - (1 - wash) * np.clip(0.74 + 0.05 * pooled, 0.4, 1)
    wash = wash - np.clip(edges(wash), 0, 0.2)[..., None] * 0.6
    if canvas.chance(0.08):  # sometimes the paper shows at the rim, softly
        rim = np.minimum(np.minimum(COLUMNS, SIZE - 1 - COLUMNS), np.minimum(ROWS, SIZE - 1 - ROWS))
        paper = 1 - smoothstep(rim + pooled[..., 0] * 3, 2, 9)
        wash = wash + (0.98 - wash) * (paper * 0.7)[..., None]
    return wash


def pencil(canvas: Canvas, pixels: np.ndarray) -> np.ndarray:
    """Grey tones with drawn outlines and a light, broad hatching."""
    tone = blur(filtered(pixels, ImageFilter.MedianFilter(5)), 1.2).mean(-1)
    outline = np.clip(edges(tone[..., None]) * 5 - 0.1, 0, 0.6)
    # Graphite has one range whatever the scene: stretch it, but leave a night darker than a day.
    tone = np.clip(0.75 * unit(tone) + 0.25 * min(1.0, float(tone.mean()) * 1.6), 0, 1)
    slant = COLUMNS + ROWS * canvas.pick((-1, 1))
    hatching = np.sin(slant * canvas.between(0.5, 0.7) + canvas.noise("soft") * 2)
    drawn = 0.97 - 0.72 * (1 - tone) + 0.03 * hatching * (1 - tone) - outline
    return drawn[..., None] * np.array((1.0, 0.99, 0.965), np.float32)


def flat(canvas: Canvas, pixels: np.ndarray) -> np.ndarray:
    """Plain colour fields; most with the wobble of a hand, some with outlines."""
    if canvas.chance(0.6):
        pixels = wobbled(pixels, canvas.rng, canvas.between(0.3, 1.2))
    if canvas.chance(0.2):
        ink = (edges(pixels) > 0.05).astype(np.float32)
        if canvas.lamps:  # nobody draws a line around every star
            ink *= canvas.land > 0.5
        ink = filtered(np.repeat(ink[..., None], 3, -1), ImageFilter.MaxFilter(3))
        pixels = pixels * (1 - 0.8 * blur(ink, 0.7))
    return pixels


def wobbled(pixels: np.ndarray, rng: np.random.Generator, reach: float) -> np.ndarray:
    """Every contour strays by about `reach` pixels, as a hand's does."""
    row = np.clip(ROWS + patch(rng, "soft") * reach, 0, SIZE - 1).astype(np.int32)
    column = np.clip(COLUMNS + patch(rng, "soft") * reach, 0, SIZE - 1).astype(np.int32)
    return pixels[row, column]


STYLES = {
    "photo": photo,
    "digital": digital,
    "oil": oil,
    "watercolor": watercolor,
    "pencil": pencil,
    "flat": flat,
    "fantasy": fantasy,
}


def saturate(pixels: np.ndarray, amount: float) -> np.ndarray:
    grey = pixels.mean(-1, keepdims=True)
    return np.clip(grey + (pixels - grey) * amount, 0, 1)


def contrast(pixels: np.ndarray, amount: float) -> np.ndarray:
    """An S-curve, mixed in by `amount`."""
    return pixels + (pixels * pixels * (3 - 2 * pixels) - pixels) * amount


def brush(canvas: Canvas, pixels: np.ndarray, width: int, strength: float) -> np.ndarray:
    """Laid on with a brush of this width, and with the finest where things are small."""
    variant, turned = int(canvas.rng.integers(STROKE_SHEETS)), canvas.chance(0.5)
    broad, fine = (stroked(pixels, size, variant, turned) for size in (width, FINEST_BRUSH))
    detail = np.clip(blur(np.repeat(edges(pixels)[..., None], 3, -1), 2.5) * 14 - 0.5, 0, 1)
    painted = broad + (fine - broad) * detail
    return pixels + (painted - pixels) * (strength * (1 - 0.35 * detail))


def stroked(pixels: np.ndarray, width: int, variant: int, turned: bool) -> np.ndarray:
    """Every pixel takes the colour where its brush stroke began; strokes have a faint raised edge."""
    sheet = strokes(width, variant)
    turn = slice(None, None, -1) if turned else slice(None)
    column = sheet.column[:, turn] if turn.step is None else SIZE - 1 - sheet.column[:, turn]
    painted = pixels[sheet.row[:, turn], column] * (1 + 0.03 * sheet.lift[:, turn, None])
    return painted - sheet.edge[:, turn, None] * 0.02


def edges(pixels: np.ndarray) -> np.ndarray:
    """Absolute differences to the pixel above and to the left, (256, 256)."""
    grey = pixels.mean(-1)
    return np.abs(np.diff(grey, axis=0, prepend=grey[:1])) + np.abs(
        np.diff(grey, axis=1, prepend=grey[:, :1])
    )


def to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))


def filtered(pixels: np.ndarray, kernel: ImageFilter.Filter) -> np.ndarray:
    return np.asarray(to_image(pixels).filter(kernel), np.float32) / 255


def blur(pixels: np.ndarray, radius: float) -> np.ndarray:
    return filtered(pixels, ImageFilter.GaussianBlur(radius))


def resample(pixels: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(to_image(pixels).resize((size, size), Image.Resampling.BILINEAR), np.float32) / 255
