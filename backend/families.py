"""What the img2img pipelines of the three families differ in, all in one place.

A pipeline is given latents and gives latents back, so it needs no VAE; but StableDiffusionXLImg2ImgPipeline and
FluxImg2ImgPipeline of diffusers 0.42 read their VAE's config on the way. They get a `VaeConfigStub`: the config, and
nothing that could compute or take memory. diffusers' classes stay as they are.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from backend.models import LatentSpec, ModelSpec

if TYPE_CHECKING:
    import torch


class VaeConfigStub:
    """In a pipeline's `vae` place: answers what may be asked about latents, holds no weights."""

    def __init__(self, spec: ModelSpec) -> None:
        self.config = SimpleNamespace(
            block_out_channels=spec.vae_block_out_channels,
            latent_channels=spec.latents.channels,
            scaling_factor=spec.latents.scaling_factor,
            shift_factor=spec.latents.shift_factor,
            latents_mean=None,
            latents_std=None,
            force_upcast=False,
        )


def components_left_out(spec: ModelSpec) -> dict[str, Any]:
    """Arguments for `from_pretrained` that leave out what never works on pixels here."""
    if spec.family == "sd":
        # The pipeline never sees pixels here, so diffusers' safety checker could not look at them either.
        return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if spec.family == "sdxl":
        # Where the watermark package is installed, the pipeline would stamp it into the latents.
        return {"add_watermarker": False}
    return {}


def guidance_arguments(spec: ModelSpec, guidance_scale: float, negative_prompt: str) -> dict[str, Any]:
    """Guidance and negative prompt as the family's pipeline takes them.

    Flux was distilled to work without classifier-free guidance. A negative prompt brings it back ("true" guidance,
    two passes a step), with `guidance_scale` as its scale.
    """
    negative = negative_prompt or None
    arguments: dict[str, Any] = {"guidance_scale": guidance_scale, "negative_prompt": negative}
    if spec.family == "flux":
        arguments["true_cfg_scale"] = guidance_scale if negative else 1.0
        arguments["max_sequence_length"] = spec.prompt_tokens
    return arguments


def size_arguments(latents: torch.Tensor, spec: ModelSpec) -> dict[str, int]:
    """Width and height in pixels for pipelines that do not take them from the latents (1, C, h, w)."""
    if spec.family != "flux":
        return {}
    height, width = latents.shape[-2:]
    return {"height": height * spec.latents.downscale, "width": width * spec.latents.downscale}


def unpack(latents: torch.Tensor, shape: torch.Size, spec: LatentSpec) -> torch.Tensor:
    """The pipeline's latents as (B, C, h, w) = `shape`; packed ones come as tokens (B, h/2 * w/2, 4C)."""
    return unpack_tokens(latents, shape[2] // 2, shape[3] // 2) if spec.packed else latents


def unpack_tokens(tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Flux's tokens (B, rows * columns, 4C) as latents (B, C, 2 * rows, 2 * columns).

    A token is a patch of 2x2 latents, channel first: as `_pack_latents` of diffusers' Flux pipelines lays them out.
    """
    batch, _, features = tokens.shape
    patches = tokens.reshape(batch, rows, columns, features // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, features // 4, 2 * rows, 2 * columns)


def steps_to_run(
    spec: ModelSpec, num_inference_steps: int, strength: float, scheduler: str = "default"
) -> int:
    """How many of the steps the pipeline runs, by the same arithmetic: Stable Diffusion rounds down, Flux up.

    PNDM takes one more than it was asked for: its second timestep twice.
    """
    if spec.family == "flux":
        kept = min(num_inference_steps * strength, num_inference_steps)
        return num_inference_steps - int(max(num_inference_steps - kept, 0))
    steps = min(int(num_inference_steps * strength), num_inference_steps)
    extra = spec.extra_steps if scheduler == "default" else int(scheduler == "PNDM")
    return steps + extra if steps else 0
