"""Latents as files and as pictures.

A latents file is safetensors with one tensor, `latents`, and metadata that says what the numbers mean and which VAE
they are of, so that it can be decoded later, elsewhere, by the right VAE and by no other. The same metadata stand in
the `.latent` files that are written for ComfyUI. Files of other programs are read as `foreign_latents` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from backend import foreign_latents
from backend.errors import BadLatentsError
from backend.families import unpack_tokens
from backend.images import MAX_PIXELS
from backend.message import Message
from backend.models import MODELS, LatentSpec, ModelSpec
from backend.models.fingerprint import vae_fingerprint

if TYPE_CHECKING:
    import torch

_OURS = "latent-relay"
_FORMAT = f"{_OURS}/1"
SUFFIX, COMFYUI_SUFFIX = ".safetensors", ".latent"
"""ComfyUI's LoadLatent lists only files that end so."""
_FINGERPRINT = "vae"
SHARD_FORMAT = f"{_OURS}-shard/1"
"""Of a file with the latents of many pictures, which `backend.encode` writes."""
MAX_FILE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class LatentsFile:
    """Scaled latents (1, C, h, w) on the CPU with their meaning."""

    latents: torch.Tensor
    model: str
    spec: LatentSpec
    note: Message | None = None
    """What a file of another program was read as."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) in pixels of the picture they decode to."""
        return _image_size(tuple(self.latents.shape), self.spec)


@dataclass(frozen=True)
class LatentsHeader:
    """What a latents file says of itself, without its numbers."""

    model: ModelSpec
    shape: tuple[int, ...]
    """(1, C, h, w), unpacked."""
    names: tuple[str, ...]
    """Of the tensors in the file."""
    tensor: str
    """The name of the one that holds the latents."""
    metadata: Mapping[str, str]

    @property
    def is_ours(self) -> bool:
        return self.metadata.get("format", "").startswith(_OURS)

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) in pixels of the picture they decode to."""
        return _image_size(self.shape, self.model.latents)


def save_latents(path: Path, latents: torch.Tensor, model: ModelSpec) -> None:
    """Write scaled latents (1, C, h, w) with model, scaling, size and the VAE's fingerprint in the file's metadata.

    A path that ends in `.latent` becomes a file for ComfyUI, which has them unscaled.
    """
    from safetensors.torch import save

    for_comfyui = path.suffix == COMFYUI_SUFFIX
    height, width = latents.shape[-2:]
    metadata = {
        "format": _FORMAT,
        **meaning(model),
        "scaled": "false" if for_comfyui else "true",
        "width": str(width * model.latents.downscale),
        "height": str(height * model.latents.downscale),
    }
    plain = latents.detach().cpu().contiguous()
    tensors = foreign_latents.to_comfyui(plain, model.latents) if for_comfyui else {"latents": plain}
    # Written here and not by safetensors, so that a full disk is an OSError as everywhere else.
    path.write_bytes(save(tensors, metadata))


def meaning(model: ModelSpec) -> dict[str, str]:
    """What a file's metadata say about its numbers; `check_meaning` reads it."""
    spec = model.latents
    return {
        "model": model.name,
        "channels": str(spec.channels),
        "downscale": str(spec.downscale),
        "scaling_factor": repr(spec.scaling_factor),
        "shift_factor": "null" if spec.shift_factor is None else repr(spec.shift_factor),
        _FINGERPRINT: vae_fingerprint(model),
    }


def check_meaning(metadata: Mapping[str, str], model: ModelSpec) -> None:
    """Let metadata pass whose numbers are of the VAE that `model` has here.

    Version 1 wrote no fingerprint; of such a file the rest must agree.

    Raises:
        BadLatentsError: they are of another VAE, or do not say what they mean.
    """
    here = meaning(model)
    for name in ("channels", "downscale", "scaling_factor", "shift_factor"):
        theirs = metadata.get(name)
        if _number(theirs) != _number(here[name]):
            raise BadLatentsError(
                "These latents are of another VAE than the one of {model}: their {name} is {theirs}, not {ours}.",
                "Decode them where they were made, or encode the picture again.",
                model=model.title_message,
                name=name,
                theirs=theirs,
                ours=here[name],
            )
    if metadata.get(_FINGERPRINT, here[_FINGERPRINT]) != here[_FINGERPRINT]:
        raise BadLatentsError(
            "These latents are of another VAE than the one of {model}: its weights are others.",
            "Decode them where they were made, or encode the picture again.",
            model=model.title_message,
        )


def _number(text: str | None) -> float | None:
    """A number of the metadata; None is what `null` means."""
    try:
        return None if text == "null" else float(text or "")
    except ValueError as error:
        raise BadLatentsError(
            "This latents file does not say how its numbers are scaled.", "Please save it with Latent Relay."
        ) from error


def load_latents(
    path: Path, models: Mapping[str, ModelSpec] = MODELS, named: str | None = None
) -> LatentsFile:
    """Read what `save_latents` wrote for one of `models`, or another program's latents.

    `named`: the model that a person chose, for a file that does not say its own.

    Raises:
        BadLatentsError: as of `read_header`, or with values that are not numbers.
    """
    with _opened(path) as file:
        header = _header(file, models, named)
        tensor = file.get_tensor(header.tensor)
    _check_numbers(tensor)
    found = _ours(tensor, header) if header.is_ours else _foreign(tensor, header)
    _check_numbers(found.latents)
    return found


def read_header(
    path: Path, models: Mapping[str, ModelSpec] = MODELS, named: str | None = None
) -> LatentsHeader:
    """What `load_latents` would read, from the first bytes of the file alone.

    Raises:
        BadLatentsError: not such a file, too large, several pictures, or from an unknown model or another VAE.
    """
    with _opened(path) as file:
        return _header(file, models, named)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open safetensors file, of which nothing but its header is read.

    Raises:
        BadLatentsError: it is too large, or no such file, even where that shows later.
    """
    from safetensors import SafetensorError, safe_open

    if path.stat().st_size > MAX_FILE_BYTES:
        raise BadLatentsError(
            "This latents file is larger than {megabytes} MB.", megabytes=MAX_FILE_BYTES // 2**20
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise BadLatentsError(
            "This is not a latents file.",
            "A .safetensors or .latent file works, from here, from ComfyUI or with a plain tensor.",
        ) from error


def _header(file: Any, models: Mapping[str, ModelSpec], named: str | None) -> LatentsHeader:
    metadata, names = file.metadata() or {}, tuple(file.keys())
    tensor = _tensor_name(metadata, names)
    shape = tuple(file.get_slice(tensor).get_shape())
    _check_size(shape, 1)
    if metadata.get("format", "").startswith(_OURS):
        model, shape = _our_model(shape, metadata, models)
    else:
        model, shape = _foreign_model(shape, metadata, models, named)
    return LatentsHeader(model, shape, names, tensor, metadata)


def _tensor_name(metadata: Mapping[str, str], names: Sequence[str]) -> str:
    """Of the tensor that holds the latents.

    Raises:
        BadLatentsError: there is none, or several might.
    """
    made_by = metadata.get("format")
    if made_by == SHARD_FORMAT and len(names) > 1:
        raise _several(len(names))
    for name in ("latents", foreign_latents.COMFYUI):
        if name in names:
            return name
    if len(names) == 1 and made_by != _FORMAT:
        return names[0]
    raise BadLatentsError(
        "This file holds no latents.", "Please choose one saved here, by ComfyUI or as a single plain tensor."
    )


def _our_model(
    shape: tuple[int, ...], metadata: Mapping[str, str], models: Mapping[str, ModelSpec]
) -> tuple[ModelSpec, tuple[int, ...]]:
    """(model of the latents in a file of ours, their shape with its batch)."""
    made_by, model = metadata.get("format"), models.get(metadata.get("model", ""))
    if made_by not in (_FORMAT, SHARD_FORMAT) or model is None:
        raise BadLatentsError(
            "This latents file does not say which model it belongs to.", "Please save it with Latent Relay."
        )
    if made_by == SHARD_FORMAT:
        shape = (1, *shape)
    _check_shape(shape, model)
    check_meaning(metadata, model)
    return model, shape


def _foreign_model(
    shape: tuple[int, ...], metadata: Mapping[str, str], models: Mapping[str, ModelSpec], named: str | None
) -> tuple[ModelSpec, tuple[int, ...]]:
    """(model of another program's latents, their shape once unpacked and with its batch)."""
    if foreign_latents.is_packed(shape):
        shape = foreign_latents.unpacked_shape(shape, metadata)
    elif len(shape) == 3:  # one picture without its batch
        shape = (1, *shape)
    if len(shape) != 4:
        raise BadLatentsError("A tensor of shape {shape} is no latents of a picture.", shape=str(shape))
    model = foreign_latents.foreign_model(shape[1], metadata, models, named)
    _check_shape(shape, model)
    return model, shape


def _ours(tensor: torch.Tensor, header: LatentsHeader) -> LatentsFile:
    spec, tensor = header.model.latents, tensor.reshape(header.shape)
    if header.metadata.get("scaled") == "false":
        tensor = spec.scale(tensor)
    return LatentsFile(tensor, header.model.name, spec)


def _foreign(tensor: torch.Tensor, header: LatentsHeader) -> LatentsFile:
    model = header.model
    if foreign_latents.is_packed(tuple(tensor.shape)):
        tensor = unpack_tokens(tensor, *(side // 2 for side in header.shape[-2:]))
    tensor = tensor.reshape(header.shape)
    if foreign_latents.COMFYUI in header.names:
        tensor, note = foreign_latents.of_comfyui(tensor, header.names, model)
    else:
        tensor, note = foreign_latents.of_diffusers(tensor, model)
    return LatentsFile(tensor, model.name, model.latents, note)


def _image_size(shape: tuple[int, ...], spec: LatentSpec) -> tuple[int, int]:
    height, width = shape[-2:]
    return width * spec.downscale, height * spec.downscale


def _check_shape(shape: tuple[int, ...], model: ModelSpec) -> None:
    """Raises BadLatentsError: not one picture's latents of that model, of a size that can be decoded."""
    spec = model.latents
    if len(shape) != 4 or shape[1] != spec.channels or 0 in shape:
        raise BadLatentsError(
            "This file says it is from {model}, but its shape {shape} does not fit.",
            model=model.title_message,
            shape=str(shape),
        )
    _check_size(shape, spec.downscale)
    if shape[0] != 1:
        raise _several(shape[0])


def _check_size(shape: tuple[int, ...], downscale: int) -> None:
    pixels = math.prod((*shape[:1], *shape[-2:])) * downscale**2
    if pixels > MAX_PIXELS:
        raise BadLatentsError(
            "These latents are of a picture of {pixels:.0f} million pixels.",
            "At most {millions} million work.",
            pixels=pixels / 1e6,
            millions=MAX_PIXELS // 10**6,
        )


def _several(count: int) -> BadLatentsError:
    return BadLatentsError(
        "This latents file holds {count} pictures, and only one can be decoded at a time.",
        "Please save each in a file of its own.",
        count=count,
    )


def _check_numbers(tensor: torch.Tensor) -> None:
    import torch

    # As float32, since torch cannot say of every narrow dtype what is finite.
    if not tensor.is_floating_point() or not bool(torch.isfinite(tensor.float()).all()):
        raise BadLatentsError("This latents file holds values that are not numbers.", "It may be damaged.")


def preview(latents: torch.Tensor, model: ModelSpec, side: int = 256) -> Image.Image | None:
    """A cheap look at scaled latents (1, C, h, w): a linear map to RGB, enlarged to about `side` pixels.

    None where the model has no such map. Costs well under a millisecond of a denoising step.
    """
    if not model.preview:
        return None
    weights = np.asarray(model.preview, dtype=np.float32)
    z = latents[0].detach().float().cpu().numpy()
    rgb = np.tensordot(z, weights[:-1], axes=([0], [0])) + weights[-1]
    pixels = np.nan_to_num(np.clip(rgb * 127.5 + 127.5, 0, 255)).astype(np.uint8)
    image = Image.fromarray(pixels)
    factor = max(1, round(side / max(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)


def channels_picture(latents: torch.Tensor, side: int = 192) -> Image.Image:
    """Every channel of (1, C, h, w) as a grey square, ±3 standard deviations from dark to light, in a grid."""
    z = latents[0].detach().float().cpu().numpy()
    grey = np.clip((z - z.mean()) / (z.std() + 1e-6) * (127.5 / 3) + 127.5, 0, 255).astype(np.uint8)
    columns = 4 if len(z) > 4 else 2
    factor = max(1, side // max(z.shape[1:]))
    width, height, gap = z.shape[2] * factor, z.shape[1] * factor, 6
    rows = -(-len(z) // columns)
    sheet = Image.new("L", (columns * (width + gap) - gap, rows * (height + gap) - gap), 255)
    for index, channel in enumerate(grey):
        tile = Image.fromarray(channel).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(tile, (index % columns * (width + gap), index // columns * (height + gap)))
    return sheet


def statistics(latents: torch.Tensor) -> dict[str, object]:
    """Shape, dtype, mean and standard deviation of latents (B, C, h, w), overall and for each channel."""
    z = latents.detach().float().cpu()
    return {
        "shape": list(latents.shape),
        "dtype": str(latents.dtype).removeprefix("torch."),
        "mean": float(z.mean()),
        "std": float(z.std()),
        "channel_means": [float(v) for v in z.mean(dim=(0, 2, 3))],
        "channel_stds": [float(v) for v in z.std(dim=(0, 2, 3))],
    }
