"""From a ModelSpec to modules on a device: built-in weights, local folders and the hub by one code path.

The denoiser is loaded *without* its VAE, and the VAE only when a local mode asks for it: when both ends are remote
it never takes any memory here.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import BadSettingError, ModelUnavailableError
from backend.models import BUILTIN, SD_V1, ModelSpec
from backend.settings import Settings
from backend.turns import Turns

if TYPE_CHECKING:
    import torch


class Loader:
    """Holds what is loaded, and the turns on the device. Thread-safe; loads each thing once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.turns = Turns()
        self._loading = threading.RLock()
        self._device: torch.device | None = None
        self._vaes: dict[str, Any] = {}
        self._denoisers: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        """The device to compute on; asking for it imports torch."""
        with self._loading:
            if self._device is None:
                self._device = pick_device(self.settings.device)
            return self._device

    def dtype(self, spec: ModelSpec) -> torch.dtype:
        """The model's own dtype on a GPU; float32 on a CPU, where half precision is slow or inexact for many."""
        import torch

        return torch.float32 if self.device.type == "cpu" else getattr(torch, spec.dtype)

    def has_vae(self, spec: ModelSpec) -> bool:
        return spec.name in self._vaes

    def vae(self, spec: ModelSpec) -> Any:
        """The model's AutoencoderKL, in eval mode on the device.

        Raises:
            ModelUnavailableError: the weights cannot be had, with a sentence why.
        """
        with self._loading:
            if spec.name not in self._vaes:
                self._vaes[spec.name] = _translated(spec, lambda: self._load_vae(spec))
            return self._vaes[spec.name]

    def denoiser(self, spec: ModelSpec) -> Any:
        """The model's diffusers pipeline, built with `vae=None`, on the device.

        Raises:
            ModelUnavailableError: the weights cannot be had, with a sentence why.
        """
        with self._loading:
            if spec.name not in self._denoisers:
                self._denoisers[spec.name] = _translated(spec, lambda: self._load_denoiser(spec))
            return self._denoisers[spec.name]

    def _load_vae(self, spec: ModelSpec) -> Any:
        from diffusers import AutoencoderKL

        folder: dict[str, Any] = {} if spec.vae_repository else {"subfolder": "vae"}
        vae = AutoencoderKL.from_pretrained(
            spec.vae_repository or spec.repository,
            dtype=self.dtype(spec),
            use_safetensors=True,
            local_files_only=_without_hub(spec),
            **folder,
        )
        return vae.to(self.device).eval().requires_grad_(False)

    def _load_denoiser(self, spec: ModelSpec) -> Any:
        import diffusers

        pipeline = getattr(diffusers, spec.pipeline).from_pretrained(
            spec.repository,
            vae=None,
            # The pipeline never sees pixels here, so diffusers' safety checker could not look at them either.
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            dtype=self.dtype(spec),
            variant=spec.variant,
            use_safetensors=True,
            local_files_only=_without_hub(spec),
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(self.device)


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
            f"This computer has no device “{name}”.", "Start with --device auto, or --device cpu."
        ) from error
    return device


def default_model(settings: Settings) -> tuple[ModelSpec, str]:
    """The model the page opens with, and a friendly sentence saying why. Imports torch only if a GPU seems near.

    SD v1.5 needs a CUDA card to be pleasant, and its weights from the hub or the cache; else the built-in model.
    """
    from backend.models import find_model

    if settings.model != "auto":
        spec = find_model(settings.model)
        return spec, f"{spec.title}, as this app was started with it."
    if not _cuda_usable(settings):
        return BUILTIN, (
            "No graphics card was found, so this page starts with its small built-in model: "
            "it is quick, but it paints landscapes only."
        )
    if not is_cached(SD_V1) and not hub_answers():
        return BUILTIN, (
            "The model hub cannot be reached and Stable Diffusion is not on this computer yet, "
            "so this page starts with its small built-in model."
        )
    return SD_V1, f"{SD_V1.title}, because this computer has a graphics card for it."


def is_cached(spec: ModelSpec) -> bool:
    """Whether the model's denoiser lies in a local folder or in the hub's cache."""
    if spec.is_local:
        return True
    from huggingface_hub import try_to_load_from_cache

    weights = f"unet/diffusion_pytorch_model{f'.{spec.variant}' if spec.variant else ''}.safetensors"
    return isinstance(try_to_load_from_cache(spec.repository, weights), str)


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


def _without_hub(spec: ModelSpec) -> bool:
    """Whether to look on this computer only: a hub that is down would be asked again and again, for half a minute."""
    return spec.is_local or not hub_answers()


def _cuda_usable(settings: Settings) -> bool:
    """Importing torch takes seconds, so first look for signs of a card that cost nothing."""
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


def _translated(spec: ModelSpec, load: Callable[[], Any]) -> Any:
    """Run `load`, turning the hub's and the file system's errors into one sentence each."""
    from huggingface_hub import errors as hub

    another = "Please choose the built-in model, or try again later."
    try:
        return load()
    except hub.GatedRepoError as error:
        raise ModelUnavailableError(
            f"{spec.title} asks everybody to accept its licence first.",
            f"Do so on its page on the hub ({spec.repository}), set HF_TOKEN, and start again.",
        ) from error
    except hub.RepositoryNotFoundError as error:
        raise ModelUnavailableError(
            f"{spec.title} was not found on the hub ({spec.repository}).",
            "It may have moved, or HF_TOKEN may be wrong. " + another,
        ) from error
    except (OSError, hub.HfHubHTTPError) as error:
        if spec.is_local:
            raise ModelUnavailableError(
                f"The files of {spec.title} in {spec.repository} are missing or damaged.", str(error)[:200]
            ) from error
        raise ModelUnavailableError(
            f"{spec.title} is not on this computer yet, and the model hub cannot be reached.", another
        ) from error
