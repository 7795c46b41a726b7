"""Photographs the VAE may learn from, each with its licence, and the three that it must never see.

Nine come inside the scikit-image package, whose docstrings state the licences quoted here; ten in Debian's package
lomiri-wallpapers-16.04, whose copyright file names author and licence of each. Pictures marked only "no known
copyright restrictions" are left out, and so is everything under a share-alike licence or the GPL.
"""

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

HELD_OUT = ("astronaut", "coffee", "china")
BACKGROUNDS = Path("/usr/share/backgrounds")
LARGEST_SIDE = 1024


@dataclass(frozen=True)
class Photo:
    """`name`: the function in skimage.data, or the file of the Debian package."""

    name: str
    licence: str
    author: str

    @property
    def file(self) -> Path | None:
        """Where the Debian package puts it; None for one of scikit-image."""
        return BACKGROUNDS / self.name if self.name.endswith(".jpg") else None


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
    Photo("aitzgorri_by_Aitzol_Berasategi.jpg", "CC BY 4.0", "Aitzol Berasategi"),
    Photo("friends_by_Aitzol_Berasategi.jpg", "CC BY 4.0", "Aitzol Berasategi"),
    Photo("life_by_Aitzol_Berasategi.jpg", "CC BY 4.0", "Aitzol Berasategi"),
    Photo("picosdeeuropa_by_Aitzol_Berasategi.jpg", "CC BY 4.0", "Aitzol Berasategi"),
    Photo("sunset_by_Aitzol_Berasategi.jpg", "CC BY 4.0", "Aitzol Berasategi"),
    Photo("Picture_0B_by_freespace.jpg", "CC BY 4.0", "Trevor Freespace"),
    Photo("Picture_1A_by_freespace.jpg", "CC BY 4.0", "Trevor Freespace"),
    Photo("umang_by_Abhishek_Mudgal.jpg", "CC BY 4.0", "Abhishek Mudgal"),
    Photo("Wine_by_Jakkub_Mede.jpg", "CC BY 4.0", "Jakub Mede"),
    Photo("seeding_by_Clements_Engelhardt.jpg", "CC0", "Clemens Engelhardt"),
)


def training_photos() -> list[np.ndarray]:
    """Those that are on this machine, each (height, width, 3) uint8, with a shorter side of 256 to 1024 pixels."""
    from skimage import data

    found = []
    for photo in TRAINING_PHOTOS:
        if photo.file is None:
            found.append(scaled(as_rgb(getattr(data, photo.name)()), min_side=256))
        elif photo.file.exists():
            found.append(scaled(np.asarray(Image.open(photo.file).convert("RGB")), max_side=LARGEST_SIDE))
    return found


def missing_photos() -> list[str]:
    """Names of the training photographs that this machine lacks."""
    return [photo.name for photo in TRAINING_PHOTOS if photo.file is not None and not photo.file.exists()]


def random_view(rng: np.random.Generator, photo: np.ndarray, size: int) -> np.ndarray:
    """A part of a photograph, mirrored by chance, as (size, size, 3) uint8."""
    largest = min(photo.shape[:2])
    side = int(rng.uniform(min(size, largest), largest))
    top, left = (int(rng.integers(0, whole - side + 1)) for whole in photo.shape[:2])
    part = Image.fromarray(photo[top : top + side, left : left + side])
    view = np.asarray(
        part.resize((size, size), Image.Resampling.BOX if side > size else Image.Resampling.BICUBIC)
    )
    return view[:, ::-1] if rng.random() < 0.5 else view


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


def scaled(pixels: np.ndarray, min_side: int = 1, max_side: int = sys.maxsize) -> np.ndarray:
    """Enlarged or reduced, where its shorter side is under `min_side` or over `max_side` pixels."""
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    wanted = min(max(shorter, min_side), max_side)
    if wanted == shorter:
        return pixels
    scale = wanted / shorter
    size = (round(width * scale), round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def square(pixels: np.ndarray, size: int) -> np.ndarray:
    """The middle of a picture, scaled."""
    image = Image.fromarray(pixels)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))
