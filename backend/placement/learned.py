"""What a VAE stage will take on this machine: bytes from shapes, seconds learned from the stages that ran here.

Kept in a small JSON file, so that the first forecast after a restart already knows. On a card the peaks are learned
too, because its convolutions choose their own workspace; on a CPU they follow from shapes, and the resident memory
that is watched there is too coarse to learn from.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from dataclasses import dataclass, replace
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
_FORMAT = 2
_FORMAT_OTHER_PEAKS = 1
"""Its speeds still hold; its peaks were multiples of another forecast."""
_WEIGHT = 0.3
"""How much a new run counts against what is known: others may disturb."""
_TRUSTED_RUNS = 2
"""Of a mode, before it is compared with another."""


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


class LearnedCosts:
    """What past stages took. Thread-safe. `path` None keeps it in memory only."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._rates: dict[str, float] = {}
        """Multiply-adds a second."""
        self._peaks: dict[str, float] = {}
        """Measured peak as a multiple of the forecast."""
        self._runs: dict[str, int] = {}
        """How many runs a rate comes from."""
        self._since: dict[str, int] = {}
        """Runs in other modes since the last in this one."""
        self._warm: set[tuple[str, int, int]] = set()
        """What has run in this process, with its size."""
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
            measured, ratio = self._rates.get(key), self._peaks.get(key, 1.0)
            rate = self._similar_rate(key, mode) if measured is None else measured
            trusted = self._runs.get(key, 0) >= _TRUSTED_RUNS
            since = self._since.get(key, 0)
        return ExpectedCost(
            None if peak is None else round(peak * ratio),
            None if rate is None else work / rate,
            None if measured is None or not trusted else work / measured,
            least,
            since,
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
        with self._lock:
            self._count_others(key)
            size = (key, request.width, request.height)
            if device.type != "cpu" and size not in self._warm:
                self._warm.add(size)
                return
            self._runs[key] = self._runs.get(key, 0) + 1
            _blend(self._rates, key, _work(request, mode) / seconds)
            # Only where it is used: for the streamed mode this would make a whole plan.
            learns_peak = device.type == "cuda" and mode != "streamed" and added_bytes
            expected = peak_bytes(request, mode, device) if learns_peak else None
            if added_bytes and expected:
                _blend(self._peaks, key, added_bytes / expected)
            self._write()

    def expect_denoise(self, job: ResolvedJob, device: DeviceState) -> float | None:
        """Seconds of the job's denoising: 0 without steps, None before the model has denoised here."""
        if job.steps_to_run == 0:
            return 0.0
        with self._lock:
            rate = self._rates.get(_denoise_key(job, device))
        return None if rate is None else _pixel_steps(job) / rate

    def learn_denoise(self, job: ResolvedJob, device: DeviceState, seconds: float) -> None:
        """Remember a finished denoising."""
        if seconds <= 0 or job.steps_to_run == 0:
            return
        with self._lock:
            _blend(self._rates, _denoise_key(job, device), _pixel_steps(job) / seconds)
            self._write()

    def _count_others(self, key: str) -> None:
        self._since[key] = 0
        start = key.rsplit("|", 1)[0] + "|"
        for other in self._rates:
            if other != key and other.startswith(start):
                self._since[other] = self._since.get(other, 0) + 1

    def _similar_rate(self, key: str, mode: str) -> float | None:
        """Of the same arithmetic in another mode or for another model, as a rough guess."""
        if mode == "tiny":  # another architecture: nothing else is like it
            return None
        start = key.rsplit("|", 2)[0] + "|"
        similar = [
            rate
            for name, rate in self._rates.items()
            if name.startswith(start) and not name.endswith("|tiny")
        ]
        return median(similar) if similar else None

    def _read(self) -> None:
        if self._path is None or not self._path.exists():
            return
        try:
            data = json.loads(self._path.read_bytes())
            if data["format"] in (_FORMAT, _FORMAT_OTHER_PEAKS):
                self._rates = _table(data["rates"])
                self._runs = {key: int(n) for key, n in _table(data.get("runs", {})).items()}
            if data["format"] == _FORMAT:
                self._peaks = _table(data["peaks"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            # Only a memory of speeds: a damaged one is forgotten and learned again.
            log.warning("The calibration in %s cannot be read and starts anew: %s", self._path, error)

    def _write(self) -> None:
        if self._path is None:
            return
        data = {"format": _FORMAT, "rates": self._rates, "peaks": self._peaks, "runs": self._runs}
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
    layers = _layers_per_block(request.spec)
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


def _layers_per_block(spec: ModelSpec) -> int:
    from backend.vae.architecture import weightless_vae

    return int(weightless_vae(spec).config.layers_per_block)


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
    whole = shapes.multiply_adds(request.spec.vae_block_out_channels, request.direction, width, height)
    if mode != "tiled":
        return whole
    tile, overlap = request.options.tile_size, request.options.tile_overlap
    return whole * shapes.tiled_pixels(width, height, tile, overlap) / (width * height)


def _key(request: StageRequest, mode: str, device: DeviceState) -> str:
    return "|".join((device.name, device.dtype, request.direction, request.spec.name, mode))


def _denoise_key(job: ResolvedJob, device: DeviceState) -> str:
    """Guided steps compute everything twice."""
    guided = "guided" if job.guidance_scale > 1 else "plain"
    return "|".join((device.name, device.dtype, "denoise", job.spec.name, guided))


def _pixel_steps(job: ResolvedJob) -> float:
    return float(job.steps_to_run * job.width * job.height)


def _blend(table: dict[str, float], key: str, value: float) -> None:
    table[key] = value if key not in table else (1 - _WEIGHT) * table[key] + _WEIGHT * value


def _table(data: Any) -> dict[str, float]:
    return {str(key): float(value) for key, value in data.items() if float(value) > 0}
