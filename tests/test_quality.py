from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from backend.errors import BadImageError
from backend.quality import (
    colour_difference,
    difference_picture,
    largest_gap,
    psnr,
    seam_score,
    ssim,
    tile_borders,
)


def test_identical_pictures(picture: Image.Image) -> None:
    assert psnr(picture, picture) == math.inf and ssim(picture, picture) == pytest.approx(1.0)


def test_a_known_error_has_its_known_psnr() -> None:
    dark, darker = Image.new("RGB", (16, 16), (100,) * 3), Image.new("RGB", (16, 16), (90,) * 3)
    assert psnr(darker, dark) == pytest.approx(10 * math.log10(255**2 / 100))


def test_noise_lowers_both(picture: Image.Image) -> None:
    noisy = Image.blend(picture, Image.effect_noise(picture.size, 90).convert("RGB"), 0.4)
    assert psnr(noisy, picture) < 25 and ssim(noisy, picture) < 0.9


def test_sizes_must_agree(picture: Image.Image) -> None:
    with pytest.raises(BadImageError, match="different sizes"):
        psnr(picture, picture.crop((0, 0, 8, 8)))
    tiny = picture.crop((0, 0, 5, 5))
    with pytest.raises(BadImageError, match="7 by 7"):
        ssim(tiny, tiny)


def test_colour_difference_is_nothing_for_the_same_and_grows_with_the_shift(picture: Image.Image) -> None:
    warmer = Image.merge(
        "RGB",
        [
            band.point(lambda v, k=k: min(255, v + k))
            for band, k in zip(picture.split(), (12, 0, 0), strict=True)
        ],
    )
    assert colour_difference(picture, picture) == 0
    assert 0.5 < colour_difference(warmer, picture) < 10


def test_the_difference_picture_is_black_but_where_they_differ(picture: Image.Image) -> None:
    changed = picture.copy()
    changed.paste((255, 255, 255), (0, 0, 8, 8))
    heat = difference_picture(changed, picture)
    assert heat.getpixel((50, 40)) == (0, 0, 0) and heat.getpixel((2, 2)) != (0, 0, 0)
    assert largest_gap(picture, picture) == 0
    black = Image.new("RGB", picture.size)
    one = black.copy()
    one.putpixel((3, 3), (0, 7, 2))
    assert largest_gap(one, black) == largest_gap(black, one) == 7


def tones(shift: float) -> Image.Image:
    """Noise on grey, with every tile of 64 (overlap 16) by turns lighter and darker by `shift`."""
    pixels = np.random.default_rng(1).normal(128, 3, (192, 192, 3))
    index = np.maximum(0, (np.arange(192) - 16) // 48)
    pixels += np.where((index[:, None] + index[None]) % 2, shift, -shift)[:, :, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def test_a_planted_seam_scores_and_noise_does_not() -> None:
    flat = Image.new("RGB", (192, 192), (128,) * 3)
    none, some, strong = (seam_score(tones(shift), flat, 64, 16) for shift in (0, 2, 10))
    assert none is not None and some is not None and strong is not None
    assert 0.8 < none < 1.2 < some < strong


def test_nothing_to_score_is_none_not_zero(picture: Image.Image) -> None:
    assert seam_score(picture, picture, 32, 8) is None, "no error"
    assert seam_score(tones(9).crop((0, 0, 60, 60)), Image.new("RGB", (60, 60)), 64, 16) is None, "no border"
    assert tile_borders(64, 64, 16) == [] and tile_borders(192, 64, 16) == [48, 96, 144]
