"""What denoising asks of the device between two steps."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from backend.job import SCHEDULERS
from backend.run.denoise import _scheduler

LCM = diffusers.LCMScheduler()
FLOW = diffusers.FlowMatchEulerDiscreteScheduler()
STABLE = diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1, beta_schedule="scaled_linear")
CASES = [(STABLE, name) for name in ("default", *SCHEDULERS)] + [(LCM, "default"), (FLOW, "default")]


def run(scheduler: Any, device: str, latents: torch.Tensor) -> torch.Tensor:
    """Ten steps with predictions that follow from the sample, as a pipeline makes them from the third on."""
    scheduler.set_timesteps(10, device=device)
    order = getattr(scheduler, "order", 1)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(2 * order)
    generator = torch.Generator().manual_seed(1)
    wants_generator = not isinstance(scheduler, diffusers.PNDMScheduler | diffusers.LMSDiscreteScheduler)
    extra = {"generator": generator} if wants_generator and scheduler.config.get("eta") is None else {}
    if isinstance(scheduler, diffusers.UniPCMultistepScheduler):
        extra = {}
    for timestep in scheduler.timesteps[2 * order :]:
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(latents * 0.1, timestep, latents, **extra, return_dict=False)[0]
    return latents


@pytest.mark.parametrize(("original", "name"), CASES)
def test_a_scheduler_reads_nothing_from_the_device_between_steps(original: Any, name: str) -> None:
    """On the meta device there is nothing to read: what needs a value raises."""
    result = run(_scheduler(original, name), "meta", torch.empty(1, 4, 8, 8, device="meta"))
    assert result.device.type == "meta" and result.shape == (1, 4, 8, 8)


@pytest.mark.parametrize(("original", "name"), CASES)
def test_timesteps_on_the_host_give_the_same_latents(original: Any, name: str) -> None:
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    kind = type(original) if name == "default" else getattr(diffusers, SCHEDULERS[name])
    assert torch.equal(
        run(_scheduler(original, name), "cpu", start), run(kind.from_config(original.config), "cpu", start)
    )
