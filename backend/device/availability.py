"""What this machine has: a device, the model hub, models that are here already; and so the model to open with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

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


def default_model(settings: Settings, is_here: Callable[[ModelSpec], bool]) -> tuple[ModelSpec, Message]:
    """The model the page opens with, and a sentence saying why. It can be used at once, and nothing is asked of the
    network: what this machine would rather have is `wanted_model`, which may have to be downloaded first.

    `is_here`: whether a model's weights lie on this computer.
    """
    wanted = wanted_model(settings)
    if wanted is None:
        return BUILTIN, Message(
            "No graphics card was found, so this page starts with its small built-in model: "
            "it is quick, but it paints landscapes only."
        )
    if not is_here(wanted):
        return BUILTIN, Message(
            "{model} is not on this computer yet, so this page starts with its small built-in model: "
            "it is quick, but it paints landscapes only.",
            model=wanted.title,
        )
    if settings.model != "auto":
        return wanted, Message("{model}, as this app was started with it.", model=wanted.title)
    return wanted, Message("{model}, because this computer has a graphics card for it.", model=wanted.title)


def wanted_model(settings: Settings) -> ModelSpec | None:
    """The model that the owner chose, else SD v1.5 where there is a graphics card; None: the built-in one it is.

    Imports torch only if a GPU seems near.
    """
    if settings.model != "auto":
        return settings.find_model(settings.model)
    return SD_V1 if _cuda_usable(settings) else None


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
