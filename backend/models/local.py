"""Local models: a folder in diffusers' format, or a single `.safetensors` checkpoint, by path.

Only configs and a file's header are read here; weights are loaded like those of any other model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from backend.errors import BadSettingError
from backend.message import Message
from backend.models import FLUX, SD_V1, SD_V1_LCM, SD_V2, SDXL, LatentSpec, ModelSpec
from backend.pairs import split_pair


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
        "There is no model at {path}.",
        "Give a folder in diffusers' format, or a .safetensors file.",
        path=str(path),
    )


def _from_folder(name: str, folder: Path) -> ModelSpec:
    pipeline = str(_read(folder / "model_index.json").get("_class_name", ""))
    family = _family_of_pipeline(pipeline)
    if family is None:
        raise BadSettingError(
            "{folder} holds a {pipeline}, which this app cannot run."
            if pipeline
            else "{folder} holds a model of an unknown kind, which this app cannot run.",
            "It runs Stable Diffusion v1 and v2, SDXL and Flux.",
            folder=str(folder),
            pipeline=pipeline,
        )
    vae = _read(folder / "vae" / "config.json")
    expected = family.latents
    try:
        channels = tuple(int(count) for count in vae.get("block_out_channels", ()))
        if not channels:
            raise ValueError("no block_out_channels")
        latents = LatentSpec(
            channels=int(vae.get("latent_channels", 4)),
            downscale=2 ** (len(channels) - 1),
            scaling_factor=float(vae.get("scaling_factor", expected.scaling_factor)),
            shift_factor=None if vae.get("shift_factor") is None else float(vae["shift_factor"]),
            packed=expected.packed,
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise BadSettingError(
            "The VAE's config in {folder} makes no sense.", "It may be damaged.", folder=str(folder)
        ) from error
    # A VAE may have any downscale (the built-in one has 4): a denoiser depends only on the channels.
    if latents.channels != expected.channels:
        raise BadSettingError(
            "The VAE in {folder} makes {channels} channels, but {model} takes {expected}.",
            folder=str(folder),
            channels=latents.channels,
            model=family.title_message,
            expected=expected.channels,
        )
    spec = replace(
        _local(family, name, folder),
        latents=latents,
        vae_block_out_channels=channels,
        variant=_variant(folder),
        extra_steps=_extra_steps(folder / "scheduler" / "scheduler_config.json"),
    )
    if latents != expected:  # then what was made for the family's latents shows another picture of these
        spec = replace(spec, tiny_vae=None, preview=())
    network = folder / "unet" / "config.json"
    if network.is_file():
        spec = replace(spec, native_size=int(_read(network).get("sample_size") or 64) * latents.downscale)
    return spec


def _from_checkpoint(name: str, file: Path) -> ModelSpec:
    """The family shows in the names of the tensors, as the original repositories gave them."""
    names = _tensor_names(file)
    prefixes: tuple[tuple[str, ModelSpec], ...] = (
        ("conditioner.embedders.1.", SDXL),
        ("cond_stage_model.model.", SD_V2),
        ("cond_stage_model.transformer.", SD_V1),
    )
    for prefix, family in prefixes:
        if any(tensor.startswith(prefix) for tensor in names):
            return replace(_local(family, name, file), config_repository=family.repository)
    raise BadSettingError(
        "{file} is not a whole Stable Diffusion checkpoint.",
        "It must hold the text encoder, the denoiser and the VAE; Flux needs a folder in diffusers' format.",
        file=str(file),
    )


def _local(family: ModelSpec, name: str, path: Path) -> ModelSpec:
    """`family`'s spec for weights at `path`. Its public endpoints hold other weights, so they are not used."""
    return replace(
        family,
        name=name,
        title=name,
        plain=Message("Your own model, from {name}.", name=path.name),
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


def _extra_steps(config_file: Path) -> int:
    """PNDM repeats its second timestep, or starts with three Runge-Kutta steps of four evaluations each."""
    config = _read(config_file) if config_file.is_file() else {}
    if config.get("_class_name") != "PNDMScheduler":
        return 0
    return 1 if config.get("skip_prk_steps") else 9


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
            "{path} is missing or damaged.", "A model folder in diffusers' format has one.", path=str(path)
        ) from error
    if not isinstance(config, dict):
        raise BadSettingError("{path} is not a config.", path=str(path))
    return config


def _tensor_names(file: Path) -> list[str]:
    """From the header alone; no tensor is read."""
    try:
        with safe_open(str(file), framework="numpy") as tensors:
            return list(tensors.keys())
    except SafetensorError as error:
        raise BadSettingError(
            "{file} is not a safetensors file.", "It may be damaged.", file=str(file)
        ) from error
