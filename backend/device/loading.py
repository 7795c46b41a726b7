"""From a ModelSpec to modules on a device: built-in weights, local folders and the hub by one code path.

The denoiser is loaded *without* its VAE, and the VAE only when a local mode asks for it: when both ends are remote
it never takes any memory here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.device.availability import hub_answers, pick_device
from backend.device.downloads import DownloadError, Downloads, Progress
from backend.device.hub import HubFiles, Part, files_of, folder, is_complete
from backend.device.load_errors import map_load_errors, unavailable
from backend.device.measure import empty_device_cache
from backend.device.precision import dtype_name, pick_dtype
from backend.device.queue import DeviceQueue
from backend.errors import ModelUnavailableError
from backend.events import Downloading
from backend.families import VaeConfigStub, components_left_out
from backend.lazy_import import import_module_locked
from backend.message import Message, literal
from backend.models import ModelSpec
from backend.settings import LOW_MEMORY, Settings

if TYPE_CHECKING:
    import torch


_OFFLOADED = {
    "model": Message("only the network at work was kept on the card"),
    "group": Message("only the layer at work was kept on the card"),
}
"""What each `low_memory` did, for a report's reason."""


@dataclass(frozen=True)
class Loaded:
    """A module or pipeline that is in memory now."""

    model: str
    part: Part
    dtype: str
    bytes: int
    """Of weights, wherever they lie."""


class Loader:
    """Holds what is loaded, and the queue of the device. Thread-safe; loads each thing once.

    One model is held at a time: loading another's denoiser frees all the rest. Only a VAE is so small that one of
    another model may stay beside it, because other machines may use this app as their remote.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.queue = DeviceQueue()
        self._loading = threading.RLock()
        self.downloads = Downloads()
        self._complete: set[HubFiles] = set()
        """What is known to lie on this computer."""
        self._device: torch.device | None = None
        self._parts: dict[tuple[str, Part], Any] = {}
        """The most recently used last."""
        self._low_memory_since: dict[str, str] = {}
        """Models that ran out of memory, and the `low_memory` that they are loaded with since."""

    @property
    def device(self) -> torch.device:
        """The device to compute on; asking for it imports torch."""
        # No lock: another thread would pick the same, and may be loading for minutes.
        if self._device is None:
            self._device = pick_device(self.settings.device)
        return self._device

    def dtype(self, spec: ModelSpec) -> torch.dtype:
        """The dtype that `precision.pick_dtype` chooses for this model and device."""
        return pick_dtype(spec.dtype, self.device)[0]

    def has_vae(self, spec: ModelSpec, tiny: bool = False) -> bool:
        return (spec.name, _vae_part(tiny)) in self._parts

    def vae(self, spec: ModelSpec, tiny: bool = False) -> Any:
        """The model's AutoencoderKL, or with `tiny` its AutoencoderTiny, in eval mode on the device.

        Raises:
            ModelUnavailableError: the weights cannot be had, with a sentence why.
            UnsupportedVAEError: there is no tiny VAE for this model.
        """
        return self._part(spec, _vae_part(tiny), lambda: self._load_vae(spec, tiny))

    def denoiser(self, spec: ModelSpec, dtype: torch.dtype | None = None) -> Any:
        """The model's diffusers pipeline on the device, with a config-only stand-in for its VAE.

        `dtype` loads it anew if it is held in another one; None takes what is there.

        Raises:
            ModelUnavailableError: the weights cannot be had, with a sentence why.
        """
        with self._loading:
            held = self._parts.get((spec.name, "denoiser"))
            if held is not None and dtype not in (None, held.dtype):
                self._drop([(spec.name, "denoiser")])
            held = None
            return self._part(spec, "denoiser", lambda: self._load_denoiser(spec, dtype or self.dtype(spec)))

    def reduce_memory(self, spec: ModelSpec) -> Message | None:
        """After denoising ran out of memory: keep less on the device. Returns what was done, None if nothing is left.

        First everything but this model's denoiser is freed (a VAE is loaded again when it is asked for); then, on a
        GPU, the denoiser is loaded with the next `low_memory`, now and later. The caller must drop its reference first.
        """
        with self._loading:
            denoiser: tuple[str, Part] = (spec.name, "denoiser")
            others = [key for key in self._parts if key != denoiser]
            if others:
                self._drop(others)
                return Message("the VAE was taken out of memory")
            if self.device.type == "cpu":
                return None
            following = LOW_MEMORY.index(self._low_memory(spec)) + 1
            if following == len(LOW_MEMORY):
                return None
            self._low_memory_since[spec.name] = LOW_MEMORY[following]
            self._drop([denoiser])
            return _OFFLOADED[LOW_MEMORY[following]]

    def _low_memory(self, spec: ModelSpec) -> str:
        return self._low_memory_since.get(spec.name, self.settings.low_memory)

    def loaded(self) -> tuple[Loaded, ...]:
        """What is held now, the most recently used last."""
        with self._loading:
            return tuple(
                Loaded(model, part, dtype_name(held.dtype), _weight_bytes(held))
                for (model, part), held in self._parts.items()
            )

    def free(self) -> None:
        """Drop everything that is loaded."""
        with self._loading:
            self._drop(list(self._parts))

    def _part(self, spec: ModelSpec, part: Part, load: Callable[[], Any]) -> Any:
        key: tuple[str, Part] = (spec.name, part)
        with self._loading:
            if key not in self._parts:
                self._make_room(spec, part)
                self._parts[key] = map_load_errors(spec, load)
            self._parts[key] = self._parts.pop(key)
            return self._parts[key]

    def _make_room(self, spec: ModelSpec, part: Part) -> None:
        others = [key for key in self._parts if key[0] != spec.name]
        if part == "denoiser":
            self._drop(others)
        else:
            self._drop([key for key in others if key[1] != "denoiser"][:-1])

    def _drop(self, keys: list[tuple[str, Part]]) -> None:
        for key in keys:
            del self._parts[key]
        if keys:
            empty_device_cache(self.device)

    def missing(self, spec: ModelSpec, parts: Sequence[Part]) -> list[HubFiles]:
        """What is still to be downloaded before the parts can be loaded; asks no network.

        Raises:
            UnsupportedVAEError: there is no tiny VAE for this model.
        """
        wanted = []
        for part in parts:
            if (spec.name, part) in self._parts or (spec.is_checkpoint and part == "denoiser"):
                continue
            files = files_of(spec, part)
            if files not in self._complete and is_complete(files):
                self._complete.add(files)
            if files not in self._complete:
                wanted.append(files)
        return wanted

    def raise_if_offline(self, spec: ModelSpec) -> None:
        """Raises ModelUnavailableError if the hub is switched off (HF_HUB_OFFLINE)."""
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            raise unavailable(spec, "network")

    def fetch(
        self,
        spec: ModelSpec,
        parts: Sequence[Part],
        on_progress: Callable[[Downloading], None],
        stop: threading.Event | None = None,
    ) -> None:
        """Download what the parts still miss, reporting progress; to be called outside the device queue.

        Whoever wants the same at the same time follows the same download.

        Raises:
            ModelUnavailableError: it cannot be had, with a sentence why. Cancelled: `stop` was set.
        """
        wanted = self.missing(spec, parts)
        if not wanted:
            return
        self.raise_if_offline(spec)

        def report(now: Progress) -> None:
            on_progress(Downloading(spec.title, now.done, now.total, now.seconds_left, now.speed))

        try:
            self.downloads.follow(wanted, report, stop)
        except DownloadError as error:
            if error.kind is not None:
                raise unavailable(spec, error.kind) from error
            raise ModelUnavailableError(
                "The download of {model} broke off.", literal(str(error)), model=spec.title
            ) from error
        self._complete.update(wanted)

    def _load_vae(self, spec: ModelSpec, tiny: bool) -> Any:
        diffusers = import_module_locked("diffusers")
        AutoencoderKL, AutoencoderTiny = diffusers.AutoencoderKL, diffusers.AutoencoderTiny  # noqa: N806 - classes
        arguments: dict[str, Any] = {"dtype": self.dtype(spec), "use_safetensors": True}
        files = files_of(spec, _vae_part(tiny))
        if tiny:
            vae = AutoencoderTiny.from_pretrained(str(folder(files)), **arguments)
        elif spec.is_checkpoint and spec.vae_repository is None:
            vae = AutoencoderKL.from_single_file(files.repository, **_checkpoint(arguments, spec, "vae"))
        else:
            subfolder = files.subfolder or None
            vae = AutoencoderKL.from_pretrained(str(folder(files)), subfolder=subfolder, **arguments)
        return vae.to(self.device).eval().requires_grad_(False)

    def _load_denoiser(self, spec: ModelSpec, dtype: torch.dtype) -> Any:
        family = getattr(import_module_locked("diffusers"), spec.pipeline)
        arguments: dict[str, Any] = {
            "vae": None,
            **components_left_out(spec),
            "dtype": dtype,
            "use_safetensors": True,
        }
        if spec.is_checkpoint:
            pipeline = family.from_single_file(spec.repository, **_checkpoint(arguments, spec))
        else:
            where = str(folder(files_of(spec, "denoiser")))
            pipeline = family.from_pretrained(where, variant=spec.variant, **arguments)
        pipeline.vae = VaeConfigStub(spec)
        pipeline.set_progress_bar_config(disable=True)
        return self._placed(pipeline, self._low_memory(spec))

    def _placed(self, pipeline: Any, low_memory: str) -> Any:
        """The pipeline on the device, or, to save memory there, ready to move onto it part by part."""
        device = self.device
        if device.type == "cpu" or low_memory == "none":
            return pipeline.to(device)
        if low_memory == "model":
            pipeline.enable_model_cpu_offload(device=device)
        else:
            pipeline.enable_group_offload(
                onload_device=device, offload_type="leaf_level", use_stream=device.type == "cuda"
            )
        return pipeline


def _vae_part(tiny: bool) -> Part:
    return "tiny VAE" if tiny else "VAE"


def _checkpoint(arguments: dict[str, Any], spec: ModelSpec, part: str | None = None) -> dict[str, Any]:
    """`from_single_file` calls the dtype by its old name, and picks the file format itself.

    A checkpoint holds weights only. Configs and tokenizer come from a folder of its name next to it, in diffusers'
    format, where there is one, else from the hub (or its cache).
    """
    beside = Path(spec.repository).with_suffix("")
    known = {name: value for name, value in arguments.items() if name not in ("dtype", "use_safetensors")}
    known["torch_dtype"] = arguments["dtype"]
    if beside.is_dir():
        place = {"subfolder": part} if part else {}
        return known | place | {"config": str(beside), "local_files_only": True}
    return known | {"local_files_only": not hub_answers()}


def _weight_bytes(held: Any) -> int:
    """Bytes of the weights of a module, or of all modules of a pipeline."""
    from torch.nn import Module

    parts = held.components.values() if hasattr(held, "components") else (held,)
    return sum(
        weight.numel() * weight.element_size()
        for part in parts
        if isinstance(part, Module)
        for weight in (*part.parameters(), *part.buffers())
    )
