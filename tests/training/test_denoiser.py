"""Starting a denoiser with a finished one's weights, which may be narrower or know another noise schedule."""

import copy

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn

from backend.models import BUILTIN_FOLDER
from training.denoiser import new_scheduler, new_unet, retime, start_from
from training.settings import DenoiserSettings

NARROW = (8, 8, 16, 48)
TIMES = torch.tensor([100, 900])


def small_unet(channels: tuple[int, ...], seed: int) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    unet = new_unet(DenoiserSettings(channels=channels, text_width=32)).eval()
    for value in unet.parameters():
        nn.init.normal_(value, 0, 0.08)
    return unet


@torch.no_grad()
def predicted(unet: UNet2DConditionModel, times: torch.Tensor = TIMES, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    latents, said = (
        torch.randn(len(times), *shape, generator=generator) for shape in ((4, 32, 32), (6, width))
    )
    return unet(latents, times, encoder_hidden_states=said).sample


def without_norms(unet: UNet2DConditionModel) -> None:
    for module in list(unet.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())


@pytest.mark.parametrize("channels", [NARROW, (8, 16, 32, 48), (8, 24, 16, 48), (8, 8, 24, 48)])
def test_a_wider_denoiser_starts_where_the_finished_one_ended(channels: tuple[int, ...]) -> None:
    narrow, wide = small_unet(NARROW, seed=1), small_unet(channels, seed=2)
    start_from(wide, narrow)
    for unet in (narrow, wide):
        without_norms(unet)
    expected = predicted(narrow)
    assert expected.std() > 0.01
    torch.testing.assert_close(predicted(wide), expected, atol=float(1e-5 * expected.abs().max()), rtol=1e-4)


def test_copies_of_a_channel_are_read_unequally() -> None:
    wide = small_unet((8, 16, 32, 48), seed=2)
    start_from(wide, small_unet(NARROW, seed=1))
    weight = wide.down_blocks[1].resnets[0].conv2.weight
    assert not torch.allclose(weight[:, 0::2], weight[:, 1::2], atol=0.01)


@pytest.mark.parametrize("channels", [(16, 16, 16, 48), (8, 8, 16, 64), (8, 16, 16, 48)])
def test_what_can_not_be_widened_is_refused(channels: tuple[int, ...]) -> None:
    """The first and the last level keep their width, and a level that grew stays narrower than the next."""
    with pytest.raises(RuntimeError, match="can't be made"):
        start_from(small_unet(channels, seed=2), small_unet(NARROW, seed=1))


@torch.no_grad()
def test_a_denoiser_takes_over_another_noise_schedule() -> None:
    """Where the noise is as strong as it was at another time, it predicts what it predicted there."""
    unet = UNet2DConditionModel.from_pretrained(BUILTIN_FOLDER / "unet").float().eval()
    before = new_scheduler().alphas_cumprod
    after = DDIMScheduler(beta_schedule="scaled_linear", rescale_betas_zero_snr=True).alphas_cumprod
    times = torch.tensor([150, 400, 650, 850])
    same_noise = (before[None] - after[times, None]).abs().argmin(1)
    expected = predicted(unet, same_noise, width=192)
    mistaken = (predicted(unet, times, width=192) - expected).norm()
    with torch.enable_grad():
        retime(unet, before, after)
    assert (predicted(unet, times, width=192) - expected).norm() < 0.1 * mistaken


def test_the_same_noise_schedule_changes_nothing() -> None:
    unet, kept = small_unet(NARROW, seed=1), new_scheduler().alphas_cumprod
    before = copy.deepcopy(unet.time_embedding.state_dict())
    retime(unet, kept, kept.clone())
    assert all(torch.equal(value, before[name]) for name, value in unet.time_embedding.state_dict().items())
