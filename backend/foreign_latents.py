"""Latents as other programs keep them in safetensors: ComfyUI's `.latent` files, and plain tensors of diffusers'.

Neither says which VAE they are of, so the model is recognised or asked for.

ComfyUI's nodes SaveLatent and LoadLatent (nodes.py) have the VAE's own numbers, unscaled, in `latent_tensor`, beside an
empty tensor `latent_format_version_0`; in files without that one they are scaled by Stable Diffusion v1's 0.18215.
diffusers' pipelines give (`output_type="latent"`) and take latents as the denoiser has them, scaled; its VAEs give them
unscaled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from backend.comfyui import read_graph
from backend.errors import BadLatentsError, UnnamedLatentsError
from backend.message import Message
from backend.models import SD_V1, LatentSpec, ModelSpec

if TYPE_CHECKING:
    import torch

COMFYUI = "latent_tensor"
"""The name of the tensor in ComfyUI's files."""
_UNSCALED = "latent_format_version_0"
_MOST_SPREAD = 2.0
"""Scaling brings latents to a standard deviation of about 1 (Rombach et al. 2022, appendix G); without it those of the
VAEs of SD, SDXL and Flux have about 1 / scaling_factor, 3 to 8."""
_PACKED = 64
"""Features of a token of Flux: 16 channels of 2x2."""

_PUBLISHED: tuple[tuple[str, str], ...] = (
    ("v1-5-pruned", "sd-v1"),
    ("vae-ft-mse-840000", "sd-v1"),
    ("v2-1_768", "sd-v2"),
    ("sd_xl_turbo", "sdxl-turbo"),
    ("sd_xl_base", "sdxl"),
    ("sd_xl_refiner", "sdxl"),
    ("sdxl_vae", "sdxl"),
)
"""How the names of published weights begin, and the model here that has their latents."""


def to_comfyui(latents: torch.Tensor, spec: LatentSpec) -> dict[str, torch.Tensor]:
    """The tensors of a `.latent` file for scaled latents (B, C, h, w)."""
    import torch

    return {COMFYUI: spec.unscale(latents).contiguous(), _UNSCALED: torch.tensor([])}


def foreign_model(
    channels: int, metadata: Mapping[str, str], models: Mapping[str, ModelSpec], named: str | None
) -> ModelSpec:
    """The model that foreign latents are of: the one that a person named, else what the file lets recognise.

    Raises:
        UnnamedLatentsError: nothing says which it is. BadLatentsError: the named one has other channels.
    """
    if named:
        model = models.get(named)
        if model is None or model.latents.channels != channels:
            raise BadLatentsError(
                "These latents have {channels} channels, and those of {model} have {theirs}.",
                "Please choose the model that they were made with.",
                channels=channels,
                model=named if model is None else model.title_message,
                theirs="–" if model is None else model.latents.channels,
            )
        return model
    fitting = [model for model in models.values() if model.latents.channels == channels]
    if not fitting:
        raise BadLatentsError(
            "These latents have {channels} channels, which no model here has.", channels=channels
        )
    if len({model.latents for model in fitting}) == 1:
        return fitting[0]
    graph = read_graph(metadata.get("prompt"))
    for file in graph.files() if graph else ():
        name = file.replace("\\", "/").rpartition("/")[2].lower()
        for beginning, of in _PUBLISHED:
            if name.startswith(beginning) and of in models and models[of].latents.channels == channels:
                return models[of]
    raise UnnamedLatentsError(
        "This file does not say which model its latents are of.",
        "Please choose it under “Whose VAE?”.",
    )


def of_comfyui(
    tensor: torch.Tensor, names: Collection[str], model: ModelSpec
) -> tuple[torch.Tensor, Message]:
    """(scaled latents, what they were read as) of the tensor in a `.latent` file that has the tensors `names`."""
    numbers = tensor.float()
    if _UNSCALED not in names:
        numbers = numbers / SD_V1.latents.scaling_factor
    return model.latents.scale(numbers), Message(
        "Read as ComfyUI’s latents of {model}.", model=model.title_message
    )


def of_diffusers(tensor: torch.Tensor, model: ModelSpec) -> tuple[torch.Tensor, Message]:
    """(scaled latents, what they were read as) of a plain tensor (1, C, h, w)."""
    if float(tensor.float().std()) > _MOST_SPREAD:
        said = Message(
            "Read as latents of {model}, unscaled, as its VAE gives them.", model=model.title_message
        )
        return model.latents.scale(tensor.float()), said
    return tensor, Message(
        "Read as latents of {model}, scaled, as diffusers’ pipelines give them.", model=model.title_message
    )


def is_packed(shape: tuple[int, ...]) -> bool:
    """Whether a tensor of that shape holds Flux's tokens (1, h/2 * w/2, 64)."""
    return len(shape) == 3 and shape[0] == 1 and shape[2] == _PACKED


def unpacked_shape(shape: tuple[int, ...], metadata: Mapping[str, str]) -> tuple[int, ...]:
    """(1, 16, h, w) of Flux's tokens of `shape`; their picture's `width` and `height` must be in the metadata.

    Raises:
        BadLatentsError: they are not, and a guess would turn the picture to mud.
    """
    try:
        rows, columns = (int(metadata[side]) // 16 for side in ("height", "width"))
    except (KeyError, ValueError):
        rows = columns = 0
    if rows * columns != shape[1] or rows < 1:
        raise BadLatentsError(
            "These are Flux’s packed latents, and the file does not say how high and wide they are.",
            "Please save them unpacked, by FluxPipeline._unpack_latents(latents, height, width, 8).",
        )
    return 1, _PACKED // 4, 2 * rows, 2 * columns
