"""What a run will do and how much memory it will take, worked out before anything is allocated.

`plan` walks the module tree and lists the steps with the place of every map in the arena. The same list is what
`vae.run` executes, so the forecast is always that of the run. Only shapes are read: a module on the meta device, as
`with torch.device("meta"): AutoencoderKL.from_config(config)` makes in milliseconds, is good enough.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain, product
from typing import Any

import torch

from backend.report import Direction
from backend.vae.streamed.builder import PlanBuilder
from backend.vae.streamed.steps import StripPlan
from backend.vae.streamed.support import check_supported

CPU_STRIP_ELEMENTS = 2 << 20
"""Small enough for the strips of a layer to stay in the last-level cache."""
GPU_STRIP_ELEMENTS = (16 << 20, 64 << 20)
"""Smallest and largest strips where memory allows either. A strip costs some six launches whatever its size: at 64 M
elements a 1024 x 1024 decode is cut into four at most, and larger strips would save launches that no longer count.
Small pictures have smaller ones, half or a quarter of what all maps take, or they would not save memory."""


def plan(
    module: Any,
    height: int,
    width: int,
    *,
    direction: Direction,
    batch: int = 1,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    max_memory: int | None = None,
    strip_bytes: int | None = None,
    host: bool | None = None,
    recompute: bool | None = None,
) -> StripPlan:
    """The fastest plan for pictures (batch, 3, height, width) whose peak stays within `max_memory` bytes.

    `dtype` and `device` default to the module's (meta: the CPU). With a cap, strips get smaller first, then the
    widest maps are recomputed instead of kept, then (on CUDA) maps go to host memory, and at last strips get so small
    that they cost time; `strip_bytes`, `recompute` and `host` fix one of these choices. If nothing fits, the smallest
    plan is returned: compare its `peak_bytes`.

    Raises:
        UnsupportedVAEError: the module is not an AutoencoderKL of the usual blocks.
    """
    check_supported(module)
    weight = next(module.parameters())
    element = dtype or weight.dtype
    kind = torch.device(device or weight.device).type
    kind = "cpu" if kind == "meta" else kind
    shifts = ((0,),) if strip_bytes else ((0, 2), (4, 6, 8, 10)) if kind == "cpu" else _GPU_SHIFTS
    hosts = [host] if host is not None else [False, True] if kind == "cuda" else [False]
    # For an encoder this is one more convolution of 128 channels: 2 % of the time for half of the memory.
    recomputes = [recompute] if recompute is not None else [True] if direction == "encode" else [False, True]

    def build(on_host: bool, again: bool, strip: int) -> StripPlan:
        builder = PlanBuilder(module, direction, element, kind, strip, host=on_host, recompute=again)
        return builder.plan(batch, height, width)

    smallest: StripPlan | None = None
    for on_host, again, shift in chain(*(product(hosts, recomputes, group) for group in shifts)):
        choices = partial(build, on_host, again)
        largest = strip_bytes or _strip_elements(kind, choices) * element.itemsize
        candidate = choices(largest >> shift)
        if max_memory is None or candidate.peak_bytes <= max_memory:
            return candidate
        if smallest is None or candidate.peak_bytes < smallest.peak_bytes:
            smallest = candidate
    assert smallest is not None
    return smallest


_GPU_SHIFTS = ((0, 1, 2), (4, 6, 8, 10, 12))


def _strip_elements(device_type: str, build: Callable[[int], StripPlan]) -> int:
    """Of the largest strips that a plan would have; `build` makes the plan with strips of so many bytes."""
    if device_type == "cpu":
        return CPU_STRIP_ELEMENTS
    low, high = GPU_STRIP_ELEMENTS
    arena = build(low).arena_elements
    return min(high, max(low, arena // 4, min(arena // 2, high // 2)))
