"""From a ModelSpec to modules on a device: built-in weights, local folders and the hub by one code path.

The denoiser is loaded *without* its VAE, and the VAE only when a local mode asks for it: when both ends are remote
it never takes any memory here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.device.availability import on_zero_gpu, pick_device
from backend.device.downloads import DownloadError, Downloads, Progress
from backend.device.hub import (
    HubFiles,
    Part,
    config_files,
    configs_beside,
    files_of,
    folder,
    is_complete,
    weight_bytes,
)
from backend.device.load_errors import map_load_errors, map_out_of_memory, unavailable
from backend.device.measure import current_device, empty_device_cache, free_bytes, free_ram
from backend.device.offload import Offload, choose_offload
from backend.device.precision import dtype_name, next_wider_dtype, pick_dtype
from backend.device.queue import DeviceQueue
from backend.errors import ModelUnavailableError, OutOfMemoryError
from backend.events import Downloading
from backend.families import VaeConfigStub, components_left_out
from backend.lazy_import import diffusers_class
from backend.message import Message, join, literal
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
        self._offloads: dict[str, tuple[Offload, Message]] = {}
        """How each denoiser was placed at last, and why."""
        self._upcast: dict[tuple[str, Part], torch.dtype] = {}
        """What overflowed, and the dtype that it is loaded in since."""
        self._kept: frozenset[tuple[str, Part]] = frozenset()
        """What is never dropped."""

    @property
    def device(self) -> torch.device:
        """The device to compute on; asking for it imports torch."""
        # No lock: another thread would pick the same, and may be loading for minutes.
        if self._device is None:
            self._device = pick_device(self.settings.device)
        return self._device

    def dtype(self, spec: ModelSpec, part: Part = "denoiser") -> torch.dtype:
        """What the part computes in here: `precision.pick_dtype`, or a wider one since that overflowed."""
        return self._upcast.get((spec.name, part)) or pick_dtype(spec.dtype, self.device)[0]

    def upcast(self, spec: ModelSpec, part: Part, module: Any) -> None:
        """Hold `module`, a wider copy that did not overflow, in place of the part that did, now and later."""
        with self._loading:
            self._upcast[(spec.name, part)] = module.dtype
            if (spec.name, part) in self._parts:
                self._parts[(spec.name, part)] = module
                empty_device_cache(self.device)

    def keep(self) -> None:
        """Never drop what is loaded now: on ZeroGPU its files are gone once it was loaded."""
        with self._loading:
            self._kept = frozenset(self._parts)

    def offload(self, spec: ModelSpec) -> Message:
        """Why the denoiser that was loaded is not on the device as a whole; empty if it is."""
        chosen, reason = self._offloads.get(spec.name, (Offload("none"), Message("")))
        return Message("") if chosen.low_memory == "none" else reason

    def plan_offload(self, spec: ModelSpec, sizes: Mapping[str, int]) -> tuple[Offload | None, Message]:
        """How a denoiser of `sizes` bytes by component would be placed as things are now; see `choose_offload`."""
        device, ram = self.device, free_ram()
        free = free_bytes(device) if device.type == "cuda" else ram
        return choose_offload(sizes, device.type, free, ram, self._low_memory(spec))

    def has_vae(self, spec: ModelSpec, tiny: bool = False) -> bool:
        return (spec.name, _vae_part(tiny)) in self._parts

    def vae(self, spec: ModelSpec, tiny: bool = False) -> Any:
        """The model's AutoencoderKL, or with `tiny` its AutoencoderTiny, in eval mode on the device.

        Raises:
            ModelUnavailableError: the weights cannot be had, with a sentence why.
            UnsupportedVAEError: there is no tiny VAE for this model. OutOfMemoryError: it did not fit.
        """
        return self._part(spec, _vae_part(tiny), lambda: self._load_vae(spec, tiny))

    def denoiser(self, spec: ModelSpec, dtype: torch.dtype | None = None) -> Any:
        """The model's diffusers pipeline on the device, with a config-only stand-in for its VAE.

        `dtype` loads it anew if it is held in another one, now and later; None takes what is there.

        Raises:
            ModelUnavailableError: the weights cannot be had, with a sentence why. OutOfMemoryError: they did not fit.
        """
        with self._loading:
            if dtype is not None:
                self._upcast[(spec.name, "denoiser")] = dtype
            held = self._parts.get((spec.name, "denoiser"))
            if held is not None and dtype not in (None, held.dtype):
                self._drop([(spec.name, "denoiser")])
            held = None
            return self._part(spec, "denoiser", lambda: self._load_denoiser(spec, self.dtype(spec)))

    def load_vae(self, spec: ModelSpec, tiny: bool = False) -> tuple[Any, Message]:
        """`vae`, and what had to go from the device to make room for it; empty if nothing had.

        Raises:
            As `vae`.
        """
        reason = Message("")
        while True:
            try:
                return self.vae(spec, tiny), reason
            except OutOfMemoryError:
                done = self.reduce_memory(spec, _vae_part(tiny))
                if done is None:
                    raise
            reason = join(reason, Message("There was no room to load it, so {done}.", done=done))

    def reduce_memory(self, spec: ModelSpec, part: Part = "denoiser") -> Message | None:
        """After `part` ran out of memory: keep less on the device. Returns what was done, None if nothing is left.

        First everything but this part is freed (it is loaded again when it is asked for); then, on a GPU, the denoiser
        is loaded with the next `low_memory`, now and later. The caller must drop its references first.
        """
        with self._loading:
            others = [key for key in self._parts if key != (spec.name, part) and key not in self._kept]
            if part != "denoiser" and (spec.name, "denoiser") in others:
                self._save_more(spec)  # else the two would push each other out at every job
            if others:
                self._drop(others)
                if part != "denoiser":
                    return Message("the painting network was taken out of memory")
                return Message("the VAE was taken out of memory")
            denoiser: tuple[str, Part] = (spec.name, "denoiser")
            if part != "denoiser" or denoiser in self._kept or not self._save_more(spec):
                return None
            self._drop([denoiser])  # if it was loaded; what is left of a load that failed goes as well
            return _OFFLOADED[self._low_memory(spec)]

    @contextmanager
    def placed_as(self, spec: ModelSpec, low_memory: str) -> Iterator[None]:
        """While inside, the model's denoiser is loaded with at least this rung of `LOW_MEMORY`."""
        before = self._replace_low_memory(spec, low_memory)
        try:
            yield
        finally:
            self._replace_low_memory(spec, before)

    def _replace_low_memory(self, spec: ModelSpec, low_memory: str | None) -> str | None:
        with self._loading:
            before = self._low_memory_since.pop(spec.name, None)
            if low_memory is not None:
                self._low_memory_since[spec.name] = low_memory
            self._drop([(spec.name, "denoiser")])
            return before

    def _save_more(self, spec: ModelSpec) -> bool:
        """Load the denoiser with the next `low_memory` from now on; False if there is none."""
        held = self._offloads.get(spec.name)
        present = self._low_memory(spec) if held is None else held[0].low_memory
        following = LOW_MEMORY.index(present) + 1
        if self.device.type == "cpu" or following == len(LOW_MEMORY):
            return False
        self._low_memory_since[spec.name] = LOW_MEMORY[following]
        return True

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
                self._parts[key] = map_load_errors(spec, lambda: map_out_of_memory(spec, load))
            self._parts[key] = self._parts.pop(key)
            return self._parts[key]

    def _make_room(self, spec: ModelSpec, part: Part) -> None:
        others = [key for key in self._parts if key[0] != spec.name and key not in self._kept]
        if part == "denoiser":
            self._drop(others)
        else:
            self._drop([key for key in others if key[1] != "denoiser"][:-1])

    def _drop(self, keys: list[tuple[str, Part]]) -> None:
        for key in keys:
            self._parts.pop(key, None)
        if keys:
            empty_device_cache(self.device)

    def missing(self, spec: ModelSpec, parts: Sequence[Part]) -> list[HubFiles]:
        """What is still to be downloaded before the parts can be loaded; asks no network.

        Raises:
            UnsupportedVAEError: there is no tiny VAE for this model.
        """
        wanted: list[HubFiles] = []
        for part in parts:
            if (spec.name, part) in self._parts:
                continue
            files = files_of(spec, part)
            if Path(files.repository).is_file():
                configs = config_files(spec)
                if configs is None or configs in wanted:
                    continue
                files = configs
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
                "The download of {model} broke off.", literal(str(error)), model=spec.title_message
            ) from error
        self._complete.update(wanted)

    def _load_vae(self, spec: ModelSpec, tiny: bool) -> Any:
        kind = diffusers_class("AutoencoderTiny" if tiny else "AutoencoderKL")
        part = _vae_part(tiny)
        arguments: dict[str, Any] = {"dtype": self.dtype(spec, part), "use_safetensors": True}
        files = files_of(spec, part)
        if tiny:
            vae = kind.from_pretrained(str(folder(files)), **arguments)
        elif spec.is_checkpoint and spec.vae_repository is None:
            vae = kind.from_single_file(files.repository, **_checkpoint(arguments, spec, "vae"))
        else:
            where, subfolder = str(folder(files)), files.subfolder or None
            config = kind.load_config(where, subfolder=subfolder)
            arguments["dtype"] = self._forced_upcast(spec, config) or arguments["dtype"]
            vae = kind.from_pretrained(where, subfolder=subfolder, **arguments)
        return self._moved(vae.eval().requires_grad_(False))

    def _forced_upcast(self, spec: ModelSpec, config: Mapping[str, Any]) -> torch.dtype | None:
        """The dtype to start in for a VAE whose config file says that it overflows in float16.

        Only what the file says counts: diffusers' own default is True, also for VAEs that never overflow.
        """
        dtype = self.dtype(spec, "VAE")
        if not config.get("force_upcast") or dtype_name(dtype) != "float16":
            return None
        wider = next_wider_dtype(dtype, self.device)
        assert wider is not None, "float16 is not the widest"
        self._upcast[(spec.name, "VAE")] = wider
        return wider

    def _load_denoiser(self, spec: ModelSpec, dtype: torch.dtype) -> Any:
        family = diffusers_class(spec.pipeline)
        arguments: dict[str, Any] = {
            "vae": None,
            **components_left_out(spec),
            "dtype": dtype,
            "use_safetensors": True,
        }
        where = spec.repository if spec.is_checkpoint else str(folder(files_of(spec, "denoiser")))
        chosen = self._choose_offload(spec, dtype)
        if spec.is_checkpoint:
            pipeline = family.from_single_file(where, **_checkpoint(arguments, spec))
        else:
            pipeline = family.from_pretrained(where, variant=spec.variant, **arguments)
        pipeline.vae = VaeConfigStub(spec)
        pipeline.set_progress_bar_config(disable=True)
        with current_device(self.device):
            return self._placed(pipeline, chosen)

    def _choose_offload(self, spec: ModelSpec, dtype: torch.dtype) -> Offload:
        """Raises OutOfMemoryError if the denoiser fits neither the device nor this computer's memory."""
        if on_zero_gpu():
            return Offload(
                "none"
            )  # what is free in this process says nothing about the card that will be lent
        sizes = weight_bytes(spec, ["denoiser"], dtype_bytes=dtype.itemsize)
        chosen, reason = self.plan_offload(spec, sizes or {})
        if chosen is None:
            raise OutOfMemoryError(
                "{model} is too large for this computer.",
                join(reason, Message("Please choose a smaller model, or close other programs.")),
                model=spec.title_message,
            )
        self._offloads[spec.name] = chosen, reason
        return chosen

    def _moved(self, module: Any) -> Any:
        return module.to(self.device)

    def _placed(self, pipeline: Any, chosen: Offload) -> Any:
        """The pipeline on the device, or, to save memory there, ready to move onto it part by part."""
        device = self.device
        if device.type == "cpu" or chosen.low_memory == "none":
            return pipeline.to(device)
        if chosen.low_memory == "model":
            pipeline.enable_model_cpu_offload(device=device)
        else:
            pipeline.enable_group_offload(
                onload_device=device,
                offload_type="leaf_level",
                use_stream=device.type == "cuda",
                low_cpu_mem_usage=chosen.low_ram,
            )
        return pipeline


def _vae_part(tiny: bool) -> Part:
    return "tiny VAE" if tiny else "VAE"


def _checkpoint(arguments: dict[str, Any], spec: ModelSpec, part: str | None = None) -> dict[str, Any]:
    """`from_single_file` calls the dtype by its old name, and picks the file format itself.

    A checkpoint holds weights only. Configs and tokenizer come from a folder of its name next to it, in diffusers'
    format, where there is one, else from the hub's cache: no network is asked while the device waits.

    Raises:
        huggingface_hub.errors.LocalEntryNotFoundError: they are in neither.
    """
    configs = config_files(spec)
    place = configs_beside(spec) if configs is None else folder(configs)
    known = {name: value for name, value in arguments.items() if name not in ("dtype", "use_safetensors")}
    known["torch_dtype"] = arguments["dtype"]
    subfolder = {"subfolder": part} if part else {}
    return known | subfolder | {"config": str(place), "local_files_only": True}


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
