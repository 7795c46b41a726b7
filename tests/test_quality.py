from __future__ import annotations

import math

import pytest
from PIL import Image

from backend.errors import BadImageError
from backend.quality import psnr, ssim


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
