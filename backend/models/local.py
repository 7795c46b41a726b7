"""A model of the owner's own: a folder in diffusers' format, or a single `.safetensors` checkpoint, by path.

Only configs and a file's header are read here; weights are loaded like those of any other model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.errors import BadSettingError
from backend.models import FLUX, SD_V1, SD_V1_LCM, SD_V2, SDXL, LatentSpec, ModelSpec
from backend.pairs import split_pair

_HEADER_LIMIT = 100 * 2**20
"""The safetensors format's own limit for its header."""


def parse_model_path(text: str) -> ModelSpec:
    """`NAME=PATH` as a model.

    Raises:
        BadSettingError: not of that form, nothing there, or not a model of a family that this app knows.
    """
    pair = split_pair(text)
    if pair is None:
        raise BadSettingError(
            "A model of your own is given as NAME=PATH, not as “{text}”.",
            "For example: --model-path mine=/data/my-model",
            text=text,
        )
    name, path = pair
    if not is_name(name):
        raise BadSettingError(
            "“{name}” cannot be a model's name.", "Use letters, digits, “-”, “_” and “.”.", name=name
        )
    return local_model(name, Path(path).expanduser())


def is_name(text: str) -> bool:
    """Whether a text may stand in an address and a file's name: no separators, and not “..”."""
    return re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", text, re.ASCII) is not None


def local_model(name: str, path: Path) -> ModelSpec:
    """The model at `path`: what its configs say, and for the rest what its family's first model says.

    Raises:
        BadSettingError: nothing there, or not a model of a family that this app knows.
    """
    if path.is_dir():
        return _from_folder(name, path)
    if path.is_file() and path.suffix == ".safetensors":
        return _from_checkpoint(name, path)
    raise BadSettingError(
        f"There is no model at {path}.", "Give a folder in diffusers' format, or a .safetensors file."
    )


def _from_folder(name: str, folder: Path) -> ModelSpec:
    pipeline = str(_read(folder / "model_index.json").get("_class_name", ""))
    family = _family_of_pipeline(pipeline)
    if family is None:
        raise BadSettingError(
            f"{folder} holds a {pipeline or 'model of an unknown kind'}, which this app cannot run.",
            "It runs Stable Diffusion v1 and v2, SDXL and Flux.",
        )
    vae = _read(folder / "vae" / "config.json")
    expected = family.latents
    try:
        channels = tuple(int(count) for count in vae.get("block_out_channels", ()))
        latents = LatentSpec(
            channels=int(vae.get("latent_channels", 4)),
            downscale=2 ** (len(channels) - 1),
            scaling_factor=float(vae.get("scaling_factor", expected.scaling_factor)),
            shift_factor=None if vae.get("shift_factor") is None else float(vae["shift_factor"]),
            packed=expected.packed,
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise BadSettingError(
            f"The VAE's config in {folder} makes no sense.", "It may be damaged."
        ) from error
    # How far a VAE shrinks is its own affair (the built-in one shrinks by 4): a denoiser minds only the channels.
    if latents.channels != expected.channels:
        raise BadSettingError(
            f"The VAE in {folder} makes {latents.channels} channels, but {family.title} takes {expected.channels}."
        )
    spec = replace(
        _mine(family, name, folder),
        latents=latents,
        vae_block_out_channels=channels,
        variant=_variant(folder),
    )
    network = folder / "unet" / "config.json"
    if network.is_file():
        spec = replace(spec, native_size=int(_read(network).get("sample_size") or 64) * latents.downscale)
    return spec


def _from_checkpoint(name: str, file: Path) -> ModelSpec:
    """The family shows in the names of the tensors, as the original repositories gave them."""
    names = list(_header(file))
    signs: tuple[tuple[str, ModelSpec], ...] = (
        ("conditioner.embedders.1.", SDXL),
        ("cond_stage_model.model.", SD_V2),
        ("cond_stage_model.transformer.", SD_V1),
    )
    for start, family in signs:
        if any(tensor.startswith(start) for tensor in names):
            return _mine(family, name, file)
    raise BadSettingError(
        f"{file} is not a whole Stable Diffusion checkpoint.",
        "It must hold the text encoder, the denoiser and the VAE; Flux needs a folder in diffusers' format.",
    )


def _mine(family: ModelSpec, name: str, path: Path) -> ModelSpec:
    """`family`'s spec for weights at `path`. Its public endpoints hold other weights, so they are not used."""
    return replace(
        family,
        name=name,
        title=name,
        plain=f"Your own model, from {path.name}.",
        repository=str(path),
        vae_repository=None,
        variant=None,
        licence="unknown",
        encode_endpoint=None,
        decode_endpoint=None,
    )


def _family_of_pipeline(name: str) -> ModelSpec | None:
    """The first model of the table that the pipeline's folder could stand in for."""
    families = {
        "StableDiffusion": SD_V1,
        "StableDiffusionXL": SDXL,
        "LatentConsistencyModel": SD_V1_LCM,
        "Flux": FLUX,
    }
    return families.get(name.removesuffix("Pipeline").removesuffix("Img2Img"))


def _variant(folder: Path) -> str | None:
    """None if the plain weights are there, else fp16 if those are."""
    for network in ("unet", "transformer"):
        names = {file.name for file in (folder / network).glob("*.safetensors*")}
        if names and not any(name.startswith("diffusion_pytorch_model.safetensors") for name in names):
            return "fp16" if any(".fp16." in name for name in names) else None
    return None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadSettingError(
            f"{path} is missing or damaged.", "A model folder in diffusers' format has one."
        ) from error
    if not isinstance(config, dict):
        raise BadSettingError(f"{path} is not a config.")
    return config


def _header(file: Path) -> Mapping[str, Any]:
    """A safetensors file's table: eight bytes of length, little endian, then JSON."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            if length > _HEADER_LIMIT:
                raise ValueError("too long")
            table = json.loads(stream.read(length))
        except (ValueError, RecursionError) as error:
            raise BadSettingError(f"{file} is not a safetensors file.", "It may be damaged.") from error
    return table if isinstance(table, dict) else {}
