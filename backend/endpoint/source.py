"""A folder or hub repository with an AutoencoderKL or AutoencoderTiny → a VAE to serve.

The config is read at once, so the list of what is served is right from the start; the weights come later, in a thread.
"""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.device.queue import DeviceQueue
from backend.endpoint.compute import Served
from backend.errors import BadSettingError, ModelUnavailableError, UnsupportedVAEError
from backend.lazy_import import diffusers_class
from backend.message import literal
from backend.models import MODELS, LatentSpec
from backend.models.local import is_name
from backend.models.revisions import pinned_revision
from backend.pairs import split_pair

if TYPE_CHECKING:
    import torch

    from backend.vae.base import VAE

KINDS = ("AutoencoderKL", "AutoencoderTiny")


def parse_source(text: str) -> tuple[str, str]:
    """`NAME=FOLDER_OR_REPO` as (name, source).

    Raises:
        BadSettingError: not of that form, or a name that does not fit a URL.
    """
    pair = split_pair(text)
    if pair is None:
        raise BadSettingError(
            "A VAE is given as NAME=FOLDER_OR_REPO, not as “{text}”.",
            "For example: --vae sd-v1=stabilityai/sd-vae-ft-mse",
            text=text,
        )
    name, source = pair
    if not is_name(name):
        raise BadSettingError(
            "“{name}” cannot be a VAE's name.", "Use letters, digits, “-”, “_” and “.”.", name=name
        )
    return name, source


class Source:
    """One VAE's files and, once loaded, its module. `served` is the entry for a `Service`."""

    def __init__(self, name: str, source: str, device: str, dtype: str, queue: DeviceQueue) -> None:
        """Reads the config only.

        Raises:
            ModelUnavailableError: no config there. UnsupportedVAEError: a VAE of another kind.
        """
        self.name = name
        self.source = source
        self.device = device
        self.dtype = dtype
        self.subfolder, config = read_config(source)
        self.kind = str(config.get("_class_name"))
        if self.kind not in KINDS:
            raise UnsupportedVAEError(
                "{source} holds a {kind}, which cannot be served.",
                "Served kinds: {kinds}.",
                source=source,
                kind=self.kind,
                kinds=", ".join(KINDS),
            )
        self.spec = spec_from_config(config)
        self.force_upcast = bool(config.get("force_upcast"))
        self._queue = queue
        self._guard = threading.Lock()
        self._module: Any = None

    @property
    def served(self) -> Served:
        known = MODELS.get(self.name)
        return Served(
            name=self.name,
            spec=self.spec,
            load=partial(self.vae, "whole"),
            queue=self._queue,
            load_low_memory=partial(self.vae, "tiled") if self.kind == "AutoencoderKL" else None,
            is_ready=lambda: self._module is not None,
            title=known.title if known else self.source if not Path(self.source).exists() else self.name,
            fixed_scale=self.kind == "AutoencoderTiny",
        )

    def vae(self, mode: str) -> VAE:
        """The VAE in a local mode, loaded if need be.

        Raises:
            ModelUnavailableError: weights missing or broken. BadSettingError: no such device.
        """
        from backend.vae.modes import local_vae

        return local_vae(mode, self.module(), self.spec)

    def module(self) -> Any:
        """The VAE in eval mode on its device, loaded once.

        Raises:
            ModelUnavailableError: weights missing or broken. BadSettingError: no such device.
        """
        with self._guard:
            if self._module is None:
                self._module = self._load()
            return self._module

    def _load(self) -> Any:
        from backend.device.availability import pick_device

        device = pick_device(self.device)
        options = {"subfolder": self.subfolder} if self.subfolder else {}
        try:
            module = diffusers_class(self.kind).from_pretrained(
                self.source,
                dtype=self._pick_dtype(device),
                use_safetensors=True,
                revision=pinned_revision(self.source),  # means nothing to a folder
                **options,
            )
        except OSError as error:
            raise ModelUnavailableError(
                "The weights of “{name}” ({source}) cannot be had.",
                literal(str(error)[:200]),
                name=self.name,
                source=self.source,
            ) from error
        return module.to(device).eval().requires_grad_(False)

    def _pick_dtype(self, device: torch.device) -> torch.dtype:
        """ "auto": float32 on a CPU and for VAEs that are known to overflow in float16, else float16."""
        import torch

        if self.dtype != "auto":
            return getattr(torch, self.dtype)
        return torch.float32 if device.type == "cpu" or self.force_upcast else torch.float16


def read_config(source: str) -> tuple[str | None, dict[str, Any]]:
    """(subfolder or None, config) of a VAE folder, a pipeline folder with `vae/`, or a hub repository of either.

    Raises:
        ModelUnavailableError: none found.
    """
    folder = Path(source)
    for subfolder in (None, "vae"):
        name = f"{subfolder}/config.json" if subfolder else "config.json"
        path = folder / name if folder.is_dir() else _from_hub(source, name)
        if path is None or not path.is_file():
            continue
        try:
            config = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ModelUnavailableError("{file} in {source} is no JSON.", file=name, source=source) from error
        if subfolder is not None or str(config.get("_class_name", "")).startswith("Autoencoder"):
            return subfolder, config
    raise ModelUnavailableError(
        "No VAE was found at {source}.",
        "It must be a folder or hub repository with a VAE's config.json.",
        source=source,
    )


def _from_hub(repository: str, name: str) -> Path | None:
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(repository, name, revision=pinned_revision(repository)))
    except (errors.EntryNotFoundError, errors.HFValidationError):
        return None
    except (OSError, errors.HfHubHTTPError) as error:
        raise ModelUnavailableError(
            "{repository} is no folder here, and the model hub cannot give it.",
            literal(str(error)[:200]),
            repository=repository,
        ) from error


def spec_from_config(config: dict[str, Any]) -> LatentSpec:
    """What a VAE's latents mean, from its diffusers config."""
    blocks = config.get("block_out_channels") or config.get("encoder_block_out_channels") or [0, 0, 0, 0]
    return LatentSpec(
        channels=int(config.get("latent_channels", 4)),
        downscale=2 ** (len(blocks) - 1),
        scaling_factor=float(config.get("scaling_factor") or 1.0),
        shift_factor=config.get("shift_factor") or None,
        packed=int(config.get("latent_channels", 4)) == 16 and bool(config.get("shift_factor")),
    )
