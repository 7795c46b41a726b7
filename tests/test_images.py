from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backend import images
from backend.errors import BadImageError


def test_exif_rotation_is_applied() -> None:
    image = Image.new("RGB", (20, 10), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    assert images.to_rgb(Image.open(file)).size == (10, 20)


def test_transparency_becomes_white() -> None:
    assert images.to_rgb(Image.new("RGBA", (4, 4), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    palette.info["transparency"] = 0
    assert images.to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_greys_are_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16))
    assert images.to_rgb(grey).getpixel((0, 0)) in [(127,) * 3, (128,) * 3]


def grey_of(values: object, dtype: type) -> list[int]:
    """The 8-bit greys of a picture of one row, after a way through a TIFF file."""
    file = io.BytesIO()
    Image.fromarray(np.array([values], dtype=dtype)).save(file, "TIFF")
    picture = Image.open(file)
    rgb = np.asarray(images.to_rgb(picture))
    assert (rgb == rgb[..., :1]).all()
    return [int(value) for value in rgb[0, :, 0]]


@pytest.mark.parametrize(
    ("values", "greys"),
    [
        ([0, 0.5, 1], [0, 128, 255]),
        ([0, 0.5, 1.02], [0, 128, 255]),
        ([0.0, 0.0, 0.1], [0, 0, 26]),
        ([-1, 0, 1], [0, 0, 255]),
        ([0, 128, 255], [0, 128, 255]),
        ([0, 32768, 65535], [0, 128, 255]),
        ([0, 5e8, 1e9], [0, 128, 255]),
        ([np.nan, 0.5, np.inf], [0, 128, 255]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
        ([-np.inf, 100, 200], [0, 100, 200]),
        ([0, 0, 3.4e38], [0, 0, 255]),
    ],
)
def test_floats_from_0_to_1_to_255_and_beyond(values: list[float], greys: list[int]) -> None:
    assert grey_of(values, np.float32) == greys


@pytest.mark.parametrize("values", [[0, 100, 200], [0, 1, 255], [0, 20_000, 65_535]])
def test_sixteen_bit_greys_stay_as_dark_as_they_are(values: list[int]) -> None:
    assert grey_of(values, np.uint16) == [round(value / 257) for value in values]


@pytest.mark.parametrize(
    ("values", "greys"),
    [
        ([0, 1, 200], [0, 1, 200]),
        ([0, 257, 65_535], [0, 1, 255]),
        ([-5, 2**30, 2**31 - 1], [0, 128, 255]),
        ([0, 0, 0], [0, 0, 0]),
    ],
)
def test_greys_of_32_bit(values: list[int], greys: list[int]) -> None:
    assert grey_of(values, np.int32) == greys


def test_a_gif_gives_its_first_frame() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "blue").save(
        file, "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")]
    )
    assert images.to_rgb(Image.open(file)).getpixel((0, 0)) == (0, 0, 255)


def test_damaged_and_huge_pictures_are_refused_kindly() -> None:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "PNG")
    cut = Image.open(io.BytesIO(file.getvalue()[:500]))
    with pytest.raises(BadImageError, match="damaged"):
        images.to_rgb(cut)
    with pytest.raises(BadImageError, match="pixels"):
        images.to_rgb(Image.new("1", (10_000, 10_000)))


@pytest.mark.parametrize("fit", ["crop", "fit", "stretch"])
def test_resizing_gives_the_size_asked_for(fit: images.Fit) -> None:
    assert images.resize(Image.new("RGB", (30, 20)), 64, 64, fit).size == (64, 64)


def test_fitting_shows_borders_and_cropping_does_not() -> None:
    wide = Image.new("RGB", (40, 20), "black")
    assert images.resize(wide, 64, 64, "fit").getpixel((32, 2)) == (255, 255, 255)
    assert images.resize(wide, 64, 64, "crop").getpixel((32, 2)) == (0, 0, 0)


@settings(deadline=None)  # the first one imports torch
@given(st.integers(1, 12), st.integers(1, 12), st.randoms(use_true_random=False))
def test_tensor_and_back_is_the_same_picture(width: int, height: int, random: object) -> None:
    data = bytes(random.randrange(256) for _ in range(width * height * 3))  # type: ignore[attr-defined]
    image = Image.frombytes("RGB", (width, height), data)
    tensor = images.to_tensor(image)
    assert tuple(tensor.shape) == (1, 3, height, width)
    assert float(tensor.min()) >= -1 and float(tensor.max()) <= 1
    assert images.to_image(tensor).tobytes() == image.tobytes()


def test_eight_bit_made_on_the_device_is_the_picture() -> None:
    """Rounded alike for every value near a boundary between two of the 256."""
    edges = torch.arange(-0.75, 257, 0.25) / 127.5 - 1
    image = torch.stack([edges, edges.nextafter(torch.tensor(9.0)), edges.nextafter(torch.tensor(-9.0))])[
        None, :, None
    ].clamp(-1, 1)
    pixels = images.to_pixels(image)
    assert pixels.dtype == torch.uint8 and pixels.shape == (1, 1, edges.numel(), 3) and pixels.is_contiguous()
    assert images.to_image(pixels).tobytes() == images.to_image(image).tobytes()
