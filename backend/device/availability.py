"""What this machine has: a device, the model hub, models that are here already; and so the model to open with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from backend.device import hub
from backend.errors import BadSettingError
from backend.message import Message
from backend.models import BUILTIN, SD_V1, ModelSpec
from backend.settings import Settings

if TYPE_CHECKING:
    import torch


def pick_device(name: str) -> torch.device:
    """The torch device of that name; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        BadSettingError: a device that does not exist here.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadSettingError(
            "This computer has no device “{name}”.",
            "Start with --device auto, or --device cpu.",
            name=name,
        ) from error
    return device


def default_model(settings: Settings) -> tuple[ModelSpec, Message]:
    """The model the page opens with, and a sentence saying why. Imports torch only if a GPU seems near.

    SD v1.5 needs a CUDA GPU to be fast enough, and its weights from the hub or the cache; else the built-in model.
    """
    if settings.model != "auto":
        spec = settings.find_model(settings.model)
        return spec, Message("{model}, as this app was started with it.", model=spec.title_message)
    if not _cuda_usable(settings):
        return BUILTIN, Message(
            "No graphics card was found, so this page starts with its small built-in model: "
            "it is quick, but it paints landscapes only."
        )
    if not is_cached(SD_V1) and not hub_answers():
        return BUILTIN, Message(
            "The model hub cannot be reached and Stable Diffusion is not on this computer yet, "
            "so this page starts with its small built-in model."
        )
    return SD_V1, Message(
        "{model}, because this computer has a graphics card for it.", model=SD_V1.title_message
    )


def is_cached(spec: ModelSpec) -> bool:
    """Whether the model's denoiser lies in a local folder or in the hub's cache."""
    if spec.is_local:
        return True
    from huggingface_hub import try_to_load_from_cache

    if spec.family == "flux":
        weights = "transformer/diffusion_pytorch_model.safetensors.index.json"
    else:
        weights = f"unet/diffusion_pytorch_model{f'.{spec.variant}' if spec.variant else ''}.safetensors"
    revision = hub.revision_of(spec, spec.repository)
    return isinstance(try_to_load_from_cache(spec.repository, weights, revision=revision), str)


def hub_answers(timeout: float = 3.0) -> bool:
    """Whether the Hugging Face hub answers at all within `timeout` seconds."""
    import requests
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        requests.head(constants.ENDPOINT, timeout=timeout)
    except requests.RequestException:
        return False
    return True


def _cuda_usable(settings: Settings) -> bool:
    """Whether CUDA works. Importing torch takes seconds, so cheaper signs of a GPU are looked for first."""
    if settings.device not in ("auto", "cuda") and not settings.device.startswith("cuda:"):
        return False
    if "SPACES_ZERO_GPU" in os.environ:
        return True
    if (
        not Path("/dev/nvidia0").exists()
        and not Path("/dev/dxg").exists()
        and shutil.which("nvidia-smi") is None
    ):
        return False
    import torch

    return bool(torch.cuda.is_available())
