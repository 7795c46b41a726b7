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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from backend.models import ModelSpec
from backend.placement import shapes as forecast
from backend.placement.shapes import Direction

_log = logging.getLogger(__name__)
_FORMAT = 1
_WEIGHT = 0.3
"""How much a new run counts against what is known: the first one in a process is slower, and others may disturb."""


@dataclass(frozen=True)
class Plan:
    """One VAE stage, as far as its cost depends on it. Sizes in pixels of the picture."""

    spec: ModelSpec
    direction: Direction
    width: int
    height: int
    mode: str
    device_type: str
    device_name: str
    dtype: str
    tile_size: int = 512
    tile_overlap: int = 128

    @property
    def element_bytes(self) -> int:
        return 4 if self.dtype == "float32" else 2

    @property
    def tile(self) -> int | None:
        return self.tile_size if self.mode == "tiled" else None


@dataclass(frozen=True)
class Expectation:
    """Bytes on top of what is in use, and rough seconds; None where nothing is known yet."""

    peak_bytes: int | None
    seconds: float | None


class Calibration:
    """What past stages took. Thread-safe. `path` None keeps it in memory only."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._rates: dict[str, float] = {}
        """Multiply-adds a second."""
        self._peaks: dict[str, float] = {}
        """Measured peak as a multiple of the forecast."""
        self._read()

    def expect(self, plan: Plan) -> Expectation:
        """What `plan` will take; costs no more than a millisecond, except for the streamed mode's own plan."""
        peak = peak_bytes(plan)
        work = _work(plan)
        with self._guard:
            rate = self._known(self._rates, plan)
            ratio = self._peaks.get(_key(plan), 1.0)
        return Expectation(
            None if peak is None else round(peak * ratio), None if rate is None else work / rate
        )

    def measured_seconds(self, plan: Plan) -> float | None:
        """Like `expect`, but only from runs of this very model and mode; None if there were none."""
        with self._guard:
            rate = self._rates.get(_key(plan))
        return None if rate is None else _work(plan) / rate

    def expect_painting(
        self, device: str, dtype: str, model: str, guided: bool, pixel_steps: float
    ) -> float | None:
        """Seconds of denoising so many steps times pixels; None before the model has painted here."""
        with self._guard:
            rate = self._rates.get(_painting_key(device, dtype, model, guided))
        return None if rate is None else pixel_steps / rate

    def learn_painting(
        self, device: str, dtype: str, model: str, guided: bool, pixel_steps: float, seconds: float
    ) -> None:
        """Remember a finished denoising; `guided` steps compute everything twice."""
        if seconds <= 0 or pixel_steps <= 0:
            return
        with self._guard:
            _blend(self._rates, _painting_key(device, dtype, model, guided), pixel_steps / seconds)
            self._write()

    def learn(self, plan: Plan, seconds: float, added_bytes: int | None) -> None:
        """Remember a finished stage."""
        if seconds <= 0 or plan.mode == "remote":
            return
        key = _key(plan)
        with self._guard:
            _blend(self._rates, key, _work(plan) / seconds)
            # Only where it is used: for the streamed mode this would make a whole plan.
            learns_peak = plan.device_type == "cuda" and plan.mode != "streamed" and added_bytes
            expected = peak_bytes(plan) if learns_peak else None
            if added_bytes and expected:
                _blend(self._peaks, key, added_bytes / expected)
            self._write()

    def _known(self, table: Mapping[str, float], plan: Plan) -> float | None:
        """This very case, else the same arithmetic in another mode or for another model, as a rough guess."""
        key = _key(plan)
        if key in table:
            return table[key]
        if plan.mode == "tiny":  # another architecture: nothing else tells
            return None
        start = key.rsplit("|", 2)[0] + "|"
        alike = [
            rate for name, rate in table.items() if name.startswith(start) and not name.endswith("|tiny")
        ]
        return median(alike) if alike else None

    def _read(self) -> None:
        if self._path is None or not self._path.exists():
            return
        try:
            data = json.loads(self._path.read_bytes())
            if data["format"] == _FORMAT:
                self._rates, self._peaks = _table(data["rates"]), _table(data["peaks"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            # Only a memory of speeds: a damaged one is forgotten and learned again.
            _log.warning("The calibration in %s cannot be read and starts anew: %s", self._path, error)

    def _write(self) -> None:
        if self._path is None:
            return
        data = {"format": _FORMAT, "rates": self._rates, "peaks": self._peaks}
        part = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(data, indent=1))
            part.replace(self._path)
        except OSError as error:
            _log.warning("The calibration cannot be kept in %s: %s", self._path, error)
            self._path = None


def peak_bytes(plan: Plan) -> int | None:
    """From shapes: what the stage will allocate at its peak on top of the weights. None where no plan is possible."""
    channels = plan.spec.vae_block_out_channels
    size = (plan.width, plan.height)
    if plan.mode == "streamed":
        return _streamed_peak_bytes(plan)
    if plan.mode == "tiny":
        return forecast.tiny_peak_bytes(*size, plan.element_bytes)
    if plan.mode not in ("whole", "tiled"):
        return 0
    if plan.device_type == "cuda":
        from backend.placement.cards import gpu_peak_bytes

        half = gpu_peak_bytes(plan.spec, plan.direction, *size, plan.tile)
        return half * plan.element_bytes // 2
    return forecast.cpu_peak_bytes(
        channels, plan.direction, *size, plan.element_bytes, plan.tile, plan.tile_overlap
    )


def _streamed_peak_bytes(plan: Plan) -> int | None:
    """The streamed mode plans its run to the byte."""
    import torch

    from backend.errors import UnsupportedVAEError
    from backend.vae.architecture import weightless_vae
    from backend.vae.streamed import plan as streamed_plan

    try:
        return streamed_plan(
            weightless_vae(plan.spec),
            plan.height,
            plan.width,
            direction=plan.direction,
            dtype=getattr(torch, plan.dtype),
            device=plan.device_type,
        ).peak_bytes
    except UnsupportedVAEError:
        return None


def _work(plan: Plan) -> float:
    """Multiply-adds; for the tiny VAE in units of its own."""
    if plan.mode == "tiny":
        return float(plan.width * plan.height)
    whole = forecast.multiply_adds(plan.spec.vae_block_out_channels, plan.direction, plan.width, plan.height)
    if plan.mode != "tiled":
        return whole
    pixels = forecast.tiled_pixels(plan.width, plan.height, plan.tile_size, plan.tile_overlap)
    return whole * pixels / (plan.width * plan.height)


def _key(plan: Plan) -> str:
    return "|".join((plan.device_name, plan.dtype, plan.direction, plan.spec.name, plan.mode))


def _painting_key(device: str, dtype: str, model: str, guided: bool) -> str:
    return "|".join((device, dtype, "denoise", model, "guided" if guided else "plain"))


def _blend(table: dict[str, float], key: str, value: float) -> None:
    table[key] = value if key not in table else (1 - _WEIGHT) * table[key] + _WEIGHT * value


def _table(data: Any) -> dict[str, float]:
    return {str(key): float(value) for key, value in data.items() if float(value) > 0}
