"""Photographs the VAE may learn from, each with its licence, and the three that it must never see.

All come inside the scikit-image package, whose docstrings state the licences quoted here. Pictures
marked only "no known copyright restrictions" are left out, and so is everything under an attribution or
share-alike licence.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

HELD_OUT = ("astronaut", "coffee", "china")


@dataclass(frozen=True)
class Photo:
    """`name`: the function in skimage.data."""

    name: str
    licence: str
    author: str


TRAINING_PHOTOS = (
    Photo("cat", "CC0", "Stefan van der Walt"),
    Photo("camera", "CC0", "Lav Varshney"),
    Photo("rocket", "public domain", "SpaceX"),
    Photo("hubble_deep_field", "public domain", "NASA"),
    Photo("retina", "CC0", "Mikael Häggström"),
    Photo("brick", "CC0", "CC0Textures, Bricks25"),
    Photo("gravel", "CC0", "CC0Textures, Gravel04"),
    Photo("grass", "CC0", "linolafett"),
    Photo("clock", "public domain", "Stefan van der Walt"),
)


def training_photos() -> list[np.ndarray]:
    """Each (height, width, 3) uint8, at least 256 pixels on the shorter side."""
    from skimage import data

    return [enlarge(as_rgb(getattr(data, photo.name)()), 256) for photo in TRAINING_PHOTOS]


def test_photos(size: int = 256) -> dict[str, np.ndarray]:
    """The held-out photographs that can be found on this machine, square, (size, size, 3) uint8.

    china is scikit-learn's and is left out where that package is not installed.
    """
    from skimage import data

    photos = {"astronaut": data.astronaut(), "coffee": data.coffee()}
    package = find_spec("sklearn")
    if package is not None and package.submodule_search_locations:
        folder = Path(package.submodule_search_locations[0])
        photos["china"] = np.asarray(Image.open(folder / "datasets" / "images" / "china.jpg").convert("RGB"))
    return {name: square(photo, size) for name, photo in photos.items()}


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, -1) if pixels.ndim == 2 else pixels[..., :3]


def enlarge(pixels: np.ndarray, least: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = least / min(height, width)
    if scale <= 1:
        return pixels
    size = (round(width * scale), round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def square(pixels: np.ndarray, size: int) -> np.ndarray:
    """The middle of a picture, scaled."""
    image = Image.fromarray(pixels)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))
