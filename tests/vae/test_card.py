"""Every mode on a card that is only pretended: SD v1, SDXL and Flux in their real sizes, in both half precisions."""

from __future__ import annotations

import pytest
import torch

from backend.models import FLUX, SD_V1, SDXL, ModelSpec
from backend.vae.modes import ModeOptions, local_vae
from tests.pretended_card import CARD, DtypeMismatchError, PretendedCard

SIDE = 256
TILES = ModeOptions(tile_size=128, tile_overlap=32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("spec", [SD_V1, SDXL, FLUX], ids=lambda spec: spec.name)
@pytest.mark.parametrize("mode", ["whole", "tiled", "streamed", "tiny"])
def test_no_device_and_no_dtype_is_mixed(mode: str, spec: ModelSpec, dtype: torch.dtype) -> None:
    with PretendedCard() as card:
        module = card.tiny_vae(spec, dtype) if mode == "tiny" else card.vae(spec, dtype)
        vae = local_vae(mode, module, spec.latents, TILES)
        latents = vae.encode(torch.rand(1, 3, SIDE, SIDE))
        assert latents.shape == (1, spec.latents.channels, SIDE // 8, SIDE // 8)
        assert (latents.device, latents.dtype) == (CARD, dtype)
        image = vae.decode(latents.cpu())
        assert image.shape == (1, 3, SIDE, SIDE)
        assert (image.device, image.dtype) == (CARD, torch.float32)
        assert card.syncs["copy to the card"] == 2 and card.syncs["__bool__"] == 2, (
            "one transfer in and one look for overflow each way"
        )


def test_a_card_s_refusals_are_seen() -> None:
    """So that the tests above can fail."""
    with PretendedCard() as card, torch.inference_mode():
        half = torch.empty(2, 8, 4, 4, dtype=torch.float16, device=CARD)
        layer = card.place(torch.nn.Conv2d(8, 8, 3), torch.float32)
        for refused in (
            lambda: layer(half),
            lambda: torch.nn.functional.group_norm(half, 2, torch.ones(8, device=CARD)),
            lambda: torch.nn.functional.linear(half, torch.ones(8, 4, device=CARD)),
        ):
            with pytest.raises((DtypeMismatchError, RuntimeError), match=r"float|Half|dtype"):
                refused()
        with pytest.raises(RuntimeError, match="device"):
            half + torch.zeros(2, 8, 4, 4)


def test_kernels_and_waits_are_counted() -> None:
    with PretendedCard() as card, torch.inference_mode():
        x = torch.empty(4, 4, device=CARD)
        x.view(16)[2:].reshape(7, 2).contiguous()
        assert card.launches == 0, "views take no kernel"
        (x.t().contiguous() + 1).half().zero_()
        assert card.kernels == {"contiguous": 1, "add": 1, "to": 1, "zero_": 1}
        assert not card.syncs
        torch.tensor([1.0, 2.0], device=CARD)
        bool(x.isfinite().all())
        x.cpu()
        assert card.syncs == {"torch.tensor": 1, "__bool__": 1, "copy from the card": 1}
