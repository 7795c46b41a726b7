"""Pictures of nothing in particular: shapes, letters, textures, gradients. They teach the VAE that not
all is landscape.
"""

import string
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.painter.noise import COLUMNS, ROWS, SIZE, patch, smoothstep, unit

LETTERS = string.ascii_letters + string.digits + " .,!?&"


def paint_generic(rng: np.random.Generator) -> np.ndarray:
    """(256, 256, 3) uint8."""
    kind = KINDS[rng.integers(len(KINDS))]
    return (np.clip(kind(rng), 0, 1) * 255 + 0.5).astype(np.uint8)


def gradient(rng: np.random.Generator) -> np.ndarray:
    """Two colours across the picture at some angle."""
    angle = rng.uniform(0, 2 * np.pi)
    first, second = rng.random((2, 3), np.float32)
    ramp = unit(COLUMNS * np.cos(angle) + ROWS * np.sin(angle)).astype(np.float32)
    return first + (second - first) * ramp[..., None]


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def shapes(rng: np.random.Generator) -> np.ndarray:
    """Rectangles, discs, polygons, lines and words on a gradient."""
    image = Image.fromarray((gradient(rng) * 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(4, 24)):
        ink = tuple(int(v) for v in rng.integers(0, 256, 3))
        x, y, width, height = rng.uniform((-20, -20, 6, 6), (SIZE, SIZE, 120, 120))
        match rng.integers(5):
            case 0:
                pen.rectangle((x, y, x + width, y + height), fill=ink)
            case 1:
                pen.ellipse((x, y, x + width, y + height), fill=ink)
            case 2:
                pen.polygon([tuple(p) for p in rng.uniform(0, SIZE, (rng.integers(3, 6), 2))], fill=ink)
            case 3:
                points = [tuple(p) for p in rng.uniform(0, SIZE, (rng.integers(2, 5), 2))]
                pen.line(points, fill=ink, width=int(rng.integers(1, 9)))
            case _:
                word = "".join(rng.choice(list(LETTERS), rng.integers(2, 14)))
                pen.text((x, y), word, fill=ink, font=font(int(rng.integers(12, 60))))
    return np.asarray(image, np.float32) / 255


def shaded_shapes(rng: np.random.Generator) -> np.ndarray:
    """The same with uneven light and a rough surface, nearer to a photograph."""
    light = 0.78 + 0.2 * patch(rng, "soft")[..., None]
    return shapes(rng) * light + 0.05 * patch(rng, "grain")[..., None]


def texture(rng: np.random.Generator) -> np.ndarray:
    """Three noise patches mixed into colours."""
    names = rng.choice(["grain", "rough", "rough", "soft"], 3)
    layers = np.stack([patch(rng, name) for name in names], -1)
    return gradient(rng) * 0.5 + 0.25 + layers @ rng.normal(0, 0.15, (3, 3)).astype(np.float32)


def facets(rng: np.random.Generator) -> np.ndarray:
    """Coloured cells around random points."""
    points = rng.uniform(0, SIZE, (rng.integers(12, 90), 2)).astype(np.float32)
    rows, columns = ROWS[::2, ::2, None], COLUMNS[::2, ::2, None]
    nearest = np.argmin((rows - points[:, 0]) ** 2 + (columns - points[:, 1]) ** 2, -1)
    cells = rng.random((len(points), 3), np.float32)[nearest].repeat(2, 0).repeat(2, 1)
    return cells * (1 + 0.14 * patch(rng, "rough")[..., None])


def stripes(rng: np.random.Generator) -> np.ndarray:
    """Bent waves between two colours."""
    angle, frequency = rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.45)
    along = COLUMNS * np.cos(angle) + ROWS * np.sin(angle)
    wave = np.sin(frequency * along + patch(rng, "soft") * rng.uniform(0, 6)) * 0.5 + 0.5
    first, second = rng.random((2, 3), np.float32)
    return first + (second - first) * wave[..., None] + 0.04 * patch(rng, "grain")[..., None]


def round_things(rng: np.random.Generator) -> np.ndarray:
    """Lit balls: fruit, cheeks, cups."""
    pixels = gradient(rng) + 0.07 * patch(rng, "rough")[..., None]
    for _ in range(rng.integers(2, 9)):
        x, y, radius = rng.uniform(0, SIZE), rng.uniform(0, SIZE), rng.uniform(14, 80)
        across, down = (COLUMNS - x) / radius, (ROWS - y) / (radius * rng.uniform(0.6, 1.4))
        out = across**2 + down**2
        front = np.sqrt(np.clip(1 - out, 0, 1))
        light = np.clip(0.35 + 0.75 * (front * 0.7 - 0.4 * across - 0.4 * down), 0, 1.3)
        colour = rng.random(3, np.float32) * light[..., None] + (light**12 * 0.25)[..., None]
        colour = colour + 0.04 * patch(rng, "grain")[..., None]
        pixels = pixels + (colour - pixels) * smoothstep(1 - out, 0, 0.05)[..., None]
    return pixels


def feathers(rng: np.random.Generator) -> np.ndarray:
    """Noise pulled along its own contours: hair, fur, wood, cloth."""
    flow = patch(rng, "soft") * rng.uniform(4, 14)
    across = np.clip(COLUMNS * rng.uniform(0.3, 1) + flow, 0, SIZE - 1).astype(np.int32)
    down = np.clip(ROWS * rng.uniform(0.02, 0.2), 0, SIZE - 1).astype(np.int32)
    fibre = patch(rng, "grain")[down, across][..., None]
    return gradient(rng) * (0.8 + 0.2 * patch(rng, "soft")[..., None]) * (1 + 0.2 * fibre)


KINDS = [shapes, shaded_shapes, texture, facets, stripes, round_things, feathers]
