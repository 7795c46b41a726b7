"""Random textures and curves, the raw material of every scene.

The expensive part (Fourier noise) is made once per process from a fixed seed; a scene cuts its patches out of
that pool, so painting is cheap and still a pure function of the scene's own generator.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

SIZE = 256
ROWS, COLUMNS = (axis.astype(np.float32) for axis in np.mgrid[0:SIZE, 0:SIZE])
ACROSS = np.arange(SIZE, dtype=np.float32)

POOL_SEED = 20_241
SHEETS = 10
SHEET_SIZE = 512


@dataclass(frozen=True)
class NoiseFamily:
    """Spectrum of one kind of texture: amplitude ~ frequency^-(slope/2 + 1/2), stretched sideways."""

    slope: float
    stretch: float = 1.0


FAMILIES = {
    "grain": NoiseFamily(1.4),
    "rough": NoiseFamily(2.1),
    "soft": NoiseFamily(3.0),
    "cloud": NoiseFamily(2.6, stretch=2.4),
    "wave": NoiseFamily(1.7, stretch=7.0),
}


@dataclass(frozen=True)
class Strokes:
    """A sheet of brush strokes. `row`, `column`: where each pixel's stroke took its colour; `edge` in
    [0, 1].
    """

    row: np.ndarray
    column: np.ndarray
    lift: np.ndarray
    edge: np.ndarray


def fourier_noise(rng: np.random.Generator, family: NoiseFamily, size: int = SHEET_SIZE) -> np.ndarray:
    """Tileable noise, (size, size) float32, mean 0, standard deviation 1."""
    down = np.fft.fftfreq(size)[:, None]
    across = np.fft.rfftfreq(size)[None, :] * family.stretch
    frequency = np.hypot(down, across)
    frequency[0, 0] = 1.0
    amplitude = frequency ** (-family.slope / 2 - 0.5)
    amplitude[frequency < 1.5 / size] = 0.0
    shape = (size, size // 2 + 1)
    spectrum = amplitude * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
    sheet = np.fft.irfft2(spectrum, (size, size))
    return ((sheet - sheet.mean()) / sheet.std()).astype(np.float32)


@cache
def sheets(name: str) -> list[np.ndarray]:
    rng = np.random.default_rng([POOL_SEED, list(FAMILIES).index(name)])
    return [fourier_noise(rng, FAMILIES[name]) for _ in range(SHEETS)]


@cache
def strokes(width: int, variant: int) -> Strokes:
    """Short curved brush strokes of `width` pixels, laid over each other until the sheet is covered."""
    rng = np.random.default_rng([POOL_SEED, 100 + width, variant])
    direction = fourier_noise(rng, NoiseFamily(3.4))[:SIZE, :SIZE] * 0.5 + rng.uniform(-0.5, 0.5)
    count = int(SIZE * SIZE / width**2 * 3)
    y, x = rng.uniform(-4, SIZE + 4, (2, count))
    row, column = (np.clip(v, 0, SIZE - 1).astype(np.int32) for v in (y, x))
    half = width * rng.uniform(0.9, 1.8, count)
    angle = direction[row, column]
    dx, dy = np.cos(angle) * half, np.sin(angle) * half
    sheet = Image.new("I", (SIZE, SIZE), 0)
    pen = ImageDraw.Draw(sheet)
    for i in range(count):
        pen.line((x[i] - dx[i], y[i] - dy[i], x[i] + dx[i], y[i] + dy[i]), fill=i, width=width)
    index = np.asarray(sheet).astype(np.int64)
    edge = np.zeros((SIZE, SIZE), np.float32)
    edge[1:] += index[1:] != index[:-1]
    edge[:, 1:] += index[:, 1:] != index[:, :-1]
    return Strokes(row[index], column[index], rng.standard_normal(count).astype(np.float32)[index], edge / 2)


def patch(rng: np.random.Generator, name: str) -> np.ndarray:
    """A random (256, 256) window of the named family, mirrored half of the time."""
    sheet = sheets(name)[rng.integers(SHEETS)]
    top, left = rng.integers(0, SHEET_SIZE - SIZE + 1, 2)
    window = sheet[top : top + SIZE, left : left + SIZE]
    return window[:, ::-1] if rng.random() < 0.5 else window


def curve(
    rng: np.random.Generator, waves: float, octaves: int, persistence: float = 0.5, angular: bool = False
) -> np.ndarray:
    """A fractal line, (256,) float32 around 0; `angular` joins its knots straight, else smoothly."""
    position = ACROSS / SIZE
    line = np.zeros(SIZE)
    amplitude = 1.0
    for _ in range(octaves):
        knots = rng.uniform(-1, 1, int(np.ceil(waves)) + 3)
        at = position * waves + rng.random()
        if not angular:
            fraction = at % 1.0
            at = np.floor(at) + fraction * fraction * (3 - 2 * fraction)
        line += amplitude * np.interp(at, np.arange(len(knots)), knots)
        amplitude *= persistence
        waves *= 2.03
    return line.astype(np.float32)


def unit(values: np.ndarray) -> np.ndarray:
    """Stretched to [0, 1]."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low + 1e-6)


def smoothstep(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, with a smooth ramp between."""
    ramp = np.clip((values - low) / (high - low), 0.0, 1.0)
    return ramp * ramp * (3 - 2 * ramp)
