"""What a VAE stage will take on this machine: bytes from shapes, seconds learned from the stages that ran here.

Kept in a small JSON file, so that the first forecast after a restart already knows. Peaks are learned too, as multiples
of their forecast, and those of denoising, for which there is no forecast, as bytes a pixel.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from backend.device.convolution import ConvolutionMemory, Probe, convolution_probe
from backend.device.measure import DeviceState
from backend.errors import UnsupportedVAEError
from backend.job import ResolvedJob
from backend.models import ModelSpec
from backend.placement import shapes
from backend.placement.cards import Memory, gpu_memory
from backend.request import StageRequest

log = logging.getLogger(__name__)
_FORMAT = 3
_WEIGHT = 0.3
"""How much a new run counts against what is known: others may disturb it."""
_TRUSTED_RUNS = 2
"""Of a mode, before it is compared with another."""
_KEPT_SIZES = 16
"""Of pictures, whose times are kept for each model."""
_ANOTHER_SIZE = math.log(1.5)
"""How many pixels more, as a logarithm, before two times are compared."""


@dataclass(frozen=True)
class ExpectedCost:
    """Bytes on top of what is in use, and rough seconds; None where nothing is known yet."""

    peak_bytes: int | None
    seconds: float | None
    measured_seconds: float | None = None
    """`seconds`, but only from runs of this very model and mode, and from no fewer than two."""
    least_bytes: int | None = None
    """On a card, where a stage can do with less workspace than `peak_bytes` has."""
    runs_since: int = 0
    """How often the model ran here in other modes since it last ran in this one."""


@dataclass
class _Kind:
    """What the runs of one kind taught: a stage of a model in a mode, or its denoising, in a dtype on a device."""

    rate: float | None = None
    """Multiply-adds a second; of denoising pixels and steps a second."""
    peak: float | None = None
    """Measured peak as a multiple of the forecast; of denoising in bytes a pixel."""
    begin: float | None = None
    """Of denoising: seconds beside its steps, such as the text encoder's."""
    seconds_by_size: dict[int, float] = field(default_factory=dict)
    """Of denoising: seconds a pixel and step, by the pixels of the picture."""
    runs: int = 0
    """How many the rate comes from."""
    runs_since: int = 0
    """Runs in other modes since the last in this one, in this process."""
    sizes: set[tuple[int, int]] = field(default_factory=set)
    """What has run in this process: a first run also warms the libraries up, on a card with each size anew."""

    def learn_rate(self, rate: float, pixels: int | None = None) -> None:
        """Blend in a run's rate. The first run in this process counts only until there is another: it is slow."""
        first = not self.sizes
        if pixels and not first:
            self.seconds_by_size[pixels] = _blended(self.seconds_by_size.pop(pixels, None), 1 / rate)
            if len(self.seconds_by_size) > _KEPT_SIZES:  # the one that was least lately run
                del self.seconds_by_size[next(iter(self.seconds_by_size))]
        if first and self.rate is not None and self.rate >= rate:
            return  # an earlier process knew better
        self.rate = rate if self.runs == 0 else _blended(self.rate, rate)
        self.runs += not first

    def seconds_a_pixel(self, pixels: int) -> float | None:
        """Of a denoising step: as it was at that size; else as the two nearest sizes let a step's seconds grow with the
        pixels, to a power from 0.5 (most of a small picture's step is the same for any size) to 2 (attention).
        """
        if pixels in self.seconds_by_size or self.rate is None:
            return self.seconds_by_size.get(pixels)
        distances = {known: abs(math.log(known / pixels)) for known in self.seconds_by_size}
        if not distances:
            return 1 / self.rate
        nearest = min(distances, key=distances.__getitem__)
        # From one that is hardly another size a power is not to be had: the runs' own scatter would make it.
        far = {known for known in distances if abs(math.log(known / nearest)) >= _ANOTHER_SIZE}
        if not far:
            return self.seconds_by_size[nearest]
        other = min(far, key=distances.__getitem__)
        growth = self.seconds_by_size[other] / self.seconds_by_size[nearest]
        power = min(max(1 + math.log(growth) / math.log(other / nearest), 0.5), 2.0)
        return self.seconds_by_size[nearest] * (pixels / nearest) ** (power - 1)

    def kept(self) -> dict[str, Any]:
        """What is worth keeping in a file."""
        kept = {"rate": self.rate, "peak": self.peak, "begin": self.begin, "runs": self.runs}
        sizes = {"seconds_by_size": self.seconds_by_size} if self.seconds_by_size else {}
        return {name: value for name, value in kept.items() if value is not None} | sizes


class LearnedCosts:
    """What past stages took. Thread-safe. `path` None keeps it in memory only."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._kinds: dict[str, _Kind] = {}
        self._read()

    def expect(self, request: StageRequest, mode: str, device: DeviceState) -> ExpectedCost:
        """What `request` will take in `mode`; milliseconds, but for the first of a kind."""
        peak = peak_bytes(request, mode, device)
        least = None
        if device.type == "cuda" and mode in ("whole", "tiled"):
            least = _gpu_memory(request, mode, device).least
        work = _work(request, mode)
        key = _key(request, mode, device)
        with self._lock:
            known = self._kinds.get(key, _Kind())
            rate = self._similar_rate(key, mode) if known.rate is None else known.rate
            trusted = known.rate is not None and known.runs >= _TRUSTED_RUNS
        seconds = None if rate is None else work / rate
        return ExpectedCost(
            None if peak is None else round(peak * (known.peak or 1.0)),
            seconds,
            seconds if trusted else None,
            least,
            known.runs_since,
        )

    def learn(
        self,
        request: StageRequest,
        mode: str,
        device: DeviceState,
        seconds: float,
        added_bytes: int | None,
    ) -> None:
        """Remember a finished stage that ran here.

        On a card the first run of a size in a process teaches nothing: it loads libraries and tries algorithms out,
        which takes up to seconds, and workspace.
        """
        if seconds <= 0:
            return
        key = _key(request, mode, device)
        size = (request.width, request.height)
        with self._lock:
            self._count_others(key)
            kind = self._kinds.setdefault(key, _Kind())
            if device.type != "cpu" and size not in kind.sizes:
                kind.sizes.add(size)
                return
            kind.learn_rate(_work(request, mode) / seconds)
            kind.sizes.add(size)
            # Strips, which tiles on a processor are made of, are planned to the byte, which costs more than a forecast.
            planned = mode == "streamed" or (mode == "tiled" and device.type == "cpu")
            expected = peak_bytes(request, mode, device) if added_bytes and not planned else None
            if added_bytes and expected:
                kind.peak = _blended(kind.peak, added_bytes / expected)
            self._write()

    def expect_denoise(self, job: ResolvedJob, device: DeviceState) -> ExpectedCost:
        """What the job's denoising will take: nothing without steps, unknown before the model has denoised here."""
        if job.steps_to_run == 0:
            return ExpectedCost(0, 0.0)
        with self._lock:
            known = self._kinds.get(_denoise_key(job, device), _Kind())
            seconds = known.seconds_a_pixel(job.width * job.height)
        return ExpectedCost(
            None if known.peak is None else round(known.peak * job.width * job.height),
            None if seconds is None else (known.begin or 0.0) + _pixel_steps(job) * seconds,
        )

    def learn_denoise(
        self,
        job: ResolvedJob,
        device: DeviceState,
        seconds: float,
        step_seconds: float | None = None,
        added_bytes: int | None = None,
    ) -> None:
        """Remember a finished denoising; `step_seconds` are those of one of its steps, where known."""
        if seconds <= 0 or job.steps_to_run == 0:
            return
        of_steps = seconds if step_seconds is None else step_seconds * job.steps_to_run
        with self._lock:
            kind = self._kinds.setdefault(_denoise_key(job, device), _Kind())
            if kind.sizes:  # what comes beside a first run's steps is warming up
                kind.begin = _blended(kind.begin, max(0.0, seconds - of_steps))
            kind.learn_rate(_pixel_steps(job) / of_steps, job.width * job.height)
            kind.sizes.add((job.width, job.height))
            if added_bytes:
                kind.peak = _blended(kind.peak, added_bytes / (job.width * job.height))
            self._write()

    def _count_others(self, key: str) -> None:
        start = key.rsplit("|", 1)[0] + "|"
        for other, kind in self._kinds.items():
            if other == key:
                kind.runs_since = 0
            elif other.startswith(start):
                kind.runs_since += 1

    def _similar_rate(self, key: str, mode: str) -> float | None:
        """Of the same arithmetic in another mode or for another model, as a rough guess."""
        if mode == "tiny":  # another architecture: nothing else is like it
            return None
        start = key.rsplit("|", 2)[0] + "|"
        similar = [
            kind.rate
            for name, kind in self._kinds.items()
            if kind.rate is not None and name.startswith(start) and not name.endswith("|tiny")
        ]
        return median(similar) if similar else None

    def _read(self) -> None:
        if self._path is None or not self._path.exists():
            return
        try:
            data = json.loads(self._path.read_bytes())
            if data["format"] == _FORMAT:  # those of version 1 hold peaks of another forecast
                self._kinds = {key: _kind(kept) for key, kept in data["kinds"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            # Only a memory of speeds: a damaged one is forgotten and learned again.
            log.warning("The calibration in %s cannot be read and starts anew: %s", self._path, error)

    def _write(self) -> None:
        if self._path is None:
            return
        data = {"format": _FORMAT, "kinds": {key: kind.kept() for key, kind in self._kinds.items()}}
        part = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(data, indent=1))
            part.replace(self._path)
        except OSError as error:
            log.warning("The calibration cannot be kept in %s: %s", self._path, error)
            self._path = None


def peak_bytes(request: StageRequest, mode: str, device: DeviceState) -> int | None:
    """From shapes: what the stage will allocate at its peak on top of the weights. None where no plan is possible."""
    channels = request.spec.vae_block_out_channels
    size = (request.width, request.height)
    element_bytes = 4 if device.dtype == "float32" else 2
    tile = request.options.tile_size if mode == "tiled" else None
    if mode == "streamed":
        return _streamed_peak_bytes(request, device, device.budget_bytes)
    if mode == "tiny":
        return shapes.tiny_peak_bytes(*size, element_bytes, _probe(device))
    if mode not in ("whole", "tiled"):
        return 0
    if device.type == "cuda":
        return _gpu_memory(request, mode, device).full
    kept = 0
    if tile is not None and max(size) > tile:
        kept = shapes.tiled_kept_bytes(
            request.direction, *size, element_bytes, tile, request.options.tile_overlap
        )
        size = (min(tile, request.width), min(tile, request.height))
        if device.type == "cpu":  # where tiles are computed in strips, if they can be
            one = _streamed_peak_bytes(replace(request, width=size[0], height=size[1]), device, None)
            if one is not None:
                return kept + one
    layers = int(_config(request.spec).layers_per_block)
    return kept + shapes.cpu_peak_bytes(
        channels, request.direction, *size, element_bytes, _probe(device), layers
    )


def _gpu_memory(request: StageRequest, mode: str, device: DeviceState) -> Memory:
    tile = request.options.tile_size if mode == "tiled" else None
    element_bytes = 4 if device.dtype == "float32" else 2
    return gpu_memory(request.spec, request.direction, request.width, request.height, element_bytes, tile)


def _probe(device: DeviceState) -> Probe:
    """What a convolution takes there: measured on a processor, elsewhere taken to be its output alone."""
    if device.type == "cpu":
        return convolution_probe(device.dtype)
    return lambda _channels_in, channels_out, _kernel: ConvolutionMemory(channels_out)


def _config(spec: ModelSpec) -> Any:
    from backend.vae.architecture import weightless_vae

    return weightless_vae(spec).config


def _streamed_peak_bytes(request: StageRequest, device: DeviceState, max_memory: int | None) -> int | None:
    """The streamed mode plans its run to the byte. None if it cannot run this VAE."""
    import torch

    from backend.vae.architecture import weightless_vae
    from backend.vae.streamed import plan

    try:
        return plan(
            weightless_vae(request.spec),
            request.height,
            request.width,
            direction=request.direction,
            dtype=getattr(torch, device.dtype),
            device=device.type,
            max_memory=max_memory,
        ).peak_bytes
    except UnsupportedVAEError:
        return None


def _work(request: StageRequest, mode: str) -> float:
    """Multiply-adds; for the tiny VAE in units of its own."""
    width, height = request.width, request.height
    if mode == "tiny":
        return float(width * height)
    tile = request.options.tile_size if mode == "tiled" else None
    return shapes.vae_multiply_adds(
        request.spec.vae_block_out_channels,
        request.direction,
        width,
        height,
        tile,
        request.options.tile_overlap,
        attention=bool(_config(request.spec).mid_block_add_attention),
    )


def _key(request: StageRequest, mode: str, device: DeviceState) -> str:
    return "|".join((device.name, device.dtype, request.direction, request.spec.name, mode))


def _denoise_key(job: ResolvedJob, device: DeviceState) -> str:
    """Guided steps compute everything twice."""
    guided = "guided" if job.guidance_scale > 1 else "plain"
    return "|".join((device.name, device.dtype, "denoise", job.spec.name, guided))


def _pixel_steps(job: ResolvedJob) -> float:
    return float(job.steps_to_run * job.width * job.height)


def _blended(known: float | None, value: float) -> float:
    return value if known is None else (1 - _WEIGHT) * known + _WEIGHT * value


def _kind(kept: dict[str, Any]) -> _Kind:
    """As `_Kind.kept` wrote it. Raises KeyError, TypeError or ValueError for anything else."""
    sizes = {int(pixels): float(value) for pixels, value in kept.get("seconds_by_size", {}).items()}
    numbers = {name: float(value) for name, value in kept.items() if name != "seconds_by_size"}
    values = [*numbers.values(), *sizes, *sizes.values()]
    if not all(0 <= value < math.inf for value in values) or 0 in (
        numbers.get("rate"),
        *sizes,
        *sizes.values(),
    ):
        raise ValueError("a number out of range")
    return _Kind(numbers.get("rate"), numbers.get("peak"), numbers.get("begin"), sizes, int(numbers["runs"]))
