"""The steps of a streamed run and their memory, as data; `plan` makes them, `vae.run` executes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from backend.report import Direction
from backend.vae.streamed.arena import Slot

Kind = Literal["conv_in", "resnet", "split_resnet", "attention", "upsample", "downsample", "move", "conv_out"]


@dataclass(frozen=True)
class Step:
    """One layer over the whole map. A `target` or `hidden` of None is not kept, but computed again when it is read."""

    kind: Kind
    layer: Any
    rows: int
    """Height of the strips that the step's results are written in."""
    workspace: int
    """Bytes for strips and rearranged weights, beside the arena."""
    source: Slot | None = None
    target: Slot | None = None
    hidden: Slot | None = None
    keys_values: tuple[Slot, Slot] | None = None
    in_one_strip: bool = False
    """Whether the hidden map of a resnet is one strip, which goes from one convolution to the next as it is."""

    @property
    def norms(self) -> list[nn.GroupNorm]:
        """Those that the step applies."""
        if self.kind == "conv_out":
            return [self.layer.conv_norm_out]
        layers = () if self.layer is None else self.layer.modules()
        return [layer for layer in layers if isinstance(layer, nn.GroupNorm)]


@dataclass(frozen=True)
class StripPlan:
    """The steps of one direction at one size, and their memory. Sizes in bytes; heights and widths of the picture."""

    direction: Direction
    batch: int
    height: int
    width: int
    dtype: torch.dtype
    device_type: str
    host: bool
    recompute: bool
    """Whether the widest maps are recomputed each time they are read, instead of kept in the arena."""
    strip_target: int
    """Size that strips are cut to."""
    steps: tuple[Step, ...]
    arena_elements: int
    output_size: tuple[int, int]
    output_bytes: int
    constant_bytes: int

    @property
    def arena_bytes(self) -> int:
        """All feature maps, wherever they lie. They are reused from picture to picture of a batch."""
        return self.arena_elements * self.dtype.itemsize

    @property
    def strip_bytes(self) -> int:
        """The largest workspace of a step, beside the arena."""
        return max(step.workspace for step in self.steps)

    @property
    def strips(self) -> int:
        """The largest number of strips that a map is divided into."""
        return max(-(-(step.target or step.source or _NOWHERE).height // step.rows) for step in self.steps)

    @property
    def host_bytes(self) -> int:
        """Pinned host memory, until the run is over; torch rounds it up to a power of two, unless its setting
        `pinned_max_round_threshold_mb` says otherwise."""
        return self.arena_bytes if self.host else 0

    @property
    def peak_bytes(self) -> int:
        """The maximum the run allocates on the module's device at once, output included, weights and input not."""
        held = self.arena_bytes - self.host_bytes + self.output_bytes + self.constant_bytes
        return held + self.strip_bytes


_NOWHERE = Slot(0, 0, 0, 0, 0)
