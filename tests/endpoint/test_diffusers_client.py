"""diffusers' own client functions, unchanged, against a real port: every documented option."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.remote_utils import remote_decode, remote_encode
from PIL import Image

from backend.images import to_image, to_tensor
from backend.models import BUILTIN
from backend.vae.whole import Whole
from backend.wire import image_to_pixels, pack_latents

SCALE = BUILTIN.latents.scaling_factor


@pytest.fixture
def expected(builtin: Whole, latents: torch.Tensor) -> torch.Tensor:
    return builtin.decode(latents)


@pytest.fixture
def url(base: str) -> str:
    return f"{base}/vae/builtin/decode"


def test_decode_to_a_png(url: str, latents: torch.Tensor, expected: torch.Tensor) -> None:
    image = remote_decode(url, latents, scaling_factor=SCALE, image_format="png")
    assert image.format == "png"
    assert np.array_equal(np.array(image), np.array(to_image(expected)))


def test_decode_to_a_jpg_by_default(url: str, latents: torch.Tensor, expected: torch.Tensor) -> None:
    image = remote_decode(url, latents, scaling_factor=SCALE)
    assert image.format == "jpeg" and image.size == (96, 64)
    difference = np.abs(np.array(image, dtype=int) - np.array(to_image(expected), dtype=int))
    assert 0 < difference.mean() < 8


def test_decode_to_a_float_tensor(url: str, latents: torch.Tensor, expected: torch.Tensor) -> None:
    tensor = remote_decode(url, latents, scaling_factor=SCALE, output_type="pt", return_type="pt")
    assert tensor.dtype == torch.float32
    torch.testing.assert_close(tensor, expected, rtol=0, atol=0)


def test_a_float_reply_has_the_dtype_of_the_latents(
    url: str, latents: torch.Tensor, expected: torch.Tensor
) -> None:
    for dtype, tolerance in ((torch.float16, 0.01), (torch.bfloat16, 0.2)):
        tensor = remote_decode(
            url, latents.to(dtype), scaling_factor=SCALE, output_type="pt", return_type="pt"
        )
        assert tensor.dtype == dtype
        torch.testing.assert_close(tensor.float(), expected, rtol=0, atol=tolerance)


def test_decode_with_a_processor(url: str, latents: torch.Tensor, expected: torch.Tensor) -> None:
    image = remote_decode(
        url, latents, processor=VaeImageProcessor(), scaling_factor=SCALE, output_type="pt", return_type="pil"
    )
    assert np.array_equal(np.array(image), np.array(to_image(expected)))


def test_partial_postprocess_is_uint8_nhwc(url: str, latents: torch.Tensor, expected: torch.Tensor) -> None:
    options = {"scaling_factor": SCALE, "output_type": "pt", "partial_postprocess": True}
    tensor = remote_decode(url, latents, return_type="pt", **options)
    assert tensor.dtype == torch.uint8 and tensor.shape == (1, 64, 96, 3)
    assert torch.equal(tensor, image_to_pixels(expected))
    image = remote_decode(url, latents, return_type="pil", **options)
    assert np.array_equal(np.array(image), tensor[0].numpy())


def test_pil_with_a_processor_is_a_tensor_in_0_to_1(
    url: str, latents: torch.Tensor, expected: torch.Tensor
) -> None:
    options = {"processor": VaeImageProcessor(), "scaling_factor": SCALE, "output_type": "pil"}
    tensor = remote_decode(url, latents, return_type="pt", **options)
    torch.testing.assert_close(tensor, expected / 2 + 0.5, rtol=0, atol=1e-6)
    (image,) = remote_decode(url, latents, return_type="pil", **options)
    assert np.array_equal(np.array(image), np.array(to_image(expected)))


def test_a_batch(url: str, builtin: Whole) -> None:
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    images = remote_decode(
        url, latents, scaling_factor=SCALE, output_type="pt", partial_postprocess=True, return_type="pil"
    )
    assert len(images) == 3
    expected = image_to_pixels(builtin.decode(latents))
    assert all(
        np.array_equal(np.array(image), pixels)
        for image, pixels in zip(images, expected.numpy(), strict=True)
    )
    with pytest.raises(RuntimeError, match="batch of 3"):
        remote_decode(url, latents, scaling_factor=SCALE)


def test_do_scaling_of_old_and_new_clients(url: str, latents: torch.Tensor, expected: torch.Tensor) -> None:
    # The deprecated True asks for the server's own factor; False and None are dropped and mean "as the VAE has them".
    def decode(tensor: torch.Tensor, **options: object) -> torch.Tensor:
        return remote_decode(url, tensor, output_type="pt", return_type="pt", **options)  # type: ignore[arg-type]

    with pytest.warns(FutureWarning, match="do_scaling"):
        assert torch.equal(decode(latents, do_scaling=True), expected)
    for off in (False, None):
        torch.testing.assert_close(decode(latents / SCALE, do_scaling=off), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(decode(latents / SCALE * 0.5, scaling_factor=0.5), expected, rtol=0, atol=1e-5)


def test_flux_packed_and_unpacked(base: str, flux_like: Whole) -> None:
    latents = torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(4))
    expected = flux_like.decode(latents)
    options = {"scaling_factor": 0.3611, "shift_factor": 0.1159, "output_type": "pt", "return_type": "pt"}
    unpacked = remote_decode(f"{base}/vae/flux/decode", latents, **options)
    # 70 x 100 is floored to multiples of 16, as on the public endpoint.
    packed = remote_decode(f"{base}/vae/flux/decode", pack_latents(latents), height=70, width=100, **options)
    assert torch.equal(unpacked, expected) and torch.equal(packed, expected)


def test_encode_a_picture(base: str, builtin: Whole, picture: Image.Image) -> None:
    url = f"{base}/vae/builtin/encode"
    expected = builtin.encode(to_tensor(picture))
    assert torch.equal(remote_encode(url, picture, scaling_factor=SCALE), expected)
    torch.testing.assert_close(remote_encode(url, picture), expected / SCALE, rtol=0, atol=1e-5)
    shifted = remote_encode(url, picture, scaling_factor=0.5, shift_factor=0.25)
    torch.testing.assert_close(shifted, (expected / SCALE - 0.25) * 0.5, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 0.05), ("bfloat16", 0.5)])
def test_encode_a_tensor(
    base: str, builtin: Whole, picture: Image.Image, dtype: str, tolerance: float
) -> None:
    # Contiguous, because diffusers 0.42 frees the copy it makes of any other tensor before it reads it.
    image = to_tensor(picture).contiguous()
    latents = remote_encode(
        f"{base}/vae/builtin/encode", image.to(getattr(torch, dtype)), scaling_factor=SCALE
    )
    torch.testing.assert_close(latents, builtin.encode(image), rtol=0, atol=tolerance)


def test_encode_uint8_either_way_round(base: str, builtin: Whole, picture: Image.Image) -> None:
    pixels = torch.from_numpy(np.array(picture)).unsqueeze(0)
    expected = builtin.encode(to_tensor(picture))
    for tensor in (pixels, pixels.permute(0, 3, 1, 2).contiguous()):
        assert torch.equal(
            remote_encode(f"{base}/vae/builtin/encode", tensor, scaling_factor=SCALE), expected
        )


def test_an_odd_picture_is_brought_to_the_grid(base: str, picture: Image.Image) -> None:
    odd = picture.resize((99, 67))
    assert remote_encode(f"{base}/vae/builtin/encode", odd).shape == (1, 4, 16, 24)


def test_pictures_of_every_mode(base: str, picture: Image.Image) -> None:
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"):
        made = picture.convert("L").convert("I;16") if mode == "I;16" else picture.convert(mode)
        assert remote_encode(f"{base}/vae/builtin/encode", made).shape == (1, 4, 16, 24), mode


def test_an_error_is_json(url: str) -> None:
    with pytest.raises(RuntimeError, match=r"takes \(batch, 4, height, width\)"):
        remote_decode(url, torch.randn(1, 16, 8, 8), scaling_factor=SCALE)
    with pytest.raises(RuntimeError, match="not videos"):
        remote_decode(
            url, torch.randn(1, 4, 8, 8), scaling_factor=SCALE, output_type="mp4", return_type="mp4"
        )
