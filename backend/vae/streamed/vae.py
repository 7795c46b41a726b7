"""Mode "streamed": the untiled result, layer by layer over the whole map, in strips. Method: docs/streamed.md."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backend.device.interrupt import raise_if_stopped
from backend.errors import OutOfMemoryError
from backend.models import LatentSpec
from backend.report import Direction
from backend.units import size
from backend.vae.base import LocalVAE
from backend.vae.streamed.arena import Arena
from backend.vae.streamed.plan import plan
from backend.vae.streamed.steps import Step, StripPlan
from backend.vae.streamed.strips import (
    FeatureMap,
    StripSource,
    attend,
    compute_once,
    convolve,
    copy,
    downsample,
    gather_statistics,
    materialize,
    split,
    upsample,
)
from backend.vae.streamed.support import check_supported


class Streamed(LocalVAE):
    mode = "streamed"

    def __init__(
        self,
        module: Any,
        spec: LatentSpec,
        *,
        max_memory: int | None = None,
        strip_bytes: int | None = None,
        host: bool | None = None,
        recompute: bool | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """`max_memory` caps what a run allocates on the device, in bytes; the others settle what the plan would choose.

        `strip_bytes` is the size of a strip, `host` keeps the maps in pinned host memory, `recompute` computes the
        widest maps twice instead of keeping them. Setting `stop` ends a run between two layers with `Cancelled`.

        Raises:
            UnsupportedVAEError: not an AutoencoderKL of the usual blocks.
        """
        super().__init__(module, spec)
        check_supported(module)
        self.max_memory = max_memory
        self.strip_bytes = strip_bytes
        self.host = host
        self.recompute = recompute
        self.stop = stop

    def plan(self, direction: Direction, batch: int, height: int, width: int) -> StripPlan:
        """What a run on pictures (batch, 3, height, width) would do and take; nothing is allocated."""
        return plan(
            self.module,
            height,
            width,
            direction=direction,
            batch=batch,
            max_memory=self.max_memory,
            strip_bytes=self.strip_bytes,
            host=self.host,
            recompute=self.recompute,
        )

    def _encode(self, image: Tensor) -> Tensor:
        batch, _, height, width = image.shape
        moments = self._run(self.plan("encode", batch, height, width), image)
        if getattr(self.module, "quant_conv", None) is not None:  # Flux and SD3 have none
            moments = self.module.quant_conv(moments)
        return moments.chunk(2, dim=1)[0]

    def _decode(self, z: Tensor) -> Tensor:
        if getattr(self.module, "post_quant_conv", None) is not None:
            z = self.module.post_quant_conv(z)
        batch, _, height, width = z.shape
        factor = self.spec.downscale
        return self._run(self.plan("decode", batch, height * factor, width * factor), z)

    def _run(self, chosen: StripPlan, given: Tensor) -> Tensor:
        if self.max_memory is not None and chosen.peak_bytes > self.max_memory:
            raise OutOfMemoryError(
                "Streaming this picture takes at least {need}, but only {limit} are allowed.",
                "Choose a smaller size, or a mode that needs less memory.",
                need=size(chosen.peak_bytes),
                limit=size(self.max_memory),
            )
        return run(chosen, given, lambda: raise_if_stopped(self.stop))


@torch.inference_mode()
def run(chosen: StripPlan, given: Tensor, between: Callable[[], None] = lambda: None) -> Tensor:
    """Run the steps of a plan: a picture (B, 3, H, W) to moments (B, 2C, h, w), or latents (B, C, h, w) to a picture.

    `given` is on the device and in the dtype of the plan's module. The result has both, and is contiguous. `between`
    is called before each step; the modules' own forward hooks are not, since no module's forward is.
    """
    norms = [norm for step in chosen.steps for norm in step.norms]
    arena = Arena(chosen.arena_elements, given.dtype, given.device, host=chosen.host, norms=norms)
    result = _run_pictures(chosen, given, arena, between)
    arena.release()
    return result


def _run_pictures(chosen: StripPlan, given: Tensor, arena: Arena, between: Callable[[], None]) -> Tensor:
    conv_out = chosen.steps[-1].layer.conv_out
    result = given.new_empty((len(given), conv_out.out_channels, *chosen.output_size))
    for i in range(len(given)):
        x: StripSource = FeatureMap(given[i : i + 1], arena)
        for step in chosen.steps[:-1]:
            between()
            x = _run_step(step, x, arena, given.device)
        between()
        last = chosen.steps[-1]
        image = convolve(x, conv_out, last.layer.conv_norm_out)
        materialize(image, FeatureMap(result[i : i + 1], arena), last.rows, with_statistics=False)
    return result


def _run_step(step: Step, x: StripSource, arena: Arena, device: torch.device) -> StripSource:
    """Run one layer on the map or stream `x`; returns the map or stream that the next layer reads."""
    layer, rows = step.layer, step.rows
    target = FeatureMap(arena.view(step.target), arena) if step.target is not None else None
    hidden = FeatureMap(arena.view(step.hidden), arena) if step.hidden is not None else None
    if step.kind == "conv_in" and target is None:
        stream = convolve(x, layer)
        gather_statistics(stream, rows, arena.constants)
        return stream
    if step.kind == "upsample" and target is None:
        stream = upsample(x, layer)
        gather_statistics(stream, rows, arena.constants)
        return stream
    assert target is not None
    match step.kind:
        case "conv_in":
            return materialize(convolve(x, layer), target, rows)
        case "resnet":
            inner = convolve(x, layer.conv1, layer.norm1)
            if hidden is not None:
                h: StripSource = materialize(inner, hidden, rows)
            elif step.in_one_strip:
                h = compute_once(inner, rows, arena.constants)
            else:
                gather_statistics(inner, rows, arena.constants)
                h = inner
            outer = convolve(h, layer.conv2, layer.norm2)
            return materialize(outer, target, rows, x, layer.conv_shortcut)
        case "split_resnet":
            assert isinstance(x, FeatureMap)
            assert hidden is not None
            split(x, layer.conv1, layer.norm1, layer.conv_shortcut, rows, (hidden, target))
            return materialize(convolve(hidden, layer.conv2, layer.norm2), target, rows, target)
        case "attention":
            assert isinstance(x, FeatureMap)
            if step.keys_values is not None:
                keys, values = (FeatureMap(arena.view(slot), arena) for slot in step.keys_values)
            else:  # small enough to stay on the device while the other maps are in host memory
                keys, values = (FeatureMap(torch.empty_like(x.tensor, device=device), arena) for _ in "kv")
            return materialize(attend(x, layer, keys, values, rows), target, rows, x)
        case "upsample":
            return materialize(upsample(x, layer), target, rows)
        case "downsample":
            return materialize(downsample(x, layer), target, rows)
        case "move":
            return materialize(copy(x), target, rows, with_statistics=False)
    raise AssertionError(step.kind)
