"""What this machine has: a device, the model hub, models that are here already; and so the model to open with."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import BadSettingError
from backend.message import Message, join, literal
from backend.models import BUILTIN, SD_V1, ModelSpec
from backend.settings import Settings

if TYPE_CHECKING:
    import torch


log = logging.getLogger(__name__)

_OLDEST_DRIVER = {"13": 580, "12": 525}
"""By CUDA's major version, as NVIDIA's release notes say for Linux; Windows' numbers differ little."""
_NVIDIA_SMI_SECONDS = 10.0


def pick_device(name: str) -> torch.device:
    """The torch device of that name; "auto" takes CUDA if a kernel runs there, then MPS, then the CPU.

    Raises:
        BadSettingError: a device that does not exist here, or that nothing can run on.
    """
    import torch

    if name == "auto":
        problem = cuda_problem("cuda:0")
        if problem is not None:
            log.warning("The graphics card is not used: %s", problem)
        elif torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        problem = cuda_problem(name) if name.startswith("cuda") and not torch.cuda.is_available() else None
        raise BadSettingError(
            join(Message("This computer has no device “{name}”.", name=name), problem or Message("")),
            Message("Start with --device auto, or --device cpu."),
        ) from error
    if device.type == "cuda" and (problem := cuda_problem(name)) is not None:
        raise BadSettingError(problem, Message("Start with --device auto, or --device cpu."))
    return device


def on_zero_gpu() -> bool:
    """Whether a card is lent call by call, so that this process itself has none."""
    return "SPACES_ZERO_GPU" in os.environ


@cache
def cuda_problem(name: str = "cuda:0") -> Message | None:
    """Why nothing can be computed on that card, and what to install; None if it can, or if there is no card at all.

    torch says that CUDA is available wherever a driver is, but its wheels hold kernels for some cards only: so one
    kernel is run.
    """
    import torch

    if on_zero_gpu():
        return None
    if torch.cuda.is_available():
        try:
            # Two kernels of the kinds that everything here is made of, and their result.
            ones = torch.ones(16, 16, device=name)
            works = bool((ones @ ones + ones).sum().item() == 17 * 256)
        except RuntimeError as error:
            return _no_kernel(name, error)
        return None if works else _no_kernel(name, None)
    return _no_cuda(nvidia_smi(), torch.version.cuda)


def _no_kernel(name: str, error: RuntimeError | None) -> Message:
    import torch

    try:
        major, minor = torch.cuda.get_device_capability(name)
        card = torch.cuda.get_device_name(name)
    except RuntimeError:
        return Message("The graphics card does not compute: {error}", error=literal(str(error)[:200]))
    if major * 10 + minor < 75:
        return Message(
            "{card} is too old for this version of PyTorch, which needs an RTX 20xx, a GTX 16xx or a newer card.",
            card=literal(card),
        )
    return Message(
        "{card} does not compute with this version of PyTorch: {error}",
        card=literal(card),
        error=literal(str(error)[:200] if error else "wrong result"),
    )


def nvidia_smi() -> tuple[str, str] | None:
    """(card, driver's version) of the first card that the driver's own tool finds; None if there is neither."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return None
    card, _, version = answer.stdout.partition("\n")[0].rpartition(",")
    return (card.strip(), version.strip()) if answer.returncode == 0 and card else None


def _no_cuda(found: tuple[str, str] | None, cuda: str | None) -> Message | None:
    """What is wrong where `nvidia-smi` finds a card and torch, built for that version of CUDA, does not."""
    if found is None:
        return None
    card, version = found
    if cuda is None:
        return Message(
            "There is a {card}, but this PyTorch was built without CUDA: install the default one from pytorch.org.",
            card=literal(card),
        )
    oldest = _OLDEST_DRIVER.get(cuda.partition(".")[0])
    number = version.partition(".")[0]
    if oldest is not None and number.isdecimal() and int(number) < oldest:
        return Message(
            "The driver {version} of the {card} is too old for this PyTorch: "
            "install NVIDIA's driver {oldest} or newer.",
            version=version,
            card=literal(card),
            oldest=oldest,
        )
    return Message(
        "There is a {card} with driver {version}, but PyTorch cannot use it.",
        card=literal(card),
        version=version,
    )


def default_model(settings: Settings, is_here: Callable[[ModelSpec], bool]) -> tuple[ModelSpec, Message]:
    """The model the page opens with, and a sentence saying why. It can be used at once, and nothing is asked of the
    network: what this machine would rather have is `wanted_model`, which may have to be downloaded first.

    `is_here`: whether a model's weights lie on this computer.
    """
    wanted = wanted_model(settings)
    if wanted is None:
        return BUILTIN, _without_card(settings)
    if not is_here(wanted):
        return BUILTIN, Message(
            "{model} is not on this computer yet, so this page starts with its small built-in model: "
            "it is quick, but it paints landscapes only.",
            model=wanted.title_message,
        )
    if settings.model != "auto":
        return wanted, Message("{model}, as this app was started with it.", model=wanted.title_message)
    return wanted, Message(
        "{model}, because this computer has a graphics card for it.", model=wanted.title_message
    )


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


def _without_card(settings: Settings) -> Message:
    if _cuda_wanted(settings) and (problem := cuda_problem(_card(settings))) is not None:
        return Message(
            "{problem} Until then this page computes on the processor, and starts with its small built-in model: "
            "it is quick, but it paints landscapes only.",
            problem=problem,
        )
    return Message(
        "No graphics card was found, so this page starts with its small built-in model: "
        "it is quick, but it paints landscapes only."
    )


def _cuda_usable(settings: Settings) -> bool:
    """Whether CUDA works. Importing torch takes seconds, so cheaper signs of a GPU are looked for first."""
    if not _cuda_wanted(settings):
        return False
    if on_zero_gpu():
        return True
    import torch

    return bool(torch.cuda.is_available()) and cuda_problem(_card(settings)) is None


def _card(settings: Settings) -> str:
    return "cuda:0" if settings.device in ("auto", "cuda") else settings.device


def _cuda_wanted(settings: Settings) -> bool:
    """Whether a card may be used, and there is a sign of one."""
    if settings.device not in ("auto", "cuda") and not settings.device.startswith("cuda:"):
        return False
    signs = (
        Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists() or shutil.which("nvidia-smi") is not None
    )
    return signs or on_zero_gpu()
